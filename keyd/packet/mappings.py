"""Where the peers of ESP in UDP are now: the control process is told, and no more than it bears.

RFC 3948 section 4, RFC 7296 section 2.23. The first change of an SA is told at once, the next ones
once a second, the newest alone, and all together are limited: a peer with a key that comes from
ever other ports keeps neither the engine nor key daemons busy.
"""

from collections.abc import Mapping as Map

from keyd.packet.association import InSa
from keyd.packet.natt import Mapping

AGAIN_SECONDS = 1.0  # between two changes of one SA
PER_SECOND = 50  # of all SAs

_Place = tuple[bytes, int]


class Mappings:
    """Changes that are to be told, the oldest first; at most one of each SA.

    Args:
        sas: the inbound SAs by slot.
    """

    def __init__(self, sas: Map[int, InSa]) -> None:
        self._sas = sas
        self._moved: dict[int, _Place] = {}
        self._lately: dict[int, float] = {}  # when an SA's change was told
        self._second = 0.0
        self._told = 0
        self._look_at = 0.0

    def note(self, sa: InSa, place: _Place) -> bool:
        """The newest authentic packet came from there; whether that is another place."""
        slot = sa.spec.slot
        seen = self._moved.get(slot)
        if place == (seen or sa.peer):
            return False
        if place == sa.peer:  # back where it was, before anybody was told
            del self._moved[slot]
            return True
        self._moved[slot] = place
        if seen is None:
            self._look_at = 0.0
        return True

    def forget(self, slot: int) -> None:
        """There is no such SA any more."""
        self._moved.pop(slot, None)

    def take(self, now: float) -> list[Mapping]:
        """What is to be told now."""
        if self.patience(now) != 0:
            return []
        if not 0 <= now - self._second < 1:
            self._second, self._told = now, 0
            self._lately = {slot: at for slot, at in self._lately.items() if _is_recent(at, now)}
        found = []
        self._look_at = now + AGAIN_SECONDS
        for slot in list(self._moved):
            if self._told >= PER_SECOND:
                self._look_at = min(self._look_at, self._second + 1)
                break
            told_at = self._lately.get(slot)
            if told_at is not None and _is_recent(told_at, now):
                self._look_at = min(self._look_at, told_at + AGAIN_SECONDS)
                continue
            found.append(self._tell(slot))
            self._lately[slot] = now
            self._told += 1
        return found

    def patience(self, now: float) -> float | None:
        """In how many seconds there is something to tell; None: not before another packet."""
        if not self._moved:
            return None
        left = self._look_at - now
        return left if 0 < left <= AGAIN_SECONDS else 0.0  # the clock may have been set back

    def _tell(self, slot: int) -> Mapping:
        sa, place = self._sas[slot], self._moved.pop(slot)
        before, sa.peer = sa.peer, place
        return Mapping(sa.spec.dst, sa.spec.spi, *before, *place)


def _is_recent(told_at: float, now: float) -> bool:
    return 0 <= now - told_at < AGAIN_SECONDS
