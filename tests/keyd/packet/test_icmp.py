"""ICMP errors and the path MTU: RFC 792, RFC 1191, RFC 4301 section 8."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP

from keyd.packet import icmp
from keyd.packet.icmp import PathMtu
from tests.support.packets import A, B, ipv4, sums_hold, udp


@given(st.binary(max_size=2000), st.integers(68, 65535))
def test_the_answer_names_the_mtu_and_quotes_the_packet(data: bytes, mtu: int) -> None:
    packet = ipv4(17, udp(data))
    answer = icmp.fragmentation_needed(packet, mtu)
    assert sums_hold(answer)
    read = IP(answer)
    assert (read.src, read.dst) == ("20.1.1.1", "10.1.1.1")
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, mtu)
    assert len(answer) <= 576
    assert packet.startswith(answer[28:])
    assert len(answer) - 28 >= min(len(packet), 500)


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
