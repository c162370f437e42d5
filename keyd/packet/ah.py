"""AH: RFC 4302 sections 2 and 3.3-3.4, and RFC 1826, its predecessor. Network order.

IP packets in, IP packets or payloads out, for one SA; no lookup, no clock, no chance.

    IP header | next header 1 | length 1 | 0 0 | SPI 4 | sequence 4 | IV, ICV, padding | payload

The ICV covers all of it: the ICV as zeros, and what routers may change in the IP header as zeros
or as it will arrive (`frozen`, appendix A). The padding makes AH a multiple of 32 bits on IPv4
and of 64 bits on IPv6. AH stands outside fragmentation: seal first, then cut; join, then open.
Of an extended sequence number the lower half is sent; the upper is covered behind the payload
(section 3.3.3.2.2). GMAC alone has an IV, which stands before the ICV (RFC 4543 section 4).

`ah-old` (flag OLD) has no sequence number and an ICV of 128 bits (RFC 1826, RFC 1828).
"""

from struct import Struct

from keyd.model import SaSpec
from keyd.packet import ip, ip6
from keyd.packet.drop import Drop
from keyd.packet.esp import ESN_MAX, SEQ_MAX, cycles
from pfkey import crypto
from pfkey.const import IPPROTO_AH, KameFlag, SaFlag
from pfkey.errors import CryptoError

Octets = bytes | bytearray | memoryview
Opened = tuple[int, memoryview]

FIXED_OCTETS = 12  # all but IV, ICV and padding
OPTIONS_MAX = 64  # of one IPv6 extension header, padding included; hosts take fewer
OLD_FIXED_OCTETS = 8  # and but the sequence number
OLD_ICV_OCTETS = 16
_FIXED = Struct("!BBHII")
_OLD_FIXED = Struct("!BBHI")
_SPI_SEQ = Struct("!II")
_HIGH = Struct("!I")
_OLD, _ESN = int(KameFlag.OLD), int(SaFlag.ESN)

# IPv4 options that nobody changes on the way (appendix A1); all others count as zeros.
_END, _NOP = 0, 1
_IMMUTABLE = frozenset((130, 133, 134, 148, 149))
_SOURCE_ROUTES = frozenset((131, 137))
_MAY_CHANGE = 0x20  # in the type of an IPv6 option (RFC 8200 4.2)
_PAD1 = 0
_SWAPPING = frozenset((0, 2))  # routing headers that swap addresses (RFC 2460 4.4, RFC 6275 6.4)


def peek(octets: Octets) -> tuple[int, int] | None:
    """(SPI, sequence number) of what may be an AH, without its IP header; None if too short.

    The number of an old AH means nothing.
    """
    if len(octets) < FIXED_OCTETS:
        return None
    spi, seq = _SPI_SEQ.unpack_from(octets, 4)
    return spi, seq


