"""When a policy ends: by age, or because nothing used it (KAME's lifetimes of policies).

`addtime` counts seconds since SPDADD, `usetime` seconds since the last use, or since SPDADD before
the first; 0 does not limit. The data path tells of uses about once a second.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyd.engine.spd import PolicyRecord

PORTION = 500  # policies that end in one tick: one commit
RETRY_SECONDS = 1.0  # when nft would not let one go


class PolicyTimes:
    """Which policy to look at, and when. A use moves its end; that is seen when it is looked at."""

    __slots__ = ("_heap", "_numbers", "_watched")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, PolicyRecord]] = []  # when, number, generation
        self._numbers = count()
        self._watched = 0

    def watch(self, policy: "PolicyRecord") -> None:
        """Watch a policy, if it has an end."""
        policy.generation += 1
        if policy.ends is not None:
            self._watched += 1
            self._push(policy)

    def forget(self, policy: "PolicyRecord") -> None:
        """Watch it no longer."""
        policy.generation += 1
        if policy.ends is not None:
            self._watched -= 1
            if len(self._heap) > 2 * self._watched + 1000:
                self._heap = [entry for entry in self._heap if entry[2] == entry[3].generation]
                heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """When `due` has something to look at, in monotonic seconds."""
        return self._heap[0][0] if self._heap else None

    def due(self, mono: float) -> list["PolicyRecord"]:
        """The policies whose end has come, a portion of them."""
        return list(self._due(mono))

    def _due(self, mono: float) -> Iterator["PolicyRecord"]:
        found = 0
        while self._heap and self._heap[0][0] <= mono and found < PORTION:
            _, _, generation, policy = heapq.heappop(self._heap)
            if generation != policy.generation:
                continue
            policy.tried_mono = mono if policy.ends is not None and policy.ends <= mono else None
            self._push(policy)
            if policy.tried_mono is not None:
                found += 1
                yield policy

    def _push(self, policy: "PolicyRecord") -> None:
        when = policy.ends or 0.0
        if policy.tried_mono is not None:
            when = max(when, policy.tried_mono + RETRY_SECONDS)
        heapq.heappush(self._heap, (when, next(self._numbers), policy.generation, policy))
