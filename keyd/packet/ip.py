"""As much IPv4 as IPsec needs: RFC 791, RFC 6864 for fragments. Octets in network order.

The readers trust nothing but the first 20 octets; call `well_formed` on what came from outside
before the others.
"""

from struct import Struct

from keyd.packet.checksum import checksum

Octets = bytes | bytearray | memoryview

HEADER_MIN = 20
FRAGMENT_UNIT = 8  # octets per step of the fragment offset
PACKET_MAX = 65535
ICMP = 1
WITH_PORTS = frozenset((6, 17, 33, 132, 136))  # TCP, UDP, DCCP, SCTP, UDP-Lite
_DF = 0x4000
_MF = 0x2000
_OFFSET = 0x1FFF
_U16 = Struct("!H")
_PORTS = Struct("!HH")
_NO_PORTS = bytes(4)
_OPTION_END = 0
_OPTION_NOP = 1
_OPTION_COPIED = 0x80


def well_formed(packet: Octets) -> bool:
    """Whether version, lengths and fragment offset agree with the octets at hand.

    Octets after the total length are allowed: links pad. A datagram that would be longer than
    65535 octets when joined is not.
    """
    if len(packet) < HEADER_MIN or packet[0] >> 4 != 4:
        return False
    total = total_length(packet)
    if not HEADER_MIN <= header_length(packet) <= total <= len(packet):
        return False
    return frag(packet)[0] + total <= PACKET_MAX


def header_length(packet: Octets) -> int:
    """Octets of the header, options included."""
    return (packet[0] & 0x0F) * 4


def total_length(packet: Octets) -> int:
    """Octets of the packet by its own header."""
    return packet[2] << 8 | packet[3]


def identification(packet: Octets) -> int:
    """The identification field."""
    return packet[4] << 8 | packet[5]


def proto(packet: Octets) -> int:
    """The protocol number of what follows the header."""
    return packet[9]


def src(packet: Octets) -> bytes:
    """The packed source address."""
    return bytes(packet[12:16])


def dst(packet: Octets) -> bytes:
    """The packed destination address."""
    return bytes(packet[16:20])


def frag(packet: Octets) -> tuple[int, bool, bool]:
    """(offset in octets, more fragments, don't fragment)."""
    word = packet[6] << 8 | packet[7]
    return (word & _OFFSET) * FRAGMENT_UNIT, bool(word & _MF), bool(word & _DF)


def is_fragment(packet: Octets) -> bool:
    """Whether this is a piece of a datagram, the first one included."""
    return bool((packet[6] << 8 | packet[7]) & (_MF | _OFFSET))


def ports(packet: Octets, header_octets: int, protocol: int) -> tuple[int, int]:
    """(source port, destination port); for ICMP (type, code); (0, 0) where there are none.

    A later fragment has none to show, whatever its protocol.
    """
    if (packet[6] << 8 | packet[7]) & _OFFSET:
        return 0, 0
    if protocol in WITH_PORTS and len(packet) >= header_octets + 4:
        source, destination = _PORTS.unpack_from(packet, header_octets)
        return source, destination
    if protocol == ICMP and len(packet) >= header_octets + 2:
        return packet[header_octets], packet[header_octets + 1]
    return 0, 0


def flow_key(packet: Octets) -> bytes:
    """13 octets that are equal for packets of one flow: protocol, addresses, `ports` as u16s."""
    protocol = packet[9]
    at = (packet[0] & 0x0F) * 4
    if protocol in WITH_PORTS and not (packet[6] << 8 | packet[7]) & _OFFSET:
        pair = bytes(packet[at : at + 4])
        if len(pair) < 4:
            pair = _NO_PORTS
    elif protocol == ICMP:
        pair = _PORTS.pack(*ports(packet, at, protocol))
    else:
        pair = _NO_PORTS
    return b"".join((packet[9:10], packet[12:20], pair))


def rebuild(
    header: Octets, protocol: int, payload_octets: int, *, ident: int | None = None
) -> bytes:
    """The header with another protocol, total length and, if given, identification.

    Raises:
        ValueError: the packet would exceed 65535 octets.
    """
    fresh = bytearray(header)
    total = len(fresh) + payload_octets
    if total > PACKET_MAX:
        raise ValueError(f"a packet of {total} octets exceeds {PACKET_MAX}")
    _U16.pack_into(fresh, 2, total)
    if ident is not None:
        _U16.pack_into(fresh, 4, ident)
    fresh[9] = protocol
    return _summed(fresh)


def fragment(packet: Octets, mtu: int) -> list[bytes]:
    """The packet as pieces of at most `mtu` octets; as it is when it fits.

    Whether it may be cut (don't fragment) is the caller's question. A fragment can be cut again.

    Raises:
        ValueError: the MTU leaves no room for eight octets of data.
    """
    total = total_length(packet)
    if total <= mtu:
        return [bytes(packet[:total])]
    at = header_length(packet)
    head = bytes(packet[:at])
    later = head[:HEADER_MIN] + _copied_options(head[HEADER_MIN:])
    word = packet[6] << 8 | packet[7]
    offset, flags = word & _OFFSET, word & ~(_OFFSET | _MF)
    pieces = []
    while at < total:
        room = (mtu - len(head)) // FRAGMENT_UNIT * FRAGMENT_UNIT
        if room < FRAGMENT_UNIT:
            raise ValueError(f"an MTU of {mtu} octets has no room behind {len(head)} of header")
        data = packet[at : min(at + room, total)]
        at += len(data)
        fresh = bytearray(head)
        fresh[0] = 0x40 | len(head) // 4
        _U16.pack_into(fresh, 2, len(head) + len(data))
        # the last piece of a fragment that was not the last stays a middle one
        more = _MF if at < total else word & _MF
        _U16.pack_into(fresh, 6, flags | more | offset)
        pieces.append(_summed(fresh) + data)
        offset += len(data) // FRAGMENT_UNIT
        head = later
    return pieces


def _summed(header: bytearray) -> bytes:
    header[10] = header[11] = 0
    _U16.pack_into(header, 10, checksum(header))
    return bytes(header)


def _copied_options(options: bytes) -> bytes:
    """Those options that every fragment carries (RFC 791 3.1: the copied flag)."""
    kept = b""
    at = 0
    while at < len(options) and options[at] != _OPTION_END:
        if options[at] == _OPTION_NOP:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            break  # malformed: what cannot be read is not repeated
        if options[at] & _OPTION_COPIED:
            kept += options[at : at + length]
        at += length
    return kept + bytes(-len(kept) % 4)
