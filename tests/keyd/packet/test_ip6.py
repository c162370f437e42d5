"""IPv6 headers and fragments, RFC 8200, against scapy."""

from socket import AF_INET6, inet_ntop

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    defragment6,
)
from scapy.packet import Packet, Raw

from keyd.packet import ip6

A, B = "2001:db8::1", "2001:db8::2"
BASE = bytes(IPv6(src=A, dst=B, nh=59))
HBH, RH, FRAG, DEST = 0, 43, 44, 60

u16 = st.integers(0, 65535)
addresses = st.binary(min_size=16, max_size=16)
kinds = st.sampled_from([DEST, RH, FRAG])
chains = st.tuples(
    st.booleans(), st.lists(st.sampled_from([DEST, RH]), max_size=4), st.integers(0, 30)
)


def options(kind: type[Packet], octets: int) -> Packet:
    return kind(options=[HBHOptUnknown(otype=0x1E, optdata=bytes(octets))])


def layers_of(has_hbh: bool, kinds: list[int], octets: int) -> Packet:
    packet = IPv6(src=A, dst=B)
    if has_hbh:
        packet /= options(IPv6ExtHdrHopByHop, octets)
    for kind in kinds:
        if kind == DEST:
            packet /= options(IPv6ExtHdrDestOpt, octets)
        elif kind == RH:
            packet /= IPv6ExtHdrRouting(addresses=[A, B], segleft=0)
        else:
            packet /= IPv6ExtHdrFragment(id=9)
    return packet


def walked(packet: bytes) -> ip6.Chain:
    chain = ip6.walk(packet)
    assert chain is not None
    return chain


# Building


@given(
    chains, addresses, addresses, st.integers(0, 0x0FFFFFFF), st.integers(0, 255),
    st.sampled_from([6, 17, 50, 51]),
)  # fmt: skip
def test_a_header_is_assembled_as_scapy_does_it(
    shape: tuple[bool, list[int], int], src: bytes, dst: bytes, flow: int, hops: int, proto: int
) -> None:
    packet = layers_of(*shape)
    packet.src, packet.dst = inet_ntop(AF_INET6, src), inet_ntop(AF_INET6, dst)
    packet.tc, packet.fl, packet.hlim, packet.plen = flow >> 20, flow & 0xFFFFF, hops, 0
    packet.lastlayer().nh = proto
    wanted = bytes(packet)
    parts, number, at = [], wanted[6], 40
    while at < len(wanted):
        size = (wanted[at + 1] + 1) * 8
        parts.append((number, bytes((255,)) + wanted[at + 1 : at + size]))
        number, at = wanted[at], at + size
    made = ip6.assemble(src, dst, proto, hops=hops, flow=flow, extensions=parts)
    assert made == wanted


# Reading


@given(addresses, addresses, st.integers(0, 255), st.binary(max_size=60))
def test_readers_agree_with_scapy(src: bytes, dst: bytes, tc: int, data: bytes) -> None:
    made = bytearray(bytes(IPv6(tc=tc, nh=253) / Raw(data)))
    made[8:24], made[24:40] = src, dst
    for packet in (bytes(made), made, memoryview(made)):
        assert ip6.well_formed(packet)
        assert (ip6.src(packet), ip6.dst(packet)) == (src, dst)
        assert ip6.traffic_class(packet) == tc
        assert ip6.total_length(packet) == 40 + len(data)


@given(chains)
def test_the_walk_finds_what_scapy_put_there(chain: tuple[bool, list[int], int]) -> None:
    made = layers_of(*chain)
    packet = bytes(made / UDP(sport=7, dport=9) / Raw(b"data"))
    found = walked(packet)
    assert (found.proto, found.at) == (17, len(made))
    assert ip6.ports(packet, found) == (7, 9)
    assert packet[found.cut_nh_at] == (17 if found.cut_at == found.at else DEST)
    assert ip6.last_nh_at(packet[: found.cut_at]) == found.cut_nh_at
    assert ip6.well_formed(packet)
    assert not ip6.is_fragment(packet, found)


