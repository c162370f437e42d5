"""The Security Policy Database (RFC 4301 section 4.4.1), with holds in front.

Two policies are the same when direction and selector are, compared as they were given: host
bits beyond the prefix tell policies apart though they select the same packets, as on Linux and
NetBSD. The order of the match is (priority, order), smaller first; `order` counts insertions, and
a policy that is updated without a new priority keeps its own.

A hold is what a crashed predecessor left in the kernel: its policies come first in the match,
nobody sees or deletes them, an equal policy lifts one and SPDFLUSH all.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from errno import EEXIST, EINVAL, ENOBUFS, ENOENT
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from keyd.engine.effects import Now, PoliciesChanged
from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.policy_counts import PolicyCounts
from keyd.engine.policy_times import PolicyTimes
from keyd.engine.reqids import Reqids
from keyd.model import PolicySpec
from pfkey.const import Dir
from pfkey.errors import SadbError
from pfkey.selector import Selector

if TYPE_CHECKING:
    from keyd.engine.flows import Flow

Key = tuple[Dir, Selector]

# An id says its direction in its low three bits: libipsec and setkey read it there.
ID_STEP = 8
CODE_OF_DIR = {Dir.IN: 0, Dir.OUT: 1, Dir.FWD: 2}
LAST_ID = 2**32 // ID_STEP - 1
REVERTIBLE = 1024  # changes whose records can be brought back


class PolicyRecord:
    """A policy, when it was made and used, and how long it may live.

    Attributes:
        generation: of the schedule; entries of an older one are void.
        tried_mono: when it was last to end; steering may have refused.
        by_default: the numbers of requests whose level a knob decides.
        flow: what it says beyond, if OpenBSD's ADDFLOW made it.
        counts: what the data path has done under it.
    """

    __slots__ = (
        "by_default", "counts", "created", "flow", "generation", "hard", "spec", "tried_mono",
        "used",
    )  # fmt: skip

    def __init__(
        self,
        spec: PolicySpec,
        created: Now,
        hard: Limit = NO_LIMIT,
        by_default: frozenset[int] = frozenset(),
    ) -> None:
        self.spec = spec
        self.by_default = by_default
        self.created = created
        self.hard = hard
        self.used: Now | None = None  # the last time
        self.counts = PolicyCounts()
        self.flow: Flow | None = None
        self.generation = 0
        self.tried_mono: float | None = None

    @property
    def ends(self) -> float | None:
        """When its time is over, in monotonic seconds, if nothing uses it until then."""
        ends = []
        if self.hard.addtime:
            ends.append(self.created.mono + self.hard.addtime)
        if self.hard.usetime:
            ends.append((self.used or self.created).mono + self.hard.usetime)
        return min(ends, default=None)

    @property
    def rank(self) -> tuple[int, int]:
        """Its place in the order of the match."""
        return (self.spec.priority, self.spec.order)


_RANK = attrgetter("rank")


class Spd:
    """All policies in the order of the match, and the holds.

    Attributes:
        times: when they end.
        defaults: what stands behind all of them, by id; nobody sees or deletes it (def_policy).
    """

    __slots__ = (
        "_by_id", "_by_key", "_held_ids", "_holds", "_last_id", "_order", "_owed", "_refused",
        "_reqids", "_sorted", "_undo", "defaults", "limit", "times",
    )  # fmt: skip

    def __init__(self, limit: int, reqids: Reqids) -> None:
        self.limit = limit
        self.times = PolicyTimes()
        self.defaults: dict[int, PolicySpec] = {}
        self._reqids = reqids
        self._holds: dict[Key, PolicySpec] = {}
        self._held_ids: set[int] = set()  # never given again, even when the hold is lifted
        self._by_key: dict[Key, PolicyRecord] = {}
        self._by_id: dict[int, PolicyRecord] = {}
        self._sorted: list[PolicyRecord] = []
        self._order = 0
        self._last_id = 0
        self._undo: deque[tuple[PoliciesChanged, tuple[PolicyRecord, ...]]] = deque(
            maxlen=REVERTIBLE
        )
        self._refused: deque[PolicySpec] = deque(maxlen=REVERTIBLE)
        self._owed: dict[Key, PolicySpec] = {}  # to be restored once their selector is free

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[PolicyRecord]:
        return iter(self._sorted)

    @property
    def holds(self) -> tuple[PolicySpec, ...]:
        """What is held for a crashed predecessor."""
        return tuple(sorted(self._holds.values(), key=attrgetter("priority", "order")))

    def policies(self) -> tuple[PolicySpec, ...]:
        """All that steering must do, in the order of the match."""
        shown = (record.spec for record in self._sorted)
        return (*self.holds, *shown, *self.defaults.values())

    def adopt(self, holds: Iterable[PolicySpec]) -> None:
        """Take over a predecessor's policies as holds."""
        for spec in holds:
            self._holds[spec.key] = replace(spec, is_hold=True)
            self._held_ids.add(spec.id)
            self._order = max(self._order, spec.order)

    def get(self, key: Key) -> PolicyRecord | None:
        """The policy of this direction and selector, if there is one; holds are not found."""
        return self._by_key.get(key)

    def find(self, key: Key) -> PolicyRecord:
        """The policy of this direction and selector.

        Raises:
            SadbError: ENOENT when there is none; holds are not found.
        """
        try:
            return self._by_key[key]
        except KeyError:
            raise SadbError(ENOENT, f"no {key[0].name.lower()} policy of this selector") from None

    def get_id(self, policy_id: int) -> PolicyRecord | None:
        """The policy of this id, if there is one."""
        return self._by_id.get(policy_id)

    def find_id(self, policy_id: int) -> PolicyRecord:
        """The policy of this id.

        Raises:
            SadbError: EINVAL when the id names no direction; ENOENT when there is none.
        """
        if policy_id % ID_STEP not in CODE_OF_DIR.values():
            raise SadbError(EINVAL, f"policy id {policy_id} names no direction")
        try:
            return self._by_id[policy_id]
        except KeyError:
            raise SadbError(ENOENT, f"no policy of id {policy_id}") from None

    def add(
        self,
        spec: PolicySpec,
        created: Now,
        hard: Limit = NO_LIMIT,
        *,
        may_replace: bool,
        by_default: frozenset[int] = frozenset(),
    ) -> tuple[PolicyRecord, PolicyRecord | None, PolicySpec | None]:
        """Insert a policy, giving it id and order; also returns what it replaced and lifted.

        Raises:
            SadbError: EEXIST for an equal one unless it may be replaced; ENOBUFS when full.
        """
        old = self._by_key.get(spec.key)
        if old is not None and not may_replace:
            raise SadbError(EEXIST, f"the {spec.dir.name.lower()} policy exists: id {old.spec.id}")
        if old is None and len(self._sorted) >= self.limit:
            raise SadbError(ENOBUFS, f"the SPD holds {self.limit} policies and takes no more")
        if old is not None and old.spec.priority == spec.priority:
            order = old.spec.order
        else:
            self._order += 1
            order = self._order
        policy_id = old.spec.id if old is not None else self._new_id(spec.dir)
        spec = replace(spec, id=policy_id, order=order)
        record = PolicyRecord(spec, created, hard, by_default)
        if old is not None:
            self._take_out(old)
        self._put_in(record)
        return record, old, self._holds.pop(spec.key, None)

    def replace(self, record: PolicyRecord, spec: PolicySpec) -> PolicyRecord:
        """Put another policy of the same selector, id and place; its life goes on."""
        fresh = PolicyRecord(spec, record.created, record.hard, record.by_default)
        fresh.used, fresh.flow, fresh.counts = record.used, record.flow, record.counts
        self._take_out(record)
        self._put_in(fresh)
        return fresh

    def remove(self, record: PolicyRecord) -> None:
        """Take one policy out."""
        self._take_out(record)

    def clear(self) -> tuple[PolicyRecord, ...]:
        """Take all policies out and lift all holds; returns the policies."""
        records = tuple(self._sorted)
        self._holds.clear()
        for record in reversed(records):
            self._take_out(record)
        return records

    def note(self, change: PoliciesChanged, removed: tuple[PolicyRecord, ...]) -> None:
        """Remember the records that a change took out, for `revert`."""
        self._undo.append((change, removed))

    def revert(self, change: PoliciesChanged) -> None:
        """Undo a change that the kernel refused: same ids, same order, same dates.

        Several changes may be on their way to the kernel: what a later one made of the same
        selector stays, and if that is refused as well, what was before both comes back.
        """
        records = self._records_of(change)
        for spec in change.added:
            self.defaults.pop(spec.id, None)
        self.defaults.update({spec.id: spec for spec in change.removed if spec.is_default})
        change = replace(
            change, added=tuple(s for s in change.added if not s.is_default),
            removed=tuple(s for s in change.removed if not s.is_default),
        )  # fmt: skip
        for spec in change.added:
            record = self._by_id.get(spec.id)
            if record is not None and record.spec is spec:
                self._take_out(record)
            else:
                self._refused.append(spec)
        for spec in change.removed:
            if not any(spec is refused for refused in self._refused):
                self._restore(spec, records)
        for spec in change.added:
            if spec.key in self._owed and spec.key not in self._by_key:
                self._restore(self._owed.pop(spec.key), records)

    def _records_of(self, change: PoliciesChanged) -> dict[int, PolicyRecord]:
        at = next(
            (n for n, (noted, _) in enumerate(self._undo) if noted is change), len(self._undo)
        )
        # An older change's records may be owed, and come back with this one.
        records = (record for _, some in islice(self._undo, at + 1) for record in some)
        return {id(record.spec): record for record in records}

    def _restore(self, spec: PolicySpec, records: dict[int, PolicyRecord]) -> None:
        if spec.is_hold:
            self._holds.setdefault(spec.key, spec)
        elif spec.key in self._by_key or spec.id in self._by_id:
            self._owed[spec.key] = spec
        else:
            self._put_in(records.get(id(spec)) or PolicyRecord(spec, Now(0.0, 0.0)))

    def _put_in(self, record: PolicyRecord) -> None:
        self._by_key[record.spec.key] = record
        self._by_id[record.spec.id] = record
        for request in record.spec.requests:
            self._reqids.hold(request.reqid)
        self.times.watch(record)
        insort(self._sorted, record, key=_RANK)

    def _take_out(self, record: PolicyRecord) -> None:
        del self._by_key[record.spec.key]
        del self._by_id[record.spec.id]
        for request in record.spec.requests:
            self._reqids.release(request.reqid)
        self.times.forget(record)
        del self._sorted[bisect_left(self._sorted, record.rank, key=_RANK)]

    def _new_id(self, direction: Dir) -> int:
        while True:
            self._last_id = self._last_id % LAST_ID + 1
            policy_id = self._last_id * ID_STEP + CODE_OF_DIR[direction]
            if policy_id not in self._by_id and policy_id not in self._held_ids:
                return policy_id
