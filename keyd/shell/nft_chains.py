"""What the policies' chains hold, and the fewest commands from that to what they shall hold.

Plain values and text: no system touched. A chain is rules in the order of the match, each with the
policy that it belongs to and, where it is known, the handle by which nft names it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from keyd.model import PolicySpec
from keyd.shell import nft_errors
from keyd.shell.blocks import LINEAR_MAX, Layout, Ruled
from keyd.shell.nft_rules import POLICY_CHAINS

Rules = Mapping[str, Sequence[str]]  # of one policy, by chain
UNKNOWN = 0  # no rule has this handle


@dataclass(slots=True)
class Chain:
    """The rules of one chain; the three lists go together."""

    rules: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # policies' ids
    handles: list[int] = field(default_factory=list)

    def copy(self) -> "Chain":
        """A copy to try a change on."""
        return Chain(self.rules.copy(), self.owners.copy(), self.handles.copy())

    def append(self, owner: int, rules: Sequence[str]) -> None:
        """Put a policy's rules behind all others."""
        self.rules += rules
        self.owners += [owner] * len(rules)
        self.handles += [UNKNOWN] * len(rules)

    def remove(self, owner: int) -> None:
        """Take a policy's rules out; they stand together."""
        first, count = self.owners.index(owner), self.owners.count(owner)
        for those in (self.rules, self.owners, self.handles):
            del those[first : first + count]


_EMPTY = Chain()


class Chains:
    """All chains of policies, as nft has them or shall have them.

    Attributes:
        policies: in the order of the match, holds first.
        by_name: the chains, each one list.
        laid: as they stand in nft: one of many policies in blocks, which come before it.
    """

    def __init__(self) -> None:
        self.policies: list[PolicySpec] = []
        self.by_name = {name: Chain() for name in POLICY_CHAINS}
        self.laid = self.by_name.copy()
        self._written: dict[int, tuple[PolicySpec, Rules]] = {}
        self._layout = Layout()

    def after(
        self,
        policies: Sequence[PolicySpec],
        added: Sequence[PolicySpec],
        removed: Sequence[PolicySpec],
        write: Callable[[PolicySpec], Rules],
    ) -> "Chains":
        """The chains for `policies`, by handles as far as rules stay; this object is left alone.

        `added` and `removed` only save time, where they are all the difference and what is new
        comes last. `write` makes the rules of a policy.
        """
        made = self._listed(policies, added, removed, write)
        made._layout = self._layout
        made._lay(self)
        return made

    def _listed(
        self,
        policies: Sequence[PolicySpec],
        added: Sequence[PolicySpec],
        removed: Sequence[PolicySpec],
        write: Callable[[PolicySpec], Rules],
    ) -> "Chains":
        gone = {spec.id for spec in removed}
        kept = [spec for spec in self.policies if spec.id not in gone] if gone else self.policies
        made = Chains()
        if (added or removed) and [*kept, *added] == list(policies):
            made.policies = [*kept, *added]
            made._written = self._written.copy()
            made.by_name = self.by_name.copy()
            made._change(added, gone, write)
            return made
        made.policies = sorted(policies, key=lambda spec: not spec.is_hold)
        for spec in made.policies:
            entry = self._written.get(spec.id)
            if entry is None or (entry[0] is not spec and entry[0] != spec):
                entry = (spec, write(spec))
            made._written[spec.id] = entry
            for name, rules in entry[1].items():
                made.by_name[name].append(spec.id, rules)
        return made

    def _change(
        self,
        added: Iterable[PolicySpec],
        gone: Iterable[int],
        write: Callable[[PolicySpec], Rules],
    ) -> None:
        copied: set[str] = set()

        def touched(name: str) -> Chain:
            if name not in copied:
                copied.add(name)
                self.by_name[name] = self.by_name[name].copy()
            return self.by_name[name]

        for owner in gone:
            for name, rules in self._written.pop(owner)[1].items():
                if rules:
                    touched(name).remove(owner)
        for spec in added:
            entry = self._written[spec.id] = (spec, write(spec))
            for name, rules in entry[1].items():
                touched(name).append(spec.id, rules)

    def _lay(self, before: "Chains") -> None:
        laid: dict[str, Chain] = {}
        for name, chain in self.by_name.items():
            if len(chain.rules) <= LINEAR_MAX:  # of not more policies then
                laid[name] = chain
                continue
            if name == nft_errors.CHAIN:
                laid[name] = Chain([*nft_errors.ALL], [], [UNKNOWN])
                continue
            if chain is before.by_name[name]:
                laid |= {n: c for n, c in before.laid.items() if _is_of(n, name)}
                continue
            ruled: Ruled = []
            for spec in self.policies:
                rules = self._written[spec.id][1].get(name)
                if rules:
                    ruled.append((spec, list(rules)))
            for block, rules in self._layout.rules(name, ruled).items():
                known = before.laid.get(block)
                laid[block] = (
                    known
                    if known and known.rules == rules
                    else Chain(rules, [], [UNKNOWN] * len(rules))
                )
        self.laid = laid

    def settle(self) -> None:
        """These are in force: what leads into blocks that are gone is forgotten."""
        self._layout.forget(self.laid)

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


def _is_of(block: str, name: str) -> bool:
    return block == name or block.startswith(f"{name}_")


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
