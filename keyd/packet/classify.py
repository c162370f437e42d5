"""Which policy selects a packet: the first by (priority, order), found without a linear scan.

RFC 4301 section 4.4.1. Tuple space search in two steps. Policies with the same prefix lengths share
a dictionary by their prefixes, so a search costs one look-up for each pair of lengths in use,
however many policies there are; behind the prefixes stands another one, by protocol and ports, with
eight kinds of keys at most. Pairs of lengths are visited in the order of their best policy, and
the search ends when none that is left could win.

For ICMP, type and code stand for the ports, and 0 in a policy means any (as in KAME).
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from operator import attrgetter

from keyd.model import PolicySpec
from pfkey.const import UNSPEC_PROTO, PolicyType

_Mask = tuple[int, int, int]  # address bits, prefix lengths
_Ends = tuple[int, int]  # both prefixes
_Key = tuple[int, int, int]  # protocol (-1: any), ports (0: any)
_Rank = tuple[int, int, int]


def rank(policy: PolicySpec) -> _Rank:
    """What policies are ordered by; the smallest wins."""
    return policy.priority, policy.order, policy.id


class _Cell:
    """The policies between two prefixes."""

    __slots__ = ("by_key", "kinds")

    def __init__(self) -> None:
        self.by_key: dict[_Key, list[PolicySpec]] = {}
        self.kinds: dict[tuple[bool, bool, bool], int] = {}  # of keys (protocol, ports): how many

    def count(self, key: _Key, change: int) -> None:
        """A key has come (1) or gone (-1)."""
        kind = (key[0] >= 0, key[1] > 0, key[2] > 0)
        self.kinds[kind] = self.kinds.get(kind, 0) + change
        if not self.kinds[kind]:
            del self.kinds[kind]


class _Group:
    """The policies of one mask. None of them ranks before `best`."""

    __slots__ = ("best", "cells", "mask")

    def __init__(self, mask: _Mask) -> None:
        self.mask = mask
        self.cells: dict[_Ends, _Cell] = {}
        self.best: _Rank = (0, 0, 0)


class Classifier:
    """The policies of one direction.

    Attributes:
        generation: grows with each change; what was found before may be wrong after.
    """

    def __init__(self, policies: Iterable[PolicySpec] = ()) -> None:
        self.generation = 0
        self._policies: dict[int, PolicySpec] = {}
        self._groups: dict[_Mask, _Group] = {}
        self._order: list[_Group] = []
        self.update(policies, ())

    def __len__(self) -> int:
        return len(self._policies)

    def update(self, added: Iterable[PolicySpec], removed: Iterable[int]) -> None:
        """Take out and put in; an added policy replaces the one with the same id."""
        for number in removed:
            self._take(number)
        for policy in added:
            self._take(policy.id)
            self._put(policy)
        self._order = sorted(self._groups.values(), key=attrgetter("best"))
        self.generation += 1

    def match(
        self, src: bytes, dst: bytes, proto: int, sport: int, dport: int
    ) -> PolicySpec | None:
        """The policy that decides about a packet with these packed addresses."""
        bits = 8 * len(src)
        left, right = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
        found: PolicySpec | None = None
        best: _Rank | None = None
        for group in self._order:
            if best is not None and group.best > best:
                break
            family, src_len, dst_len = group.mask
            if family != bits:
                continue
            cell = group.cells.get((left >> bits - src_len, right >> bits - dst_len))
            if cell is None:
                continue
            for has_proto, has_sport, has_dport in cell.kinds:
                policies = cell.by_key.get((
                    proto if has_proto else -1,
                    sport if has_sport else 0,
                    dport if has_dport else 0,
                ))  # fmt: skip
                if policies is not None and (best is None or rank(policies[0]) < best):
                    found = policies[0]
                    best = rank(found)
        return found

    def protocols(self, src: bytes, dst: bytes) -> frozenset[int]:
        """The upper protocols (255: any) that policies select between two addresses.

        For a flow's first packet and for fragments, not for each packet.
        """
        return frozenset(
            UNSPEC_PROTO if key[0] < 0 else key[0]
            for cell in self._between(src, dst)
            for key in cell.by_key
        )

    def is_vague(self, src: bytes, dst: bytes, proto: int, found: PolicySpec | None) -> bool:
        """Whether a policy with ports could select what shows none, before `found` does.

        `found` is what `match` says without ports. For later fragments, not for each packet.
        """
        limit = rank(found) if found is not None else None
        return any(
            (key[1] or key[2])
            and key[0] in (-1, proto)
            and (limit is None or rank(policies[0]) < limit)
            for cell in self._between(src, dst)
            for key, policies in cell.by_key.items()
        )

    def protecting(
        self, src: bytes, dst: bytes, proto: int, ports: tuple[int, int] | None
    ) -> PolicySpec | None:
        """The policy of a packet, if it is one that protects; where the packet shows no ports
        (None), or no protocol (-1), the first that may be it.
        """
        found = self.match(src, dst, proto, *(ports or (0, 0)))
        if ports is None:
            limit = rank(found) if found is not None else None
            found = min(
                (
                    policy
                    for cell in self._between(src, dst)
                    for key, policies in cell.by_key.items()
                    if proto < 0 or key[0] in (-1, proto)
                    for policy in policies
                    if policy.type == PolicyType.IPSEC and (limit is None or rank(policy) < limit)
                ),
                key=rank,
                default=found,
            )
        return found if found is not None and found.type == PolicyType.IPSEC else None

    def _between(self, src: bytes, dst: bytes) -> Iterator[_Cell]:
        bits = 8 * len(src)
        left, right = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
        for group in self._order:
            family, src_len, dst_len = group.mask
            if family == bits:
                cell = group.cells.get((left >> bits - src_len, right >> bits - dst_len))
                if cell is not None:
                    yield cell

    def _put(self, policy: PolicySpec) -> None:
        self._policies[policy.id] = policy
        mask, ends, key = _place(policy)
        group = self._groups.get(mask)
        if group is None:
            group = self._groups[mask] = _Group(mask)
            group.best = rank(policy)
        group.best = min(group.best, rank(policy))
        cell = group.cells.get(ends)
        if cell is None:
            cell = group.cells[ends] = _Cell()
        policies = cell.by_key.get(key)
        if policies is None:
            cell.by_key[key] = [policy]
            cell.count(key, 1)
        else:
            insort(policies, policy, key=rank)

    def _take(self, number: int) -> None:
        """Take one out. Its group's `best` stays: too good a rank only costs a look-up."""
        policy = self._policies.pop(number, None)
        if policy is None:
            return
        mask, ends, key = _place(policy)
        group = self._groups[mask]
        cell = group.cells[ends]
        cell.by_key[key].remove(policy)
        if cell.by_key[key]:
            return
        del cell.by_key[key]
        cell.count(key, -1)
        if not cell.by_key:
            del group.cells[ends]
        if not group.cells:
            del self._groups[mask]


def _place(policy: PolicySpec) -> tuple[_Mask, _Ends, _Key]:
    s = policy.selector
    bits = 8 * len(s.src.address)
    ends = (
        int.from_bytes(s.src.address, "big") >> bits - s.src.prefixlen,
        int.from_bytes(s.dst.address, "big") >> bits - s.dst.prefixlen,
    )
    key = (s.proto if s.proto != UNSPEC_PROTO else -1, s.src.port, s.dst.port)
    return (bits, s.src.prefixlen, s.dst.prefixlen), ends, key