@pytest.mark.parametrize(
    ("kinds", "outside"),
    [
        ([], []),
        ([HBH], [HBH]),
        ([HBH, RH], [HBH, RH]),
        ([DEST], []),
        ([HBH, DEST], [HBH]),
        ([DEST, RH], [DEST, RH]),
        ([RH, DEST], [RH]),
        ([HBH, DEST, RH, DEST], [HBH, DEST, RH]),
        ([HBH, DEST, RH, FRAG, DEST], [HBH, DEST, RH]),
        ([FRAG, DEST], []),
    ],
)
def test_a_fragment_header_and_a_transport_mode_header_go_where_the_rfcs_say(
    kinds: list[int], outside: list[int]
) -> None:
    """RFC 8200 4.5 and RFC 4302 3.1.1: behind the headers that routers on the way look at."""
    rest = [kind for kind in kinds if kind != HBH]
    packet = bytes(layers_of(HBH in kinds, rest, 4) / UDP())
    chain = walked(packet)
    before = [kind for kind in outside if kind != HBH]
    assert chain.cut_at == len(layers_of(HBH in outside, before, 4))
    assert chain.proto == 17


@given(u16, u16)
def test_ports_and_icmp_type_and_code(one: int, two: int) -> None:
    for layer in (TCP, UDP):
        packet = bytes(IPv6(src=A, dst=B) / layer(sport=one, dport=two))
        assert ip6.ports(packet, walked(packet)) == (one, two)
    packet = bytes(IPv6(src=A, dst=B) / ICMPv6EchoRequest(code=one & 255))
    assert ip6.ports(packet, walked(packet)) == (128, one & 255)
    packet = bytes(IPv6(src=A, dst=B, nh=50) / Raw(bytes(8)))
    assert ip6.ports(packet, walked(packet)) == (0, 0)


@given(chains, st.sampled_from([6, 17, 50, 58, 59]), addresses, st.binary(max_size=8))
def test_flow_key_is_protocol_addresses_and_ports(
    chain: tuple[bool, list[int], int], proto: int, src: bytes, data: bytes
) -> None:
    head = bytearray(bytes(layers_of(*chain) / Raw(b"")))
    packet = bytearray(ip6.rebuild(head, proto, len(data)) + data)
    packet[8:24] = src
    one, two = ip6.ports(packet, walked(bytes(packet)))
    for octets in (packet, bytes(packet), memoryview(packet)):
        key = ip6.flow_key(octets)
        assert key == bytes([proto]) + src + ip6.dst(packet) + one.to_bytes(2) + two.to_bytes(2)


def test_a_later_fragment_shows_no_ports() -> None:
    for offset, more, expected in ((0, 1, (1, 2)), (3, 0, (0, 0)), (0, 0, (1, 2))):
        made = IPv6(src=A, dst=B) / IPv6ExtHdrFragment(nh=17, offset=offset, m=more, id=77)
        packet = bytes(made / Raw(bytes.fromhex("00010002") + bytes(12)))
        chain = walked(packet)
        assert (chain.proto, chain.at, chain.fragment_at) == (17, 48, 40)
        assert ip6.frag(packet, chain) == (offset * 8, bool(more), 77)
        assert ip6.is_fragment(packet, chain) == bool(offset or more)
        assert ip6.ports(packet, chain) == expected
        assert ip6.flow_key(packet)[-4:] == b"".join(n.to_bytes(2) for n in expected)


def test_a_later_fragments_data_are_no_headers() -> None:
    """Even where the fragmentable part began with destination options."""
    made = IPv6(src=A, dst=B) / IPv6ExtHdrFragment(nh=DEST, offset=5, m=0)
    chain = walked(bytes(made / Raw(b"\xff" * 8)))
    assert (chain.proto, chain.at) == (DEST, 48)


# Writing


@given(chains, st.integers(0, 255), st.integers(0, 60_000))
def test_a_rebuilt_header_keeps_all_but_length_and_last_next_header(
    chain: tuple[bool, list[int], int], proto: int, octets: int
) -> None:
    head = bytes(layers_of(*chain))
    after = ip6.rebuild(head, proto, octets)
    assert ip6.total_length(after) == len(head) + octets
    assert after[ip6.last_nh_at(head)] == proto
    undone = bytearray(after)
    undone[4:6] = head[4:6]
    undone[ip6.last_nh_at(head)] = head[ip6.last_nh_at(head)]
    assert bytes(undone) == head