class AhSa:
    """One SA, ready to seal or to open. Not for two threads.

    Args:
        pads_to_64_bits: on IPv4, too, for peers that expect it (old Linux). DEVIATION from RFC
            4302 3.3.3.2.1 when set; both are taken (test_both_paddings_are_taken_on_ipv4).

    Attributes:
        iv_octets: how many octets of IV `seal` wants: a number in network order that was never
            handed in under this key and never will be again.
        icv_at: at which octet the ICV begins.
        seq_max: as of `EspSa`.
        clears_tos: the ICV does not cover IPv4's TOS, which routers may change (RFC 4302
            3.3.3.1.1.1); False is for peers that cover it (net.inet.ipsec.ah_cleartos).
        offset_mask: the bits of IPv4's flags and offset that it covers, none by the RFC
            (net.inet.ipsec.ah_offsetmask).

    Raises:
        CryptoError: the key does not fit, there is no authenticator, or this machine lacks it.
    """

    __slots__ = (
        "_fixed", "_integrity", "_is_extended", "_is_old", "_lengths", "_units", "clears_tos",
        "icv_at", "icv_octets", "iv_octets", "offset_mask", "seq_max", "spec",
    )  # fmt: skip

    def __init__(self, spec: SaSpec, *, pads_to_64_bits: bool = False) -> None:
        self.spec = spec
        self.clears_tos = True
        self.offset_mask = 0
        self._is_old = bool(spec.flags & _OLD)
        icv = OLD_ICV_OCTETS if self._is_old else spec.icv_bits // 8
        self._integrity = crypto.integrity(spec.auth, spec.auth_key, icv)
        self.icv_octets, self.iv_octets = self._integrity.icv_octets, self._integrity.iv_octets
        if not self.icv_octets:
            raise CryptoError("AH without an authenticator protects nothing")
        self._is_extended = bool(spec.flags & _ESN)
        may_cycle = cycles(spec) and not self.iv_octets
        self.seq_max = ESN_MAX if self._is_extended or may_cycle else SEQ_MAX
        self._fixed = OLD_FIXED_OCTETS if self._is_old else FIXED_OCTETS
        self.icv_at = self._fixed + self.iv_octets
        whole = self.icv_at + self.icv_octets
        by_32, by_64 = whole + -whole % 4, whole + -whole % 8
        self._units = {4: by_64 if pads_to_64_bits else by_32, 6: by_64}
        self._lengths = {4: (by_32, by_64), 6: (by_64,)}

    def __repr__(self) -> str:
        return f"AhSa({self.spec!r})"

    def overhead(self, version: int) -> int:
        """The octets that AH adds to a packet of IP version 4 or 6."""
        return self._units[version]

    def seal(
        self, header: Octets, payload: Octets, seq: int, next_header: int, iv: bytes = b""
    ) -> bytes | Drop:
        """The IP packet to send.

        `header` is the whole IP header as it will leave, with IPv4 options or with the IPv6
        extension headers that stay outside; only protocol, length and checksum are seen to here.
        An IPv4 identification of zero would be filled in by a raw socket and break the ICV.

        Raises:
            ValueError: the sequence number is none; what is used up may not wrap (3.3.2).
        """
        if not 0 <= seq <= self.seq_max:
            raise ValueError(f"sequence number {seq} exceeds {self.seq_max:#x}")
        version = _version(header)
        if not version:
            return Drop.HDROPS
        octets = self._units[version]
        if len(header) + octets + len(payload) > _LARGEST[version]:
            return Drop.TOOBIG
        try:
            rebuild = ip.rebuild if version == 4 else ip6.rebuild
            outer = rebuild(header, IPPROTO_AH, octets + len(payload))
        except ValueError:
            return Drop.HDROPS
        covered = self._frozen(outer, is_sending=True)
        if covered is None:
            return Drop.HDROPS
        words, spi = octets // 4 - 2, self.spec.spi
        if self._is_old:
            fixed = _OLD_FIXED.pack(next_header, words, 0, spi)
        else:
            fixed = _FIXED.pack(next_header, words, 0, spi, seq & SEQ_MAX)
        zeros = bytes(octets - self._fixed)
        icv = self._integrity.icv(*self._covered(iv, seq >> 32, covered, fixed, zeros, payload))
        padding = zeros[self.iv_octets + self.icv_octets :]
        return b"".join((outer, fixed, iv, icv, padding, payload))

    def open(self, packet: Octets, high: int = 0) -> Opened | Drop:
        """(next header, payload) of a whole IP packet, or why it is none. Never raises.

        `high` is the upper half of an extended sequence number, as the window infers it. The IP
        header without AH is `ip.rebuild` or `ip6.rebuild` of what `header_length` gives.
        """
        at = header_length(packet)
        if at is None:
            return Drop.HDROPS
        total = ip.total_length(packet) if packet[0] >> 4 == 4 else ip6.total_length(packet)
        view = memoryview(packet)[:total]
        octets = (view[at + 1] + 2) * 4
        if octets not in self._lengths[packet[0] >> 4] or at + octets > total:
            return Drop.BADILEN
        covered = self._frozen(view[:at])
        if covered is None:
            return Drop.HDROPS
        end = at + octets
        start = at + self._fixed
        middle = start + self.iv_octets
        iv, icv = view[start:middle], view[middle : middle + self.icv_octets]
        # the padding is covered as it came: nobody says what it holds
        zeros = bytes(len(iv) + len(icv))
        rest = (view[at:start], zeros, view[start + len(zeros) : end], view[end:])
        if not self._integrity.verify(icv, *self._covered(iv, high, covered, *rest)):
            return Drop.BADAUTH
        return view[at], view[end:]

    def _covered(self, iv: Octets, high: int, *parts: Octets) -> tuple[Octets, ...]:
        """What goes into the authenticator."""
        if self._is_extended:
            parts = (*parts, _HIGH.pack(high))
        return (iv, *parts) if self.iv_octets else parts

    def _frozen(self, header: Octets, *, is_sending: bool = False) -> bytes | None:
        clears_tos, mask = self.clears_tos, self.offset_mask
        return frozen(header, is_sending=is_sending, clears_tos=clears_tos, offset_mask=mask)


