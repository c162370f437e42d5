"""Holds: what a policy's rule says in its comment, for a successor that finds the rule left over.

An nft rule keeps its comment whatever becomes of us. It names the policy well enough to hold its
place: to go on dropping what it protected, until it is loaded again.
"""

import base64
import struct
from collections.abc import Iterable
from dataclasses import replace

from keyd.engine.tuning import defaults
from keyd.model import PolicySpec, Request
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector

COMMENT_LIMIT = 128  # octets that nft takes

_REQUESTS_KEPT = 6
_POLICY, _DEFAULT = "p1:", "d1:"  # comments on rules begin so


def encode_comment(spec: PolicySpec) -> str:
    """What a successor needs to hold this policy's place, in at most 128 octets.

    Of long bundles, the requests that matter most are kept: those that demand something.
    """
    s = spec.selector
    requests = spec.requests
    if len(requests) > _REQUESTS_KEPT:
        requests = tuple(sorted(requests, key=lambda r: -r.level))[:_REQUESTS_KEPT]
    octets = struct.pack(">BBIB", spec.dir << 4 | spec.type, len(s.src.address),
                         spec.priority & 0xFFFFFFFF, s.proto)  # fmt: skip
    for end in (s.src, s.dst):
        octets += end.address + struct.pack(">BH", end.prefixlen, end.port)
    for r in requests:
        octets += struct.pack(">BBI", r.proto, r.mode << 4 | r.level, r.reqid & 0xFFFFFFFF)
    return (_DEFAULT if spec.is_default else _POLICY) + base64.b64encode(octets).decode()


def decode_comment(text: str) -> PolicySpec | None:
    """The policy that `encode_comment` wrote, as a hold with id 0; None for other comments.

    Tunnel end points are not kept: a hold drops and never seals. What a knob put behind all others
    is no hold: it stays there.
    """
    if not text.startswith((_POLICY, _DEFAULT)):
        return None
    is_default = text.startswith(_DEFAULT)
    try:
        octets = base64.b64decode(text[3:], validate=True)
        what, width, priority, proto = struct.unpack_from(">BBIB", octets)
        at, ends = 7, []
        for _ in range(2):
            prefixlen, port = struct.unpack_from(">BH", octets, at + width)
            ends.append(Range(octets[at : at + width], prefixlen, port))
            at += width + 3
        requests = tuple(
            Request(proto=p, mode=Mode(how >> 4), level=Level(how & 15), reqid=reqid)
            for p, how, reqid in struct.iter_unpack(">BBI", octets[at:])
        )
        if width not in (4, 16) or max(e.prefixlen for e in ends) > 8 * width:
            return None
        return PolicySpec(
            id=0, dir=Dir(what >> 4), type=PolicyType(what & 15), priority=priority,
            selector=Selector(ends[0], ends[1], proto), requests=requests,
            is_hold=not is_default, is_default=is_default,
        )  # fmt: skip
    except (ValueError, struct.error):
        return None


def holds(comments: Iterable[str]) -> list[PolicySpec]:
    """The holds that a leftover table's comments ask for, in match order, ids -1, -2, …

    Policies that let packets pass are not held, nor inbound ones that demanded nothing. What a knob
    put behind all others is as the engine knows it, so that turning the knob takes it out again.
    """
    found: dict[object, PolicySpec] = {}
    for text in comments:
        spec = decode_comment(text)
        if spec is None or (spec.key, spec.is_default) in found:
            continue
        if spec.is_default:
            known = defaults(len(spec.selector.src.address))
            found[spec.key, True] = next(one for one in known if one.dir == spec.dir)
            continue
        is_protecting = spec.type == PolicyType.IPSEC and (spec.dir == Dir.OUT or spec.is_required)
        if is_protecting or spec.type == PolicyType.DISCARD:
            number = len(found)
            found[spec.key, spec.is_default] = replace(spec, id=-1 - number, order=number)
    return list(found.values())