@settings(max_examples=50)
@given(st.binary(max_size=4000), st.integers(1280, 1500), chains, st.integers(0, 2**32 - 1))
def test_fragments_fit_and_join_to_the_packet(
    data: bytes, mtu: int, chain: tuple[bool, list[int], int], ident: int
) -> None:
    packet = bytes(layers_of(*chain) / UDP() / Raw(data))
    pieces = ip6.fragment(packet, mtu, ident)
    if len(packet) <= mtu:
        assert pieces == [packet]
        return
    first = walked(packet)
    joined = b""
    for piece in pieces:
        assert len(piece) <= mtu
        assert ip6.well_formed(piece)
        assert ip6.total_length(piece) == len(piece)
        found = walked(piece)
        assert ip6.frag(piece, found) == (len(joined), piece is not pieces[-1], ident)
        joined += piece[found.fragment_at + 8 :]
    assert joined == packet[first.cut_at :]
    assert bytes(defragment6([IPv6(piece) for piece in pieces])) == packet


# Refusals


@given(st.binary(max_size=200))
def test_any_octets_are_read_and_never_raise(octets: bytes) -> None:
    for packet in (octets, BASE + octets, BASE[:6] + octets.ljust(34, b"\0")):
        if ip6.well_formed(packet):
            chain = walked(packet)
            assert 40 <= chain.cut_at <= chain.at <= len(packet)
            assert not chain.fragment_at or chain.cut_at <= chain.fragment_at < chain.at
        if len(packet) >= 40:
            assert len(ip6.flow_key(packet)) == 37


@given(st.lists(st.tuples(kinds, st.integers(0, 3)), max_size=20), st.binary(max_size=40))
def test_any_chain_of_headers_is_walked_or_refused(
    headers: list[tuple[int, int]], tail: bytes
) -> None:
    octets = bytearray(BASE)
    nh_at = 6
    for kind, words in headers:
        octets[nh_at] = kind
        nh_at = len(octets)
        octets += bytes([59, words]) + tail[:6].ljust(6, b"\0") + bytes(8 * words * (kind != FRAG))
    packet = bytes(octets) + tail
    packet = packet[:4] + (len(packet) - 40).to_bytes(2) + packet[6:]
    chain = ip6.walk(packet)
    assert ip6.well_formed(packet) in (False, chain is not None)
    if chain is not None:
        assert chain.at <= len(packet)
        assert packet[chain.cut_nh_at] in (chain.proto, DEST, FRAG)
    assert len(headers) < ip6.EXTENSIONS_MAX or chain is None or chain.fragment_at


@given(chains, st.data())
def test_a_header_that_ends_early_is_not_well_formed(
    chain: tuple[bool, list[int], int], data: st.DataObject
) -> None:
    whole = bytes(layers_of(*chain))
    assume(len(whole) > 40)
    size = data.draw(st.integers(41, len(whole) - 1))
    short = whole[:4] + (size - 40).to_bytes(2) + whole[6:size]
    assert not ip6.well_formed(short)
    assert not ip6.well_formed(whole[:size])
    if size % 8:
        with pytest.raises(ValueError, match="no IPv6 header"):
            ip6.last_nh_at(short)


def test_hop_by_hop_options_are_first_or_wrong() -> None:
    packet = bytearray(bytes(layers_of(True, [DEST], 4) / UDP()))
    assert ip6.well_formed(packet)
    packet[40] = HBH
    assert not ip6.well_formed(packet)


def test_two_fragment_headers_are_wrong() -> None:
    made = layers_of(False, [FRAG], 0)
    assert ip6.well_formed(bytes(made / UDP()))
    assert not ip6.well_formed(bytes(made / IPv6ExtHdrFragment() / UDP()))


def test_fragments_that_cannot_be_are_not_well_formed() -> None:
    def piece(offset: int, more: int, octets: int) -> bytes:
        made = IPv6(src=A, dst=B) / IPv6ExtHdrFragment(nh=17, offset=offset, m=more)
        return bytes(made / Raw(bytes(octets)))

    assert ip6.well_formed(piece(8191, 0, 7))
    assert not ip6.well_formed(piece(8191, 0, 8))
    assert ip6.well_formed(piece(0, 1, 16))
    assert not ip6.well_formed(piece(0, 1, 17))


def test_what_does_not_fit_is_refused() -> None:
    assert ip6.total_length(ip6.rebuild(BASE, 50, 65535)) == 65575
    with pytest.raises(ValueError, match="65536"):
        ip6.rebuild(BASE, 50, 65536)
    packet = bytes(IPv6(src=A, dst=B) / UDP() / Raw(bytes(100)))
    assert len(ip6.fragment(packet, 56, 1)) == 14
    with pytest.raises(ValueError, match="55"):
        ip6.fragment(packet, 55, 1)
    pieces = ip6.fragment(packet, 64, 1)
    with pytest.raises(ValueError, match="not cut again"):
        ip6.fragment(pieces[0], 56, 1)
