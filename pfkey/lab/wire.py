"""What passes on a link: a packet socket at one end of it, a pcap file, lines as tcpdump's.

Octets of frames are in network order, Ethernet header first. A capture stands on one end of a
veth pair and sees both directions; what it sees from the other end was on the wire.
"""

import contextlib
import ctypes
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pfkey.lab.hosts import Host

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL, _ETH_P_IP, _ETH_P_ARP = 0x0003, 0x0800, 0x0806
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_OCTETS = 64 << 20  # a transfer of some megabytes, even if nobody reads meanwhile
_libc = ctypes.CDLL(None, use_errno=True)

# The pcap file: https://www.ietf.org/archive/id/draft-gharris-opsawg-pcap-01.txt, nanoseconds.
_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1
_SNAPLEN_OCTETS = 262144

ICMP, TCP, UDP, ESP, AH = 1, 6, 17, 50, 51
_NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ESP: "ESP", AH: "AH"}
_AH_OCTETS = 12  # without the ICV


def in_host(host: Host, job: Callable[[], T]) -> T:
    """Run `job` in a thread that has entered the host; a socket it makes stays there."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            fd = os.open(f"/run/netns/{host.netns}", os.O_RDONLY)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {host.netns}")
            finally:
                os.close(fd)
            answers.append(job())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


@dataclass(frozen=True, slots=True)
class Seal:
    """One ESP or AH header: which, and the two numbers that anybody can read."""

    proto: int
    spi: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame and when the kernel saw it, in nanoseconds since 1970."""

    time_ns: int
    octets: bytes

    @property
    def ethertype(self) -> int:
        """What the frame carries."""
        return int.from_bytes(self.octets[12:14], "big")

    @property
    def is_arp(self) -> bool:
        """ARP asks for link addresses and is no part of IP."""
        return self.ethertype == _ETH_P_ARP

    @property
    def packet(self) -> bytes:
        """The IPv4 packet inside; empty for anything else."""
        return self.octets[14:] if self.ethertype == _ETH_P_IP else b""

    @property
    def protocol(self) -> int:
        """The IPv4 protocol; -1 for anything else."""
        return self.packet[9] if self.packet else -1

    @property
    def src(self) -> str:
        """The IPv4 source as text."""
        return socket.inet_ntoa(self.packet[12:16]) if self.packet else ""

    @property
    def dst(self) -> str:
        """The IPv4 destination as text."""
        return socket.inet_ntoa(self.packet[16:20]) if self.packet else ""

    @property
    def body(self) -> bytes:
        """What follows the IPv4 header."""
        return self.packet[(self.packet[0] & 15) * 4 :] if self.packet else b""

    @property
    def seals(self) -> tuple[Seal, ...]:
        """The ESP and AH headers, from the outside in, as far as one can see without keys."""
        found: list[Seal] = []
        proto, body = self.protocol, self.body
        while proto == AH and len(body) >= _AH_OCTETS:
            found.append(Seal(AH, *struct.unpack(">II", body[4:12])))
            proto, body = body[0], body[(body[1] + 2) * 4 :]
        if proto == ESP and len(body) >= 8:
            found.append(Seal(ESP, *struct.unpack(">II", body[:8])))
        return tuple(found)

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port of TCP or UDP, also behind AH; 0 where there is none."""
        proto, body = self.protocol, self.body
        while proto == AH and len(body) >= _AH_OCTETS:
            proto, body = body[0], body[(body[1] + 2) * 4 :]
        return struct.unpack(">HH", body[:4]) if proto in (TCP, UDP) and len(body) >= 4 else (0, 0)

    def line(self) -> str:
        """One line in the manner of tcpdump."""
        if not self.packet:
            return "ARP" if self.is_arp else f"ethertype {self.ethertype:#06x}"
        return f"IP {self.src} > {self.dst}: {_content(self.protocol, self.body)}"


def _content(proto: int, body: bytes) -> str:
    if proto == AH and len(body) >= _AH_OCTETS:
        length = (body[1] + 2) * 4
        spi, sequence = struct.unpack(">II", body[4:12])
        head = f"AH(spi={spi:#010x},seq={sequence:#x},icv=0x{body[12:length].hex()}): "
        return head + _content(body[0], body[length:])
    if proto == ESP and len(body) >= 8:
        spi, sequence = struct.unpack(">II", body[:8])
        return f"ESP(spi={spi:#010x},seq={sequence:#x}), length {len(body)}"
    if proto == ICMP and body:
        kind = {0: "echo reply", 8: "echo request"}.get(body[0], f"type {body[0]}")
        return f"ICMP {kind}, length {len(body)}"
    return f"{_NAMES.get(proto, f'protocol {proto}')}, length {len(body)}"


class Capture:
    """Every frame at one end of a link, until it is closed."""

    def __init__(self, host: Host, device: str) -> None:
        def make() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                tap.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_OCTETS)
            except OSError:  # another user namespace's privilege
                tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
            tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            tap.settimeout(0.05)
            tap.bind((device, _ETH_P_ALL))
            return tap

        self._socket = in_host(host, make)
        self._frames: list[Frame] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.lost = 0  # frames the kernel could not give us; known once it is closed

    def _run(self) -> None:
        while True:
            try:
                octets, ancillary, _, _ = self._socket.recvmsg(_SNAPLEN_OCTETS, 64)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
            self._frames.append(Frame(seconds * 1_000_000_000 + nanoseconds, octets))

    @property
    def frames(self) -> list[Frame]:
        """What passed so far."""
        return self._frames[:]

    def close(self) -> None:
        """Read what is left, then end. Doing it twice is harmless."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            self.lost = int.from_bytes(statistics[4:8], sys.byteorder)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_pcap(path: Path, frames: Iterable[Frame]) -> None:
    """Write a capture file that tcpdump and Wireshark read."""
    with path.open("wb") as file:
        file.write(
            struct.pack(
                "=IHHIIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPLEN_OCTETS, _LINKTYPE_ETHERNET
            )
        )
        for frame in frames:
            seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
            length = len(frame.octets)
            file.write(struct.pack("=IIII", seconds, nanoseconds, length, length))
            file.write(frame.octets)
