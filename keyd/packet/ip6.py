"""As much IPv6 as IPsec needs: RFC 8200, RFC 6946 and 7112 for fragments. Network order.

The readers trust nothing but the first 40 octets; call `well_formed` on what came from outside
before the others. Headers are walked as far as the first that is no extension header, a later
fragment's data, or AH or ESP, and never beyond `EXTENSIONS_MAX` of them.
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

Octets = bytes | bytearray | memoryview

HEADER_OCTETS = 40
FRAGMENT_OCTETS = 8  # the fragment header
FRAGMENT_UNIT = 8  # octets per step of the fragment offset
PAYLOAD_MAX = 65535  # no jumbograms
MTU_MIN = 1280
EXTENSIONS_MAX = 16
HOP_BY_HOP, ROUTING, FRAGMENT, NONE, DESTINATION, ICMPV6 = 0, 43, 44, 59, 60, 58
_WITH_LENGTH = frozenset((HOP_BY_HOP, ROUTING, DESTINATION))
_WITH_PORTS = frozenset((6, 17, 33, 132, 136))  # TCP, UDP, DCCP, SCTP, UDP-Lite
_U16 = Struct("!H")
_PORTS = Struct("!HH")
_FIXED = Struct("!IHBB16s16s")
_FRAGMENT = Struct("!BBHI")
_NO_PORTS = bytes(4)


class Chain(NamedTuple):
    """What a walk along the extension headers found; offsets from the start of the packet.

    Attributes:
        proto: the first header that is no extension header, and
        at: where it begins.
        cut_at: where a fragment header goes (RFC 8200 4.5), and a transport mode header of AH or
            ESP: behind hop-by-hop options and routing header, before anything else (RFC 4302
            3.1.1, RFC 4303 3.1.1). So every piece of a sealed packet names AH or ESP, and
        cut_nh_at: the octet that names what stands there.
        fragment_at: where the fragment header begins, 0 without one.
    """

    proto: int
    at: int
    cut_at: int
    cut_nh_at: int
    fragment_at: int


def walk(packet: Octets) -> Chain | None:
    """The headers of at least 40 octets; None when one runs out of them or stands wrongly."""
    return _walk(packet, min(len(packet), total_length(packet)))


def well_formed(packet: Octets) -> bool:
    """Whether version, lengths, headers and fragment offset agree with the octets at hand.

    Octets after the payload length are allowed: links pad. A datagram that would be longer than
    65535 octets when joined is not.
    """
    if len(packet) < HEADER_OCTETS or packet[0] >> 4 != 6 or total_length(packet) > len(packet):
        return False
    chain = walk(packet)
    if chain is None:
        return False
    if not chain.fragment_at:
        return True
    offset, more, _ = frag(packet, chain)
    data = total_length(packet) - chain.fragment_at - FRAGMENT_OCTETS
    before = chain.fragment_at - HEADER_OCTETS
    return before + offset + data <= PAYLOAD_MAX and not (more and data % FRAGMENT_UNIT)


def total_length(packet: Octets) -> int:
    """Octets of the packet by its own header."""
    return HEADER_OCTETS + (packet[4] << 8 | packet[5])


def traffic_class(packet: Octets) -> int:
    """DSCP and ECN."""
    return (packet[0] & 0x0F) << 4 | packet[1] >> 4


def src(packet: Octets) -> bytes:
    """The packed source address."""
    return bytes(packet[8:24])


def dst(packet: Octets) -> bytes:
    """The packed destination address; with a routing header the next one on the way."""
    return bytes(packet[24:40])


def frag(packet: Octets, chain: Chain) -> tuple[int, bool, int]:
    """(offset in octets, more fragments, identification); zeros without a fragment header."""
    if not chain.fragment_at:
        return 0, False, 0
    _, _, word, ident = _FRAGMENT.unpack_from(packet, chain.fragment_at)
    return word & ~7, bool(word & 1), ident


def is_fragment(packet: Octets, chain: Chain) -> bool:
    """Whether this is a piece of a datagram; a fragment header alone makes none (RFC 6946)."""
    offset, more, _ = frag(packet, chain)
    return more or offset > 0


def ports(packet: Octets, chain: Chain) -> tuple[int, int]:
    """(source port, destination port); for ICMPv6 (type, code); (0, 0) where there are none.

    A later fragment has none to show, whatever its protocol.
    """
    at = chain.at
    if chain.fragment_at and frag(packet, chain)[0]:
        return 0, 0
    if chain.proto in _WITH_PORTS and len(packet) >= at + 4:
        source, destination = _PORTS.unpack_from(packet, at)
        return source, destination
    if chain.proto == ICMPV6 and len(packet) >= at + 2:
        return packet[at], packet[at + 1]
    return 0, 0


def flow_key(packet: Octets) -> bytes:
    """37 octets that are equal for packets of one flow: protocol, addresses, `ports` as u16s.

    A packet whose headers cannot be walked has the key of its first next header.
    """
    if packet[6] in _WITH_PORTS:
        pair = bytes(packet[40:44])
        if len(pair) < 4:
            pair = _NO_PORTS
        return b"".join((packet[6:7], packet[8:40], pair))
    chain = walk(packet)
    if chain is None:
        return b"".join((packet[6:7], packet[8:40], _NO_PORTS))
    return b"".join((bytes((chain.proto,)), packet[8:40], _PORTS.pack(*ports(packet, chain))))


def last_nh_at(header: Octets) -> int:
    """In a header that ends where its payload begins, the octet that names the payload.

    Raises:
        ValueError: the extension headers do not fill it.
    """
    if len(header) == HEADER_OCTETS:
        return 6
    nh_at, at = 6, HEADER_OCTETS
    for _ in range(EXTENSIONS_MAX):
        if at >= len(header):
            break
        size = _size(header, header[nh_at], at, len(header))
        if not size:
            break
        nh_at, at = at, at + size
    if at != len(header):
        raise ValueError(f"{len(header)} octets are no IPv6 header with its extension headers")
    return nh_at


def rebuild(header: Octets, protocol: int, payload_octets: int) -> bytes:
    """The header, extension headers and all, with another protocol behind it and its length.

    Raises:
        ValueError: the payload would exceed 65535 octets, or `header` is none.
    """
    fresh = bytearray(header)
    fresh[last_nh_at(header)] = protocol
    length = len(fresh) - HEADER_OCTETS + payload_octets
    if length > PAYLOAD_MAX:
        raise ValueError(f"a payload of {length} octets exceeds {PAYLOAD_MAX}")
    _U16.pack_into(fresh, 4, length)
    return bytes(fresh)


def assemble(
    src: bytes, dst: bytes, protocol: int, *, hops: int, flow: int = 0,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:  # fmt: skip
    """A header of its parts, with a payload length of 0.

    `flow` is traffic class and flow label, 28 bits. Each of `extensions` is a whole extension
    header with its own protocol; what each says to follow is set to what does.
    """
    protocols = [*(number for number, _ in extensions), protocol]
    parts = [_FIXED.pack(6 << 28 | flow & 0x0FFFFFFF, 0, protocols[0], hops, src, dst)]
    for (_, octets), following in zip(extensions, protocols[1:], strict=True):
        parts += (bytes((following,)), octets[1:])
    return b"".join(parts)


def fragment(packet: Octets, mtu: int, ident: int) -> list[bytes]:
    """The packet as pieces of at most `mtu` octets (RFC 8200 4.5); as it is when it fits.

    `ident` is 32 bits, not used lately between these addresses. The packet has been found well
    formed and is no fragment.

    Raises:
        ValueError: the MTU leaves no room for all headers and some data, or this is a fragment.
    """
    total = total_length(packet)
    if total <= mtu:
        return [bytes(packet[:total])]
    chain = walk(packet)
    if chain is None or chain.fragment_at:
        raise ValueError("a fragment, or what has no proper headers, is not cut again")
    room = (mtu - chain.cut_at - FRAGMENT_OCTETS) // FRAGMENT_UNIT * FRAGMENT_UNIT
    if room < max(FRAGMENT_UNIT, chain.at - chain.cut_at):  # the first piece shows all (RFC 7112)
        raise ValueError(f"an MTU of {mtu} octets has no room for {chain.at} of headers")
    head = bytearray(packet[: chain.cut_at])
    proto = head[chain.cut_nh_at]
    head[chain.cut_nh_at] = FRAGMENT
    before = chain.cut_at - HEADER_OCTETS + FRAGMENT_OCTETS
    pieces = []
    for at in range(chain.cut_at, total, room):
        data = packet[at : min(at + room, total)]
        word = at - chain.cut_at | (at + room < total)
        _U16.pack_into(head, 4, before + len(data))
        pieces.append(b"".join((head, _FRAGMENT.pack(proto, 0, word, ident), data)))
    return pieces


def _walk(packet: Octets, end: int) -> Chain | None:
    proto, nh_at, at = packet[6], 6, HEADER_OCTETS
    cut_at, cut_nh_at, fragment_at = at, nh_at, 0
    for _ in range(EXTENSIONS_MAX):
        size = _size(packet, proto, at, end)
        if size is None:
            break
        if not size or (proto == HOP_BY_HOP and at != HEADER_OCTETS):
            return None
        if proto == FRAGMENT:
            if fragment_at:
                return None
            fragment_at = at
        is_whole = proto in (HOP_BY_HOP, ROUTING) and not fragment_at
        nh_at, at, proto = at, at + size, packet[at]
        if is_whole:
            cut_at, cut_nh_at = at, nh_at
        if nh_at == fragment_at and (packet[nh_at + 2] << 8 | packet[nh_at + 3]) & ~7:
            break
    else:
        return None
    return Chain(proto, at, cut_at, cut_nh_at, fragment_at)


def _size(packet: Octets, proto: int, at: int, end: int) -> int | None:
    """Octets of the extension header at `at`; 0 when it does not fit, None when it is none."""
    if proto in _WITH_LENGTH:
        size = (packet[at + 1] + 1) * 8 if at + 2 <= end else 0
    elif proto == FRAGMENT:
        size = FRAGMENT_OCTETS
    else:
        return None
    return size if size and at + size <= end else 0
