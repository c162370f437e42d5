"""Which policies catch what a host sends to itself."""

import socket

import pytest

from keyd.model import PolicySpec, Request
from keyd.packet.own import catching, describe
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector

A, B, C = (socket.inet_aton(text) for text in ("10.1.1.1", "20.1.1.1", "10.1.1.2"))
ANY = bytes(4)
LOOPBACK = socket.inet_aton("127.0.0.1")


def policy(
    src: Range, dst: Range, dir: Dir = Dir.OUT, proto: int = 6, *,
    type: PolicyType = PolicyType.IPSEC, level: Level = Level.REQUIRE, is_hold: bool = False,
) -> PolicySpec:  # fmt: skip
    requests = (Request(proto=51, mode=Mode.TRANSPORT, level=level),)
    return PolicySpec(
        id=9, dir=dir, type=type, selector=Selector(src, dst, proto), is_hold=is_hold,
        requests=requests if type == PolicyType.IPSEC else (),
    )  # fmt: skip


WIDE_OUT = policy(Range(A, 32, 110), Range(ANY, 0))
WIDE_IN = policy(Range(ANY, 0), Range(A, 32, 110), Dir.IN)
NONE_OUT = policy(Range(A, 32, 110), Range(A, 32), type=PolicyType.NONE)
NONE_IN = policy(Range(A, 32), Range(A, 32, 110), Dir.IN, type=PolicyType.NONE)


def test_the_faqs_order_leaves_the_host_alone_and_the_reverse_does_not() -> None:
    right = [NONE_OUT, NONE_IN, WIDE_OUT, WIDE_IN]
    assert catching(right, [A], 9) == catching(right, [A, LOOPBACK], 9) == []
    assert catching(right[::-1], [A], 9) == [WIDE_IN, WIDE_OUT]


def test_only_what_can_be_said_between_own_addresses_counts() -> None:
    assert catching([policy(Range(A, 32), Range(B, 32))], [A, LOOPBACK], 9) == []
    assert catching([policy(Range(A, 32), Range(C, 32))], [A, C], 9) != []
    assert catching([WIDE_OUT], [B], 9) == []
    assert catching([policy(Range(ANY, 0), Range(ANY, 0))], [LOOPBACK], 9) != []
    assert catching([WIDE_OUT], [bytes(16), bytes(15) + b"\1"], 9) == []


def test_a_second_own_address_is_not_covered_by_a_none_for_the_first() -> None:
    assert catching([NONE_OUT, WIDE_OUT], [A, C], 9) == [WIDE_OUT]


@pytest.mark.parametrize(
    "first",
    [
        policy(Range(A, 32, 25), Range(A, 32), type=PolicyType.NONE),
        policy(Range(A, 32, 110), Range(A, 32), proto=17, type=PolicyType.NONE),
        policy(Range(A, 32, 110), Range(A, 32), Dir.IN, type=PolicyType.NONE),
    ],
)
def test_what_decides_about_something_else_covers_nothing(first: PolicySpec) -> None:
    assert catching([first, WIDE_OUT], [A], 9) == [WIDE_OUT]


def test_use_discard_and_holds_are_no_such_policies() -> None:
    for other in (
        policy(Range(A, 32), Range(ANY, 0), level=Level.USE),
        policy(Range(A, 32), Range(ANY, 0), type=PolicyType.DISCARD),
        policy(Range(A, 32), Range(ANY, 0), is_hold=True),
    ):
        assert catching([other], [A], 9) == []


def test_no_more_are_looked_for_than_asked() -> None:
    many = [policy(Range(A, 32, port), Range(ANY, 0)) for port in range(1, 100)]
    assert len(catching(many, [A], 4)) == 4


def test_a_policy_is_described_as_its_line_begins() -> None:
    assert describe(WIDE_OUT) == "10.1.1.1[110] 0.0.0.0/0 tcp -P out"
    assert describe(policy(Range(ANY, 0), Range(A, 24), Dir.IN, 255)) == (
        "0.0.0.0/0 10.1.1.1/24 any -P in"
    )
