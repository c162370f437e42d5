"""Many policies in nft: blocks of rules that a packet enters only if its address may be there.

Plain text out. A chain of few policies stays as it is. One of many is cut into blocks of
neighbouring policies, each a chain of its own, and the chain itself keeps one rule or two a block:
is the packet's source, or destination, among those of the block's policies? Then through the block,
and on with the next if nothing there decides. The order stays, and what is passed over could not
have matched: the first match decides as ever (RFC 4301 section 4.4.1).

A block is never changed: a change puts another in its place, so that what nft refuses costs nothing
to take back, and one policy more or less among any number costs a block.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from keyd.model import PolicySpec
from pfkey.selector import Range

LINEAR_MAX = 512  # policies
BLOCK_MAX = 128  # policies
_BLOCK = 64  # policies, of a new one
_FEW = 16  # a block of fewer joins the one before it

_Order = tuple[bool, int, int, int]
_Entry = tuple[_Order, PolicySpec, Sequence[str]]
_Span = tuple[int, int]


def order(policy: PolicySpec) -> _Order:
    """The order of the match, holds first; no two policies have the same."""
    return (not policy.is_hold, policy.priority, policy.order, policy.id)


def _order_of(entry: _Entry) -> _Order:
    return entry[0]


class Block:
    """Neighbouring policies of one chain with their rules; complete once it is `settled`."""

    __slots__ = ("entries", "is_new", "low", "name", "rules", "ways", "wide")

    def __init__(self, name: str, entries: list[_Entry], low: _Order, wide: int = 0) -> None:
        self.name = name
        self.entries = entries
        self.low = low  # what is from here up to the next block's belongs here
        self.is_new = True
        self.rules: list[str] = []
        self.ways: list[str] = []
        self.wide = wide  # for how many policies `ways` were made; 0: they do not hold all of these

    def copy(self) -> "Block":
        """One to change."""
        made = Block(self.name, self.entries.copy(), self.low, self.wide)
        made.ways = self.ways
        return made

    def settled(self, *, is_entered: bool) -> None:
        """It will not change any more. Ways of more policies will do, unless of many more."""
        self.is_new = False
        self.low = self.entries[0][0] if self.entries else self.low
        self.rules = [rule for _, _, rules in self.entries for rule in rules]
        if is_entered and not len(self.entries) <= self.wide <= 2 * len(self.entries):
            self.ways = [f"{w} jump {self.name}" for w in entrances(e[1] for e in self.entries)]
            self.wide = len(self.entries)
        elif not is_entered:
            self.ways, self.wide = [], 0


class Blocks:
    """The policies of one chain. To change it: a copy, changes, then `settle`.

    Attributes:
        is_linear: few enough to be one chain.
    """

    def __init__(self, chain: str) -> None:
        self.is_linear = True
        self._chain = chain
        self._all: list[Block] = []
        self._count = 0
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._all)

    def copy(self) -> "Blocks":
        """One to change; this one stays as it is."""
        made = Blocks(self._chain)
        made.is_linear, made._count, made._numbers = self.is_linear, self._count, self._numbers
        made._all = self._all.copy()
        return made

    def has(self, spec: PolicySpec) -> bool:
        """Whether this policy is among them."""
        key = order(spec)
        found = self._all[self._place(key)].entries if self._all else []
        at = bisect_left(found, key, key=_order_of)
        return at < len(found) and found[at][0] == key

    def insert(self, spec: PolicySpec, rules: Sequence[str]) -> None:
        """Put a policy into its place."""
        key = order(spec)
        self._count += 1
        if not self._all or self._is_next(key):
            self._all.append(self._made([(key, spec, rules)]))
            return
        block = self._own(self._place(key))
        block.wide = 0
        block.low = min(block.low, key)
        block.entries.insert(bisect_left(block.entries, key, key=_order_of), (key, spec, rules))

    def remove(self, spec: PolicySpec) -> None:
        """Take a policy out that is there."""
        key = order(spec)
        self._count -= 1
        entries = self._own(self._place(key)).entries
        del entries[bisect_left(entries, key, key=_order_of)]

    def settle(self) -> None:
        """Cut what has grown too large, join what has become small, and write the rules."""
        was_linear = self.is_linear
        # from blocks to one chain only where it stays one for a while
        self.is_linear = self._count <= (LINEAR_MAX if was_linear else LINEAR_MAX // 2)
        kept: list[Block] = []
        for block in self._all:
            if not block.entries:
                continue
            if kept and _are_one(kept[-1], block):
                if not kept[-1].is_new:
                    kept[-1] = kept[-1].copy()
                kept[-1].entries += block.entries
                kept[-1].wide = 0
                continue
            kept.append(block)
            if len(block.entries) > BLOCK_MAX:
                more = [
                    block.entries[at : at + _BLOCK]
                    for at in range(_BLOCK, len(block.entries), _BLOCK)
                ]
                del block.entries[_BLOCK:]
                kept += map(self._made, more)
        self._all = kept
        for number, block in enumerate(self._all):
            if not block.is_new and was_linear and not self.is_linear:
                block = self._all[number] = block.copy()  # it has no ways yet
            if block.is_new:
                block.settled(is_entered=not self.is_linear)

    def _is_next(self, key: _Order) -> bool:
        """Whether this would come last of all, behind a last block that is full."""
        last = self._all[-1]
        return len(last.entries) >= _BLOCK and key > last.entries[-1][0]

    def _place(self, key: _Order) -> int:
        return max(0, bisect_right(self._all, key, key=lambda block: block.low) - 1)

    def _own(self, at: int) -> Block:
        if not self._all[at].is_new:
            self._all[at] = self._all[at].copy()
        return self._all[at]

    def _made(self, entries: list[_Entry]) -> Block:
        return Block(f"{self._chain}_{next(self._numbers):x}", entries, entries[0][0])


def _are_one(block: Block, other: Block) -> bool:
    """Whether neighbours are better joined: one of them has just become small."""
    sizes = len(block.entries), len(other.entries)
    return (block.is_new or other.is_new) and sum(sizes) <= _BLOCK and min(sizes) < _FEW


def entrances(policies: Iterable[PolicySpec]) -> Iterator[str]:
    """What selects, for each IP version, all packets that these policies could, or more."""
    policies = tuple(policies)
    for octets, ip, family in ((4, "ip", "ipv4"), (16, "ip6", "ipv6")):
        here = [p.selector for p in policies if len(p.selector.src.address) == octets]
        if not here:
            continue
        sides = {
            "saddr": spans(s.src for s in here),
            "daddr": spans(s.dst for s in here),
        }
        side = min(sides, key=lambda name: sum(last - first for first, last in sides[name]))
        if sides[side] == [(0, (1 << 8 * octets) - 1)]:
            yield f"meta nfproto {family}"
        else:
            yield f"{ip} {side} {{ {', '.join(_written(s, octets) for s in sides[side])} }}"


def spans(ends: Iterable[Range]) -> list[_Span]:
    """Prefixes as first and last addresses, in order, joined where they touch."""
    found: list[_Span] = []
    for first, last in sorted(map(_span, ends)):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def in_order(listed: Iterable[dict[str, Any]], chains: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rules of these chains and of their blocks, in match order, out of nft's list."""
    rules: dict[str, list[dict[str, Any]]] = {}
    for o in listed:
        if "rule" in o:
            rules.setdefault(o["rule"]["chain"], []).append(o["rule"])
    for chain in chains:
        entered: set[str] = set()
        for rule in rules.get(chain, []):
            ways = [e["jump"]["target"] for e in rule.get("expr", ()) if "jump" in e]
            if not ways:
                yield rule
            for way in ways:
                if way not in entered:
                    yield from rules.get(way, [])
                entered.add(way)


def _span(end: Range) -> _Span:
    below = 8 * len(end.address) - end.prefixlen
    first = int.from_bytes(end.address, "big") >> below << below
    return first, first | (1 << below) - 1


def _written(span: _Span, octets: int) -> str:
    first, last = (ip_address(end.to_bytes(octets, "big")) for end in span)
    return str(first) if first == last else f"{first}-{last}"
