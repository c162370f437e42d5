"""What the policies' chains hold, and the fewest commands from that to what they shall hold.

Plain values and text: no system touched. A chain is rules in the order of the match and, where it
is known, the handle by which nft names each. Policies stand in blocks (`keyd.shell.blocks`): a
change makes those blocks anew that it touches, and leaves the others as they are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keyd.model import PolicySpec
from keyd.shell import nft_errors
from keyd.shell.blocks import Block, Blocks
from keyd.shell.nft_rules import POLICY_CHAINS

Rules = Mapping[str, Sequence[str]]  # of one policy, by chain
UNKNOWN = 0  # no rule has this handle


@dataclass(slots=True)
class Chain:
    """The rules of one chain; the two lists go together."""

    rules: list[str] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, rules: list[str]) -> "Chain":
        """One that nft has not seen."""
        return cls(rules, [UNKNOWN] * len(rules))


_EMPTY = Chain()


class Chains:
    """All chains of policies, as nft has them or shall have them.

    Attributes:
        laid: as they stand in nft: one of many policies in blocks, which come before it.
    """

    def __init__(self) -> None:
        self.laid = {name: Chain() for name in POLICY_CHAINS}
        self._blocks = {name: Blocks(name) for name in POLICY_CHAINS}
        self._of_block: dict[str, tuple[Block, Chain]] = {}

    def after(
        self,
        added: Iterable[PolicySpec],
        removed: Iterable[PolicySpec],
        write: Callable[[PolicySpec], Rules],
    ) -> "Chains":
        """The chains after a change; this object is left alone.

        `write` makes the rules of a policy. What costs time is the change, not what stays.
        """
        changed: dict[str, Blocks] = {}

        def touched(name: str) -> Blocks:
            if name not in changed:
                changed[name] = self._blocks[name].copy()
            return changed[name]

        for spec in removed:
            for name, blocks in self._blocks.items():
                if changed.get(name, blocks).has(spec):
                    touched(name).remove(spec)
        for spec in added:
            for name, rules in write(spec).items():
                if rules:
                    touched(name).insert(spec, rules)
        made = Chains()
        made._blocks = self._blocks | changed
        for blocks in changed.values():
            blocks.settle()
        made._lay(self, changed)
        return made

    def _lay(self, before: "Chains", changed: Iterable[str]) -> None:
        chains: dict[str, Chain] = {}
        for name, blocks in self._blocks.items():
            if name == nft_errors.CHAIN and not blocks.is_linear:
                chains[name] = Chain.of([*nft_errors.ALL])
                continue
            for block in blocks:
                known = before._of_block.get(block.name)
                if known is None or known[0] is not block:
                    known = block, Chain.of(block.rules)
                self._of_block[block.name] = known
                if not blocks.is_linear:
                    chains[block.name] = known[1]
            if name not in changed:
                chains[name] = before.laid[name]
            elif blocks.is_linear:
                chains[name] = Chain.of([rule for block in blocks for rule in block.rules])
            else:
                chains[name] = Chain.of([way for block in blocks for way in block.ways])
        self.laid = chains

    def commands(
        self, before: "Chains", table: str, ask: Callable[[str], list[int]] | None
    ) -> list[str]:
        """nft's commands from `before` to these chains; handles that stay are taken over.

        `ask` tells the handles of a chain's rules in their order. None: nobody else's hand is kept
        from the table, so that positions say nothing.
        """
        found = [f"add chain {table} {name}" for name in self.laid if name not in before.laid]
        for name, chain in self.laid.items():
            old = before.laid.get(name, _EMPTY)
            if chain is not old:
                handles = (lambda name=name: ask(name)) if ask else None
                found += _edit(f"{table} {name}", old, chain, handles)
        gone = [f"chain {table} {name}" for name in before.laid if name not in self.laid]
        return found + [f"{verb} {chain}" for verb in ("flush", "delete") for chain in gone]


def _edit(where: str, old: Chain, new: Chain, ask: Callable[[], list[int]] | None) -> list[str]:
    """Commands that make a chain `old` one of the rules of `new`, whose handles are filled in."""
    steps = _steps(old.rules, new.rules)
    new.handles[:] = [UNKNOWN] * len(new.rules)
    if steps is not None:
        doomed, inserted, kept = steps
        is_few = 2 * len(doomed) <= len(old.rules)
        inner = [at for at, _ in inserted if at < len(old.rules)]
        if not doomed and not inner:
            new.handles[: len(old.handles)] = old.handles
            return [f"add rule {where} {rule}" for _, rule in inserted]
        if is_few and ask is not None and _know(old, [*doomed, *inner], ask):
            for now, then, count in kept:
                new.handles[now : now + count] = old.handles[then : then + count]
            return [
                *(_insertion(where, old, at, rule) for at, rule in inserted),
                *(f"delete rule {where} handle {old.handles[at]}" for at in doomed),
            ]
    return [f"flush chain {where}", *(f"add rule {where} {rule}" for rule in new.rules)]


def _insertion(where: str, old: Chain, at: int, rule: str) -> str:
    if at == len(old.rules):
        return f"add rule {where} {rule}"
    return f"insert rule {where} handle {old.handles[at]} {rule}"


def _know(chain: Chain, places: Iterable[int], ask: Callable[[], list[int]]) -> bool:
    """Whether the handles at these places are known, if need be after asking."""
    if all(chain.handles[at] != UNKNOWN for at in places):
        return True
    handles = ask()
    if len(handles) != len(chain.rules):
        return False
    chain.handles[:] = handles
    return True


_Steps = tuple[list[int], list[tuple[int, str]], list[tuple[int, int, int]]]


def _steps(old: list[str], new: list[str]) -> _Steps | None:
    """What turns one list of rules into the other; None where rules change places.

    Places in `old` to delete; rules to insert and before which place in `old`; runs that stay, by
    their places in `new` and in `old` and their lengths.
    """
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    end, stop = len(old) - tail, len(new) - tail
    wanted, had = set(new[head:stop]), set(old[head:end])
    doomed, inserted = [], []
    kept = [(0, 0, head), (stop, end, tail)]
    i = j = head
    while i < end or j < stop:
        if i < end and j < stop and old[i] == new[j]:
            kept.append((j, i, 1))
            i, j = i + 1, j + 1
        elif i < end and (j == stop or old[i] not in wanted):
            doomed.append(i)
            i += 1
        elif j < stop and (i == end or new[j] not in had):
            inserted.append((i, new[j]))
            j += 1
        else:
            return None
    return doomed, inserted, kept


def _common(a: list[str], b: list[str]) -> int:
    """How many rules both lists begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # compares by slices: ten thousand rules in a fraction of a millisecond
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
