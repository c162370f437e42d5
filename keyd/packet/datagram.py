"""IPv4 and IPv6 packets alike: what the pipelines ask of either version (`ip`, `ip6`).

Octets in network order. `read` trusts nothing; the others want what `read` has found well formed.
"""

from typing import NamedTuple

from keyd.packet import ip, ip6

Octets = bytes | bytearray | memoryview


class Head(NamedTuple):
    """What a packet's headers say.

    Attributes:
        proto: the upper protocol; of IPv6 the first header that is no extension header.
        at: where that begins.
        total: octets of the packet, without what a link padded.
        ports: for ICMP type and code; (0, 0) where there are none, and in later fragments.
        is_fragment: whether this is a piece of a datagram.
        is_later: whether it is a piece that shows no ports.
    """

    proto: int
    at: int
    total: int
    src: bytes
    dst: bytes
    ports: tuple[int, int]
    is_fragment: bool
    is_later: bool


def read(packet: Octets) -> Head | None:
    """The headers of a packet, or None when it is none of either version."""
    if ip.well_formed(packet):
        at, proto = ip.header_length(packet), packet[9]
        offset, more, _ = ip.frag(packet)
        return Head(
            proto, at, ip.total_length(packet), ip.src(packet), ip.dst(packet),
            ip.ports(packet, at, proto), more or offset > 0, offset > 0,
        )  # fmt: skip
    if not ip6.well_formed(packet):
        return None
    chain = ip6.walk(packet)
    if chain is None:
        return None
    offset, more, _ = ip6.frag(packet, chain)
    return Head(
        chain.proto, chain.at, ip6.total_length(packet), ip6.src(packet), ip6.dst(packet),
        ip6.ports(packet, chain), more or offset > 0, offset > 0,
    )  # fmt: skip


def version(packet: Octets) -> int:
    """4 or 6, or what else the first octet says; 0 of no octets."""
    return packet[0] >> 4 if len(packet) else 0


def proto(packet: Octets) -> int:
    """The protocol that the fixed header names, -1 when there is no such header."""
    if version(packet) == 6:
        return packet[6] if len(packet) >= ip6.HEADER_OCTETS else -1
    return packet[9] if len(packet) >= ip.HEADER_MIN else -1


def src(packet: Octets) -> bytes:
    """The packed source address."""
    return ip6.src(packet) if packet[0] >> 4 == 6 else ip.src(packet)


def dst(packet: Octets) -> bytes:
    """The packed destination address."""
    return ip6.dst(packet) if packet[0] >> 4 == 6 else ip.dst(packet)


def addresses(header: Octets) -> Octets:
    """Both addresses as they stand in the header."""
    return header[8:40] if header[0] >> 4 == 6 else header[12:20]


def flow_key(packet: Octets) -> bytes:
    """Octets that are equal for packets of one flow, and of different length by version."""
    return ip6.flow_key(packet) if packet[0] >> 4 == 6 else ip.flow_key(packet)


def rebuild(header: Octets, protocol: int, payload_octets: int) -> bytes:
    """The header with another protocol and length behind it.

    Raises:
        ValueError: the packet would be too long for its version.
    """
    if header[0] >> 4 == 6:
        return ip6.rebuild(header, protocol, payload_octets)
    return ip.rebuild(header, protocol, payload_octets)


def readdressed(header: bytes, dst: bytes) -> bytes:
    """The header with another destination; its checksum is left to `rebuild`."""
    at = 24 if header[0] >> 4 == 6 else 16
    return header[:at] + dst + header[at + len(dst) :]


def largest(number: int) -> int:
    """The octets of the largest packet of a version."""
    return ip6.HEADER_OCTETS + ip6.PAYLOAD_MAX if number == 6 else ip.PACKET_MAX
