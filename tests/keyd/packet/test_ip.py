"""IPv4 headers and fragments, RFC 791, against scapy."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, defragment

from keyd.packet import ip
from keyd.packet.checksum import checksum

ROOT = Path(__file__).parents[3]
PACKETS = tomllib.loads((ROOT / "specs/vectors/rfc3602.toml").read_text())["packet"]
HEADER = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=7))
NOP, END = b"\x01", b"\x00"
ROUTER_ALERT = bytes.fromhex("94040000")  # copied into every fragment
RECORD_ROUTE = bytes.fromhex("0707040000000000")[:7]  # not copied

u8 = st.integers(0, 255)
u16 = st.integers(0, 65535)
addresses = st.binary(min_size=4, max_size=4)
option_lists = st.lists(st.sampled_from([ROUTER_ALERT, RECORD_ROUTE, NOP]), max_size=3)


def packet_of(payload: bytes, options: bytes = b"", proto: int = 17, word: int = 0) -> bytes:
    options += END * (-len(options) % 4)
    head = bytearray(HEADER + options)
    head[0] = 0x40 | len(head) // 4
    head[6:8] = word.to_bytes(2)
    return ip.rebuild(head, proto, len(payload)) + payload


@pytest.mark.parametrize("row", PACKETS, ids=lambda row: f"case{row['case']}")
def test_rfc3602_outer_headers_are_rebuilt_to_the_octet(row: dict[str, str]) -> None:
    outer, inner = bytes.fromhex(row["outer"]), bytes.fromhex(row["inner"])
    esp = bytes.fromhex(row["esp"])
    assert ip.well_formed(outer + esp)
    ident = ip.identification(outer) if row["mode"] == "tunnel" else None
    assert ip.rebuild(inner[:20], 50, len(esp), ident=ident) == outer


@given(addresses, addresses, u16, st.booleans(), st.booleans(), st.integers(0, 0x1FFF))
def test_readers_agree_with_scapy(
    src: bytes, dst: bytes, ident: int, has_df: bool, has_mf: bool, offset: int
) -> None:
    flags = 2 * has_df + has_mf
    made = IP(
        src=".".join(map(str, src)), dst=".".join(map(str, dst)), id=ident, flags=flags,
        frag=offset, proto=17, options=[],
    )  # fmt: skip
    packet = bytes(made) + bytes(4)
    assert ip.src(packet) == src
    assert ip.dst(packet) == dst
    assert ip.identification(packet) == ident
    assert ip.frag(packet) == (offset * 8, has_mf, has_df)
    assert ip.is_fragment(packet) == (has_mf or offset > 0)
    assert (ip.header_length(packet), ip.total_length(packet), ip.proto(packet)) == (20, 20, 17)


@given(u16, u16)
def test_ports_and_icmp_type_and_code(one: int, two: int) -> None:
    for layer, proto in ((TCP, 6), (UDP, 17)):
        packet = HEADER + bytes(layer(sport=one, dport=two))
        assert ip.ports(packet, 20, proto) == (one, two)
    packet = HEADER + bytes(ICMP(type=one & 255, code=two & 255))
    assert ip.ports(packet, 20, 1) == (one & 255, two & 255)
    assert ip.ports(packet, 20, 50) == (0, 0)


@given(st.sampled_from([1, 6, 17, 50, 132]), addresses, addresses, st.binary(max_size=12))
def test_flow_key_is_protocol_addresses_and_ports(
    proto: int, src: bytes, dst: bytes, data: bytes
) -> None:
    head = bytearray(HEADER)
    head[9], head[12:16], head[16:20] = proto, src, dst
    for packet in (bytes(head) + data, memoryview(bytes(head) + data), head + data):
        one, two = ip.ports(packet, 20, proto)
        key = ip.flow_key(packet)
        assert key == bytes([proto]) + src + dst + one.to_bytes(2) + two.to_bytes(2)


def test_a_later_fragment_shows_no_ports() -> None:
    later = packet_of(bytes.fromhex("00010002") + bytes(20), word=0x0001)
    first = packet_of(bytes.fromhex("00010002") + bytes(20), word=0x2000)
    assert ip.ports(later, 20, 17) == (0, 0)
    assert ip.ports(first, 20, 17) == (1, 2)
    assert ip.flow_key(later)[-4:] == bytes(4)


@given(st.binary(max_size=60), option_lists, u8, st.none() | u16)
def test_rebuilt_headers_have_a_right_checksum(
    payload: bytes, options: list[bytes], proto: int, ident: int | None
) -> None:
    before = packet_of(payload, b"".join(options))
    size = ip.header_length(before)
    after = ip.rebuild(before[:size], proto, 100, ident=ident)
    assert checksum(after) == 0
    assert ip.total_length(after) == size + 100
    assert ip.proto(after) == proto
    assert ip.identification(after) == (ip.identification(before) if ident is None else ident)
    assert after[12:] == before[12:size]


@given(st.binary(max_size=4000), st.integers(68, 1500), option_lists)
def test_fragments_fit_and_join_to_the_packet(
    payload: bytes, mtu: int, options: list[bytes]
) -> None:
    packet = packet_of(payload, b"".join(options))
    pieces = ip.fragment(packet, mtu)
    joined = b""
    for piece in pieces:
        assert len(piece) <= mtu
        assert ip.well_formed(piece)
        assert ip.total_length(piece) == len(piece)
        assert checksum(piece[: ip.header_length(piece)]) == 0
        offset, more, _ = ip.frag(piece)
        assert offset == len(joined)
        assert more == (piece is not pieces[-1])
        joined += piece[ip.header_length(piece) :]
    assert joined == payload


@given(st.binary(min_size=100, max_size=3000), st.integers(68, 600))
def test_scapy_joins_our_fragments(payload: bytes, mtu: int) -> None:
    packet = packet_of(payload)
    assume(len(packet) > mtu)
    (joined,) = defragment([IP(piece) for piece in ip.fragment(packet, mtu)])
    assert bytes(joined)[20:] == payload


@given(st.binary(min_size=600, max_size=2000), st.integers(300, 576), st.integers(68, 200))
def test_fragments_of_fragments_are_fragments_of_the_whole(
    payload: bytes, first: int, second: int
) -> None:
    pieces = [
        piece
        for large in ip.fragment(packet_of(payload), first)
        for piece in ip.fragment(large, second)
    ]
    at = 0
    for piece in pieces:
        offset, more, _ = ip.frag(piece)
        assert (offset, more) == (at, piece is not pieces[-1])
        at += len(piece) - 20


def test_only_options_with_the_copied_flag_are_in_later_fragments() -> None:
    packet = packet_of(bytes(200), NOP + RECORD_ROUTE + ROUTER_ALERT)
    first, *later = ip.fragment(packet, 100)
    assert first[20:32] == NOP + RECORD_ROUTE + ROUTER_ALERT
    assert later
    for piece in later:
        assert piece[20 : ip.header_length(piece)] == ROUTER_ALERT


@given(st.binary(max_size=40))
def test_malformed_options_are_not_repeated(options: bytes) -> None:
    packet = packet_of(bytes(300), options)
    head = ip.header_length(packet)
    for piece in ip.fragment(packet, head + 16):
        assert ip.well_formed(piece)
        assert ip.header_length(piece) <= head


def test_octets_after_the_total_length_are_not_sent() -> None:
    packet = packet_of(b"12345678")
    assert ip.fragment(packet + b"link padding", 1500) == [packet]


def test_dont_fragment_and_identification_stay_on_every_piece() -> None:
    pieces = ip.fragment(packet_of(bytes(100), word=0x4000), 68)
    assert len(pieces) > 1
    assert all(ip.frag(piece)[2] and ip.identification(piece) == 7 for piece in pieces)


@given(st.binary(min_size=20, max_size=80))
def test_the_readers_take_any_twenty_octets(octets: bytes) -> None:
    ip.well_formed(octets)
    ip.flow_key(octets)
    ip.ports(octets, ip.header_length(octets), ip.proto(octets))
    ip.frag(octets)


@pytest.mark.parametrize(
    ("change", "octets"),
    [(0, 0x65), (0, 0x44), (0, 0x4F), (3, 19), (3, 200)],
    ids=["version", "short header", "long header", "total in header", "total beyond"],
)
def test_a_header_that_contradicts_the_octets_is_not_well_formed(change: int, octets: int) -> None:
    packet = bytearray(packet_of(bytes(8)))
    assert ip.well_formed(packet)
    packet[change] = octets
    assert not ip.well_formed(packet)
    assert not ip.well_formed(packet[:19])


def test_a_fragment_that_ends_beyond_65535_octets_is_not_well_formed() -> None:
    assert ip.well_formed(packet_of(bytes(11), word=0x1FFC))
    assert not ip.well_formed(packet_of(bytes(12), word=0x1FFC))


def test_too_large_a_packet_is_refused() -> None:
    assert ip.total_length(ip.rebuild(HEADER, 50, 65515)) == 65535
    with pytest.raises(ValueError, match="65536"):
        ip.rebuild(HEADER, 50, 65516)


def test_an_mtu_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="27"):
        ip.fragment(packet_of(bytes(100)), 27)
