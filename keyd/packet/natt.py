"""ESP in UDP: RFC 3948. Octets in network order; no clock, no chance, no socket.

    UDP header 8 | ESP, whose SPI is not 0        four zero octets instead are IKE's,
                                                  a single octet 0xFF keeps a NAT's mapping alive

The checksum of the UDP header is 0 over IPv4 (section 2.1) and computed over IPv6 (RFC 8200 8.1);
either is taken over both, and one that is not 0 must hold. In transport mode the transport's own
checksum was made with addresses that a NAT has changed since (`mended`, section 3.1.2).
"""

from struct import Struct
from typing import Any, NamedTuple

from keyd.packet import ip, ip6
from keyd.packet.checksum import finish, partial, pseudo
from keyd.packet.datagram import Head
from pfkey.const import IPPROTO_ESP

Octets = bytes | bytearray | memoryview

UDP = 17
UDP_OCTETS = 8
MARKER_OCTETS = 4  # of zeros before IKE
KEEPALIVE = b"\xff"
_TCP, _ICMPV6, _UDP_LITE, _DCCP = 6, 58, 136, 33
_HEADER = Struct("!HHHH")
_U16 = Struct("!H")
_IPV4 = Struct("!BBHHHBBH4s4s")
_IPV6 = Struct("!IHBB16s16s")
_TTL = 64
_CSUM_AT = {_TCP: 16, UDP: 6, _UDP_LITE: 6, _DCCP: 6, _ICMPV6: 2}
# UDP-Lite and DCCP may cover less than all: only the addresses' share can be changed there
_WHOLE = frozenset((_TCP, UDP, _ICMPV6))


class Encapsulated(NamedTuple):
    """A datagram's ports and what is behind its header."""

    sport: int
    dport: int
    payload: bytes | memoryview

    @property
    def is_keepalive(self) -> bool:
        """Section 2.3."""
        return self.payload == KEEPALIVE

    @property
    def is_esp(self) -> bool:
        """Whether it begins with an SPI and not with the marker before IKE (section 2.2)."""
        return len(self.payload) > MARKER_OCTETS and any(self.payload[:MARKER_OCTETS])


class Mapping(NamedTuple):
    """A NAT has given a peer another address or port; told by an authentic packet."""

    dst: bytes  # with the SPI, the name of the inbound SA
    spi: int
    src: bytes  # the peer as the SA has it, or as it was told last
    sport: int
    new_src: bytes
    new_sport: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for the worker's channel."""
        return {
            "dst": self.dst.hex(), "spi": self.spi, "old_port": self.sport,
            "address": self.new_src.hex(), "port": self.new_sport,
        }  # fmt: skip


def encapsulated(header: bytes, esp: Octets, sport: int, dport: int) -> bytes:
    """The UDP datagram around an ESP packet, to go behind this IP header."""
    length = UDP_OCTETS + len(esp)
    if header[0] >> 4 == 4:
        return b"".join((_HEADER.pack(sport, dport, length, 0), esp))
    head = _HEADER.pack(sport, dport, length, 0)
    total = pseudo(ip6.src(header), ip6.dst(header), UDP, length) + partial(head) + partial(esp)
    return b"".join((_HEADER.pack(sport, dport, length, finish(total) or 0xFFFF), esp))


def read(packet: bytes, head: Head) -> Encapsulated | None:
    """The datagram in a well-formed IP packet; None when lengths or checksum are wrong."""
    if head.total - head.at < UDP_OCTETS or head.is_fragment:
        return None
    sport, dport, length, checksum = _HEADER.unpack_from(packet, head.at)
    if not UDP_OCTETS <= length <= head.total - head.at:
        return None
    octets = memoryview(packet)[head.at : head.at + length]
    if checksum and finish(pseudo(head.src, head.dst, UDP, length) + partial(octets)):
        return None
    return Encapsulated(sport, dport, octets[UDP_OCTETS:])


def as_esp(packet: bytes, head: Head, found: Encapsulated) -> tuple[bytes, Head]:
    """The packet as if there were no UDP header, and what is known of it.

    The IP header still speaks of UDP: that of what is inside is made of it, with all it says.
    """
    total = head.at + len(found.payload)
    bare = Head(IPPROTO_ESP, head.at, total, head.src, head.dst, (0, 0), False, False)
    return b"".join((packet[: head.at], found.payload)), bare


def mended(packet: bytes, head: Head, original: bytes) -> bytes:
    """A transport mode packet whose transport checksum is right for its present addresses.

    `original` are source and destination as the sender knew them (the OA of RFC 3947), then the
    checksum changes by their difference and goes on to vouch for the rest. Empty: nobody knows
    them, and the checksum is made anew, which only an ICV that has held can excuse.
    """
    at = _CSUM_AT.get(head.proto)
    if at is None or head.is_fragment or head.at + at + 2 > head.total:
        return packet
    if head.proto == _ICMPV6 and packet[0] >> 4 == 4:
        return packet
    at += head.at
    told = _U16.unpack_from(packet, at)[0]
    if head.proto == UDP and not told:
        return packet  # none was made
    now = head.src + head.dst
    if original:
        if original == now:
            return packet
        # a word that is subtracted is its complement added (RFC 1624)
        total = (~told & 0xFFFF) + partial(now) + 65535 - partial(original)
    elif head.proto in _WHOLE:
        view = memoryview(packet)
        length = head.total - head.at
        total = pseudo(head.src, head.dst, head.proto, length)
        # the checksum's own place stands at an even offset and counts as zero
        total += partial(view[head.at : at]) + partial(view[at + 2 : head.total])
    else:
        return packet
    value = finish(total) or (0xFFFF if head.proto == UDP else 0)
    return b"".join((packet[:at], _U16.pack(value), packet[at + 2 :]))


def keepalive(src: bytes, dst: bytes, sport: int, dport: int) -> bytes:
    """An IP packet that keeps a mapping alive and says nothing (section 4)."""
    length = UDP_OCTETS + len(KEEPALIVE)
    if len(src) == 4:
        header = _IPV4.pack(0x45, 0, 0, 0, 0, _TTL, UDP, 0, src, dst)
        header = ip.rebuild(header, UDP, length)
    else:
        header = _IPV6.pack(6 << 28, length, UDP, _TTL, src, dst)
    return header + encapsulated(header, KEEPALIVE, sport, dport)
