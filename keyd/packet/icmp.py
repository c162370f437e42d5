"""ICMP and the path MTU: RFC 792, 1191, 4443 and 8201, RFC 4303 3.3.4, RFC 4301 section 8.

Two directions: we tell senders what fits after sealing (`too_big`) and that nothing arrives
(`unreachable`), and we learn from routers what they did with ours (`quoted`, `verdict`), of which
the path's MTU is kept in `PathMtu`. Numbers are in network order.
"""

from enum import Enum
from struct import Struct
from typing import NamedTuple

from keyd.packet import datagram, ip, ip6, natt
from keyd.packet.checksum import checksum, finish, partial, pseudo
from keyd.packet.datagram import Head
from pfkey.const import IPPROTO_AH, IPPROTO_ESP

UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
PACKET_TOO_BIG = 2  # ICMPv6
_HOST = 1  # code of UNREACHABLE
_UNREACHABLE6, _ADDRESS = 1, 3  # type and code
# errors that say that packets do not arrive: type, and of UNREACHABLE all codes but one
_LOST = {4: frozenset((UNREACHABLE, 11, 12)), 6: frozenset((_UNREACHABLE6, 3, 4))}
# queries, which may be answered by an error; all other ICMP may not (RFC 1122 3.2.2)
_QUERIES = {4: frozenset((8, 13, 15, 17)), 6: frozenset(range(128, 256))}
_QUOTING = frozenset((UNREACHABLE, 4, 5, 11, 12))
MTU_FLOOR = 576
AGE_SECONDS = 600.0  # RFC 1191 section 6.3 asks for ten minutes
DESTINATIONS_MAX = 4096
_ANSWER_OCTETS = 576  # RFC 1812 4.3.2.3: quote as much as fits
_ICMP = Struct("!BBHHH")
_IP = Struct("!BBHHHBBH4s4s")
_TTL = 64
_ICMP6 = Struct("!BBHI")
_IP6 = Struct("!IHBB16s16s")


class Verdict(Enum):
    """What an error says of a packet."""

    TOO_BIG = 0
    LOST = 1
    NOTHING = 2


def verdict(version: int, kind: int, code: int) -> Verdict:
    """What a type and code say about a packet of this version."""
    if (version, kind, code) in _TOO_BIG:
        return Verdict.TOO_BIG
    return Verdict.LOST if kind in _LOST.get(version, ()) else Verdict.NOTHING


def may_answer(packet: bytes) -> bool:
    """Whether an error about this well-formed packet may be sent (RFC 1122 3.2.2, RFC 4443 2.4)."""
    head = datagram.read(packet)
    if head is None or head.is_later:
        return False
    is_v4 = packet[0] >> 4 == 4
    is_icmp = head.proto == (ip.ICMP if is_v4 else ip6.ICMPV6)
    if is_icmp and head.ports[0] not in _QUERIES[4 if is_v4 else 6]:
        return False
    return not (head.dst[0] >= 224 if is_v4 else head.dst[0] == 0xFF)


def too_big(packet: bytes, mtu: int) -> bytes:
    """The answer to the sender of a packet that is too big, of either version: an IP packet."""
    if packet[0] >> 4 == 6:  # an MTU is never below 1280 there (RFC 4443 3.2)
        return _answer6(PACKET_TOO_BIG, 0, max(mtu, ip6.MTU_MIN), packet)
    return _answer4(UNREACHABLE, FRAGMENTATION_NEEDED, mtu, packet)


def unreachable(packet: bytes) -> bytes:
    """The answer to the sender of a packet that will not arrive: an IP packet.

    It says that the host, or the address, cannot be reached, whatever the error about our packet
    said: that is a moment's trouble to TCP (RFC 1122 4.2.3.9, RFC 2003 section 4).
    """
    if packet[0] >> 4 == 6:
        return _answer6(_UNREACHABLE6, _ADDRESS, 0, packet)
    return _answer4(UNREACHABLE, _HOST, 0, packet)


def _answer4(kind: int, code: int, word: int, packet: bytes) -> bytes:
    """An IPv4 packet whose source is the destination that was asked for.

    A local address would be a martian to the kernel that reads this from the TUN device, and
    nothing looks at the source of such an error.
    """
    quoted = packet[: _ANSWER_OCTETS - ip.HEADER_MIN - _ICMP.size]
    body = bytearray(_ICMP.pack(kind, code, 0, 0, word) + quoted)
    body[2:4] = checksum(body).to_bytes(2, "big")
    head = bytearray(
        _IP.pack(
            0x45, 0xC0, ip.HEADER_MIN + len(body), 0, 0, _TTL, ip.ICMP, 0,
            ip.dst(packet), ip.src(packet),
        )
    )  # fmt: skip
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head + body)


