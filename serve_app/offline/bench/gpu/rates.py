"""The rates that `kernels` measures; apart from it, because torch takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Rates:
    """What one device reaches; rates count 10^9 bytes and 10^12 operations a second."""

    device: str
    memory_gib: float | None
    copy_gb_s: float
    """Bytes read and bytes written, together."""
    read_gb_s: float
    """Of a matrix times a vector in 16 bit: decoding reads its weights so."""
    bf16_tflops: float
    fp8_tflops: float | None
    """None: the device does not compute in FP8."""
    launch_us: float
    """From one tiny operation to the next."""
