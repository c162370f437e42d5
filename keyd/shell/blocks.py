"""Many policies in nft: blocks of rules that a packet enters only if its address may be there.

Plain text out. A chain of few policies stays as it is. One of many is cut into blocks of
neighbouring policies, each a chain of its own, and the chain itself keeps one rule or two a block:
is the packet's source, or destination, among those of the block's policies? Then through the block,
and on with the next if nothing there decides. The order stays, and what is passed over could not
have matched: the first match decides as ever (RFC 4301 section 4.4.1).

Blocks begin at certain policies, not at certain places, so that one more policy at the top does
not make all blocks anew.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any

from keyd.model import PolicySpec
from pfkey.selector import Range

LINEAR_MAX = 512  # policies
BLOCK_MAX = 256  # policies
_BEGINS = 64  # of so many policies one begins a block

Ruled = list[tuple[PolicySpec, list[str]]]
_Span = tuple[int, int]


class Layout:
    """Lays out chains again and again; what leads into a block is kept while it does."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[dict[int, PolicySpec], list[str]]] = {}

    def rules(self, chain: str, ruled: Ruled) -> dict[str, list[str]]:
        """The chain's rules and those of its blocks by their names, blocks first."""
        if len(ruled) <= LINEAR_MAX:
            return {chain: [rule for _, rules in ruled for rule in rules]}
        found: dict[str, list[str]] = {}
        ways: list[str] = []
        for block in _blocks(ruled):
            name = f"{chain}_{block[0][0].id:x}".replace("-", "m")
            found[name] = [rule for _, rules in block for rule in rules]
            ways += self._ways(name, [spec for spec, _ in block])
        return {**found, chain: ways}

    def forget(self, chains: Iterable[str]) -> None:
        """All blocks but those among these chains are gone."""
        self._known = {name: self._known[name] for name in chains if name in self._known}

    def _ways(self, name: str, specs: list[PolicySpec]) -> list[str]:
        """The rules that lead into a block. Those of more policies will do, unless of many more."""
        known = self._known.get(name)
        if known and all(id(s) in known[0] for s in specs) and 2 * len(specs) >= len(known[0]):
            return known[1]
        ways = [f"{where} jump {name}" for where in entrances(specs)]
        self._known[name] = {id(spec): spec for spec in specs}, ways
        return ways


def entrances(policies: list[PolicySpec]) -> Iterator[str]:
    """What selects, for each IP version, all packets that these policies could, or more."""
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


def _blocks(ruled: Ruled) -> Iterator[Ruled]:
    block: Ruled = []
    for spec, rules in ruled:
        if block and (spec.id % _BEGINS == 0 or len(block) >= BLOCK_MAX):
            yield block
            block = []
        block.append((spec, rules))
    yield block


def _span(end: Range) -> _Span:
    below = 8 * len(end.address) - end.prefixlen
    first = int.from_bytes(end.address, "big") >> below << below
    return first, first | (1 << below) - 1


def _written(span: _Span, octets: int) -> str:
    first, last = (ip_address(end.to_bytes(octets, "big")) for end in span)
    return str(first) if first == last else f"{first}-{last}"
