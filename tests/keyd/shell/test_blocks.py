"""Blocks of policies: the first match stays the first, whatever is passed over."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec
from keyd.shell import blocks
from keyd.shell.blocks import Blocks, entrances, in_order, spans
from pfkey.const import UNSPEC_PROTO, Dir, PolicyType
from pfkey.selector import Range, Selector


def policy(number: int, src: Range, dst: Range) -> PolicySpec:
    return PolicySpec(id=number, dir=Dir.OUT, type=PolicyType.NONE,
                      selector=Selector(src, dst, UNSPEC_PROTO))  # fmt: skip


def host(number: int, first: int = 10) -> Range:
    return Range(bytes((first, number >> 16 & 255, number >> 8 & 255, number & 255)), 32)


Ruled = tuple[PolicySpec, list[str]]
ANYWHERE = Range(bytes(4), 0)
MANY = [(policy(n, ANYWHERE, host(n)), [f"rule {n}", f"fragments {n}"]) for n in range(1, 1001)]


@st.composite
def ranges(draw: st.DrawFn, octets: int) -> Range:
    address = draw(st.binary(min_size=octets, max_size=octets))
    return Range(address, draw(st.integers(0, 8 * octets)))


@st.composite
def policies(draw: st.DrawFn) -> list[PolicySpec]:
    found = []
    for number in range(draw(st.integers(1, 12))):
        octets = draw(st.sampled_from((4, 16)))
        found.append(policy(number, draw(ranges(octets)), draw(ranges(octets))))
    return found


def is_let_in(way: str, src: bytes, dst: bytes) -> bool:
    """Whether nft would let a packet pass this condition."""
    words = way.split(" ", 2)
    if words[:2] in (["meta", "nfproto"],):
        return words[2] == ("ipv4" if len(src) == 4 else "ipv6")
    if words[0] != ("ip" if len(src) == 4 else "ip6"):
        return False
    address = ip_address(src if words[1] == "saddr" else dst)
    for span in words[2].strip("{ }").split(", "):
        first, _, last = span.partition("-")
        low, high = int(ip_address(first)), int(ip_address(last or first))
        if low <= int(address) <= high:
            return True
    return False


@given(policies(), st.data())
def test_a_packet_that_a_policy_selects_enters_its_block(
    some: list[PolicySpec], data: st.DataObject
) -> None:
    one = data.draw(st.sampled_from(some)).selector
    ends = []
    for end in (one.src, one.dst):
        below = 8 * len(end.address) - end.prefixlen
        low = data.draw(st.integers(0, (1 << below) - 1))
        number = int.from_bytes(end.address, "big") >> below << below | low
        ends.append(number.to_bytes(len(end.address), "big"))
    assert any(is_let_in(way, *ends) for way in entrances(some))


def laid(some: Sequence[Ruled], before: Blocks | None = None, *gone: Ruled) -> Blocks:
    made = before.copy() if before else Blocks("c")
    for spec, _ in gone:
        made.remove(spec)
    for spec, rules in some:
        made.insert(spec, rules)
    made.settle()
    return made


def test_few_rules_stay_one_chain() -> None:
    few = laid(MANY[: blocks.LINEAR_MAX])
    assert few.is_linear
    assert not laid(MANY[blocks.LINEAR_MAX :][:1], few).is_linear
    assert few.is_linear, "what was is left alone"


def test_what_becomes_fewer_is_one_chain_again_once_it_is_few() -> None:
    made = laid((), laid(MANY), *MANY[300:])
    assert not made.is_linear
    assert laid((), made, *MANY[200:300]).is_linear


def test_blocks_are_entered_in_order_and_hold_every_rule_once() -> None:
    made = list(laid(MANY))
    assert len(made) > 10
    ways = [way for block in made for way in block.ways]
    assert [way.rsplit(" ", 1)[1] for way in ways] == [block.name for block in made]
    assert [r for b in made for r in b.rules] == [r for _, rules in MANY for r in rules]
    assert all(way.startswith("ip daddr { ") for way in ways), "the side that selects"


def test_one_policy_more_or_less_changes_one_block() -> None:
    before = laid(MANY)
    after = laid((), before, MANY[500])
    assert ways(after) == ways(before), "what led into the block still leads there"
    assert len({*after} - {*before}) == 1
    again = laid([(policy(5000, ANYWHERE, host(5)), ["x"])], after)
    assert len({*again} - {*after}) == 1


def ways(made: Blocks) -> list[str]:
    return [way for block in made for way in block.ways]


def test_a_block_that_lost_most_of_its_policies_is_led_into_anew() -> None:
    before = laid(MANY)
    name = next(iter(before)).name
    after = laid((), before, *MANY[20:64])
    assert ways(after)[0] == f"ip daddr {{ 10.0.0.1-10.0.0.20 }} jump {name}"


def test_small_neighbours_are_joined() -> None:
    before = laid(MANY)
    after = laid((), before, *MANY[5:64], *MANY[80:128])
    assert [len(block.entries) for block in after][:2] == [21, 64]


def test_a_policy_that_changed_is_another_one() -> None:
    """Its id is the same, and it may be about other addresses."""
    moved = (replace(MANY[0][0], selector=Selector(ANYWHERE, host(0, 99), 255)), ["x"])
    assert "99.0.0.0" in ways(laid([moved], laid(MANY), MANY[0]))[0]


def test_a_block_is_bounded_wherever_policies_come() -> None:
    first = laid(MANY[::7])
    every = laid([one for one in MANY if one not in MANY[::7]], first)
    assert max(len(block.entries) for block in every) <= blocks.BLOCK_MAX
    assert [r for b in every for r in b.rules] == [r for _, rules in MANY for r in rules]


def test_both_versions_have_their_own_way_into_a_block() -> None:
    six = Range(bytes(16), 0)
    ways = list(entrances([policy(1, host(1), host(2)), policy(2, six, six)]))
    assert ways == ["ip saddr { 10.0.0.1 }", "meta nfproto ipv6"]


@pytest.mark.parametrize(
    ("numbers", "joined"), [((1, 2, 3), 1), ((1, 3), 2), ((5, 4, 4), 1), ((9,), 1)]
)
def test_neighbours_are_one_span(numbers: tuple[int, ...], joined: int) -> None:
    assert len(spans(host(n) for n in numbers)) == joined


def test_rules_are_found_in_match_order_and_each_block_once() -> None:
    def rule(chain: str, comment: str, *ways: str) -> dict[str, Any]:
        jumps = [{"jump": {"target": way}} for way in ways]
        return {"rule": {"chain": chain, "comment": comment, "expr": jumps}}

    listed = [rule("b", "2"), rule("a", "1"), rule("c", "", "a"), rule("c", "", "a")]
    listed += [rule("c", "", "b"), rule("d", "3"), {"chain": {"name": "c"}}]
    assert [r["comment"] for r in in_order(listed, ("c", "d"))] == ["1", "2", "3"]
