"""Cutting super-packets: RFC 9293, RFC 3168 6.1.2, RFC 768; scapy judges the checksums."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.packet import segment
from keyd.packet.segment import CWR, FIN, GSO_TCPV4, GSO_UDP_L4, PSH, cut, packets, read
from tests.support.packets import frame, ipv4, sums_hold, tcp, udp

options = st.integers(0, 10).map(lambda n: b"\x01" * 4 * n)
sequences = st.sampled_from((0, 1000, 0xFFFFFFFF, 0xFFFFF000))


def whole(octets: bytes, room: int, proto: int) -> list[bytes]:
    found = read(octets)
    assert found is not None
    pieces = cut(found, room)
    assert pieces is not None
    return packets(found.header, proto, pieces)


@given(
    st.binary(min_size=1, max_size=9000),
    options,
    sequences,
    st.sampled_from((0x10, 0x18, 0x11, 0x19, 0x90, 0x98)),
    st.integers(1, 2000),
    st.integers(64, 2000),
    st.integers(0, 0xFFFF),
)
def test_tcp_segments_are_the_super_packet_cut(
    data: bytes, extra: bytes, seq: int, flags: int, size: int, room: int, ident: int
) -> None:
    super_packet = ipv4(
        6, tcp(data, seq=seq, flags=flags, options=extra, unfinished=True), ident=ident
    )
    got = whole(frame(super_packet, gso=GSO_TCPV4, gso_size=size, csum=(20, 16)), room, 6)
    head = 20 + len(extra)
    expected_seq, joined = seq, b""
    for number, packet in enumerate(got):
        assert sums_hold(packet)
        assert len(packet) - 20 <= room
        assert packet[4:6] == ((ident + number) & 0xFFFF).to_bytes(2, "big")
        assert packet[24:28] == expected_seq.to_bytes(4, "big")
        is_first, is_last = number == 0, number == len(got) - 1
        assert packet[33] & (PSH | FIN) == (flags & (PSH | FIN) if is_last else 0)
        assert packet[33] & CWR == (flags & CWR if is_first else 0)
        assert packet[28:32] == super_packet[28:32]
        assert packet[40 : 20 + head] == extra
        piece = packet[20 + head :]
        assert len(piece) <= size
        expected_seq = (expected_seq + len(piece)) & 0xFFFFFFFF
        joined += piece
    assert joined == data


@given(st.binary(min_size=1, max_size=9000), st.integers(1, 1400))
def test_udp_datagrams_are_the_super_packet_cut(data: bytes, size: int) -> None:
    super_packet = ipv4(17, udp(data, unfinished=True))
    got = whole(frame(super_packet, gso=GSO_UDP_L4, gso_size=size, csum=(20, 6)), 1480, 17)
    assert b"".join(packet[28:] for packet in got) == data
    assert all(sums_hold(packet) and packet[26:28] != b"\0\0" for packet in got)
    assert {len(packet) - 28 for packet in got[:-1]} <= {size}
    assert all(struct.unpack("!H", p[24:26])[0] == len(p) - 20 for p in got)


@given(st.binary(max_size=3000), st.booleans())
def test_an_unfinished_checksum_is_finished(data: bytes, is_tcp: bool) -> None:
    make, proto, at = (tcp, 6, 16) if is_tcp else (udp, 17, 6)
    found = read(frame(ipv4(proto, make(data, unfinished=True)), csum=(20, at)))
    assert found is not None
    assert bytes(found.transport) == make(data)


def test_a_single_tcp_packet_that_does_not_fit_is_cut_all_the_same() -> None:
    got = whole(frame(ipv4(6, tcp(bytes(5000), unfinished=True)), csum=(20, 16)), 1200, 6)
    assert [len(packet) for packet in got] == [1220] * 4 + [20 + 20 + 5000 - 4 * 1180]
    assert all(map(sums_hold, got))


@pytest.mark.parametrize(
    "octets",
    [
        frame(ipv4(17, udp(bytes(3000)))),
        frame(ipv4(17, udp(bytes(3000))), gso=GSO_UDP_L4, gso_size=1400, csum=(20, 6)),
        frame(ipv4(6, tcp(bytes(3000), flags=0x02)), csum=(20, 16)),
        frame(ipv4(6, tcp(bytes(3000))[:10] + bytes(3000))),
        frame(ipv4(6, bytes(3000))),
    ],
    ids=["datagram", "large datagrams", "syn", "torn header", "no header"],
)
def test_what_may_not_be_cut_is_not(octets: bytes) -> None:
    found = read(octets)
    assert found is not None
    assert cut(found, 1200) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        bytes(10),
        bytes(9),
        frame(ipv4(6, tcp(b"x")), csum=(20, 60000)),
        frame(ipv4(6, tcp(b"x")), csum=(2, 4)),
        frame(ipv4(6, tcp(b"x")), gso=GSO_TCPV4, gso_size=0, csum=(20, 16)),
        frame(ipv4(17, udp(b"x")), gso=GSO_TCPV4, gso_size=100, csum=(20, 16)),
        frame(ipv4(6, tcp(b"x")), gso=GSO_UDP_L4, gso_size=100, csum=(20, 6)),
        frame(ipv4(6, tcp(b"x")), gso=3, gso_size=100, csum=(20, 16)),
        frame(ipv4(6, tcp(b"x"), more=True), gso=GSO_TCPV4, gso_size=9, csum=(20, 16)),
        frame(b"\x60" + bytes(60)),
        frame(ipv4(6, b"xxx"), gso=GSO_TCPV4, gso_size=9, csum=(20, 16)),
    ],
)
def test_a_read_that_makes_no_sense_is_none(octets: bytes) -> None:
    assert read(octets) is None


@given(st.binary(max_size=200), st.integers(-5, 200))
def test_no_octets_raise(octets: bytes, room: int) -> None:
    for candidate in (octets, octets[:10].ljust(10, b"\0") + ipv4(6, octets[10:])):
        found = read(candidate)
        if found is not None:
            cut(found, room)


def test_links_pad_short_packets() -> None:
    found = read(frame(ipv4(17, udp(b"x")) + b"padding"))
    assert found is not None
    assert found.transport == udp(b"x")
    assert segment.cut(found, 100) == [udp(b"x")]
