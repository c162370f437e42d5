"""The Security Association Database (RFC 4301 section 4.4.2).

An SA is found by destination, protocol and SPI alone, as on Linux; its source, mode and reqid
take part in the data path's choice, not here. Addresses are packed, in network order.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import replace
from errno import EEXIST, ENOBUFS, ESRCH
from ipaddress import ip_address
from typing import NamedTuple

from keyd.engine.lifetimes import Limit
from keyd.engine.reqids import Reqids
from keyd.model import SaSpec, Usage
from pfkey.const import SATYPE_OF_PROTO, SaState, SaType
from pfkey.errors import SadbError


class SaKey(NamedTuple):
    """What names one SA."""

    dst: bytes
    proto: int
    spi: int


class SaRecord:
    """A live SA: what the data path has of it, and what only PF_KEY shows.

    A larval one has only a name: no keys, no slot, and the data path does not know it.
    """

    __slots__ = (
        "created_mono", "created_wall", "final_usage", "first_use_mono", "generation", "hard",
        "number", "reserved_by", "seq", "soft", "spec", "state",
    )  # fmt: skip

    def __init__(
        self, spec: SaSpec, hard: Limit, soft: Limit, created_mono: float, created_wall: float
    ) -> None:
        self.spec = spec
        self.state = SaState.MATURE
        self.hard = hard
        self.soft = soft
        self.created_mono = created_mono
        self.created_wall = created_wall
        self.first_use_mono: float | None = None  # once the schedule has seen it
        self.generation = 0  # the schedule's: entries of an older one are void
        self.final_usage: Usage | None = None  # once it is dead and its slot another's
        self.reserved_by = 0  # of a larval one: the pid that its GETSPI named
        self.seq = 0  # of the request that made it
        self.number = 0  # the how manieth it is of all that ever were

    @property
    def key(self) -> SaKey:
        """What names it."""
        return SaKey(self.spec.dst, self.spec.proto, self.spec.spi)

    @property
    def satype(self) -> SaType:
        """Its protocol as PF_KEY numbers it."""
        return SATYPE_OF_PROTO[self.spec.proto]

    @property
    def is_larval(self) -> bool:
        """Whether it has no keys yet."""
        return self.state == SaState.LARVAL

    @property
    def is_dying(self) -> bool:
        """Whether a soft limit was reached."""
        return self.state == SaState.DYING

    def __repr__(self) -> str:
        return f"SaRecord({self.spec!r}, {self.state.name})"


_PAGE = 256  # SAs


class Sad:
    """All SAs, in the order in which they were added.

    Attributes:
        larvals: how many of them are larval.
        links: which SA's packets go on to which other SA (`keyd.engine.handle_x_group`).
    """

    __slots__ = (
        "_before", "_free_slots", "_in_udp", "_last", "_next_slot", "_order", "_pages",
        "_records", "_reqids", "larval_limit", "larvals", "limit", "links",
    )  # fmt: skip

    def __init__(self, limit: int, larval_limit: int, reqids: Reqids) -> None:
        self.limit = limit
        self.larval_limit = larval_limit
        self.larvals = 0
        self.links: dict[SaKey, SaKey] = {}  # the newest last
        self._before: dict[SaKey, SaKey] = {}  # the same the other way round
        self._reqids = reqids
        self._records: dict[SaKey, SaRecord] = {}
        self._in_udp: dict[tuple[bytes, bytes], dict[SaKey, SaRecord]] = {}
        self._pages: dict[int, dict[int, SaRecord]] = {}  # the same, by number
        self._last = 0
        self._free_slots: list[int] = []  # a heap: the lowest free slot is used first
        self._next_slot = 0
        self._order = 0

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[SaRecord]:
        return iter(self._records.values())

    def slowly(self) -> Iterator[SaRecord]:
        """Those that are there now, but for what goes before its turn; each once.

        For who takes long over them: nothing is copied but what is about to be shown, and the SAD
        may change meanwhile.
        """
        last, pages = self._last, list(self._pages)
        return (
            record
            for page in pages
            for record in tuple(self._pages.get(page, {}).values())
            if record.number <= last and record.state != SaState.DEAD
        )

    def get(self, key: SaKey) -> SaRecord | None:
        """The SA of this name, if there is one."""
        return self._records.get(key)

    def find(self, key: SaKey) -> SaRecord:
        """The SA of this name.

        Raises:
            SadbError: ESRCH when there is none.
        """
        try:
            return self._records[key]
        except KeyError:
            raise SadbError(ESRCH, f"no SA {describe(key)}", "3.1") from None

    def in_udp(self, src: bytes, dst: bytes) -> tuple[SaRecord, ...]:
        """The SAs of ESP in UDP from one address to another that have keys."""
        return tuple(self._in_udp.get((src, dst), {}).values())

    def insert(self, record: SaRecord) -> None:
        """Add an SA and give it a slot and its place in the order of age.

        Raises:
            SadbError: EEXIST when the name is taken; ENOBUFS when the database is full.
        """
        self._put_in(record)
        if self._free_slots:
            slot = heapq.heappop(self._free_slots)
        else:
            slot = self._next_slot
            self._next_slot += 1
        self._order += 1
        record.spec.take_place(slot, self._order)
        self._index(record)

    def reserve(self, record: SaRecord, pid: int) -> None:
        """Add a larval SA, for the client that gave this pid.

        Raises:
            SadbError: as `insert`; ENOBUFS also when there are too many larval ones.
        """
        if self.larvals >= self.larval_limit:
            raise SadbError(ENOBUFS, f"{self.larvals} SPIs are reserved already", "3.1.1")
        self._put_in(record)
        self.larvals += 1
        record.state = SaState.LARVAL
        record.final_usage = Usage()
        record.reserved_by = pid

    def move(self, moves: Iterable[tuple[SaRecord, tuple[bytes, bytes]]]) -> None:
        """Give SAs other addresses, together; the names must be free. They are the newest then."""
        all_of_them = tuple(moves)
        for record, _ in all_of_them:
            del self._records[record.key]
            self._unindex(record)
        for record, (src, dst) in all_of_them:
            self._unlink(record.key)
            self._order += 1
            record.spec = replace(
                record.spec, src=src, dst=dst, via=b"", origin=b"", order=self._order
            )
            self._records[record.key] = record
            self._index(record)

    def remove(self, record: SaRecord, usage: Usage) -> None:
        """Take an SA out: it is dead, keeps its last `usage`, and its slot is free."""
        del self._records[record.key]
        self._unlink(record.key)
        self._unindex(record)
        page = self._pages[record.number // _PAGE]
        del page[record.number]
        if not page:
            del self._pages[record.number // _PAGE]
        self._reqids.release(record.spec.reqid)
        if record.is_larval:
            self.larvals -= 1
        else:
            heapq.heappush(self._free_slots, record.spec.slot)
        record.state = SaState.DEAD
        record.final_usage = usage

    def link(self, first: SaKey, second: SaKey) -> None:
        """Let the second stand behind the first; what either had in this place, it has no more."""
        self._end_link(first, self.links.get(first))
        self._end_link(self._before.get(second), second)
        self.links[first] = second
        self._before[second] = first

    def chain(self, last: SaKey) -> list[SaRecord]:
        """The SAs that lead to this one, and itself, in their order."""
        found = [last]
        while (key := self._before.get(found[-1])) is not None:
            found.append(key)
        return [self._records[key] for key in reversed(found)]

    def _unlink(self, key: SaKey) -> None:
        self._end_link(key, self.links.get(key))
        self._end_link(self._before.get(key), key)

    def _end_link(self, first: SaKey | None, second: SaKey | None) -> None:
        if first is not None and second is not None:
            del self.links[first]
            del self._before[second]

    def _index(self, record: SaRecord) -> None:
        if record.spec.encap:
            pair = (record.spec.src, record.spec.dst)
            self._in_udp.setdefault(pair, {})[record.key] = record

    def _unindex(self, record: SaRecord) -> None:
        if record.spec.encap:
            pair = (record.spec.src, record.spec.dst)
            del self._in_udp[pair][record.key]
            if not self._in_udp[pair]:
                del self._in_udp[pair]

    def _put_in(self, record: SaRecord) -> None:
        key = record.key
        if key in self._records:
            what = "is reserved" if self._records[key].is_larval else "exists"
            raise SadbError(EEXIST, f"SA {describe(key)} {what}", "3.1.3")
        if len(self._records) >= self.limit:
            raise SadbError(ENOBUFS, f"the SAD holds {self.limit} SAs and takes no more")
        self._records[key] = record
        self._last = record.number = self._last + 1
        self._pages.setdefault(record.number // _PAGE, {})[record.number] = record
        self._reqids.hold(record.spec.reqid)


def describe(key: SaKey) -> str:
    """The name of an SA as people read it."""
    satype = SATYPE_OF_PROTO.get(key.proto)
    proto = satype.name.removeprefix("X_").lower() if satype else f"proto {key.proto}"
    return f"{proto} spi {key.spi:#x} to {ip_address(key.dst)}"
