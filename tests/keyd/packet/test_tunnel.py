"""Tunnel mode's headers: RFC 4301 5.1.2, RFC 6040, against scapy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.ipsec import AH, ESP, SecurityAssociation
from scapy.packet import Packet, Raw

from keyd.model import SaSpec
from keyd.packet import ip, ip6, tunnel
from keyd.packet.ah import AhSa
from keyd.packet.checksum import checksum
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.packet.tunnel import DfBit, Knobs, inner, next_header, outer
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, Mode

G4 = (bytes([20, 0, 0, 1]), bytes([20, 0, 0, 2]))
G6 = (bytes.fromhex("20010db8" + "00" * 11 + "01"), bytes.fromhex("20010db8" + "00" * 11 + "02"))
versions = st.sampled_from([4, 6])
services = st.integers(0, 255)
payloads = st.binary(max_size=100)
knobs = st.builds(
    Knobs, dfbit=st.sampled_from(DfBit), has_ecn=st.booleans(), has_dscp=st.booleans(),
    ttl=st.integers(1, 255),
)  # fmt: skip
NOT_ECT, ECT0, ECT1, CE = 0, 2, 1, 3  # as RFC 3168 numbers them


def packet_of(version: int, service: int = 0, payload: bytes = b"data", df: bool = False) -> bytes:
    data = UDP(sport=1, dport=2) / Raw(payload)
    if version == 6:
        return bytes(IPv6(src="2001:db8:1::1", dst="2001:db8:2::2", tc=service, hlim=9) / data)
    flags = "DF" if df else 0
    return bytes(IP(src="10.0.1.5", dst="10.0.2.5", tos=service, ttl=9, id=3, flags=flags) / data)


def header_of(packet: bytes, ends: tuple[bytes, bytes], knobs: Knobs = tunnel.PLAIN) -> bytes:
    header = outer(packet, *ends, knobs=knobs, ident=0x1234)
    assert isinstance(header, bytes)
    return header


def arrived(packet: bytes, header: bytes, knobs: Knobs = tunnel.PLAIN) -> bytes | Drop:
    return inner(next_header(packet), packet, header, knobs=knobs)


# Out


@given(versions, st.sampled_from([G4, G6]), services, payloads, st.booleans(), knobs)
def test_the_outer_header_is_as_rfc_4301_says(
    version: int, ends: tuple[bytes, bytes], service: int, payload: bytes, df: bool, knobs: Knobs
) -> None:
    packet = packet_of(version, service, payload, df)
    header = header_of(packet, ends, knobs)
    shown = service & (0xFC * knobs.has_dscp | 0x03 * knobs.has_ecn)
    if ends is G4:
        made = IP(header + packet)
        assert (made.version, made.ihl, made.tos, made.id, made.frag) == (4, 5, shown, 0x1234, 0)
        assert made.ttl == knobs.ttl
        assert checksum(header) == 0
        copied = df if version == 4 else True
        expected = (False, True, copied)[knobs.dfbit]
        assert bool(made.flags.DF) is expected
        assert not made.flags.MF
        assert (ip.src(header), ip.dst(header)) == ends
        assert ip.well_formed(header + packet)
        assert made.proto == next_header(packet)
    else:
        six = IPv6(header + packet)
        assert (six.version, six.tc, six.fl, six.hlim) == (6, shown, 0, knobs.ttl)
        assert (ip6.src(header), ip6.dst(header)) == ends
        assert ip6.well_formed(header + packet)
        assert six.nh == next_header(packet)
    assert (header + packet)[len(header) :] == packet


def test_the_protocol_of_a_payload() -> None:
    assert next_header(packet_of(4)) == 4
    assert next_header(packet_of(6)) == 41
    assert next_header(b"") == next_header(b"\x45" * 19) == next_header(b"\x60" * 39) == 0


def test_link_padding_of_the_inner_packet_does_not_count() -> None:
    packet = packet_of(4)
    assert header_of(packet, G4) == header_of(packet + b"pad", G4)


# In


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ends", [G4, G6])
@pytest.mark.parametrize(
    ("before", "outside", "after"),
    [
        (NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT0, NOT_ECT), (NOT_ECT, ECT1, NOT_ECT),
        (NOT_ECT, CE, None),
        (ECT0, NOT_ECT, ECT0), (ECT0, ECT0, ECT0), (ECT0, ECT1, ECT1), (ECT0, CE, CE),
        (ECT1, NOT_ECT, ECT1), (ECT1, ECT0, ECT1), (ECT1, ECT1, ECT1), (ECT1, CE, CE),
        (CE, NOT_ECT, CE), (CE, ECT0, CE), (CE, ECT1, CE), (CE, CE, CE),
    ],
)  # fmt: skip
def test_marks_arrive_as_rfc_6040_says(
    version: int, ends: tuple[bytes, bytes], before: int, outside: int, after: int | None
) -> None:
    """The table of section 4.2."""
    packet = packet_of(version, 0xB8 | before)
    header = header_of(packet_of(4, outside), ends)
    result = arrived(packet, header)
    assert result == (Drop.TUNNEL if after is None else packet_of(version, 0xB8 | after))
    assert arrived(packet, header, Knobs(has_ecn=False)) == packet


@given(versions, st.sampled_from([G4, G6]), services, services, st.booleans())
def test_the_class_of_service_comes_in_where_a_flag_says_so(
    version: int, ends: tuple[bytes, bytes], inside: int, outside: int, has_ecn: bool
) -> None:
    """Linux's DECAP_DSCP; the marks of congestion go their own way."""
    packet = packet_of(version, inside)
    header = header_of(packet_of(4, outside), ends)
    knobs = Knobs(takes_dscp=True, has_ecn=has_ecn)
    plain = arrived(packet, header, Knobs(has_ecn=has_ecn))
    expected = plain
    if isinstance(plain, bytes):
        mark = service_of(plain) & 3
        expected = packet_of(version, outside & 0xFC | mark)
    assert arrived(packet, header, knobs) == expected


