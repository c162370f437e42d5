"""Which SAs have been asked for, so that each need is one ACQUIRE and a storm a few.

What is remembered is NetBSD's block list, per SA that is needed: after an ACQUIRE, as many packets
as net.key.blockacq_count says ask in vain, and the next one makes it be sent again, with its
sequence number; after net.key.blockacq_lifetime seconds all begins anew. What ends earlier:

- the SA arrives: for a moment, until no worker can be behind, its need is not believed;
- all clients that were asked have refused: then nobody is asked until that time is over.

ACQUIREs are few, all together and per policy: whoever spoofs the sources of packets under a
wildcard policy must not make the IKE daemon flood others.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from keyd.engine.effects import ClientId
from keyd.model import Need, SaSpec
from pfkey.const import Mode

if TYPE_CHECKING:
    from keyd.engine.sad import SaRecord

SEQ_MAX = 2**32 - 1
LINGER_SECONDS = 1.0  # longer than a worker's report is on its way
BURST, PER_SECOND = 128, 50.0  # all policies together
POLICY_BURST, POLICY_PER_SECOND = 32, 10.0
COMPLAINT_SECONDS = 10.0


class Asked:
    """One need that clients know of.

    Attributes:
        seq: of its ACQUIREs.
        until: when it is forgotten, in monotonic seconds.
        clients: who was asked and has not refused.
        packets: how many have asked since the last ACQUIRE.
        is_over: nobody is asked again: an SA is there, or (`is_refused`) will not be.
        larval: the larval SA that GETSPI made for this need.
    """

    __slots__ = (
        "clients", "is_over", "is_refused", "larval", "need", "packets", "seq", "until",
    )  # fmt: skip

    def __init__(self, need: Need, seq: int, until: float) -> None:
        self.need = need
        self.seq = seq
        self.until = until
        self.clients: frozenset[ClientId] = frozenset()
        self.packets: float = 0
        self.is_over = False
        self.is_refused = False
        self.larval: SaRecord | None = None


class _Bucket:
    """A rate with a burst."""

    __slots__ = ("burst", "left", "per_second", "since")

    def __init__(self, burst: int, per_second: float, now: float) -> None:
        self.burst = burst
        self.per_second = per_second
        self.left = float(burst)
        self.since = now

    def fill(self, now: float) -> float:
        self.left = min(self.burst, self.left + (now - self.since) * self.per_second)
        self.since = now
        return self.left


class Acquires:
    """All of them, at most `limit`."""

    __slots__ = (
        "_all", "_buckets", "_by_need", "_by_seq", "_complained", "_seq", "limit", "limited",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.limited = 0  # ACQUIREs not sent for being too many
        self._by_need: dict[Need, Asked] = {}
        self._by_seq: dict[int, Asked] = {}
        self._seq = 0
        self._complained = -COMPLAINT_SECONDS
        self._all = _Bucket(BURST, PER_SECOND, 0.0)
        self._buckets: dict[int, _Bucket] = {}

    def __len__(self) -> int:
        """How many needs clients have been asked for in vain so far; some may be stale."""
        return sum(not one.is_over for one in self._by_need.values())

    def find(self, need: Need, now: float) -> Asked | None:
        """What is known of a need."""
        return self._fresh(self._by_need.get(need), now)

    def find_seq(self, seq: int, now: float) -> Asked | None:
        """What was asked under a sequence number."""
        return self._fresh(self._by_seq.get(seq), now)

    def open(self, need: Need, now: float, seconds: float) -> Asked | None:
        """Begin to ask; None when too much is being asked already."""
        if len(self._by_need) >= self.limit:
            self._forget([one for one in self._by_need.values() if one.until <= now])
        if len(self._by_need) >= self.limit:
            self.limited += 1
            return None
        seq = self.next_seq()
        one = self._by_need[need] = self._by_seq[seq] = Asked(need, seq, now + seconds)
        return one

    def next_seq(self) -> int:
        """A number that no ACQUIRE has."""
        while True:
            self._seq = self._seq % SEQ_MAX + 1
            if self._seq not in self._by_seq:
                return self._seq

    def may_send(self, policy: int, now: float) -> bool:
        """Whether one more ACQUIRE may go out; if so, it counts."""
        own = self._buckets.get(policy)
        if own is None:
            if len(self._buckets) >= self.limit:
                self._buckets.clear()
            own = self._buckets[policy] = _Bucket(POLICY_BURST, POLICY_PER_SECOND, now)
        if own.fill(now) < 1 or self._all.fill(now) < 1:
            self.limited += 1
            return False
        own.left -= 1
        self._all.left -= 1
        return True

    def complains(self, now: float) -> bool:
        """Whether it is time to tell the operator that there are too many."""
        if now - self._complained < COMPLAINT_SECONDS:
            return False
        self._complained = now
        return True

    def met(self, sa: SaSpec, seq: int, now: float) -> list[Asked]:
        """An SA with keys is there; the needs that it ends, or that its ADD names by `seq`."""
        if not self._by_need:
            return []
        ended = [one for need in _served(sa) if (one := self.find(need, now))]
        named = self.find_seq(seq, now)
        if named and (named.need.proto, named.need.dst) == (sa.proto, sa.dst):
            ended.append(named)
        for one in ended:
            one.is_over, one.is_refused, one.until = True, False, now + LINGER_SECONDS
        return ended

    def refuse(self, one: Asked, client: ClientId, until: float) -> bool:
        """A client gives up; True when nobody is left who was asked."""
        one.clients -= {client}
        if one.clients:
            return False
        one.is_over, one.is_refused, one.until = True, True, until
        return True

    def leave(self, client: ClientId) -> None:
        """A client is gone; what only it was asked for may be asked of others."""
        left: dict[frozenset[ClientId], frozenset[ClientId]] = {}  # most were asked of the same
        alone = []
        for one in self._by_need.values():
            if client not in one.clients:
                continue
            if one.clients not in left:
                left[one.clients] = one.clients - {client}
            one.clients = left[one.clients]
            if not one.clients and not one.is_over:
                alone.append(one)
        self._forget(alone)

    def renew(self) -> None:
        """Somebody has come who was not asked: the next packets ask, as if blocked long enough."""
        self._forget([one for one in self._by_need.values() if one.is_refused])
        for one in self._by_need.values():
            one.packets = float("inf")

    def forget_protocol(self, proto: int | None) -> None:
        """All SAs of a protocol are gone, or all: the next packet asks."""
        self._forget([o for o in self._by_need.values() if proto in (None, o.need.proto)])

    def forget_policies(self, ids: Iterable[int]) -> None:
        """These policies are gone, and with them what was asked in their name."""
        gone = set(ids)
        if self._by_need:
            self._forget([o for o in self._by_need.values() if o.need.policy in gone])

    def _fresh(self, one: Asked | None, now: float) -> Asked | None:
        if one is not None and one.until <= now:
            self._forget([one])
            return None
        return one

    def _forget(self, those: Iterable[Asked]) -> None:
        for one in those:
            del self._by_need[one.need]
            del self._by_seq[one.seq]


def _served(sa: SaSpec) -> Iterator[Need]:
    """The needs that an SA ends: a policy may ask for any reqid, an SA be of any mode."""
    modes = (Mode.TRANSPORT, Mode.TUNNEL) if sa.mode == Mode.ANY else (sa.mode,)
    for mode in modes:
        for reqid in {0, sa.reqid}:
            yield Need(
                policy=0, proto=sa.proto, mode=mode, reqid=reqid, src=sa.src, dst=sa.dst
            )  # fmt: skip
