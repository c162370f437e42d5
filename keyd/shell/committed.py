"""The policies that nft holds, in match order; the engine's SPD may be some commits ahead."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from keyd.engine.effects import PoliciesChanged
from keyd.model import PolicySpec


def _order(policy: PolicySpec) -> tuple[bool, int, int, int]:
    return (not policy.is_hold, policy.priority, policy.order, policy.id)


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: what nft will hold after it, and how that differs from now."""

    policies: tuple[PolicySpec, ...]
    added: tuple[PolicySpec, ...]
    removed: tuple[PolicySpec, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether nft need not be asked."""
        return not self.added and not self.removed


class Committed:
    """What nft holds."""

    def __init__(self, policies: Iterable[PolicySpec] = ()) -> None:
        self._by_id = {policy.id: policy for policy in policies}
        self._ordered = sorted(self._by_id.values(), key=_order)

    @property
    def policies(self) -> tuple[PolicySpec, ...]:
        """In match order, holds first."""
        return tuple(self._ordered)

    def copy(self) -> Self:
        """A copy to try a change on."""
        made = type(self)()
        made._by_id = self._by_id.copy()
        made._ordered = self._ordered.copy()
        return made

    def step(self, changes: Sequence[PoliciesChanged]) -> tuple[Self, Step]:
        """What the changes, in order, come to; what cancels out is left out."""
        after = self.copy()
        touched: dict[int, None] = {}
        for change in changes:
            for policy in change.removed:
                after._remove(policy.id)
                touched[policy.id] = None
            for policy in change.added:
                after._remove(policy.id)
                after._insert(policy)
                touched[policy.id] = None
        pairs = [(self._by_id.get(i), after._by_id.get(i)) for i in touched]
        differing = [(old, new) for old, new in pairs if old != new]
        added = tuple(new for _, new in differing if new)
        removed = tuple(old for old, _ in differing if old)
        return after, Step(after.policies, added, removed)

    def _insert(self, policy: PolicySpec) -> None:
        self._by_id[policy.id] = policy
        insort(self._ordered, policy, key=_order)

    def _remove(self, number: int) -> None:
        policy = self._by_id.pop(number, None)
        if policy is not None:
            del self._ordered[bisect_left(self._ordered, _order(policy), key=_order)]
