"""OpenBSD's GRPSPIS: a packet that one SA has sealed is sealed by a second as well.

There the SAs are linked, and a flow that finds the first is sealed by all. Here a policy names
its steps, so the flows that the first SA serves get steps for those behind it: flows that are
there, and flows that come.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from errno import EINVAL, ENOBUFS, ESRCH

from keyd.engine.answers import flow_grown, repeated
from keyd.engine.bundle import REQUESTS_MAX
from keyd.engine.effects import Effect, PoliciesChanged
from keyd.engine.sad import SaKey, SaRecord, describe
from keyd.engine.state import Request, State
from keyd.model import PolicySpec, SaSpec
from keyd.model import Request as Step
from pfkey.const import PROTO_OF_SATYPE, ExtType, Mode, SaType
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.ext_sa import Sa
from pfkey.ext_x_bsd import Protocol
from pfkey.message import Message

_SATYPES = frozenset(PROTO_OF_SATYPE)


def group(state: State, request: Request) -> list[Effect]:
    """Link two SAs, the inner one first, and give the flows of the first what they lack.

    A link that either had in this place ends. Flows keep their steps when an SA goes: what is
    missing then is asked for.

    DEVIATION from OpenBSD, which links larval SAs, and loses the link when they get keys: refused
    (test_what_cannot_be_grouped_is_refused).

    Raises:
        SadbError: EINVAL for what is missing, and for a chain too long; ESRCH when there is no
            such SA, or none with keys, or when the second leads back to the first.
    """
    message = request.message
    kind = message.ext(ExtType.X_SATYPE2)
    if not isinstance(kind, Protocol):
        raise SadbError(EINVAL, "extension X_SATYPE2 must be there")
    first = _sa(state, message, ExtType.SA, ExtType.ADDRESS_DST, message.satype)
    second = _sa(state, message, ExtType.X_OPENBSD_SA2, ExtType.X_DST2, kind.proto)
    behind = (second, *_behind(state, second.key))
    if first in behind:
        raise SadbError(ESRCH, f"SA {describe(second.key)} leads to {describe(first.key)}")
    if len(behind) >= REQUESTS_MAX:
        raise SadbError(EINVAL, f"{REQUESTS_MAX} SAs behind each other are the most")
    state.sad.link(first.key, second.key)
    echo = state.clients.all(repeated(message), request.client)
    heads = [sa.key for sa in state.sad.chain(first.key)]
    flows = tuple(policy for policy in state.spd if policy.flow is not None)
    pairs = [
        (old, spec) for old in flows if (spec := with_links(state, old.spec, heads)) is not old.spec
    ]
    if not pairs:
        return [*echo]
    fresh = [state.spd.replace(old, spec) for old, spec in pairs]
    change = PoliciesChanged(
        tuple(policy.spec for policy in fresh), tuple(old.spec for old, _ in pairs),
        request.refusal(ENOBUFS),
    )  # fmt: skip
    state.spd.note(change, tuple(old for old, _ in pairs))
    told = [send for policy in fresh for send in state.clients.all(flow_grown(request, policy))]
    return [change, *told, *echo]


def with_links(
    state: State, spec: PolicySpec, heads: Collection[SaKey] | None = None
) -> PolicySpec:
    """A flow's policy with a step for each SA that is linked behind its own; or as it was.

    `heads` are the SAs that may be its own; None: any.
    """
    if not spec.requests:
        return spec
    step = spec.requests[0]
    for key in reversed(tuple(state.sad.links if heads is None else heads)):
        head = state.sad.get(key)
        if head is not None and _serves(head.spec, step, spec):
            behind = (_step(sa.spec, step) for sa in _behind(state, key))
            steps = (step, *behind)
            return spec if steps == spec.requests else replace(spec, requests=steps)
    return spec


def _behind(state: State, key: SaKey) -> Iterator[SaRecord]:
    """The SAs that one leads to, in their order."""
    while (there := state.sad.links.get(key)) is not None:
        key = there
        yield state.sad.find(key)


def _serves(sa: SaSpec, step: Step, policy: PolicySpec) -> bool:
    """Whether this SA is one that seals, or opens, for the first step of a flow."""
    if sa.proto != step.proto or sa.mode not in (step.mode, Mode.ANY):
        return False
    if step.src is not None:
        return (sa.src, sa.dst) == (step.src, step.dst)
    ends = policy.selector
    return ends.src.covers(sa.src) and ends.dst.covers(sa.dst)


def _step(sa: SaSpec, before: Step) -> Step:
    """The step of an SA behind another: a tunnel only if it says so."""
    is_tunnel = sa.mode == Mode.TUNNEL
    return Step(
        proto=sa.proto, mode=Mode.TUNNEL if is_tunnel else Mode.TRANSPORT, level=before.level,
        src=sa.src if is_tunnel else None, dst=sa.dst if is_tunnel else None,
    )  # fmt: skip


def _sa(
    state: State, message: Message, which: ExtType, where: ExtType, satype: int
) -> SaRecord:  # fmt: skip
    sa, dst = message.ext(which), message.ext(where)
    if not isinstance(sa, Sa) or not isinstance(dst, Address):
        raise SadbError(EINVAL, f"extensions {which.name} and {where.name} must be there")
    if satype not in _SATYPES:
        raise SadbError(ESRCH, f"no SA is of satype {satype}")
    found = state.sad.find(SaKey(dst.address, PROTO_OF_SATYPE[SaType(satype)], sa.spi))
    if found.is_larval:
        raise SadbError(ESRCH, f"SA {describe(found.key)} has no keys yet")
    return found
