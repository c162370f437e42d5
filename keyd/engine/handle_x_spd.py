"""The SPD's messages (KAME; Linux's behaviour): SPDADD, SPDUPDATE, SPDSETIDX, SPDDELETE, SPDGET.

A change is answered after steering has made it; if steering cannot, only the sender hears, and
the database is as it was (`Spd.revert`).
"""

from dataclasses import replace
from errno import EINVAL, ENOBUFS, ENOENT, EOPNOTSUPP

from keyd.engine import unsupported
from keyd.engine.answers import bare, policy_changed, policy_gone
from keyd.engine.bundle import bundle
from keyd.engine.effects import Effect, PoliciesChanged, Send
from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.manners import Kin
from keyd.engine.parts import addresses, limit, policy_of
from keyd.engine.records import policy_told
from keyd.engine.spd import Key, PolicyRecord
from keyd.engine.state import Request as ClientRequest
from keyd.engine.state import State
from keyd.engine.told import Told
from keyd.engine.tuning import level_of_default
from keyd.model import PolicySpec
from pfkey.const import (
    UNSPEC_PROTO,
    Dir,
    Level,
    Mode,
    MsgType,
    PolicyType,
)
from pfkey.errors import SadbError
from pfkey.message import Message
from pfkey.policy import PRIORITY_DEF
from pfkey.selector import Range, Selector

REQUESTS_MAX = 6  # XFRM_MAX_DEPTH


def spd_add(state: State, request: ClientRequest) -> list[Effect]:
    """SPDADD and SPDSETIDX: a new policy; SPDUPDATE: a new one, or another for the same selector.

    Raises:
        SadbError: EEXIST for an equal policy unless it may be replaced; EINVAL, ELOOP and
            EOPNOTSUPP for what the request says; ENOBUFS when the database is full.
    """
    spec, by_default = _spec(state, request)
    may_replace = request.message.type == MsgType.X_SPDUPDATE
    life = _life(request.message, spec)
    policy, old, hold = state.spd.add(
        spec, request.now, life, may_replace=may_replace, by_default=by_default
    )
    replaced = () if old is None else (old,)
    removed = (*(record.spec for record in replaced), *(() if hold is None else (hold,)))
    change = PoliciesChanged((policy.spec,), removed, request.refusal(ENOBUFS))
    state.spd.note(change, replaced)
    told = policy_changed(request, policy, MsgType(request.message.type))
    return [change, *state.clients.all(told, request.client)]


def spd_delete(state: State, request: ClientRequest) -> list[Effect]:
    """SPDDELETE: by direction and selector. A hold is not found.

    Raises:
        SadbError: EINVAL when a part is missing or the direction none; ENOENT.
    """
    return remove_policy(state, request, state.spd.find(policy_key(request.message)))


def spd_delete_id(state: State, request: ClientRequest) -> list[Effect]:
    """SPDDELETE2: by id.

    Raises:
        SadbError: EINVAL when the id names no direction; ENOENT.
    """
    return remove_policy(state, request, state.spd.find_id(policy_of(request.message).id))


def spd_get(state: State, request: ClientRequest) -> list[Effect]:
    """SPDGET: one policy, by id, for the sender.

    Raises:
        SadbError: EINVAL when the id names no direction; ENOENT.
    """
    message = request.message
    policy = state.spd.find_id(policy_of(message).id)
    told = policy_told(policy, type=MsgType.X_SPDGET, seq=message.seq, pid=message.pid)
    if told.octets(request.manners) is None:  # of a direction that its system has not
        raise SadbError(ENOENT, f"policy {policy.spec.id} cannot be said in this dialect")
    return [*state.clients.one(request.client, told)]


def spd_flush(state: State, request: ClientRequest) -> list[Effect]:
    """SPDFLUSH: all policies go, and all holds."""
    changes, was_empty = end_all_policies(state, request)
    return [*changes, *notice(request, bare(request.message), was_empty=was_empty)]


def end_all_policies(state: State, request: ClientRequest) -> tuple[list[Effect], bool]:
    """End all policies and holds; also returns whether there was no policy."""
    holds = state.spd.holds
    policies = state.spd.clear()
    if not policies and not holds:
        return [], True
    removed = (*holds, *(policy.spec for policy in policies))
    state.acquires.forget_policies(policy.spec.id for policy in policies)
    change = PoliciesChanged((), removed, request.refusal(ENOBUFS))
    state.spd.note(change, policies)
    return [change], not policies