def service_of(packet: bytes) -> int:
    """TOS or traffic class."""
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] & 15) << 4 | packet[1] >> 4


@given(versions, st.sampled_from([G4, G6]), services, payloads, knobs)
def test_what_goes_in_comes_out(
    version: int, ends: tuple[bytes, bytes], service: int, payload: bytes, knobs: Knobs
) -> None:
    packet = packet_of(version, service, payload)
    assert arrived(packet, header_of(packet, ends, knobs), knobs) == packet


@given(versions, payloads, st.binary(max_size=30))
def test_what_stands_behind_the_inner_packet_is_cut(
    version: int, payload: bytes, more: bytes
) -> None:
    """RFC 4303 2.7: padding that hides the traffic's flow."""
    packet = packet_of(version, 0, payload)
    assert inner(next_header(packet), packet + more, header_of(packet, G4)) == packet


def test_a_wrong_checksum_is_never_mended() -> None:
    """Nobody but the receiver's stack may find it right."""
    packet = bytearray(packet_of(4, ECT0))
    packet[8] ^= 0x55
    result = arrived(bytes(packet), header_of(packet_of(4, CE), G4))
    assert isinstance(result, bytes)
    assert result[1] == CE
    assert checksum(result[:20]) == checksum(packet[:20])


@given(st.integers(0, 65535), st.integers(0, 63), st.sampled_from([(ECT0, ECT1), (ECT0, CE)]))
def test_the_checksum_follows_the_mark(ident: int, dscp: int, marks: tuple[int, int]) -> None:
    before, after = marks
    packet = bytearray(packet_of(4, dscp << 2 | before))
    packet[4:6] = ident.to_bytes(2)
    whole = ip.rebuild(packet[:20], 17, len(packet) - 20) + packet[20:]
    result = arrived(whole, header_of(packet_of(4, after), G4))
    assert isinstance(result, bytes)
    assert checksum(result[:20]) == 0
    assert result[1] == dscp << 2 | after


# With the protocols around it


