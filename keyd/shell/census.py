"""Which marks there are sockets with: sock_diag(7) for TCP and UDP, /proc/net for raw sockets.

A socket that is neither bound nor connected is in no list, and raw sockets are listed without their
marks. So a pair of policies is given up only when it has been long since a socket was given it,
no listed socket bears its number, and the raw sockets that were given it are gone.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SOCK_DIAG, _BY_FAMILY, _DONE, _ERROR = 4, 20, 3, 2
_REQUEST_DUMP = 0x301
_HEADER = struct.Struct("=IHHII")
_BODY_OCTETS = 72  # inet_diag_msg
_INET_DIAG_MARK = 15
_PROTOS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_MPTCP = 262
_LISTED_KINDS = {
    (socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_STREAM, _MPTCP),
    (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
}  # fmt: skip
_SO_COOKIE, _SO_PROTOCOL = 57, 38
_RAW_TABLES = (Path("/proc/net/raw"), Path("/proc/net/raw6"))
_INODE_COLUMN = 9
KNOWN_MAX = 64  # sockets of a pair that are told apart
FORGET_SECONDS = 600.0


@dataclass(slots=True)
class Bearers:
    """Who was given a pair: as much of it as helps to know when nobody has it any more."""

    cookies: set[int] = field(default_factory=set)
    raw: set[int] = field(default_factory=set)  # inodes
    has_others: bool = False  # more than are told apart, or of a kind that no list shows
    is_for_ever: bool = False
    since: float = 0.0

    def add(self, sock: socket.socket, now: float) -> None:
        """A socket bears the pair from now on."""
        self.since = now
        if len(self.cookies) < KNOWN_MAX:
            self.cookies.add(cookie(sock))
        else:
            self.has_others = True
        kind = _option(sock, socket.SO_TYPE)
        if kind == socket.SOCK_RAW:
            self.raw.add(os.fstat(sock.fileno()).st_ino)
            self.is_for_ever = self.is_for_ever or len(self.raw) > KNOWN_MAX
        elif not is_listed(sock):
            self.is_for_ever = True

    def leave(self, sock: socket.socket) -> bool:
        """A socket bears it no more; whether nobody does, beyond doubt."""
        self.cookies.discard(cookie(sock))
        was_listening = bool(_option(sock, socket.SO_ACCEPTCONN))  # others inherited it
        self.has_others = self.has_others or was_listening
        return not self.cookies and not self.has_others

    def may_be_gone(self, now: float) -> bool:
        """Whether it is worth a look into the lists."""
        return not self.is_for_ever and now - self.since >= FORGET_SECONDS


def is_listed(sock: socket.socket) -> bool:
    """Whether sock_diag lists a socket's kind, and nft finds it by the ports of its packets."""
    return (_option(sock, socket.SO_TYPE), _option(sock, _SO_PROTOCOL)) in _LISTED_KINDS


def is_udp(sock: socket.socket) -> bool:
    """Whether it is a socket of UDP."""
    return _option(sock, _SO_PROTOCOL) == socket.IPPROTO_UDP and (
        _option(sock, socket.SO_TYPE) == socket.SOCK_DGRAM
    )


def cookie(sock: socket.socket) -> int:
    """A number that no other socket ever has."""
    octets = sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    return int(struct.unpack("=Q", octets)[0])


def _option(sock: socket.socket, name: int) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, name)


def marks_in_use() -> set[int]:
    """The marks of all TCP and UDP sockets of this namespace that are bound or connected.

    Raises:
        OSError: the kernel does not tell.
    """
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for proto in _PROTOS:
            with contextlib.suppress(FileNotFoundError):  # this kernel has no such sockets
                found.update(_marks(family, proto))
    return found


def _marks(family: int, proto: int) -> Iterator[int]:
    body = struct.pack("=BBBxI", family, proto, 0, 0xFFFFFFFF) + bytes(48)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as link:
        link.settimeout(10)
        head = _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
        link.send(head + body)
        while True:
            octets = link.recv(1 << 18)
            at = 0
            while at + _HEADER.size <= len(octets):
                length, kind, *_ = _HEADER.unpack_from(octets, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", octets, at + _HEADER.size)[0]
                    raise OSError(number, os.strerror(number))
                yield from _mark(octets[at + _HEADER.size + _BODY_OCTETS : at + length])
                at += (length + 3) & ~3


def _mark(attributes: bytes) -> Iterator[int]:
    at = 0
    while at + 8 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind == _INET_DIAG_MARK:
            yield struct.unpack_from("=I", attributes, at + 4)[0]
        at += max(4, (length + 3) & ~3)


def raw_inodes() -> set[int]:
    """The inodes of all raw sockets of this namespace."""
    found = set()
    for table in _RAW_TABLES:
        with contextlib.suppress(FileNotFoundError):  # no IPv6 here
            for line in table.read_text().splitlines()[1:]:
                found.add(int(line.split()[_INODE_COLUMN]))
    return found
