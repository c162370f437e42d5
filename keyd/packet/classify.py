"""Which policy selects a packet: the first by (priority, order), found without a linear scan.

RFC 4301 section 4.4.1. Tuple space search: policies that look at the same fields (prefix
lengths, protocol or not, ports or not) share a dictionary, so a search costs one look-up for
each such combination in use, however many policies there are. Combinations are visited in the
order of their best policy, and the search ends when none that is left could win.

For ICMP, type and code stand for the ports, and 0 in a policy means any (as in KAME).
"""

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter

from keyd.model import PolicySpec
from pfkey.const import UNSPEC_PROTO

_Mask = tuple[int, int, int, bool, bool, bool]  # address bits, prefix lengths, proto, ports
_Key = tuple[int, int, int, int, int]
_Rank = tuple[int, int, int]


def rank(policy: PolicySpec) -> _Rank:
    """What policies are ordered by; the smallest wins."""
    return policy.priority, policy.order, policy.id


class _Group:
    """The policies of one mask."""

    __slots__ = ("best", "cells", "mask")

    def __init__(self, mask: _Mask) -> None:
        self.mask = mask
        self.cells: dict[_Key, list[PolicySpec]] = {}
        self.best: _Rank = (0, 0, 0)

    def measure(self) -> None:
        self.best = min(rank(cell[0]) for cell in self.cells.values())


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
        touched: set[_Mask] = set()
        for number in removed:
            self._take(number, touched)
        for policy in added:
            self._take(policy.id, touched)
            self._policies[policy.id] = policy
            mask, key = _place(policy)
            group = self._groups.get(mask)
            if group is None:
                group = self._groups[mask] = _Group(mask)
            insort(group.cells.setdefault(key, []), policy, key=rank)
            touched.add(mask)
        for mask in touched:
            if self._groups[mask].cells:
                self._groups[mask].measure()
            else:
                del self._groups[mask]
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
            family, src_len, dst_len, has_proto, has_sport, has_dport = group.mask
            if family != bits:
                continue
            cell = group.cells.get((
                left >> bits - src_len,
                right >> bits - dst_len,
                proto if has_proto else -1,
                sport if has_sport else 0,
                dport if has_dport else 0,
            ))  # fmt: skip
            if cell is not None and (best is None or rank(cell[0]) < best):
                found = cell[0]
                best = rank(found)
        return found

    def protocols(self, src: bytes, dst: bytes) -> frozenset[int]:
        """The upper protocols (255: any) that policies select between two addresses.

        A walk over all masks and, in each, the cells of these addresses; for a flow's first
        packet and for fragments, not for each packet.
        """
        bits = 8 * len(src)
        left, right = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
        found = set()
        for group in self._order:
            family, src_len, dst_len = group.mask[:3]
            if family != bits:
                continue
            ends = (left >> bits - src_len, right >> bits - dst_len)
            if not (group.mask[3] or group.mask[4] or group.mask[5]):
                if (*ends, -1, 0, 0) in group.cells:
                    found.add(UNSPEC_PROTO)
                continue
            for key in group.cells:
                if key[:2] == ends:
                    found.add(UNSPEC_PROTO if key[2] < 0 else key[2])
        return frozenset(found)

    def is_vague(self, src: bytes, dst: bytes, proto: int, found: PolicySpec | None) -> bool:
        """Whether a policy with ports could select what shows none, before `found` does.

        `found` is what `match` says without ports. For later fragments, not for each packet.
        """
        bits = 8 * len(src)
        left, right = int.from_bytes(src, "big"), int.from_bytes(dst, "big")
        limit = rank(found) if found is not None else None
        for group in self._order:
            family, src_len, dst_len, _, has_sport, has_dport = group.mask
            if family != bits or not (has_sport or has_dport):
                continue
            ends = (left >> bits - src_len, right >> bits - dst_len)
            for key, cell in group.cells.items():
                selects = key[:2] == ends and key[2] in (-1, proto)
                if selects and (limit is None or rank(cell[0]) < limit):
                    return True
        return False

    def _take(self, number: int, touched: set[_Mask]) -> None:
        policy = self._policies.pop(number, None)
        if policy is None:
            return
        mask, key = _place(policy)
        cell = self._groups[mask].cells[key]
        cell.remove(policy)
        if not cell:
            del self._groups[mask].cells[key]
        touched.add(mask)


def _place(policy: PolicySpec) -> tuple[_Mask, _Key]:
    s = policy.selector
    bits = 8 * len(s.src.address)
    has_proto = s.proto != UNSPEC_PROTO
    mask = (
        bits, s.src.prefixlen, s.dst.prefixlen, has_proto, bool(s.src.port), bool(s.dst.port),
    )  # fmt: skip
    key = (
        int.from_bytes(s.src.address, "big") >> bits - s.src.prefixlen,
        int.from_bytes(s.dst.address, "big") >> bits - s.dst.prefixlen,
        s.proto if has_proto else -1,
        s.src.port,
        s.dst.port,
    )
    return mask, key
