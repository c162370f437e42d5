"""ICMP errors go by what they quote: RFC 4301 section 6.2."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec, Request
from keyd.packet import counters as count
from keyd.packet import datagram, icmp
from pfkey.const import UNSPEC_PROTO, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector
from tests.support.packets import A6, B6, A, B, ipv4, ipv6, udp
from tests.support.pipelines import ESP, G6, H6, NOW, TRANSPORT, TUNNEL, G, H, Pair, Step

ROUTER, ROUTER6 = bytes((10, 9, 9, 9)), bytes.fromhex("fd09" + "00" * 13 + "09")
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SECRET = b"the secret"


def error(quoted: bytes, src: bytes, dst: bytes, kind: int = 11) -> bytes:
    if len(src) == 16:
        return ipv6(ICMPV6, struct.pack("!BBHI", 3, 0, 0, 0) + quoted, src, dst)
    return ipv4(ICMP, struct.pack("!BBHI", kind, 0, 0, 0) + quoted, src=src, dst=dst)


def answered(packet: bytes) -> icmp.Answer | None:
    head = datagram.read(packet)
    assert head is not None
    return icmp.answered(packet, head)


@pytest.mark.parametrize(
    ("quoted", "proto", "ports"),
    [
        (udp(SECRET, sport=7, dport=9), UDP, (9, 7)),
        (udp(SECRET, sport=7, dport=9)[:8], UDP, (9, 7)),
        (udp(SECRET)[:3], UDP, None),
        (b"\x08\0\0\0", "icmp", None),
        (b"anything", 47, (0, 0)),
    ],
)
def test_what_would_answer_a_quoted_packet(
    quoted: bytes, proto: int | str, ports: tuple[int, int] | None
) -> None:
    for make, a, b, router, own in (
        (ipv4, A, B, ROUTER, ICMP), (ipv6, A6, B6, ROUTER6, ICMPV6),
    ):  # fmt: skip
        number = own if isinstance(proto, str) else proto
        packet = error(make(number, quoted, src=a, dst=b), router, a)
        assert answered(packet) == icmp.Answer(b, a, number, ports)


def test_what_is_not_shown_is_not_known() -> None:
    options = bytes((UDP, 1)) + bytes(14)
    behind = ipv6(60, options + udp(SECRET, sport=7, dport=9), A6, B6)
    assert answered(error(behind, ROUTER6, A6)) == icmp.Answer(B6, A6, UDP, (9, 7))
    assert answered(error(behind[:44], ROUTER6, A6)) == icmp.Answer(B6, A6, -1, None)
    later = ipv4(UDP, SECRET, offset=8)
    assert answered(error(later, ROUTER, A)) == icmp.Answer(B, A, UDP, None)


def test_what_is_no_error_or_quotes_nothing_is_answered_by_nothing() -> None:
    quoted = ipv4(UDP, udp(SECRET))
    assert answered(error(quoted, ROUTER, A, kind=8)) is None
    assert answered(error(quoted, ROUTER, A, kind=0)) is None
    assert answered(error(quoted[:19], ROUTER, A)) is None
    assert answered(error(ipv6(UDP, udp(SECRET)), ROUTER, A)) is None
    assert answered(ipv4(UDP, udp(SECRET))) is None
    pieces = ipv4(ICMP, error(quoted, ROUTER, A)[20:], more=True)
    assert answered(pieces) is None


@given(st.binary(max_size=120), st.booleans())
def test_any_quotation_is_read_or_not(octets: bytes, is_v6: bool) -> None:
    answered(error(octets, ROUTER6 if is_v6 else ROUTER, A6 if is_v6 else A))


def policy(
    number: int, proto: int, dport: int, kind: PolicyType = PolicyType.IPSEC, *, mode: Mode = TUNNEL
) -> PolicySpec:
    """Of B's answers to A."""
    request = Request(
        proto=ESP, mode=mode, level=Level.REQUIRE, src=G if mode == TUNNEL else None,
        dst=H if mode == TUNNEL else None,
    )  # fmt: skip
    return PolicySpec(
        id=number, dir=Dir.OUT, type=kind, order=number,
        selector=Selector(Range(B, 32), Range(A, 32, dport), proto),
        requests=(request,) if kind == PolicyType.IPSEC else (),
    )  # fmt: skip


