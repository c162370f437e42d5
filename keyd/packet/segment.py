"""Cutting what the TUN device hands over: TCP and UDP super-packets, unfinished checksums.

A read begins with a virtio_net_hdr of 10 octets, in host order:

    flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2

TCP: RFC 9293 (a segment's header is that of the whole but for sequence number, FIN and PSH,
which go to the last one, CWR, which goes to the first (RFC 3168 6.1.2), and checksum).
UDP: each datagram has the header of the whole but for length and checksum (RFC 768).
"""

from collections.abc import Sequence
from struct import Struct

from keyd.packet import datagram, ip, ip6
from keyd.packet.checksum import complete, finish, partial

VNET_OCTETS = 10
NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80
PLAIN = bytes(VNET_OCTETS)

TCP = 6
UDP = 17
TCP_MIN = 20
UDP_OCTETS = 8
SEGMENTS_MAX = 2048  # more of one read mean that somebody wants to keep us busy
FIN, SYN, RST, PSH, CWR = 0x01, 0x02, 0x04, 0x08, 0x80

Payload = bytes | bytearray | memoryview

_VNET = Struct("=BBHHHH")
_U16 = Struct("!H")
_U32 = Struct("!I")
_TCP_CSUM = 16


class Frame:
    """One read, found to be well formed.

    Attributes:
        header: the IP header, of IPv6 with the extension headers that transport mode leaves out.
        proto: the protocol of what follows it.
        before: of a super-packet, the extension headers that follow it; each packet repeats them.
        transport: what follows, with its checksum finished unless this is a super-packet.
        gso: GSO_NONE, GSO_TCPV4, GSO_TCPV6 or GSO_UDP_L4.
        gso_size: the octets of data per segment that the sender had in mind.
        was_cut: it was put together here, of fragments that its sender had made.
    """

    __slots__ = (
        "before", "gso", "gso_size", "header", "is_fragment", "packet", "proto", "transport",
        "was_cut",
    )  # fmt: skip

    def __init__(
        self,
        packet: bytes,
        at: tuple[int, int],
        transport: bytes | bytearray,
        gso: tuple[int, int],
        before: bytes = b"",
        *,
        is_fragment: bool,
    ) -> None:
        header_octets, self.proto = at
        self.packet = packet
        self.header = packet[:header_octets]
        self.before = before
        self.transport = transport
        self.gso, self.gso_size = gso
        self.is_fragment = is_fragment
        self.was_cut = False


def read(octets: bytes) -> Frame | None:
    """The frame, or None when it is no IP packet or its virtio header does not fit it."""
    if len(octets) < VNET_OCTETS:
        return None
    flags, gso, _, gso_size, start, offset = _VNET.unpack_from(octets)
    packet = octets[VNET_OCTETS:]
    kind = gso & ~GSO_ECN
    if packet[:1] < b"\x60":
        if not ip.well_formed(packet):
            return None
        at, proto, total = ip.header_length(packet), packet[9], ip.total_length(packet)
        upper_at, upper = at, proto
        is_fragment, of_tcp = ip.is_fragment(packet), GSO_TCPV4
    else:
        chain = ip6.walk(packet) if ip6.well_formed(packet) else None
        if chain is None:
            return None
        at, proto = chain.cut_at, packet[chain.cut_nh_at]
        upper_at, upper = chain.at, chain.proto
        total, of_tcp = ip6.total_length(packet), GSO_TCPV6
        is_fragment = ip6.is_fragment(packet, chain)
    if kind == GSO_NONE:
        transport = packet[at:total]
        if not flags & NEEDS_CSUM:
            return Frame(packet, (at, proto), transport, (GSO_NONE, 0), is_fragment=is_fragment)
        mended = bytearray(transport)
        if not complete(mended, start - at, offset):
            return None
        return Frame(packet, (at, proto), mended, (GSO_NONE, 0), is_fragment=is_fragment)
    transport = packet[upper_at:total]
    if is_fragment or len(transport) > gso_size * SEGMENTS_MAX:
        return None
    fits = (kind == of_tcp and upper == TCP and tcp_header_octets(transport)) or (
        kind == GSO_UDP_L4 and upper == UDP and len(transport) > UDP_OCTETS
    )
    if not fits:
        return None
    before = packet[at:upper_at]
    return Frame(packet, (at, proto), transport, (kind, gso_size), before, is_fragment=False)


