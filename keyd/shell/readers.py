"""The TUN devices that the outbound worker reads: pfkey0, and those of policies of sockets.

By another it answers with ICMP errors of its own: nft takes what enters there for what was opened
with all that any socket asks for (`keyd.doors`), and a socket must learn what fits.
"""

import os
import select
from collections.abc import Container

from keyd import doors
from keyd.packet.branches import Branches
from keyd.packet.outbound import Outbound
from keyd.socket_pair import SocketPair

READS_MAX = 16  # frames of a device per wake-up before the channel gets its turn
_TUN_READ = 10 + 65536


class Readers:
    """Which device's packets go into which pipeline."""

    def __init__(self, tun: int, branches: Branches, poll: select.epoll) -> None:
        self._branches = branches
        self._poll = poll
        self._doors: dict[int, int] = {}
        self._pipelines: dict[int, Outbound] = {}
        self._tun = tun
        self._read_by(tun, branches.main)

    def _read_by(self, fd: int, pipeline: Outbound) -> None:
        self._pipelines[fd] = pipeline
        self._poll.register(fd, select.EPOLLIN)

    def open(self, door: int, fd: int, pair: SocketPair | None) -> None:
        """Read a device, if it is that of a pair that seals."""
        if door == doors.ESP_AH:
            self._doors[door] = fd
            return
        if pair is None or pair.out is None or not pair.seals:
            os.close(fd)
            return
        self._doors[door] = fd
        self._read_by(fd, self._branches.branch(door, pair.out))

    def close(self, door: int) -> None:
        """Read it no more."""
        fd = self._doors.pop(door, -1)
        if fd >= 0 and door == doors.ESP_AH:
            os.close(fd)
        elif fd >= 0:
            self._poll.unregister(fd)
            del self._pipelines[fd]
            os.close(fd)
            self._branches.cut_off(door)

    @property
    def back(self) -> int:
        """By which device answers go to who sent what was read."""
        return self._doors.get(doors.ESP_AH, self._tun)

    def frames(self, ready: Container[int]) -> list[tuple[Outbound, bytes]]:
        """What has come to the devices that are ready, each with its pipeline."""
        return [
            (pipeline, octets)
            for fd, pipeline in self._pipelines.items()
            if fd in ready
            for octets in _read(fd)
        ]


def _read(fd: int) -> list[bytes]:
    frames = []
    for _ in range(READS_MAX):
        try:
            frames.append(os.read(fd, _TUN_READ))
        except BlockingIOError:
            break
    return frames
