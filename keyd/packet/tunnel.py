"""Tunnel mode's outer header: RFC 4301 5.1.2, RFC 6040 for ECN, RFC 2983 for DSCP.

IPv4 or IPv6 in either. Out: `outer` makes the header that `EspSa` or `AhSa` then goes behind, the
whole inner packet their payload and `next_header` its protocol. In: `inner` checks what came out
and carries a congestion mark inside. The inner TTL is the router's: it counts down once when the
packet is forwarded into the tunnel and once when it is forwarded out.
"""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from keyd.packet import ip, ip6
from keyd.packet.checksum import checksum
from keyd.packet.drop import Drop

Octets = bytes | bytearray | memoryview

IPV4, IPV6 = 4, 41  # protocol numbers of a packet as payload
TTL = 64
_NOT_ECT, _ECT1, _ECT0, _CE = range(4)  # RFC 3168 section 5
_DSCP = 0xFC
_DF = 0x4000
_ICMP_REDIRECT = 5
_DISCOVERY = range(133, 138)  # ICMPv6: solicitations, advertisements, redirect
_IPV4_OUTER = Struct("!BBHHHBBH4s4s")
_IPV6_OUTER = Struct("!IHBB16s16s")
_U16 = Struct("!H")

# RFC 6040 section 4.2: _ARRIVES[inner][outer]; None is a packet to drop.
_ARRIVES: tuple[tuple[int | None, ...], ...] = (
    (_NOT_ECT, _NOT_ECT, _NOT_ECT, None),
    (_ECT1, _ECT1, _ECT1, _CE),
    (_ECT0, _ECT1, _ECT0, _CE),
    (_CE, _CE, _CE, _CE),
)


