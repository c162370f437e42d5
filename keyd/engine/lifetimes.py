"""When an SA becomes DYING and when it ends (RFC 2367 section 2.3.2, RFC 4301 section 4.4.2.1).

Limits are as Linux reads them: 0 does not limit; allocations count packets; `usetime` counts
from the first use; a limit is reached when the count equals it. Limits by `addtime` wait in a
heap. The others need what the data path counted, so their SAs are asked about once a second, in
portions, for control must not wait behind a hundred thousand of them.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from keyd.engine.effects import Now
from keyd.model import Usage

if TYPE_CHECKING:
    from keyd.engine.sad import SaRecord

POLL_SECONDS = 1.0
POLL_PORTION = 2000  # SAs asked in one tick: a few milliseconds
EXPIRY_PORTION = 500  # SAs ended in one tick: each is a few records


class Limit(NamedTuple):
    """One lifetime, hard or soft; 0 does not limit."""

    allocations: int = 0  # packets
    octets: int = 0
    addtime: int = 0  # seconds since ADD
    usetime: int = 0  # seconds since the first use

    @property
    def needs_usage(self) -> bool:
        """Whether only the data path's counts can tell that it is reached."""
        return bool(self.allocations or self.octets or self.usetime)

    def is_reached(self, usage: Usage, age: float, use_age: float) -> bool:
        """Whether any limit is reached; `use_age` is negative before the first use."""
        return (
            0 < self.addtime <= age
            or 0 < self.usetime <= use_age
            or 0 < self.octets <= usage.octets
            or 0 < self.allocations <= usage.packets
        )


NO_LIMIT = Limit()


class Due(NamedTuple):
    """An entry of the heap. `number` keeps entries of one moment apart, the hard one first."""

    when: float
    number: int
    generation: int
    is_hard: bool
    sa: "SaRecord"


class Schedule:
    """Which SA to look at, and when."""

    __slots__ = ("_asking", "_heap", "_numbers", "_poll_at", "_polled")

    def __init__(self) -> None:
        self._heap: list[Due] = []
        self._numbers = count()
        self._polled: dict[int, SaRecord] = {}  # by identity: an SA may move
        self._asking: deque[int] = deque()  # what is left of this second's round
        self._poll_at = 0.0

    def add(self, sa: "SaRecord", now: Now) -> None:
        """Watch an SA, or watch it by its new limits; what was scheduled before is void."""
        sa.generation += 1
        for limit, is_hard in ((sa.hard, True), (sa.soft, False)):
            if limit.addtime:
                when = sa.created_mono + limit.addtime
                entry = Due(when, next(self._numbers), sa.generation, is_hard, sa)
                heapq.heappush(self._heap, entry)
        if sa.hard.needs_usage or sa.soft.needs_usage:
            if not self._polled:
                self._poll_at = now.mono + POLL_SECONDS
            self._polled[id(sa)] = sa
        else:
            self._polled.pop(id(sa), None)

    def forget(self, sa: "SaRecord") -> None:
        """Stop watching an SA."""
        sa.generation += 1
        self._polled.pop(id(sa), None)

    def next_deadline(self) -> float | None:
        """When `due` has something to do, in monotonic seconds; None: not before a change."""
        deadlines = [self._heap[0].when] if self._heap else []
        if self._polled:
            deadlines.append(self._poll_at)
        return min(deadlines, default=None)

    def compact(self, live: int) -> None:
        """Drop void entries once they outnumber what `live` SAs can need."""
        if len(self._heap) > 4 * live + 1000:
            self._heap = [entry for entry in self._heap if entry.generation == entry.sa.generation]
            heapq.heapify(self._heap)

    def due(self, now: Now, usage: Callable[[int], Usage]) -> Iterator[tuple["SaRecord", bool]]:
        """Name the SAs that reached a limit, True for a hard one; a portion at a time.

        The caller ends or ages each one before it asks for the next.
        """
        found = 0
        while self._heap and self._heap[0].when <= now.mono and found < EXPIRY_PORTION:
            entry = heapq.heappop(self._heap)
            if entry.generation != entry.sa.generation:
                continue
            is_hard = entry.is_hard or 0 < entry.sa.hard.addtime <= now.mono - entry.sa.created_mono
            if is_hard or not entry.sa.is_dying:
                found += 1
                yield entry.sa, is_hard
        if not self._polled or now.mono < self._poll_at:
            return
        if not self._asking:
            self._asking.extend(self._polled)
        for _ in range(min(POLL_PORTION, len(self._asking))):
            sa = self._polled.get(self._asking.popleft())
            if sa is None:
                continue
            verdict = _verdict(sa, usage(sa.spec.slot), now)
            if verdict is not None:
                found += 1
                yield sa, verdict
                if found >= EXPIRY_PORTION:
                    break
        if not self._asking:
            self._poll_at = now.mono + POLL_SECONDS


def _verdict(sa: "SaRecord", used: Usage, now: Now) -> bool | None:
    """Whether a hard (True) or a soft (False) limit is reached.

    The data path tells the first use by the wall clock, which may be set at any time; it is
    turned into monotonic time once, when it is first seen.
    """
    age = now.mono - sa.created_mono
    if sa.first_use_mono is None and used.first_use:
        sa.first_use_mono = now.mono - min(max(now.wall - used.first_use, 0.0), age)
    use_age = -1.0 if sa.first_use_mono is None else now.mono - sa.first_use_mono
    if sa.hard.is_reached(used, age, use_age):
        return True
    if not sa.is_dying and sa.soft.is_reached(used, age, use_age):
        return False
    return None