def header_length(packet: Octets) -> int | None:
    """Octets of the IP header, extension headers included, before AH.

    None when this is no well-formed packet of either version, is a fragment, or the header is
    not followed by the fixed part of an AH.
    """
    if ip.well_formed(packet):
        at = ip.header_length(packet)
        if ip.is_fragment(packet) or ip.proto(packet) != IPPROTO_AH:
            return None
        return at if at + FIXED_OCTETS <= ip.total_length(packet) else None
    if not ip6.well_formed(packet):
        return None
    chain = ip6.walk(packet)
    if chain is None or chain.fragment_at or chain.proto != IPPROTO_AH:
        return None
    return chain.at if chain.at + FIXED_OCTETS <= ip6.total_length(packet) else None


def frozen(
    header: Octets, *, is_sending: bool = False, clears_tos: bool = True, offset_mask: int = 0
) -> bytes | None:
    """An IP header as the ICV covers it (appendix A); None when its options cannot be read.

    `is_sending`: what a source route will have done by the time of arrival is done here
    (3.3.3.1: mutable but predictable). For the rest see `AhSa`.
    """
    fresh = bytearray(header)
    if fresh[0] >> 4 == 4:
        if clears_tos:
            fresh[1] = 0
        flags_and_offset = int.from_bytes(fresh[6:8], "big") & offset_mask
        fresh[6:8] = flags_and_offset.to_bytes(2, "big")
        fresh[10:12] = bytes(2)  # checksum
        fresh[8] = 0  # TTL
        done = _freeze_options(fresh, is_sending=is_sending)
    else:
        fresh[:4] = b"\x60\0\0\0"  # traffic class, flow label
        fresh[7] = 0  # hop limit
        done = _freeze_extensions(fresh, is_sending=is_sending)
    return bytes(fresh) if done else None


def _version(header: Octets) -> int:
    """4 or 6 of a header of the right length, else 0."""
    if len(header) >= ip.HEADER_MIN and header[0] >> 4 == 4:
        return 4 if ip.header_length(header) == len(header) else 0
    return 6 if len(header) >= ip6.HEADER_OCTETS and header[0] >> 4 == 6 else 0


def _freeze_options(header: bytearray, *, is_sending: bool) -> bool:
    at = ip.HEADER_MIN
    while at < len(header) and header[at] != _END:
        if header[at] == _NOP:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else 0
        if length < 2 or at + length > len(header):
            return False
        if header[at] in _SOURCE_ROUTES and is_sending:
            if length < 7 or length % 4 != 3:
                return False
            if header[at + 2] <= length:  # the pointer: the route is not used up
                header[16:20] = header[at + length - 4 : at + length]
        if header[at] not in _IMMUTABLE:
            header[at : at + length] = bytes(length)
        at += length
    return True


def _freeze_extensions(header: bytearray, *, is_sending: bool) -> bool:
    proto, at = header[6], ip6.HEADER_OCTETS
    while at < len(header):
        end = at + (header[at + 1] + 1) * 8 if at + 1 < len(header) else 0
        if not at < end <= len(header):
            return False
        if proto in (ip6.HOP_BY_HOP, ip6.DESTINATION):
            if not _freeze_tlvs(header, at + 2, end):
                return False
        elif proto != ip6.ROUTING or (is_sending and not _arrive(header, at, end)):
            return False
        proto, at = header[at], end
    return True


def _freeze_tlvs(header: bytearray, at: int, end: int) -> bool:
    for _ in range(OPTIONS_MAX):
        if at >= end:
            return True
        if header[at] == _PAD1:
            at += 1
            continue
        if at + 2 > end or at + 2 + header[at + 1] > end:
            return False
        length = header[at + 1]
        if header[at] & _MAY_CHANGE:
            header[at + 2 : at + 2 + length] = bytes(length)
        at += 2 + length
    return at >= end


def _arrive(header: bytearray, at: int, end: int) -> bool:
    """Do what the routers that a routing header names will do; False for what is unknown."""
    left = header[at + 3]
    if not left:
        return True
    first = end - 16 * left
    if header[at + 2] not in _SWAPPING or (end - at) % 16 != 8 or first < at + 8:
        return False
    route = header[24:40] + header[first:end]
    header[first:end], header[24:40] = route[:-16], route[-16:]
    header[at + 3] = 0
    return True


_LARGEST = {4: ip.PACKET_MAX, 6: ip6.HEADER_OCTETS + ip6.PAYLOAD_MAX}
