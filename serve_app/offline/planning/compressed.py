"""What the `quantization_config` of a compressed-tensors checkpoint says of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.offline.planning.planning_errors import SchemeUnknown

_SMALL = re.compile(r"lm_head|embed|router|gate\b(?!_proj)|visual|vision|multi_modal|norm")
"""Of `ignore`: what no scheme here packs. `mlp.gate` is a router, `gate_proj` is not."""


@dataclass(frozen=True)
class Compressed:
    """The one scheme of a checkpoint."""

    kind: str
    """`int` or `float`."""
    bits: int
    group: int
    scale_bits: int
    """Of a group, with the zero point."""
    computed: str
    """What activations are rounded to, such as `float8`; empty: they stay in 16 bit."""

    def __str__(self) -> str:
        computed = self.computed or "16-bit"
        return f"{self.kind}{self.bits} weights and {computed} activations"


def find_compressed(stated: Mapping[str, Any]) -> Compressed:
    """The scheme that all packed layers have.

    Raises:
        SchemeUnknown: they have several, or layers that are counted as packed are not.
    """
    found = set(_list_schemes(stated))
    if len(found) != 1:
        raise SchemeUnknown(_refuse(f"{len(found)} different groups of layers"))
    left = [name for name in stated.get("ignore") or [] if not _SMALL.search(str(name))]
    if left:
        raise SchemeUnknown(_refuse(f"layers that stay in 16 bit ({left[0]} and such)"))
    return found.pop()


def _list_schemes(stated: Mapping[str, Any]) -> Iterator[Compressed]:
    groups = stated.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        targets = group.get("targets") or []
        # vLLM passes over such a group: it is of the KV cache.
        if not (len(targets) == 1 and str(targets[0]).endswith("Attention")):
            yield _parse_group(group)


def _parse_group(group: Mapping[str, Any]) -> Compressed:
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict) or weights.get("num_bits") not in (4, 8):
        raise SchemeUnknown(_refuse("a group without weights of 4 or 8 bits"))
    size = weights.get("group_size")
    zero_point = 0 if weights.get("symmetric", True) else weights["num_bits"]
    computed = f"{inputs['type']}{inputs['num_bits']}" if isinstance(inputs, dict) else ""
    return Compressed(
        kind=str(weights.get("type", "int")),
        bits=weights["num_bits"],
        group=size if isinstance(size, int) and size > 0 else 0,
        scale_bits=16 + zero_point,
        computed=computed,
    )


def _refuse(what: str) -> str:
    return (
        f"quantization_config: compressed-tensors with {what} cannot be planned; "
        "give the nearest with --quantization"
    )
