"""What each policy has done with packets: handed to the control process about once a second.

A packet counts once under its policy: as one that passed, or under the reason for which it was
dropped. Outbound, packets are what TCP is cut into, as `tun_segments` counts them. What is dropped
before a policy is known belongs to none.
"""

from collections.abc import Sequence
from typing import NamedTuple

TELL_SECONDS = 1.0
KNOWN_MAX = 8192


class Told(NamedTuple):
    """What a policy did since it was told last; `drops` are (row of the counters, packets)."""

    policy: int
    packets: int
    octets: int
    drops: tuple[tuple[int, int], ...]


class Tally:
    """One policy's; policy 0 is none, and is never told.

    Attributes:
        octets: of the packets that passed, IP headers included, as they are outside of any SA.
    """

    __slots__ = ("drops", "octets", "packets", "policy")

    def __init__(self, policy: int) -> None:
        self.policy = policy
        self.packets = 0
        self.octets = 0
        self.drops: dict[int, int] = {}

    def drop(self, row: int, packets: int = 1) -> None:
        """Packets end in this counter."""
        self.drops[row] = self.drops.get(row, 0) + packets


class Tallies:
    """A worker's tallies.

    Attributes:
        nobody: what is counted where no policy is known.
        busy: add to it each one that had a packet.
    """

    __slots__ = ("_known", "_told", "busy", "nobody")

    def __init__(self) -> None:
        self.nobody = Tally(0)
        self.busy: set[Tally] = set()
        self._known: dict[int, Tally] = {0: self.nobody}
        self._told = 0.0

    def of(self, policy: int) -> Tally:
        """A policy's, to be kept with what is remembered of a flow."""
        tally = self._known.get(policy)
        if tally is None:
            if len(self._known) >= KNOWN_MAX:  # flows may keep those that are forgotten
                self._known = {0: self.nobody}
            tally = self._known[policy] = Tally(policy)
        return tally

    def drop(self, policy: int, row: int, packets: int) -> None:
        """Packets under a policy end in this counter."""
        tally = self.of(policy)
        tally.drop(row, packets)
        self.busy.add(tally)

    def take(self, now: float) -> list[Told]:
        """What is to be told now; a policy may be there twice."""
        if not self.busy or 0 <= now - self._told < TELL_SECONDS:
            return []
        self.busy.discard(self.nobody)
        told = [
            Told(tally.policy, tally.packets, tally.octets, tuple(tally.drops.items()))
            for tally in self.busy
        ]
        for tally in (*self.busy, self.nobody):
            tally.packets = tally.octets = 0
            tally.drops.clear()
        self.busy.clear()
        self._told = now
        return told

    def put_back(self, told: Sequence[Told]) -> None:
        """Nobody has heard that: it is told again with what comes."""
        for policy, packets, octets, drops in told:
            tally = self.of(policy)
            tally.packets += packets
            tally.octets += octets
            for row, number in drops:
                tally.drop(row, number)
            self.busy.add(tally)

    def patience(self, now: float) -> float | None:
        """In how many seconds there is something to tell; None: not before another packet."""
        return max(0.0, self._told + TELL_SECONDS - now) if self.busy else None
