"""What the prefix caches of a tier hold of one prompt, in time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Residence:
    """On the replica of a tier that has most of a prompt: the time that its cache saves (`gain_s`)
    and the time in which it would read the rest (`read_s`), in seconds of the replica or of a GPU.
    """

    gain_s: float = 0.0
    read_s: float = 0.0

    def on_gpus(self, gpus: float) -> Residence:
        """The same in seconds of GPUs, of which the replica has so many."""
        return Residence(self.gain_s * gpus, self.read_s * gpus)

    @property
    def cached_ratio(self) -> float:
        """The part of the prompt that is cached."""
        whole_s = self.gain_s + self.read_s
        return self.gain_s / whole_s if whole_s > 0 else 0.0


NOWHERE = Residence()
"""Nothing is known, or nothing is cached."""
