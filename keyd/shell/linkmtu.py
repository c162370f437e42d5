"""What the system knows about an address: the MTU of the link towards it, and whether it is ours.

Asks rtnetlink, which needs no rights, so a worker can; answers are kept for ten seconds. An MTU
that the kernel learned from an ICMP message has an expiry and is not taken: in transport mode
that is what our own answers taught it about the inner packets, which go to the same address.
"""

import array
import contextlib
import fcntl
import socket
import struct
import time

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTA_OIF = 4
_RTA_METRICS = 8
_RTA_MARK = 16
_RTA_CACHEINFO = 12
_RTAX_MTU = 2
_RTN_LOCAL = 2
_SIOCGIFMTU = 0x8921
_SIOCGIFNAME = 0x8910

_NLMSG = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_ATTR = struct.Struct("=HH")

DEFAULT_MTU = 1500
SECONDS = 10.0
ADDRESSES_MAX = 4096


class Links:
    """Questions to the kernel, with a memory. `mark` is the bypass mark of the senders."""

    def __init__(self, mark: int) -> None:
        self._mark = _ATTR.pack(_ATTR.size + 4, _RTA_MARK) + struct.pack("=I", mark)
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._netlink.settimeout(0.2)
        self._inet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._known: dict[bytes, tuple[float, int, bool]] = {}
        self._number = 0

    def mtu(self, address: bytes) -> int:
        """The MTU of the link towards a packed IPv4 address; 1500 when nobody knows."""
        return self._ask(address)[1]

    def is_local(self, address: bytes) -> bool:
        """Whether the address is one of this host's own."""
        return self._ask(address)[2]

    def forget(self, address: bytes | None = None) -> None:
        """Ask anew next time: about one address, or about all."""
        if address is None:
            self._known.clear()
        else:
            self._known.pop(address, None)

    def _ask(self, address: bytes) -> tuple[float, int, bool]:
        now = time.monotonic()
        known = self._known.get(address)
        if known is not None and now < known[0]:
            return known
        if len(self._known) >= ADDRESSES_MAX:
            self._known.clear()
        known = (now + SECONDS, *self._route(address))
        self._known[address] = known
        return known

    def _route(self, address: bytes) -> tuple[int, bool]:
        """(MTU, whether the address is local)."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        body = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTR.pack(_ATTR.size + 4, _RTA_DST) + address + self._mark
        head = _NLMSG.pack(_NLMSG.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, self._number, 0)
        with contextlib.suppress(OSError):
            self._netlink.send(head + body)
            for _ in range(8):
                answer = self._netlink.recv(8192)
                _, kind, _, number, _ = _NLMSG.unpack_from(answer)
                if number == self._number:
                    if kind == _RTM_NEWROUTE:
                        return self._read(answer)
                    break
        return DEFAULT_MTU, False

    def _read(self, answer: bytes) -> tuple[int, bool]:
        is_local = answer[_NLMSG.size + 7] == _RTN_LOCAL
        attributes = _attributes(answer[_NLMSG.size + _RTMSG.size :])
        cache = attributes.get(_RTA_CACHEINFO, b"")
        is_learned = len(cache) >= 12 and struct.unpack_from("=i", cache, 8)[0] != 0
        if _RTA_METRICS in attributes and not is_learned:
            metric = _attributes(attributes[_RTA_METRICS]).get(_RTAX_MTU, b"")
            if len(metric) == 4:
                return int(struct.unpack("=I", metric)[0]), is_local
        link = attributes.get(_RTA_OIF, b"")
        return self._link_mtu(link), is_local

    def _link_mtu(self, index: bytes) -> int:
        if len(index) != 4:
            return DEFAULT_MTU
        request = array.array("B", bytes(16) + index + bytes(20))
        try:
            fcntl.ioctl(self._inet, _SIOCGIFNAME, request)
            fcntl.ioctl(self._inet, _SIOCGIFMTU, request)
        except OSError:
            return DEFAULT_MTU
        return int(struct.unpack_from("=i", request, 16)[0])


def _attributes(octets: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTR.size <= len(octets):
        length, kind = _ATTR.unpack_from(octets, at)
        if length < _ATTR.size or at + length > len(octets):
            break
        found[kind & 0x3FFF] = octets[at + _ATTR.size : at + length]
        at += length + 3 & ~3
    return found
