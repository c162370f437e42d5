"""The commands from any order of rules to any other, obeyed by a model of nft."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec
from keyd.shell.blocks import LINEAR_MAX
from keyd.shell.nft_chains import UNKNOWN, Chains
from keyd.shell.nft_rules import POLICY_CHAINS, Frame
from pfkey.const import Dir, PolicyType
from pfkey.selector import Range, Selector

NAMES = ("policy_out", "policy_own")
ANY = Selector(Range(bytes(4), 0), Range(bytes(4), 0))


def policy(number: int, version: int = 0) -> PolicySpec:
    return PolicySpec(
        id=number, dir=Dir.OUT, type=PolicyType.IPSEC, selector=ANY, priority=version, order=number
    )


def write(spec: PolicySpec) -> dict[str, list[str]]:
    """Rules: one, two or none to a chain, and some alike though they are of two policies."""
    n = spec.id
    return {
        "policy_out": [f"r{n}.{spec.priority}"] + [f"fragments {n % 3}"] * (n % 2),
        "policy_own": [f"own {n % 4}"] if n % 5 else [],
    }


class Nft:
    """Chains of rules with handles."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.chains: dict[str, list[tuple[int, str]]] = {name: [] for name in POLICY_CHAINS}
        self.asked = 0

    def ask(self, chain: str) -> list[int]:
        self.asked += 1
        return [handle for handle, _ in self.chains[chain]]

    def run(self, commands: Sequence[str]) -> None:
        for command in commands:
            verb, what, family, chain, *rest = command.split(" ", 4)
            assert family == "t"
            if (verb, what) == ("add", "chain"):
                assert chain not in self.chains
                self.chains[chain] = []
            rules = self.chains[chain]
            match verb, what:
                case "add", "chain":
                    pass
                case "delete", "chain":
                    assert not rules
                    assert not any(r.endswith(f" jump {chain}") for r in self.all_rules())
                    del self.chains[chain]
                case "flush", "chain":
                    rules.clear()
                case "add", "rule":
                    rules.append((next(self._numbers), rest[0]))
                case "insert", "rule":
                    _, handle, rule = rest[0].split(" ", 2)
                    rules.insert(self._at(chain, handle), (next(self._numbers), rule))
                case "delete", "rule":
                    del rules[self._at(chain, rest[0].split()[1])]
                case _:
                    raise AssertionError(command)

    def _at(self, chain: str, handle: str) -> int:
        return self.ask_quietly(chain).index(int(handle))

    def all_rules(self) -> list[str]:
        return [rule for rules in self.chains.values() for _, rule in rules]

    def flat(self, chain: str) -> list[str]:
        """The rules that a packet may come by, blocks in the place of what leads there."""
        found: list[str] = []
        entered = ""
        for _, rule in self.chains[chain]:
            _, is_way, block = rule.partition(" jump ")
            if is_way and block != entered:
                found += self.flat(block)
                entered = block
            elif not is_way:
                found.append(rule)
        return found

    def ask_quietly(self, chain: str) -> list[int]:
        return [number for number, _ in self.chains[chain]]

    def commit(self, before: Chains, after: Chains, *, owned: bool = True) -> list[str]:
        commands = after.commands(before, "t", self.ask if owned else None)
        self.run(commands)
        assert self.chains.keys() == after.laid.keys()
        for name, chain in after.laid.items():
            assert [rule for _, rule in self.chains[name]] == chain.rules
            known = zip(chain.handles, self.ask_quietly(name), strict=True)
            assert all(said in (UNKNOWN, true) for said, true in known)
        return commands


def rules_of(policies: Sequence[PolicySpec]) -> dict[str, list[str]]:
    ordered = sorted(policies, key=lambda p: not p.is_hold)
    return {name: [r for p in ordered for r in write(p)[name]] for name in NAMES}


POLICIES = st.lists(st.integers(1, 12), unique=True, max_size=10)


@given(
    st.lists(st.tuples(POLICIES, st.sets(st.integers(1, 12)), st.booleans()), max_size=6),
    st.booleans(),
)
def test_any_databases_follow_one_another(
    states: list[tuple[list[int], set[int], bool]], owned: bool
) -> None:
    nft, chains = Nft(), Chains()
    for numbers, changed, has_holds in states:
        policies = [
            replace(policy(n, int(n in changed)), is_hold=has_holds and n in changed)
            for n in numbers
        ]
        after = chains.after(policies, (), (), write)
        nft.commit(chains, after, owned=owned)
        chains = after
        assert {name: chains.by_name[name].rules for name in NAMES} == rules_of(policies)


