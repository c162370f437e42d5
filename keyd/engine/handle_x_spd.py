"""The SPD's messages (KAME; Linux's behaviour): SPDADD, SPDUPDATE, SPDSETIDX, SPDDELETE, SPDGET.

A change is answered after steering has made it; if steering cannot, only the sender hears, and
the database is as it was (`Spd.revert`).
"""

from errno import EINVAL, ELOOP, ENOBUFS

from keyd.engine import unsupported
from keyd.engine.effects import Effect, PoliciesChanged
from keyd.engine.handle_flush import notice
from keyd.engine.parts import addresses
from keyd.engine.records import bare, policy_record
from keyd.engine.spd import Key, PolicyRecord
from keyd.engine.state import Request as ClientRequest
from keyd.engine.state import State
from keyd.model import PolicySpec, Request
from pfkey.const import (
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    UNSPEC_PROTO,
    Dir,
    Level,
    Mode,
    MsgType,
    PolicyType,
)
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.message import Message
from pfkey.selector import Range, Selector

REQUESTS_MAX = 6  # XFRM_MAX_DEPTH


def spd_add(state: State, request: ClientRequest) -> list[Effect]:
    """SPDADD and SPDSETIDX: a new policy; SPDUPDATE: a new one, or another for the same selector.

    Raises:
        SadbError: EEXIST for an equal policy unless it may be replaced; EINVAL, ELOOP and
            EOPNOTSUPP for what the request says; ENOBUFS when the database is full.
    """
    spec = _spec(request.message)
    may_replace = request.message.type == MsgType.X_SPDUPDATE
    policy, old, hold = state.spd.add(spec, request.now.wall, may_replace=may_replace)
    replaced = () if old is None else (old,)
    removed = (*(record.spec for record in replaced), *(() if hold is None else (hold,)))
    change = PoliciesChanged((policy.spec,), removed, request.refusal(ENOBUFS))
    state.spd.note(change, replaced)
    return [change, *_echo(state, request, policy)]


def spd_delete(state: State, request: ClientRequest) -> list[Effect]:
    """SPDDELETE: by direction and selector. A hold is not found.

    Raises:
        SadbError: EINVAL when a part is missing or the direction none; ENOENT.
    """
    return _remove(state, request, state.spd.find(_key(request.message)))


def spd_delete_id(state: State, request: ClientRequest) -> list[Effect]:
    """SPDDELETE2: by id.

    Raises:
        SadbError: EINVAL when the id names no direction; ENOENT.
    """
    return _remove(state, request, state.spd.find_id(_policy(request.message).id))


def spd_get(state: State, request: ClientRequest) -> list[Effect]:
    """SPDGET: one policy, by id, for the sender.

    Raises:
        SadbError: EINVAL when the id names no direction; ENOENT.
    """
    message = request.message
    policy = state.spd.find_id(_policy(message).id)
    record = policy_record(policy, type=MsgType.X_SPDGET, seq=message.seq, pid=message.pid)
    return [*state.clients.one(request.client, record)]


def spd_flush(state: State, request: ClientRequest) -> list[Effect]:
    """SPDFLUSH: all policies go, and all holds."""
    holds = state.spd.holds
    policies = state.spd.clear()
    echo = notice(request, bare(request.message), was_empty=not policies)
    if not policies and not holds:
        return [*echo]
    removed = (*holds, *(policy.spec for policy in policies))
    change = PoliciesChanged((), removed, request.refusal(ENOBUFS))
    state.spd.note(change, policies)
    return [change, *echo]


def _remove(state: State, request: ClientRequest, policy: PolicyRecord) -> list[Effect]:
    state.spd.remove(policy)
    change = PoliciesChanged((), (policy.spec,), request.refusal(ENOBUFS))
    state.spd.note(change, (policy,))
    return [change, *_echo(state, request, policy)]


def _echo(state: State, request: ClientRequest, policy: PolicyRecord) -> list[Effect]:
    """The whole policy, its id filled in, for everybody."""
    message = request.message
    record = policy_record(
        policy, type=MsgType(message.type), seq=message.seq, pid=message.pid
    )  # fmt: skip
    return [*state.clients.all(record)]


def _policy(message: Message) -> Policy:
    if message.policy is None:
        raise SadbError(EINVAL, "extension X_POLICY must be there")
    return message.policy


def _key(message: Message) -> Key:
    """Direction and selector.

    The upper protocol is the destination's; 0 and 255 both mean any, as on Linux.
    """
    src, dst = addresses(message)
    direction = _policy(message).dir
    if direction not in (Dir.IN, Dir.OUT, Dir.FWD):
        raise SadbError(EINVAL, f"direction {direction}: in is 1, out 2, fwd 3")
    selector = Selector(
        Range(src.address, src.prefixlen, src.port),
        Range(dst.address, dst.prefixlen, dst.port),
        dst.proto or UNSPEC_PROTO,
    )
    return Dir(direction), selector


def _spec(message: Message) -> PolicySpec:
    direction, selector = _key(message)
    policy = _policy(message)
    if policy.type > PolicyType.IPSEC:
        raise SadbError(EINVAL, f"policy type {policy.type} is for sockets, or none")
    unsupported.refuse(unsupported.FAMILIES, addresses(message)[0].family)
    if len(policy.requests) > REQUESTS_MAX:
        raise SadbError(ELOOP, f"{len(policy.requests)} requests, {REQUESTS_MAX} are the most")
    is_ipsec = policy.type == PolicyType.IPSEC
    # DEVIATION from Linux, where `ipsec` without requests lets everything pass in clear
    # (test_ipsec_policy_without_requests_is_refused).
    if is_ipsec and not policy.requests:
        raise SadbError(EINVAL, "an ipsec policy needs a request such as esp/transport//require")
    return PolicySpec(
        id=0,
        dir=direction,
        type=PolicyType(policy.type),
        selector=selector,
        requests=tuple(map(_request, policy.requests)) if is_ipsec else (),
        priority=policy.priority,
    )


def _request(given: IpsecRequest) -> Request:
    """One request, checked. Level default is require, which Linux means by it.

    A tunnel has its end points, which may be of another family than what goes through it.
    Transport mode takes no addresses, yet iked sends some: they say nothing, as on Linux.
    DEVIATION from Linux, which ignores a reqid without level unique: it is refused
    (test_a_reqid_without_level_unique_is_refused).
    """
    if given.mode == Mode.ANY or given.mode not in list(Mode):
        raise SadbError(EINVAL, f"request of mode {given.mode}: transport is 1, tunnel 2")
    if given.proto not in (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP):
        raise SadbError(EINVAL, f"request of protocol {given.proto}: esp is 50, ah 51, ipcomp 108")
    if given.level not in list(Level):
        raise SadbError(EINVAL, f"request of level {given.level}: use is 1, require 2, unique 3")
    unsupported.refuse(unsupported.REQUEST_MODES, given.mode)
    unsupported.refuse(unsupported.LEVELS, given.level)
    if given.reqid:
        raise SadbError(EINVAL, f"reqid {given.reqid} without level unique")
    level = Level.USE if given.level == Level.USE else Level.REQUIRE
    is_tunnel = given.mode == Mode.TUNNEL
    return Request(
        proto=given.proto, mode=Mode(given.mode), level=level,
        src=given.src if is_tunnel else None, dst=given.dst if is_tunnel else None,
    )  # fmt: skip
