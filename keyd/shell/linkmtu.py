"""What the system knows about an address: the MTU of the link towards it, and whether it is ours.

Asks rtnetlink, which needs no rights, so a worker can; answers are kept for ten seconds. An MTU
that the kernel learned from an ICMP message is not taken: in transport mode that is what our own
answers taught it about the inner packets, which go to the same address. Such a route has an
expiry, or of IPv6, where a router's announcement has one as well, is a clone.
"""

import array
import contextlib
import fcntl
import socket
import struct
import time
from pathlib import Path

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
_RTN_ANYCAST = 4
_RTM_F_CLONED = 0x200
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

    def close(self) -> None:
        """Close the sockets."""
        self._netlink.close()
        self._inet.close()

    def mtu(self, address: bytes) -> int:
        """The MTU of the link towards a packed address; 1500 when nobody knows."""
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
        octets = len(address)
        family = socket.AF_INET if octets == 4 else socket.AF_INET6
        body = _RTMSG.pack(family, 8 * octets, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTR.pack(_ATTR.size + octets, _RTA_DST) + address + self._mark
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
        family, _, _, _, _, _, _, kind, flags = _RTMSG.unpack_from(answer, _NLMSG.size)
        is_ipv6 = family == socket.AF_INET6
        is_local = kind == _RTN_LOCAL or (is_ipv6 and kind == _RTN_ANYCAST)
        attributes = _attributes(answer[_NLMSG.size + _RTMSG.size :])
        if is_ipv6:
            is_learned = bool(flags & _RTM_F_CLONED)
        else:
            cache = attributes.get(_RTA_CACHEINFO, b"")
            is_learned = len(cache) >= 12 and struct.unpack_from("=i", cache, 8)[0] != 0
        link = self._link_mtu(attributes.get(_RTA_OIF, b""), is_ipv6=is_ipv6)
        if _RTA_METRICS in attributes and not is_learned:
            metric = _attributes(attributes[_RTA_METRICS]).get(_RTAX_MTU, b"")
            if len(metric) == 4:
                return min(link, int(struct.unpack("=I", metric)[0])), is_local
        return link, is_local

    def _link_mtu(self, index: bytes, *, is_ipv6: bool) -> int:
        """The device's MTU; of IPv6 what a router announced, where that is less."""
        if len(index) != 4:
            return DEFAULT_MTU
        request = array.array("B", bytes(16) + index + bytes(20))
        try:
            fcntl.ioctl(self._inet, _SIOCGIFNAME, request)
            name = request.tobytes()[:16].rstrip(b"\0").decode()
            fcntl.ioctl(self._inet, _SIOCGIFMTU, request)
        except OSError:
            return DEFAULT_MTU
        octets = int(struct.unpack_from("=i", request, 16)[0])
        if is_ipv6:
            with contextlib.suppress(OSError, ValueError):
                octets = min(octets, int(Path(f"/proc/sys/net/ipv6/conf/{name}/mtu").read_text()))
        return octets


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