def pair(*policies: PolicySpec, step: Step = (ESP, TUNNEL, G, H)) -> Pair:
    made = Pair((step,), B, A)
    made.out.update_policies(policies, (1 + Dir.OUT,))
    return made


QUOTED = ipv4(UDP, udp(SECRET, sport=7, dport=9))
LATER = ipv4(UDP, SECRET, offset=8)
ECHO = ipv4(ICMP, b"\x08\0\0\0" + SECRET)


@pytest.mark.parametrize(
    ("policies", "quoted", "is_sealed"),
    [
        ([policy(5, UDP, 7)], QUOTED, True),
        ([policy(5, UDP, 8)], QUOTED, False),
        ([policy(5, TCP, 0)], QUOTED, False),
        ([policy(5, UDP, 8)], LATER, True),
        ([policy(4, UDP, 0, PolicyType.NONE), policy(5, UDP, 8)], LATER, False),
        ([policy(4, UDP, 8, PolicyType.NONE), policy(5, UDP, 0)], LATER, True),
        ([policy(5, ICMP, 0)], ECHO, True),
        ([policy(4, ICMP, 0, PolicyType.NONE), policy(5, UNSPEC_PROTO, 0)], ECHO, False),
    ],
)
def test_policies_are_asked_about_the_answer(
    policies: list[PolicySpec], quoted: bytes, is_sealed: bool
) -> None:
    """An error of a router behind us, whose own address no policy has."""
    rig = pair(*policies)
    octets = bytes(10) + error(quoted, ROUTER, A)
    sealed = rig.send(octets)
    assert bool(sealed) == is_sealed
    assert bool(rig.out.batch.clear) != is_sealed
    assert all(SECRET not in packet for packet in sealed)


def test_one_error_says_nothing_of_the_next() -> None:
    rig = pair(policy(5, UDP, 7))
    other = ipv4(UDP, udp(b"no secret", sport=70, dport=9))
    for quoted in (QUOTED, other, QUOTED, other):
        packet = error(quoted, ROUTER, A)
        sealed = rig.send(bytes(10) + packet)
        assert (len(sealed), rig.out.batch.clear) == (
            (1, []) if quoted is QUOTED else (0, [packet])
        )
        rig.out.batch.clear.clear()


def test_in_transport_mode_only_the_host_that_was_meant_is_heard() -> None:
    rig = pair(policy(5, UDP, 7, mode=TRANSPORT), step=(ESP, TRANSPORT, B, A))
    assert len(rig.send(bytes(10) + error(QUOTED, B, A, kind=3))) == 1
    assert rig.send(bytes(10) + error(QUOTED, ROUTER, A)) == []
    assert not rig.out.batch.clear
    assert rig.out_values[count.OUT_NOSA] == 1


@pytest.mark.parametrize(("a", "b", "router"), [(A, B, ROUTER), (A6, B6, ROUTER6)])
def test_a_receiver_takes_what_its_policies_would_take_the_answer_from(
    a: bytes, b: bytes, router: bytes
) -> None:
    ends = (G, H) if len(a) == 4 else (G6, H6)
    rig = Pair(((ESP, TUNNEL, *ends),), b, a)
    make = ipv4 if len(a) == 4 else ipv6
    packet = error(make(UDP, udp(SECRET), src=a, dst=b), router, a)
    assert rig.receive(rig.send(bytes(10) + packet)) == [bytes(10) + packet]
    assert not rig.out.batch.clear + rig.out.batch.clear6

    rig.into.update_policies((), (1 + Dir.IN,))
    assert rig.receive(rig.send(bytes(10) + packet)) == []
    assert rig.dropped()["esp", "pdrops"] == 1


def test_an_error_that_a_policy_selects_and_that_answers_under_it_counts_once() -> None:
    rig = Pair(((ESP, TUNNEL, G, H),), A, B)
    packet = error(ipv4(UDP, udp(SECRET), src=B, dst=A), A, B)
    assert rig.receive(rig.send(bytes(10) + packet)) == [bytes(10) + packet]
    (told,) = rig.into.tallies.take(NOW / 1e6)
    assert (told.packets, told.octets) == (1, len(packet))