class DfBit(IntEnum):
    """What becomes of "don't fragment" on an outer IPv4 header (net.inet.ipsec.dfbit)."""

    CLEAR = 0
    SET = 1
    COPY = 2  # IPv6 inside counts as set: its routers never cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """How outer headers are made; the defaults are the RFCs'.

    Attributes:
        has_ecn: marks travel through the tunnel (RFC 6040 normal mode); False neither tells
            routers of ECN nor takes their marks (net.inet.ipsec.ecn).
        has_dscp: the class of service shows outside.
        takes_dscp: the class of service on arrival replaces the inner one (Linux's flag
            DECAP_DSCP). DEVIATION from RFC 4301 5.1.2.1 note 5 when set
            (test_the_class_of_service_comes_in_where_a_flag_says_so).
        ttl: of the outer header, IPv6's hop limit as well.
    """

    dfbit: DfBit = DfBit.COPY
    has_ecn: bool = True
    has_dscp: bool = True
    takes_dscp: bool = False
    ttl: int = TTL


PLAIN = Knobs()


def outer(
    packet: Octets, src: bytes, dst: bytes, *, knobs: Knobs = PLAIN, ident: int = 0
) -> bytes | Drop:
    """The header of plain IP in IP around a well-formed packet, between packed addresses.

    `ip.rebuild` and `ip6.rebuild` give it ESP's protocol and length. `ident` is the outer
    identification of IPv4; AH wants one that is not zero.

    Drop.TUNNEL: this is no IP packet. Drop.TOOBIG: no header can hold its length.
    """
    proto = next_header(packet)
    if not proto:
        return Drop.TUNNEL
    length = ip.total_length(packet) if proto == IPV4 else ip6.total_length(packet)
    service = _service(packet)
    service &= (_DSCP if knobs.has_dscp else 0) | (~_DSCP & 0xFF if knobs.has_ecn else 0)
    if len(src) == 16:
        if length > ip6.PAYLOAD_MAX:
            return Drop.TOOBIG
        return _IPV6_OUTER.pack(6 << 28 | service << 20, length, proto, knobs.ttl, src, dst)
    length += ip.HEADER_MIN
    if length > ip.PACKET_MAX:
        return Drop.TOOBIG
    has_df = knobs.dfbit == DfBit.SET or (
        knobs.dfbit == DfBit.COPY and (proto == IPV6 or ip.frag(packet)[2])
    )
    word = _DF if has_df else 0
    header = bytearray(
        _IPV4_OUTER.pack(0x45, service, length, ident, word, knobs.ttl, proto, 0, src, dst)
    )
    _U16.pack_into(header, 10, checksum(header))
    return bytes(header)


def next_header(packet: Octets) -> int:
    """The protocol number of a whole packet as payload, 0 if it is of neither version."""
    if len(packet) >= ip.HEADER_MIN and packet[0] >> 4 == 4:
        return IPV4
    return IPV6 if len(packet) >= ip6.HEADER_OCTETS and packet[0] >> 4 == 6 else 0


def inner(
    proto: int, payload: Octets, outer_header: Octets, *, knobs: Knobs = PLAIN
) -> bytes | Drop:
    """The packet that came out of a tunnel, without what stood behind it (RFC 4303 2.7).

    `proto` is the next header of the SA that was opened, `outer_header` at least the first 20
    octets of the IP header around it; `payload` may be any octets.

    Drop.TUNNEL: it is no well-formed packet of that protocol; or it was marked on the way
    though its sender knows no marks, so that somebody in between is wrong (RFC 6040 4.2).
    """
    if proto == IPV4 and ip.well_formed(payload):
        total = ip.total_length(payload)
    elif proto == IPV6 and ip6.well_formed(payload):
        total = ip6.total_length(payload)
    else:
        return Drop.TUNNEL
    packet = bytes(payload[:total])
    if len(outer_header) < 2 or not (knobs.has_ecn or knobs.takes_dscp):
        return packet
    before, outside = _service(packet), _service(outer_header)
    after: int | None = before & _CE
    if knobs.has_ecn:
        after = _ARRIVES[before & _CE][outside & _CE]
    if after is None:
        return Drop.TUNNEL
    after |= (outside if knobs.takes_dscp else before) & _DSCP
    return packet if after == before else _marked(packet, after)


def cannot_be_a_source(address: bytes) -> bool:
    """Whether no packet out of a tunnel may come from this packed address (RFC 6890).

    This network, loopback, link-local, multicast and reserved; the host's own are the caller's
    to know. IPv4 inside IPv6 addresses counts as what it is.
    """
    if len(address) == 4:
        return address[0] in (0, 127) or address[0] >= 224 or address[:2] == b"\xa9\xfe"
    if address[:10] == bytes(10) and address[10:12] in (b"\0\0", b"\xff\xff"):
        return True  # unspecified, loopback, and both forms of IPv4 inside
    return address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)


def is_discovery(packet: Octets) -> bool:
    """Whether a well-formed packet is neighbour discovery or a redirect, of either version."""
    if packet[0] >> 4 == 4:
        return (
            ip.proto(packet) == ip.ICMP
            and ip.ports(packet, ip.header_length(packet), ip.ICMP)[0] == _ICMP_REDIRECT
        )
    chain = ip6.walk(packet)
    if chain is None or chain.proto != ip6.ICMPV6:
        return False
    return ip6.ports(packet, chain)[0] in _DISCOVERY


def _service(header: Octets) -> int:
    """TOS or traffic class."""
    return header[1] if header[0] >> 4 == 4 else ip6.traffic_class(header)


def _marked(packet: bytes, service: int) -> bytes:
    """The packet with another TOS or traffic class. A checksum that was wrong stays so."""
    fresh = bytearray(packet)
    if packet[0] >> 4 == 6:
        fresh[0] = packet[0] & 0xF0 | service >> 4
        fresh[1] = packet[1] & 0x0F | (service & 0x0F) << 4
        return bytes(fresh)
    fresh[1] = service
    # RFC 1624: the difference of the two words, without a look at the rest
    total = (~_U16.unpack_from(packet, 10)[0] & 0xFFFF) + (packet[1] ^ 0xFFFF) + service
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    _U16.pack_into(fresh, 10, ~total & 0xFFFF)
    return bytes(fresh)
