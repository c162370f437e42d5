"""The commands from any order of rules to any other, obeyed by a model of nft."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec
from keyd.shell import blocks
from keyd.shell.blocks import LINEAR_MAX, order
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
    ordered = sorted(policies, key=order)
    return {name: [r for p in ordered for r in write(p)[name]] for name in NAMES}


class World:
    """Chains and the nft that follows them."""

    def __init__(self, *, owned: bool = True) -> None:
        self.nft, self.chains = Nft(), Chains()
        self.policies: list[PolicySpec] = []
        self._owned = owned

    def become(self, policies: Sequence[PolicySpec]) -> list[str]:
        """Make these the policies; the commands that it took."""
        added = [one for one in policies if one not in self.policies]
        removed = [one for one in self.policies if one not in policies]
        after = self.chains.after(added, removed, write)
        before = {name: chain.rules.copy() for name, chain in self.chains.laid.items()}
        commands = self.nft.commit(self.chains, after, owned=self._owned)
        assert before == {name: chain.rules for name, chain in self.chains.laid.items()}
        self.chains, self.policies = after, list(policies)
        assert {name: self.nft.flat(name) for name in NAMES} == rules_of(policies)
        return commands


POLICIES = st.lists(st.integers(1, 12), unique=True, max_size=10)


@given(
    st.lists(st.tuples(POLICIES, st.sets(st.integers(1, 12)), st.booleans()), max_size=6),
    st.booleans(),
)
def test_any_databases_follow_one_another(
    states: list[tuple[list[int], set[int], bool]], owned: bool
) -> None:
    world = World(owned=owned)
    for numbers, changed, has_holds in states:
        world.become(
            [
                replace(policy(n, int(n in changed)), is_hold=has_holds and n in changed)
                for n in numbers
            ]
        )


@given(
    st.lists(st.tuples(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60))), max_size=8),
    st.booleans(),
)
def test_any_databases_follow_one_another_in_small_blocks(
    states: list[tuple[set[int], set[int]]], owned: bool
) -> None:
    """A block of four, cut at eight, joined below two; one chain up to ten."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LINEAR_MAX", 10), ("BLOCK_MAX", 8), ("_BLOCK", 4), ("_FEW", 2)):
            patch.setattr(blocks, name, value)
        world = World(owned=owned)
        for numbers, changed in states:
            world.become([policy(n, -int(n in changed)) for n in numbers])
            sizes = [len(b.entries) for b in world.chains._blocks["policy_out"]]
            assert max(sizes, default=1) <= 8
            assert min(sizes, default=1) > 0


def test_what_is_refused_leaves_no_trace() -> None:
    world = World()
    world.become([policy(n) for n in range(1, 900)])
    world.chains.after([policy(5000)], [policy(n) for n in range(300, 500)], write)
    world.become([policy(n) for n in range(1, 910) if n != 250])


def test_one_in_the_middle_costs_a_command_and_no_question_twice() -> None:
    world = World()
    many = [policy(2 * n) for n in range(1, 100)]
    world.become(many)
    for number in (51, 101, 151):
        many = sorted([*many, policy(number)], key=lambda p: p.order)
        commands = world.become(many)
        assert [command.split()[0] for command in commands] == ["insert"] * len(commands)
    for _ in range(20):
        many.pop(30)
        assert len(world.become(many)) <= 3
    assert world.nft.asked <= 4  # once for each chain, and where a rule is new


@pytest.mark.parametrize("owned", [True, False])
def test_many_policies_follow_one_another_in_blocks(owned: bool) -> None:
    """From few to many and back, one at the front, in the middle, at the end, gone, changed."""
    world = World(owned=owned)
    many = [policy(n) for n in range(1, LINEAR_MAX + 200)]
    backwards = [replace(one, order=-one.order) for one in many]
    for policies in (
        many[:20], many, [replace(policy(5000), order=0), *many], many[:300] + many[301:],
        [*many, policy(7000)], [replace(one, priority=1) if one.id == 77 else one for one in many],
        backwards, [one for one in many if one.id % 3], many[:10], [],
    ):  # fmt: skip
        world.become(policies)


def test_one_policy_of_many_costs_a_few_commands() -> None:
    world = World()
    many = [policy(n) for n in range(1, LINEAR_MAX + 200)]
    world.become(many)
    more = [*many, policy(9999)]
    assert len(world.become(more)) < 10
    assert len(world.become([one for one in more if one.id != 300])) < 10


def test_of_many_policies_all_errors_are_sent_to_be_judged() -> None:
    frame = Frame(bypass_uid=77, fragment_key=1)
    many = [policy(n) for n in range(LINEAR_MAX + 1)]
    nft, few = Nft(), Chains().after(many[:-1], (), frame.policy_rules)
    nft.commit(Chains(), few)
    assert len(nft.chains["policy_error"]) == LINEAR_MAX
    more = few.after(many[-1:], (), frame.policy_rules)
    nft.commit(few, more)
    assert [rule for _, rule in nft.chains["policy_error"]] == ["goto steer_error"]
    assert not any(name.startswith("policy_error_") for name in nft.chains)
    less = more.after((), many[LINEAR_MAX // 2 :], frame.policy_rules)
    nft.commit(more, less)
    assert len(nft.chains["policy_error"]) == LINEAR_MAX // 2


def test_what_stays_is_not_looked_at() -> None:
    """The rules of one policy are written, and the blocks of the others are the same objects."""
    many = [policy(n) for n in range(1, LINEAR_MAX + 200)]
    world = World()
    world.become(many)
    written: list[int] = []

    def noted(spec: PolicySpec) -> dict[str, list[str]]:
        written.append(spec.id)
        return write(spec)

    after = world.chains.after([replace(policy(9999), order=300)], [many[400]], noted)
    assert written == [9999]
    kept = set(map(id, world.chains._blocks["policy_out"]))
    assert sum(id(block) not in kept for block in after._blocks["policy_out"]) <= 2
