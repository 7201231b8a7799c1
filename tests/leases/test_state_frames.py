"""The frames of a state stream: as they were written, and bytes that no replica writes."""

from __future__ import annotations

import random
import struct

import pytest

from serve_app.core.prefix import PrefixChange
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.state_frames import (
    Frame,
    FrameReader,
    FramesGarbled,
    Hello,
    Keys,
    render_hello,
    render_keys,
    render_load,
)

LOAD = ReplicaLoad(1200, 8000.0, 3, 1, 0.5, 1.0)
CHANGES = [PrefixChange(2**64 - 1, 7), PrefixChange(1, 0)]


def read(data: bytes, step: int = 1 << 20) -> list[Frame]:
    """The frames of these bytes, which come in pieces."""
    reader, frames = FrameReader(), list[Frame]()
    for begin in range(0, len(data), step):
        frames += reader.feed(data[begin : begin + step])
    return frames


@pytest.mark.parametrize("step", [1, 7, 24, 1 << 20])
def test_frames_come_as_they_were_written(step: int) -> None:
    """Whatever the pieces in which their bytes come."""
    data = (
        render_hello(9)
        + render_keys(4, CHANGES, whole=True)
        + render_load(LOAD)
        + render_keys(5, [], whole=False)
    )
    hello, whole, load, changes = read(data, step)
    assert hello == Hello(9)
    assert whole == Keys(4, CHANGES, whole=True)
    assert changes == Keys(5, [], whole=False)
    assert isinstance(load, ReplicaLoad)
    assert load.kv_used_ratio == pytest.approx(0.5, abs=1e-4)
    assert (load.pending_tokens, load.prefill_tokens_per_s, load.running) == (1200, 8000.0, 3)


def test_a_load_takes_24_bytes_and_a_key_12() -> None:
    """The sizes that docs/placement.md gives."""
    assert len(render_load(LOAD)) == 24
    assert len(render_keys(0, CHANGES, whole=False)) == 8 + 2 * 12


def test_numbers_beyond_a_frame_are_cut() -> None:
    """An unknown KV use stays unknown."""
    [load] = read(render_load(ReplicaLoad(2**40, 0.0, 10**6, 10**6, None, 7.0)))
    assert load == ReplicaLoad(
        2**32 - 1, pytest.approx(0.1), 65_535, 65_535, kv_used_ratio=None, trust_ratio=1.0
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 8,
        b"\x09\x00\x00\x00\x00\x00\x00\x00",
        b"\x02\x01\x00\x00\x00\x00\x00\x00",
        struct.pack("!BBHIQ", 1, 0, 2, 0, 9),
        struct.pack("!BBHI", 4, 0, 65_535, 0),
        struct.pack("!BBHIHHHHIf", 2, 0, 0, 0, 1, 1, 1, 1, 1, float("nan")),
        struct.pack("!BBHIHHHHIf", 2, 0, 0, 0, 1, 1, 1, 1, 1, float("inf")),
        struct.pack("!BBHIHHHHIf", 2, 0, 0, 0, 1, 1, 1, 1, 1, -5.0),
        struct.pack("!BBHIHHHHIf", 2, 0, 0, 0, 1, 1, 65_535, 1, 1, 5.0),
    ],
)
def test_a_frame_that_cannot_be_is_refused(data: bytes) -> None:
    """The stream is given up; no byte of it is believed."""
    with pytest.raises(FramesGarbled):
        read(data)


def test_random_bytes_end_in_frames_or_in_a_refusal() -> None:
    """No other error, and no more is held than one frame."""
    chance = random.Random(17)
    for _ in range(300):
        reader = FrameReader()
        try:
            for _ in range(20):
                list(reader.feed(chance.randbytes(chance.randrange(1, 4096))))
                assert len(reader._held) <= 8 + 32_768 * 12
        except FramesGarbled:
            continue
