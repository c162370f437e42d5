"""The outbound pipelines: the SPD's, and one for each policy of sockets (`keyd.packet.trunk`)."""

from collections.abc import Callable

from keyd.model import Need, PolicySpec
from keyd.packet.outbound import Outbound


class Branches:
    """All of them; `main` is the SPD's, which is told of SAs and settings for all."""

    def __init__(self, main: Outbound) -> None:
        self.main = main
        self._branches: dict[int, Outbound] = {}

    @property
    def all(self) -> tuple[Outbound, ...]:
        """The SPD's first."""
        return (self.main, *self._branches.values())

    def branch(self, number: int, policy: PolicySpec) -> Outbound:
        """Begin with a policy of sockets."""
        self.cut_off(number)
        made = self._branches[number] = self.main.branch(policy)
        return made

    def cut_off(self, number: int) -> None:
        """End it; what waits in it is dropped, and counted."""
        branch = self._branches.pop(number, None)
        if branch is not None:
            branch.end()

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
        return [self.main.tallies.patience, *(one.waiting.patience for one in self.all)]
