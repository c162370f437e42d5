"""What is on a link: a packet socket in another namespace, and senders of crafted packets."""

import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from pfkey.lab.hosts import Host

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_ETH_P_IP, _ETH_P_IPV6, _ETH_P_ALL = 0x0800, 0x86DD, 3
_PACKET_OUTGOING = 4
_made: list[socket.socket] = []
_libc = ctypes.CDLL(None, use_errno=True)


def in_host(host: Host, job: Callable[[], T]) -> T:
    """Run `job` in a thread that has entered the host; a socket it makes stays there."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            fd = os.open(f"/run/netns/{host.netns}", os.O_RDONLY)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
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
    if isinstance(answers[0], socket.socket):
        _made.append(answers[0])
    return answers[0]


def close_all() -> None:
    """Close every socket that `in_host` made; a fixture calls it after each test."""
    while _made:
        _made.pop().close()


def family(address: str) -> socket.AddressFamily:
    """The family of a textual address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def packed(address: str) -> bytes:
    """An address in network order."""
    return socket.inet_pton(family(address), address)


class Tap:
    """Every IP packet that arrives at a device, until it is closed.

    It stands on the receiving end, so what it sees was on the wire. Neighbour discovery and
    multicast listener reports are left out.
    """

    def __init__(self, host: Host, device: str) -> None:
        def make() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            tap.bind((device, _ETH_P_ALL))
            tap.setblocking(False)
            return tap

        self._socket = in_host(host, make)
        self._packets: list[bytes] = []
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while True:
            is_there = select.select([self._socket], [], [], 0.2)[0]
            if not is_there and self._stop.is_set():  # nothing more is on its way
                return
            self._take()

    def _take(self) -> None:
        """All that is there now; whoever asks need not wait for the thread's turn."""
        with self._taking, contextlib.suppress(OSError):
            while True:
                octets, address = self._socket.recvfrom(70000)
                is_ip = address[1] in (_ETH_P_IP, _ETH_P_IPV6)
                if is_ip and address[2] != _PACKET_OUTGOING and not is_of_the_link(octets):
                    self._packets.append(octets)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    @property
    def lost(self) -> int:
        """Packets the kernel could not give us since the last call."""
        statistics: bytes = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        return int.from_bytes(statistics[4:8], sys.byteorder)

    @property
    def packets(self) -> list[bytes]:
        """What arrived so far, IP header first."""
        self._take()
        return self._packets[:]

    def drop(self, packets: int) -> None:
        """Forget the first so many, which somebody has looked at."""
        with self._taking:
            del self._packets[:packets]

    def forget(self) -> None:
        """Start anew: with nothing that has arrived before."""
        self._take()
        self._packets.clear()

    def protocols(self, src: str, dst: str) -> dict[int, int]:
        """How many packets of each protocol went from `src` to `dst`."""
        count: dict[int, int] = {}
        for packet in self.between(src, dst):
            proto = protocol(packet)
            count[proto] = count.get(proto, 0) + 1
        return count

    def between(self, src: str, dst: str) -> list[bytes]:
        """The packets from `src` to `dst`."""
        pair = packed(src) + packed(dst)
        at = 12 if len(pair) == 8 else 8
        return [
            packet for packet in self.packets
            if packet[at : at + len(pair)] == pair and packet[0] >> 4 == (4 if at == 12 else 6)
        ]  # fmt: skip


def protocol(packet: bytes) -> int:
    """The protocol of an IP packet; of IPv6 the first that is no extension header."""
    if packet[0] >> 4 == 4:
        return packet[9]
    proto, at = packet[6], 40
    while proto in (0, 43, 44, 60):
        size = 8 if proto == 44 else (packet[at + 1] + 1) * 8
        proto, at = packet[at], at + size
    return proto


def is_of_the_link(packet: bytes) -> bool:
    """Whether this is neighbour discovery or a report of a multicast listener."""
    if packet[0] >> 4 == 4:
        return False
    if packet[6] == 0 and packet[40:41] == b"\x3a":  # ICMPv6 behind a router alert
        return packet[48:49] in (b"\x82", b"\x83", b"\x84", b"\x8f")
    return packet[6] == 58 and 130 <= int.from_bytes(packet[40:41], "big") <= 137


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071), plainly."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(
    src: str, dst: str, proto: int, payload: bytes, *, ident: int = 1, offset: int = 0,
    more: bool = False, ttl: int = 64,
) -> bytes:  # fmt: skip
    """An IPv4 packet or fragment; `offset` in octets."""
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, (offset // 8) | (0x2000 if more else 0),
        ttl, proto, 0, socket.inet_aton(src), socket.inet_aton(dst),
    )  # fmt: skip
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def udp(src: str, dst: str, sport: int, dport: int, payload: bytes) -> bytes:
    """A UDP datagram with its checksum."""
    head = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0)
    pseudo = (
        socket.inet_aton(src)
        + socket.inet_aton(dst)
        + struct.pack(">BBH", 0, 17, len(head + payload))
    )
    return head[:6] + struct.pack(">H", checksum(pseudo + head + payload) or 0xFFFF) + payload


def mac_of(host: Host, device: str) -> bytes:
    """The link-layer address of a device."""
    link = json.loads(host.ip("-j", "link", "show", "dev", device))[0]
    return bytes.fromhex(link["address"].replace(":", ""))


def raw_sender(host: Host) -> socket.socket:
    """A socket that sends whole IPv4 packets from this host (IP_HDRINCL)."""
    return in_host(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))


def udp_listener(host: Host, address: str, port: int) -> socket.socket:
    """A bound UDP socket in the host, non-blocking."""

    def make() -> socket.socket:
        listener = socket.socket(family(address), socket.SOCK_DGRAM)
        listener.bind((address, port))
        listener.setblocking(False)
        return listener

    return in_host(host, make)


def has_come(tap: Tap, before: int) -> bool:
    """Whether more packets are there than so many."""
    return len(tap.packets) > before


def drain(listener: socket.socket) -> list[bytes]:
    """Everything that waits on a non-blocking datagram socket."""
    got = []
    while True:
        try:
            got.append(listener.recv(70000))
        except BlockingIOError:
            return got