def cut(frame: Frame, room: int) -> list[bytes] | list[bytes | bytearray] | None:
    """What follows the header in each packet to send, none longer than `room`, checksums right.

    TCP is cut to what fits, whatever `gso_size` allows beyond that; so is a single TCP packet
    that is too long. None: it does not fit and may not be cut.
    """
    if frame.before:
        pieces = _cut(frame, room - len(frame.before))
        return None if pieces is None else [frame.before + piece for piece in pieces]
    return _cut(frame, room)


def _cut(frame: Frame, room: int) -> list[bytes] | list[bytes | bytearray] | None:
    transport = frame.transport
    if frame.gso == GSO_NONE:
        if len(transport) <= room:
            return [transport]
        if frame.proto != TCP or frame.is_fragment:
            return None
        size = room
    else:
        size = frame.gso_size
    if frame.gso == GSO_UDP_L4:
        if UDP_OCTETS + min(size, len(transport) - UDP_OCTETS) > room:
            return None
        return _cut_udp(transport, size, partial(datagram.addresses(frame.header)))
    octets = tcp_header_octets(transport)
    size = min(size, room - octets)
    if not octets or len(transport) - octets > size * SEGMENTS_MAX:
        return None
    if size <= 0 or (transport[13] & (SYN | RST) and len(transport) > room):
        return None
    return _cut_tcp(transport, octets, size, partial(datagram.addresses(frame.header)))


def tcp_header_octets(transport: bytes | bytearray | memoryview) -> int:
    """The length of the TCP header, 0 when it does not fit the octets."""
    if len(transport) < TCP_MIN:
        return 0
    octets = (transport[12] >> 4) * 4
    return octets if TCP_MIN <= octets <= len(transport) else 0


def may_open_connection(frame: Frame) -> bool:
    """Whether this is TCP without data, or a SYN: its program may not know yet that it may send."""
    if frame.proto != TCP or frame.is_fragment:
        return False
    transport = frame.transport
    octets = tcp_header_octets(transport)
    return len(transport) <= octets or not octets or bool(transport[13] & SYN)


def tcp_sequence(transport: bytes | bytearray | memoryview) -> int:
    """The sequence number in a TCP header that `tcp_header_octets` has found."""
    number: int = _U32.unpack_from(transport, 4)[0]
    return number


def _cut_tcp(transport: bytes | bytearray, octets: int, size: int, addresses: int) -> list[bytes]:
    head = bytearray(transport[:octets])
    data = memoryview(transport)[octets:]
    seq = _U32.unpack_from(head, 4)[0]
    last = head[13]
    head[4:8] = bytes(4)
    head[13] = 0
    head[16:18] = bytes(2)
    base = addresses + TCP + partial(head)
    segments = []
    end = len(data)
    for at in range(0, end or 1, size):
        piece = data[at : at + size]
        flags = last if at + size >= end else last & ~(FIN | PSH)
        if at:
            flags &= ~CWR
        number = (seq + at) & 0xFFFFFFFF
        _U32.pack_into(head, 4, number)
        head[13] = flags
        total = base + (number >> 16) + (number & 0xFFFF) + flags + octets + len(piece)
        _U16.pack_into(head, _TCP_CSUM, finish(total + partial(piece)))
        segments.append(b"".join((head, piece)))
    return segments


def _cut_udp(transport: bytes | bytearray, size: int, addresses: int) -> list[bytes]:
    ports = transport[:4]
    data = memoryview(transport)[UDP_OCTETS:]
    base = addresses + UDP + partial(ports)
    datagrams = []
    for at in range(0, len(data), size):
        piece = data[at : at + size]
        length = UDP_OCTETS + len(piece)
        value = finish(base + 2 * length + partial(piece)) or 0xFFFF  # 0 would mean none
        datagrams.append(b"".join((ports, _U16.pack(length), _U16.pack(value), piece)))
    return datagrams


def packets(header: bytes, proto: int, payloads: Sequence[Payload]) -> list[bytes]:
    """IP packets with this header but for protocol, length, checksum and identification.

    The identification counts up from the header's. The caller has seen that each packet fits
    what its version can hold.
    """
    if header[0] >> 4 == 6:
        return [b"".join((ip6.rebuild(header, proto, len(p)), p)) for p in payloads]
    head = bytearray(header)
    ident = ip.identification(header)
    head[2:6] = bytes(4)
    head[9] = proto
    head[10:12] = bytes(2)
    base = partial(head)
    octets = len(head)
    done = []
    for number, payload in enumerate(payloads, ident):
        number &= 0xFFFF
        total = octets + len(payload)
        _U16.pack_into(head, 2, total)
        _U16.pack_into(head, 4, number)
        _U16.pack_into(head, 10, finish(base + total + number))
        done.append(b"".join((head, payload)))
    return done
