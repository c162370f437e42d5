"""The outbound pipelines: the SPD's, and one for each policy of sockets, over the same SAs.

What a pipeline remembers of flows, and what waits in it, is its own: the same addresses and ports
mean another policy there.
"""

from collections.abc import Callable, Iterable

from keyd.model import Need, PolicySpec, Settings
from keyd.packet.association import OutSa
from keyd.packet.outbound import Outbound

_Make = Callable[[PolicySpec | None], Outbound]


class Branches:
    """All of them; `make` makes one whose packets this policy decides of, None: the SPD."""

    def __init__(self, make: _Make) -> None:
        self._make = make
        self._branches: dict[int, Outbound] = {}
        self._settings = Settings()
        self.main = make(None)

    @property
    def all(self) -> tuple[Outbound, ...]:
        """The SPD's first."""
        return (self.main, *self._branches.values())

    def branch(self, number: int, policy: PolicySpec) -> Outbound:
        """Begin with a policy of sockets."""
        made = self._branches[number] = self._make(policy)
        made.share(self.main)
        made.tune(self._settings)
        return made

    def cut_off(self, number: int) -> None:
        """End it; what waits in it is dropped, and counted."""
        branch = self._branches.pop(number, None)
        if branch is not None:
            branch.waiting.tune(Settings())

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self.main.install(sa)
        for branch in self._branches.values():
            branch.stir(sa.spec.src, sa.spec.dst)

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        self.main.remove(slot)
        for branch in self._branches.values():
            branch.stir(b"", b"")

    def update_policies(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Follow a change of the SPD."""
        self.main.update_policies(added, removed)

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        self._settings = settings
        for one in self.all:
            one.tune(settings)

    def end_wait(self, need: Need) -> None:
        """Drop what waits for this."""
        for one in self.all:
            one.waiting.end(need)

    def resume(self, now_us: int) -> None:
        """Send what waited and may go now; drop what waited too long."""
        for one in self.all:
            one.resume(now_us)

    def patiences(self) -> list[Callable[[float], float | None]]:
        """What tells how soon one of them has something to do."""
        return [how for one in self.all for how in (one.waiting.patience, one.tallies.patience)]