def spec(proto: int, ends: tuple[bytes, bytes]) -> SaSpec:
    return SaSpec(
        slot=0, proto=proto, spi=0x1000, src=ends[0], dst=ends[1], mode=Mode.TUNNEL,
        auth=3, auth_key=b"k" * 20,
    )  # fmt: skip


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ends", [G4, G6])
def test_scapy_opens_our_tunnels_and_we_open_scapys(
    version: int, ends: tuple[bytes, bytes]
) -> None:
    """4 in 4, 6 in 4, 4 in 6, 6 in 6; ESP and AH."""
    packet = packet_of(version, 0xB8, b"payload")
    header = header_of(packet, ends)
    rebuild = ip.rebuild if ends is G4 else ip6.rebuild
    layer = IP if ends is G4 else IPv6
    esp, auth = EspSa(spec(IPPROTO_ESP, ends)), AhSa(spec(IPPROTO_AH, ends))
    sealed = esp.seal(5, packet, next_header(packet), b"")
    ours = {ESP: rebuild(header, IPPROTO_ESP, len(sealed)) + sealed}
    wire = auth.seal(header, packet, 5, next_header(packet))
    assert isinstance(wire, bytes)
    ours[AH] = wire
    for proto, octets in ours.items():
        theirs = SecurityAssociation(
            proto, spi=0x1000, auth_algo="HMAC-SHA1-96", auth_key=b"k" * 20,
            tunnel_header=layer(header),
        )  # fmt: skip
        assert bytes(theirs.decrypt(layer(octets))) == packet
        back = bytes(theirs.encrypt((IP if version == 4 else IPv6)(packet), seq_num=5))
        assert back == octets
        result = esp.open(back[len(header) :]) if proto is ESP else auth.open(back)
        assert not isinstance(result, Drop)
        assert inner(result[0], result[1], back) == packet


# What may not come out


def packed(text: str) -> bytes:
    return bytes(IPv6(src=text))[8:24] if ":" in text else bytes(IP(src=text))[12:16]


@pytest.mark.parametrize(
    ("text", "cannot"),
    [
        ("10.0.0.1", False), ("192.168.1.1", False), ("1.2.3.4", False), ("223.255.255.255", False),
        ("169.253.1.1", False), ("0.0.0.9", True), ("0.1.2.3", True), ("127.0.0.1", True),
        ("169.254.1.1", True), ("224.0.0.1", True), ("255.255.255.255", True),
        ("2001:db8::1", False), ("fd00::1", False), ("64:ff9b::1", False), ("::1:0:0:1", False),
        ("::", True), ("::1", True), ("fe80::1", True), ("febf::1", True), ("ff02::1", True),
        ("::ffff:10.0.0.1", True), ("::10.0.0.1", True),
    ],
)  # fmt: skip
def test_impossible_sources(text: str, cannot: bool) -> None:
    assert tunnel.cannot_be_a_source(packed(text)) == cannot


@pytest.mark.parametrize(
    ("packet", "is_it"),
    [
        (IPv6() / ICMPv6ND_NS(), True),
        (IPv6() / ICMPv6ND_NA(), True),
        (IPv6() / ICMPv6ND_RS(), True),
        (IPv6() / ICMPv6ND_RA(), True),
        (IPv6() / ICMPv6ND_Redirect(), True),
        (IPv6() / IPv6ExtHdrDestOpt() / ICMPv6ND_NS(), True),
        (IPv6() / ICMPv6EchoRequest(), False),
        (IPv6() / UDP(), False),
        (IP() / ICMP(type=5), True),
        (IP() / ICMP(type=8), False),
        (IP() / UDP(sport=1280), False),
    ],
)
def test_discovery_and_redirects_are_known(packet: Packet, is_it: bool) -> None:
    assert tunnel.is_discovery(bytes(packet)) == is_it


@given(st.integers(0, 255), st.binary(max_size=120), st.binary(max_size=40), knobs)
def test_any_octets_come_out_or_drop_and_never_raise(
    proto: int, octets: bytes, header: bytes, knobs: Knobs
) -> None:
    for one in (proto, 4, 41):
        result = inner(one, octets, header, knobs=knobs)
        assert result is Drop.TUNNEL or isinstance(result, bytes)
        if isinstance(result, bytes):
            assert one == next_header(result)
            assert isinstance(tunnel.is_discovery(result), bool)
    for ends in (G4, G6):
        assert isinstance(outer(octets, *ends, knobs=knobs), bytes | Drop)


def test_the_wrong_version_does_not_come_out() -> None:
    for version, proto in ((4, 41), (6, 4), (4, 17), (4, 59)):
        assert inner(proto, packet_of(version), header_of(packet_of(4), G4)) is Drop.TUNNEL


def test_what_no_header_can_hold_is_not_sent() -> None:
    large = ip.rebuild(packet_of(4)[:20], 17, 65515) + bytes(65515)
    assert outer(large, *G4) is Drop.TOOBIG
    assert isinstance(outer(large, *G6), bytes)
    six = ip6.rebuild(packet_of(6)[:40], 17, 65500) + bytes(65500)
    assert outer(six, *G6) is Drop.TOOBIG
    assert outer(six, *G4) is Drop.TOOBIG
