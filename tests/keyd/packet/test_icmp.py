"""ICMP errors and the path MTU: RFC 792, RFC 1191, RFC 4301 section 8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import IPv6

from keyd.packet import icmp
from keyd.packet.icmp import PathMtu, Verdict
from tests.support.packets import A6, B6, A, B, ipv4, ipv6, sums_hold, udp


@given(st.binary(max_size=2000), st.integers(68, 65535))
def test_the_answer_names_the_mtu_and_quotes_the_packet(data: bytes, mtu: int) -> None:
    packet = ipv4(17, udp(data))
    answer = icmp.too_big(packet, mtu)
    assert sums_hold(answer)
    read = IP(answer)
    assert (read.src, read.dst) == ("20.1.1.1", "10.1.1.1")
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, mtu)
    assert len(answer) <= 576
    assert packet.startswith(answer[28:])
    assert len(answer) - 28 >= min(len(packet), 500)


@given(st.binary(max_size=2000))
def test_the_answer_about_what_does_not_arrive_quotes_the_packet(data: bytes) -> None:
    packet = ipv4(17, udp(data))
    answer = icmp.unreachable(packet)
    assert sums_hold(answer)
    read = IP(answer)
    assert (read.src, read.dst, read[ICMP].type, read[ICMP].code) == (
        "20.1.1.1", "10.1.1.1", 3, 1,
    )  # fmt: skip
    assert packet.startswith(answer[28:])
    packet = ipv6(17, udp(data, src=A6, dst=B6))
    for answer, kind in ((icmp.unreachable(packet), (1, 3)), (icmp.too_big(packet, 1400), (2, 0))):
        told = IPv6(answer)
        assert (told.src, told.dst, told.nh) == ("fd00::2", "fd00::1", 58)
        assert (answer[40], answer[41]) == kind
        assert len(answer) <= 1280
        assert packet.startswith(answer[48:])
        told[1].cksum = None
        assert bytes(IPv6(bytes(told)))[42:44] == answer[42:44]


@pytest.mark.parametrize(
    ("version", "kind", "code", "says"),
    [
        (4, 3, 4, Verdict.TOO_BIG), (6, 2, 0, Verdict.TOO_BIG),
        (4, 3, 0, Verdict.LOST), (4, 3, 1, Verdict.LOST), (4, 3, 2, Verdict.LOST),
        (4, 3, 13, Verdict.LOST), (4, 11, 0, Verdict.LOST), (4, 12, 0, Verdict.LOST),
        (6, 1, 0, Verdict.LOST), (6, 3, 0, Verdict.LOST), (6, 4, 1, Verdict.LOST),
        (4, 5, 0, Verdict.NOTHING), (4, 4, 0, Verdict.NOTHING), (4, 0, 0, Verdict.NOTHING),
        (6, 137, 0, Verdict.NOTHING), (4, 2, 0, Verdict.NOTHING), (6, 11, 0, Verdict.NOTHING),
    ],
)  # fmt: skip
def test_errors_say_too_big_or_lost_or_nothing(
    version: int, kind: int, code: int, says: Verdict
) -> None:
    assert icmp.verdict(version, kind, code) is says


@pytest.mark.parametrize(
    ("packet", "may"),
    [
        (ipv4(17, udp(b"x")), True),
        (ipv4(6, b""), True),
        (ipv4(1, bytes([8, 0]) + bytes(6)), True),
        (ipv4(1, bytes([3, 1]) + bytes(6)), False),
        (ipv4(1, bytes([0, 0]) + bytes(6)), False),
        (ipv4(17, bytes(8), offset=8), False),
        (ipv4(17, udp(b"x"), dst=bytes((224, 0, 0, 1))), False),
        (ipv4(17, udp(b"x"), dst=b"\xff" * 4), False),
        (ipv6(17, b""), True),
        (ipv6(58, bytes([128, 0]) + bytes(6)), True),
        (ipv6(58, bytes([1, 3]) + bytes(6)), False),
        (ipv6(17, b"", dst=b"\xff\x02" + bytes(13) + b"\1"), False),
        (b"\x45nonsense", False),
    ],
)
def test_errors_are_not_answered_nor_what_many_get(packet: bytes, may: bool) -> None:
    """RFC 1122 3.2.2, RFC 4443 2.4."""
    assert icmp.may_answer(packet) == may


def test_a_quoted_packet_is_read() -> None:
    packet = ipv4(50, bytes.fromhex("00002694 00000007") + bytes(40))
    for octets in (packet, packet[:28]):
        assert icmp.quoted(octets) == (A, B, 0x2694, 7)


@given(st.binary(max_size=80))
def test_a_quotation_that_is_none_is_none(octets: bytes) -> None:
    if len(octets) < 28 or octets[0] >> 4 != 4 or octets[9] != 50:
        assert icmp.quoted(octets) is None
    else:
        icmp.quoted(octets)


def test_later_fragments_and_other_protocols_quote_nothing() -> None:
    esp = bytes.fromhex("00002694 00000007")
    assert icmp.quoted(ipv4(50, esp, offset=8)) is None
    assert icmp.quoted(ipv4(17, esp)) is None
    assert icmp.quoted(ipv4(50, esp[:7])) is None


def test_a_learned_mtu_has_a_floor_and_an_age() -> None:
    paths = PathMtu()
    assert paths.limit(B, 1500, 0.0) == 1500
    paths.learn(B, 1300, 100.0)
    assert paths.limit(B, 1500, 699.0) == 1300
    assert paths.limit(B, 1200, 699.0) == 1200
    assert paths.limit(B, 1500, 700.0) == 1500
    paths.learn(B, 1300, 100.0)
    assert paths.limit(B, 1500, 99.0) == 1500, "a clock that was set back"
    paths.learn(B, 100, 0.0)
    assert paths.limit(B, 1500, 0.0) == 576


def test_memory_of_paths_is_bounded() -> None:
    paths = PathMtu()
    for number in range(icmp.DESTINATIONS_MAX + 10):
        paths.learn(number.to_bytes(4, "big"), 1000, 0.0)
    assert paths.limit((0).to_bytes(4, "big"), 1500, 0.0) == 1500
    assert paths.limit((icmp.DESTINATIONS_MAX + 9).to_bytes(4, "big"), 1500, 0.0) == 1000
