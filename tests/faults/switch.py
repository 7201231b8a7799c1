"""An Ethernet switch in user space, a process of its own: `python -m tests.faults.switch`.

Each port is a TAP device that this process holds; the other end of the wire is the device itself,
which `network.py` moves into a machine's namespace. So a wire can be cut without the machine
seeing its carrier go, and be slow where the kernel has no `sch_netem`. All devices vanish with this
process, which ends with its input.

Orders, one a line, each answered with a line `ok`: `plug PORT`, `cut PORT`, `mend PORT`, and
`delay PORT SECONDS JITTER_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import struct
import sys
from collections.abc import Callable, Mapping

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
"""Constants of linux/if_tun.h."""

FRAME_BYTES_MAX = 65536
GROUP_BIT = 1
"""The lowest bit of an address's first byte: a frame for all."""


class Port:
    """One wire: frames of one direction keep their order, however much each is delayed."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.is_cut = False
        self.delay_s = 0.0
        self.jitter_s = 0.0
        self._last_at = 0.0

    def draw_delay_s(self) -> float:
        """The time that the next frame spends on this wire."""
        return max(0.0, self.delay_s + random.uniform(-self.jitter_s, self.jitter_s))

    def carry(self, frame: bytes, delay_s: float) -> None:
        """Deliver a frame to the machine after a time."""
        loop = asyncio.get_running_loop()
        at = max(loop.time() + delay_s, self._last_at)
        if at <= loop.time():
            self._write(frame)
            return
        self._last_at = at
        loop.call_at(at, self._write, frame)

    def _write(self, frame: bytes) -> None:
        # A machine that has been stopped, or a device that is not up yet, takes no frame.
        with contextlib.suppress(OSError):
            os.write(self.device, frame)


class Switch:
    """Passes frames between ports, by the addresses that it has seen at each."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._seen: dict[bytes, Port] = {}

    def plug(self, name: str) -> None:
        """A new device; a port of this name that was there is gone."""
        self._unplug(self._ports.pop(name, None))
        port = Port(open_tap(name))
        self._ports[name] = port
        asyncio.get_running_loop().add_reader(port.device, self._read, port)

    def cut(self, name: str) -> None:
        """From now on every frame of this wire is lost."""
        self._ports[name].is_cut = True

    def mend(self, name: str) -> None:
        """The wire carries again, at once."""
        port = self._ports[name]
        port.is_cut, port.delay_s, port.jitter_s = False, 0.0, 0.0

    def delay(self, name: str, delay_s: str, jitter_s: str) -> None:
        """Every frame of this wire takes so long, in each direction."""
        self._ports[name].delay_s = float(delay_s)
        self._ports[name].jitter_s = float(jitter_s)

    @property
    def orders(self) -> Mapping[str, Callable[..., None]]:
        """What the lines of the input may ask for."""
        return {"plug": self.plug, "cut": self.cut, "mend": self.mend, "delay": self.delay}

    def _unplug(self, port: Port | None) -> None:
        if port is not None:
            asyncio.get_running_loop().remove_reader(port.device)
            os.close(port.device)
            self._seen = {mac: at for mac, at in self._seen.items() if at is not port}

    def _read(self, port: Port) -> None:
        try:
            while True:
                self._pass_on(port, os.read(port.device, FRAME_BYTES_MAX))
        except BlockingIOError:
            return
        except OSError:
            # The machine has been stopped, and its device with it.
            asyncio.get_running_loop().remove_reader(port.device)

    def _pass_on(self, source: Port, frame: bytes) -> None:
        target, sender = frame[:6], frame[6:12]
        self._seen[sender] = source
        known = None if target[0] & GROUP_BIT else self._seen.get(target)
        for port in [known] if known else self._ports.values():
            if port is not source and not (port.is_cut or source.is_cut):
                port.carry(frame, source.draw_delay_s() + port.draw_delay_s())


def open_tap(name: str) -> int:
    """A TAP device of this name in this process's network namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


async def main() -> None:
    """Obey the lines of the input until it ends."""
    switch = Switch()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order, *arguments = line.decode().split()
        switch.orders[order](*arguments)
        print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
