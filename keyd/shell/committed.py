"""The policies that nft holds; the engine's SPD may be some commits ahead."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keyd.engine.effects import PoliciesChanged
from keyd.model import PolicySpec
from keyd.shell.blocks import order


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: how what nft will hold differs from now."""

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

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def policies(self) -> tuple[PolicySpec, ...]:
        """In match order, holds first."""
        return tuple(sorted(self._by_id.values(), key=order))

    def step(self, changes: Sequence[PoliciesChanged]) -> Step:
        """What the changes, in order, come to; what cancels out is left out."""
        after: dict[int, PolicySpec | None] = {}
        for change in changes:
            for policy in change.removed:
                after[policy.id] = None
            for policy in change.added:
                after[policy.id] = policy
        pairs = [(self._by_id.get(number), new) for number, new in after.items()]
        differing = [(old, new) for old, new in pairs if old is not new and old != new]
        return Step(
            tuple(new for _, new in differing if new), tuple(old for old, _ in differing if old)
        )

    def take(self, step: Step) -> None:
        """It is in force."""
        for policy in step.removed:
            self._by_id.pop(policy.id, None)
        for policy in step.added:
            self._by_id[policy.id] = policy
