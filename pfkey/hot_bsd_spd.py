"""Policies and ACQUIREs in the forms of NetBSD, FreeBSD and OpenBSD; see `hot_bsd`.

NetBSD tells neither priority nor lifetimes of a policy, FreeBSD the latter where it has any;
OpenBSD has flows instead of policies, and no frequent record of one.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pfkey.base import pad
from pfkey.codec import Layout
from pfkey.const import UNIT_OCTETS, Dir, ExtType, MsgType, PolicyType, Scope
from pfkey.dialect import Dialect
from pfkey.errors import WireError
from pfkey.ext_prop import Proposal
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.hot_bsd import (
    BASE,
    CURRENT,
    HARD,
    OTHERS,
    POLICY_BASED,
    Reader,
    base,
    ends,
    first,
    said_place,
)
from pfkey.hot_parts import NO_LIMITS, Segment, pair_segments, size
from pfkey.sockaddr import FAMILY_OF_SIZE

if TYPE_CHECKING:
    from pfkey.hot import PolicyRecord
    from pfkey.hot_events import Acquire

SCOPE = {"netbsd": 0, "freebsd": Scope.GLOBAL}
_LIFETIMES = Layout(CURRENT, HARD)


def _policy(dialect: Dialect, scope: int) -> Segment:
    """Values: length in words, type, dir, id, and where there is one the priority."""
    priority = None if dialect.has_priority else 0
    return ("HHHBBII", (None, ExtType.X_POLICY, None, None, scope, None, priority))


_POLICIES = {
    dialect.name: {
        octets: Layout(BASE, *pair_segments(octets, dialect), _policy(dialect, SCOPE[dialect.name]))
        for octets in FAMILY_OF_SIZE
    }
    for dialect in POLICY_BASED
}
_ACQUIRES = {
    dialect.name: {
        octets: Layout(
            BASE, *pair_segments(octets, dialect),
            *([_policy(dialect, 0)] if dialect.has_policies else []),
        )
        for octets in FAMILY_OF_SIZE
    }
    for dialect in OTHERS
}  # fmt: skip


def said_of_policy(record: "PolicyRecord", dialect: Dialect) -> dict[str, Any]:
    """What of a policy this dialect cannot say as it is, by field: the nearest that it can say.

    A request id that does not fit is left out: the level stays.
    """
    has_lifetimes = dialect.has_priority and record.hard != NO_LIMITS  # FreeBSD
    return {
        "priority": record.priority if dialect.has_priority else 0,
        "soft": NO_LIMITS,
        "hard": record.hard if has_lifetimes else NO_LIMITS,
        "current": record.current if has_lifetimes else NO_LIMITS,
        "requests": tuple(
            request if request.reqid <= dialect.reqid_max else replace(request, reqid=0)
            for request in record.requests
        ),
    }


def _words(octets: int) -> int:
    return octets // UNIT_OCTETS


def _priority(priority: int, dialect: Dialect) -> tuple[int, ...]:
    return (priority,) if dialect.has_priority else ()


def encode_policy(record: "PolicyRecord", dialect: Dialect) -> bytes:
    """Build an SPDDUMP or SPDGET record.

    Raises:
        WireError: a value has no number, or the dialect has no policies.
    """
    if not dialect.has_policies:
        raise WireError("sadb_x_policy", "this dialect has flows, no policies")
    body = pad(b"".join(request.encode(dialect) for request in record.requests))
    after = b""
    if record.hard != NO_LIMITS:
        after = _LIFETIMES.pack(*record.current, *record.hard)
    head = _POLICIES[dialect.name][size(record.src, record.dst)]
    return (
        head.pack(
            dialect.messages.theirs(record.type), 0, 0, _words(head.size + len(body) + len(after)),
            record.refcount, record.seq, record.pid, *ends(record.src, record.dst, dialect),
            2 + _words(len(body)), record.policy_type, dialect.dirs.theirs(record.dir), record.id,
            *_priority(record.priority, dialect),
        )
        + body
        + after
    )  # fmt: skip


def decode_policy(octets: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """The fields of a PolicyRecord, or None when the record has another form."""
    form = first(_POLICIES.get(dialect.name, {}), octets)
    if form is None:
        return None
    width, head, values = form
    reader = Reader(values, width, dialect)
    found = base(reader, octets, dialect, has_reserved=True)
    if found is None or found.pop("satype"):
        return None
    found["src"], found["dst"] = reader.place(), reader.place()
    words, found["policy_type"], number, found["id"] = reader.take(4)
    found["dir"] = dialect.dirs.ours(number)
    found["priority"] = reader.take(1)[0] if dialect.has_priority else 0
    start = head.size - 2 * UNIT_OCTETS
    end = start + words * UNIT_OCTETS
    requests = _requests(octets[start:end], start, dialect)
    lifetimes = _LIFETIMES.unpack(octets[end:])
    if found["src"] is None or found["dst"] is None or requests is None:
        return None
    found["requests"] = requests
    if end == len(octets):
        return found
    if lifetimes is None or end + _LIFETIMES.size != len(octets) or not dialect.has_priority:
        return None
    found["current"], found["hard"] = lifetimes[:4], lifetimes[4:]
    return found if found["hard"] != NO_LIMITS else None


def _requests(octets: bytes, at: int, dialect: Dialect) -> tuple[IpsecRequest, ...] | None:
    try:
        return Policy.decode(octets, at, dialect).requests
    except WireError:
        return None


def said_of_acquire(record: "Acquire", dialect: Dialect) -> dict[str, Any]:
    """What of an ACQUIRE this dialect cannot say as it is, by field.

    Combinations with an algorithm that the dialect has no number for are left out.
    """
    said: dict[str, Any] = {"proposal": _said_proposal(record, dialect)}
    if not dialect.has_priority:
        said["priority"] = 0
    if not dialect.has_policies:
        said |= {
            "policy_id": 0, "policy_type": PolicyType.IPSEC, "dir": Dir.OUT,
            "src": said_place(record.src), "dst": said_place(record.dst),
        }  # fmt: skip
    return said


def _said_proposal(record: "Acquire", dialect: Dialect) -> bytes:
    if not record.proposal:
        return b""
    inside = dialect.of_satype(record.satype)
    found = Proposal.decode(record.proposal)
    combs = tuple(
        comb
        for comb in found.combs
        if inside.auth.says(comb.auth) and inside.encrypt.says(comb.encrypt)
    )
    return replace(found, combs=combs).encode() if combs else b""


def encode_acquire(record: "Acquire", dialect: Dialect) -> bytes:
    """Build an ACQUIRE."""
    proposal = b""
    if record.proposal:
        proposal = Proposal.decode(record.proposal).encode(dialect.of_satype(record.satype))
    head = _ACQUIRES[dialect.name][size(record.src, record.dst)]
    policy: tuple[int, ...] = ()
    if dialect.has_policies:
        policy = (
            2, record.policy_type, dialect.dirs.theirs(record.dir), record.policy_id,
            *_priority(record.priority, dialect),
        )  # fmt: skip
    return (
        head.pack(
            dialect.messages.theirs(MsgType.ACQUIRE), 0, dialect.satypes.theirs(record.satype),
            _words(head.size + len(proposal)), 0, record.seq, record.pid,
            *ends(record.src, record.dst, dialect), *policy,
        )
        + proposal
    )  # fmt: skip


def decode_acquire(octets: bytes, dialect: Dialect) -> dict[str, Any] | None:
    """The fields of an Acquire, or None when the record has another form."""
    form = first(_ACQUIRES[dialect.name], octets)
    if form is None:
        return None
    width, head, values = form
    reader = Reader(values, width, dialect)
    found = base(reader, octets, dialect)
    if found is None or found.pop("type") != MsgType.ACQUIRE:
        return None
    found["src"], found["dst"] = reader.place(), reader.place()
    if dialect.has_policies:
        words, found["policy_type"], number, found["policy_id"] = reader.take(4)
        found["dir"] = dialect.dirs.ours(number)
        found["priority"] = reader.take(1)[0] if dialect.has_priority else 0
        if words != 2:
            return None
    else:
        found["policy_id"] = 0
    found["proposal"] = b""
    if len(octets) > head.size:
        try:
            proposal = Proposal.decode(
                octets[head.size :], head.size, dialect.of_satype(found["satype"])
            )
            found["proposal"] = proposal.encode()
        except WireError:
            return None
    return found if found["src"] is not None and found["dst"] is not None else None