@given(st.lists(st.tuples(POLICIES, st.sets(st.integers(0, 9))), max_size=8))
def test_what_is_added_and_removed_is_as_good_as_the_whole(
    changes: list[tuple[list[int], set[int]]],
) -> None:
    nft, chains, now = Nft(), Chains(), list[PolicySpec]()
    for numbers, places in changes:
        removed = [p for at, p in enumerate(now) if at in places]
        left = [p for p in now if p not in removed]
        added = [policy(n) for n in numbers if all(n != p.id for p in left)]
        now = [*left, *added]
        after = chains.after(now, added, removed, write)
        nft.commit(chains, after)
        whole = Chains().after(now, (), (), write)
        assert after.policies == whole.policies
        for name in NAMES:
            assert after.by_name[name].rules == whole.by_name[name].rules
            assert after.by_name[name].owners == whole.by_name[name].owners
        chains = after


def test_wrong_hints_are_not_believed() -> None:
    nft, chains = Nft(), Chains()
    after = chains.after([policy(1), policy(2)], [policy(2)], (), write)
    nft.commit(chains, after)
    again = after.after([policy(2), policy(1), policy(3)], [policy(3)], (), write)
    nft.commit(after, again)
    assert again.by_name["policy_out"].rules == rules_of(again.policies)["policy_out"]


def test_one_in_the_middle_costs_a_command_and_no_question_twice() -> None:
    nft, chains = Nft(), Chains()
    many = [policy(2 * n) for n in range(1, 100)]
    after = chains.after(many, many, (), write)
    nft.commit(chains, after)
    chains = after
    for number in (51, 101, 151):
        many = sorted([*many, policy(number)], key=lambda p: p.order)
        after = chains.after(many, [policy(number)], (), write)
        commands = nft.commit(chains, after)
        assert [command.split()[0] for command in commands] == ["insert"] * len(commands)
        chains = after
    for _ in range(20):
        gone = many.pop(30)
        after = chains.after(many, (), [gone], write)
        assert len(nft.commit(chains, after)) <= 3
        chains = after
    assert nft.asked <= 4  # once for each chain, and where a rule is new


@pytest.mark.parametrize("owned", [True, False])
def test_many_policies_follow_one_another_in_blocks(owned: bool) -> None:
    """From few to many and back, one at the front, in the middle, at the end, gone, changed."""
    nft, chains = Nft(), Chains()
    many = [policy(n) for n in range(1, LINEAR_MAX + 200)]
    states = [
        many[:20], many, [policy(5000), *many], many[:300] + many[301:], [*many, policy(7000)],
        [replace(one, priority=1) if one.id == 77 else one for one in many], many[::-1],
        [one for one in many if one.id % 3], many[:10], [],
    ]  # fmt: skip
    for policies in states:
        before = chains.policies
        added = [one for one in policies if one not in before]
        removed = [one for one in before if one not in policies]
        after = chains.after(policies, added, removed, write)
        nft.commit(chains, after, owned=owned)
        chains = after
        chains.settle()
        assert {name: nft.flat(name) for name in NAMES} == rules_of(policies)


def test_one_policy_of_many_costs_a_few_commands() -> None:
    nft, chains = Nft(), Chains()
    many = [policy(n) for n in range(1, LINEAR_MAX + 200)]
    after = chains.after(many, many, (), write)
    nft.commit(chains, after)
    more = [*many, policy(9999)]
    last = after.after(more, more[-1:], (), write)
    assert len(nft.commit(after, last)) < 10
    gone = [one for one in more if one.id != 300]
    assert len(nft.commit(last, last.after(gone, (), [policy(300)], write))) < 10


def test_of_many_policies_all_errors_are_sent_to_be_judged() -> None:
    frame = Frame(bypass_uid=77, fragment_key=1)
    many = [policy(n) for n in range(LINEAR_MAX + 1)]
    nft, few = Nft(), Chains().after(many[:-1], (), (), frame.policy_rules)
    nft.commit(Chains(), few)
    assert len(nft.chains["policy_error"]) == LINEAR_MAX
    more = few.after(many, (), (), frame.policy_rules)
    nft.commit(few, more)
    assert [rule for _, rule in nft.chains["policy_error"]] == ["goto steer_error"]
    less = more.after(many[:-1], (), (), frame.policy_rules)
    nft.commit(more, less)
    assert len(nft.chains["policy_error"]) == LINEAR_MAX