def _answer6(kind: int, code: int, word: int, packet: bytes) -> bytes:
    quoted = packet[: ip6.MTU_MIN - ip6.HEADER_OCTETS - _ICMP6.size]
    body = bytearray(_ICMP6.pack(kind, code, 0, word) + quoted)
    src, dst = ip6.dst(packet), ip6.src(packet)
    body[2:4] = finish(pseudo(src, dst, ip6.ICMPV6, len(body)) + partial(body)).to_bytes(2, "big")
    return _IP6.pack(6 << 28, len(body), ip6.ICMPV6, _TTL, src, dst) + bytes(body)


class Quoted(NamedTuple):
    """What an error quotes, as far as it is there.

    Attributes:
        proto: the upper protocol, -1 where the quotation ends before it.
        at: where that begins.
        is_later: whether it is a later fragment, which shows no ports.
    """

    src: bytes
    dst: bytes
    proto: int
    at: int
    is_later: bool


def _quotation(octets: bytes) -> Quoted | None:
    """The headers of a quotation, which may be cut off anywhere behind the addresses."""
    if len(octets) >= ip6.HEADER_OCTETS and octets[0] >> 4 == 6:
        src, dst = ip6.src(octets), ip6.dst(octets)
        chain = ip6.walk(octets[:4] + b"\xff\xff" + octets[6:])
        if chain is None:
            return Quoted(src, dst, -1, len(octets), is_later=False)
        return Quoted(src, dst, chain.proto, chain.at, ip6.frag(octets, chain)[0] > 0)
    if len(octets) >= ip.HEADER_MIN and octets[0] >> 4 == 4:
        at = ip.header_length(octets)
        proto = octets[9] if at >= ip.HEADER_MIN else -1
        return Quoted(ip.src(octets), ip.dst(octets), proto, at, ip.frag(octets)[0] > 0)
    return None


def quoted(octets: bytes) -> tuple[bytes, bytes, int, int] | None:
    """(source, destination, SPI, sequence) of the ESP, AH or ESP in UDP that an error quotes."""
    told = _quotation(octets)
    if told is None or told.is_later:
        return None
    at = told.at
    if told.proto == IPPROTO_AH:
        at += 4
    elif told.proto == natt.UDP:
        at += natt.UDP_OCTETS
    elif told.proto != IPPROTO_ESP:
        return None
    if len(octets) < at + 8:
        return None
    spi, seq = Struct("!II").unpack_from(octets, at)
    return told.src, told.dst, spi, seq


class Answer(NamedTuple):
    """The selectors of what would answer the packet that an error quotes.

    Attributes:
        proto: -1 if the quotation does not show it.
        ports: None if it does not show them, or shows ICMP, whose types do not answer themselves.
    """

    src: bytes
    dst: bytes
    proto: int
    ports: tuple[int, int] | None


def is_error(head: Head) -> bool:
    """Whether this is an ICMP error, which quotes a packet; a redirect is one."""
    if head.proto == ip.ICMP and len(head.src) == 4:
        return not head.is_fragment and head.ports[0] in _QUOTING
    return head.proto == ip6.ICMPV6 and not head.is_fragment and 0 < head.ports[0] < 128


def answered(packet: bytes, head: Head) -> Answer | None:
    """For an error about a packet: what would go back (RFC 4301 section 6.2); else None."""
    octets = packet[head.at + _ICMP.size : head.total]
    told = _quotation(octets) if is_error(head) else None
    if told is None or len(told.src) != len(head.src):
        return None
    src, dst, proto, at, is_later = told
    ports: tuple[int, int] | None = (0, 0)
    if proto in ip.WITH_PORTS:
        shown = octets[at : at + 4]
        ports = (shown[2] << 8 | shown[3], shown[0] << 8 | shown[1]) if len(shown) == 4 else None
    if is_later or proto in (-1, ip.ICMP, ip6.ICMPV6):
        ports = None
    return Answer(dst, src, proto, ports)


class PathMtu:
    """What routers said, per destination, for ten minutes."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, float]] = {}

    def learn(self, dst: bytes, mtu: int, now: float) -> None:
        """A router can pass on `mtu` octets at most; less than 576 (IPv6: 1280) is too little."""
        if len(self._known) >= DESTINATIONS_MAX:
            del self._known[next(iter(self._known))]
        self._known.pop(dst, None)
        floor = MTU_FLOOR if len(dst) == 4 else ip6.MTU_MIN
        self._known[dst] = (max(mtu, floor), now + AGE_SECONDS)

    def limit(self, dst: bytes, link_mtu: int, now: float) -> int:
        """The MTU to a destination, given that of the link on the way to it."""
        entry = self._known.get(dst)
        if entry is None:
            return link_mtu
        mtu, until = entry
        if not until - AGE_SECONDS <= now < until:  # too old, or the clock was set back
            del self._known[dst]
            return link_mtu
        return min(mtu, link_mtu)


_TOO_BIG = {(4, UNREACHABLE, FRAGMENTATION_NEEDED), (6, PACKET_TOO_BIG, 0)}