def notice(request: ClientRequest, told: Told, *, was_empty: bool) -> list[Send]:
    """The echo of a flush; on Linux silent to others when nothing was there.

    DEVIATION from Linux, which sends it twice to the sender when something was flushed: the second
    copy is taken for the reply to the next command (test_flush_is_echoed_once).
    """
    clients = request.clients
    if was_empty and request.manners.kin is Kin.LINUX:
        return clients.one(request.client, told)
    return clients.all(told)


def remove_policy(state: State, request: ClientRequest, policy: PolicyRecord) -> list[Effect]:
    """End a policy and tell everybody."""
    state.spd.remove(policy)
    state.acquires.forget_policies((policy.spec.id,))
    change = PoliciesChanged((), (policy.spec,), request.refusal(ENOBUFS))
    state.spd.note(change, (policy,))
    type = MsgType.X_SPDDELETE if request.message.policy is None else MsgType(request.message.type)
    told = policy_gone(request, policy, type)
    return [change, *state.clients.all(told, request.client)]


def policy_key(message: Message) -> Key:
    """Direction and selector.

    The upper protocol is the destination's; 0 and 255 both mean any, as on Linux.

    Raises:
        SadbError: EINVAL when a part is missing or the direction none.
    """
    src, dst = addresses(message)
    direction = policy_of(message).dir
    if direction not in (Dir.IN, Dir.OUT, Dir.FWD):
        raise SadbError(EINVAL, f"direction {direction}: in is 1, out 2, fwd 3")
    selector = Selector(
        Range(src.address, src.prefixlen, src.port),
        Range(dst.address, dst.prefixlen, dst.port),
        dst.proto or UNSPEC_PROTO,
    )
    return Dir(direction), selector


def _spec(state: State, request: ClientRequest) -> tuple[PolicySpec, frozenset[int]]:
    """The policy, and which of its requests' levels the knobs decide."""
    message = request.message
    direction, selector = policy_key(message)
    policy = policy_of(message)
    if policy.type > PolicyType.IPSEC:
        raise SadbError(EINVAL, f"policy type {policy.type} is for sockets, or none")
    is_ipsec = policy.type == PolicyType.IPSEC
    if is_ipsec:
        for end in (selector.src, selector.dst):
            unsupported.refuse_address(end.address, end.prefixlen)
    requests = list(bundle(state.reqids, policy, request.manners))
    by_default = []
    # Level default is what the knobs say to who has them, and require on Linux.
    if request.manners.has_deflevs:
        octets = len(selector.src.address)
        for number, given in enumerate(policy.requests):
            if given.level == Level.DEFAULT and is_ipsec:
                level = level_of_default(state, octets, given.proto, Mode(given.mode))
                requests[number] = replace(requests[number], level=level)
                by_default.append(number)
    spec = PolicySpec(
        id=0, dir=direction, type=PolicyType(policy.type), selector=selector,
        requests=tuple(requests),
        # NetBSD has none: as setkey on Linux says for none
        priority=policy.priority if request.manners.dialect.has_priority else PRIORITY_DEF,
    )  # fmt: skip
    return spec, frozenset(by_default)


def _life(message: Message, spec: PolicySpec) -> Limit:
    """How long the policy may live, and go unused.

    DEVIATION from Linux, which takes limits of octets and packets and soft limits and makes nothing
    of them, and measures the use of every policy: what nft decides alone is not seen
    (test_a_lifetime_that_cannot_be_kept_is_refused).
    """
    hard, soft = limit(message.hard), limit(message.soft)
    if soft != NO_LIMIT:
        raise SadbError(EOPNOTSUPP, "a soft lifetime of a policy would be told to nobody")
    if hard.allocations or hard.octets:
        raise SadbError(EOPNOTSUPP, "a policy lives for seconds (addtime, usetime), not packets")
    is_seen = spec.is_required if spec.dir != Dir.OUT else spec.type == PolicyType.IPSEC
    if hard.usetime and not is_seen:
        raise SadbError(EOPNOTSUPP, "the use of a policy that lets pass or discards is not seen")
    return hard
