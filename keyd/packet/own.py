"""Policies that catch what a host sends to itself, where nothing can be sealed (RFC 4301 5).

Such packets never reach the data path: nft drops them under a policy that demands protection,
and lets them pass under any other. The NetBSD IPsec FAQ's lines with `none` are about that.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from keyd.model import PolicySpec
from pfkey import protocols
from pfkey.const import UNSPEC_PROTO, Dir
from pfkey.selector import Range

_ADDRESSES_MAX = 32  # of each end; more say nothing new about a policy


def catching(
    policies: Iterable[PolicySpec], addresses: Sequence[bytes], most: int
) -> list[PolicySpec]:
    """The first policies in match order that drop what passes between these own addresses.

    `policies` are in match order. One that an earlier policy covers, so that it never decides
    about the host's own packets, is not among them.
    """
    found: list[PolicySpec] = []
    earlier: list[PolicySpec] = []
    for policy in policies:
        if len(found) == most:
            break
        if policy.dir not in (Dir.IN, Dir.OUT) or policy.is_hold:
            continue
        src, dst = policy.selector.src, policy.selector.dst
        pairs = [
            (a, b)
            for a in [a for a in addresses if src.covers(a)][:_ADDRESSES_MAX]
            for b in [b for b in addresses if dst.covers(b)][:_ADDRESSES_MAX]
            if _is_loopback(a) == _is_loopback(b)  # nobody speaks from the one to the other
        ]
        if not pairs:
            continue
        if policy.is_required and not all(
            any(_covers(before, policy, a, b) for before in earlier) for a, b in pairs
        ):
            found.append(policy)
        earlier.append(policy)
    return found


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"


def _covers(before: PolicySpec, policy: PolicySpec, src: bytes, dst: bytes) -> bool:
    """Whether an earlier policy decides about all that this one selects between two addresses."""
    ours, theirs = policy.selector, before.selector
    return (
        before.dir == policy.dir
        and theirs.proto in (UNSPEC_PROTO, ours.proto)
        and theirs.src.port in (0, ours.src.port)
        and theirs.dst.port in (0, ours.dst.port)
        and theirs.src.covers(src)
        and theirs.dst.covers(dst)
    )


def describe(policy: PolicySpec) -> str:
    """A policy as its spdadd line begins: `10.1.1.1[110] 0.0.0.0/0 tcp -P out`."""
    s = policy.selector
    upper = "any" if s.proto == UNSPEC_PROTO else protocols.name(s.proto)
    return f"{_end(s.src)} {_end(s.dst)} {upper} -P {policy.dir.name.lower()}"


def _end(end: Range) -> str:
    bits = "" if end.prefixlen == 8 * len(end.address) else f"/{end.prefixlen}"
    return f"{ip_address(end.address)}{bits}{f'[{end.port}]' if end.port else ''}"
