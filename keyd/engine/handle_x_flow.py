"""OpenBSD's ADDFLOW, DELFLOW and ASKPOLICY: flows are policies here (`keyd.engine.flows`)."""

from errno import EEXIST, EINVAL, ENOBUFS, ESRCH

from keyd.engine import unsupported
from keyd.engine.answers import policy_changed
from keyd.engine.effects import Effect, PoliciesChanged
from keyd.engine.flows import key_of, read, selector_of
from keyd.engine.handle_x_group import with_links
from keyd.engine.handle_x_spd import remove_policy
from keyd.engine.state import Request, State
from keyd.engine.told import told_by_kin
from keyd.model import PolicySpec
from pfkey.const import UNSPEC_PROTO, ExtType, Mode, MsgType, PolicyType
from pfkey.dialect import Dialect
from pfkey.errors import SadbError
from pfkey.ext_x_word import Word
from pfkey.message import Message


def add_flow(state: State, request: Request) -> list[Effect]:
    """ADDFLOW: a new flow, or another in the place of the one with the same selector.

    DEVIATION from OpenBSD, which says that it is done when a flow that is not static meets one that
    is, and leaves all as it was: refused (test_a_static_flow_is_only_replaced_by_another).

    Raises:
        SadbError: EEXIST for that; EINVAL and EOPNOTSUPP for what the request says; ENOBUFS when
            the database is full.
    """
    spec, flow = read(request.message, lambda *what: _has_sa(state, *what))
    if spec.type == PolicyType.IPSEC:
        _refuse_addresses(spec)
    spec = with_links(state, spec)
    old = state.spd.get(spec.key)
    if old is not None and old.flow is not None and old.flow.is_static and not flow.is_static:
        raise SadbError(EEXIST, "a static flow has this selector (flag 1)")
    policy, replaced, hold = state.spd.add(spec, request.now, may_replace=True)
    policy.flow = flow
    before = () if replaced is None else (replaced,)
    removed = (*(one.spec for one in before), *(() if hold is None else (hold,)))
    change = PoliciesChanged((policy.spec,), removed, request.refusal(ENOBUFS))
    state.spd.note(change, before)
    told = policy_changed(request, policy, MsgType.X_SPDUPDATE)
    return [change, *state.clients.all(told, request.client)]


def delete_flow(state: State, request: Request) -> list[Effect]:
    """DELFLOW: by direction and selector.

    Raises:
        SadbError: EINVAL when a part is missing; ENOENT when there is none.
    """
    return remove_policy(state, request, state.spd.find(key_of(request.message)))


def ask_policy(state: State, request: Request) -> list[Effect]:
    """ASKPOLICY: what an ACQUIRE, named by its sequence number, is for.

    DEVIATION from OpenBSD, which narrows the flow to the packet: the flow is told as it is
    (test_askpolicy_tells_the_flow_of_an_acquire).

    Raises:
        SadbError: EINVAL without that number; ESRCH when nothing is being acquired under it.
    """
    message = request.message
    wanted = message.ext(ExtType.X_OPENBSD_POLICY)
    if not isinstance(wanted, Word):
        raise SadbError(EINVAL, "extension X_OPENBSD_POLICY must be there")
    asked = state.acquires.find_seq(wanted.value, request.now.mono)
    policy = None if asked is None else state.spd.get_id(asked.need.policy)
    if policy is None:
        raise SadbError(ESRCH, f"no ACQUIRE has number {wanted.value}")
    upper = policy.spec.selector.proto
    selector = selector_of(policy.spec, 0 if upper == UNSPEC_PROTO else upper)
    shown = tuple(one for one in selector if one.exttype != ExtType.X_PROTOCOL)
    answer = Message(
        type=message.type, satype=message.satype, seq=message.seq, pid=message.pid,
        extensions=(*shown, wanted),
    )  # fmt: skip

    def openbsd(dialect: Dialect, keys: bool) -> bytes:
        return answer.encode(dialect)

    told = told_by_kin(
        message.type, message.satype, linux=lambda dialect, keys: None, openbsd=openbsd
    )  # fmt: skip
    return [*state.clients.one(request.client, told)]


def _has_sa(state: State, proto: int, src: bytes, dst: bytes, mode: Mode) -> bool:
    """Whether an SA with keys of this mode is there, in one way or the other."""
    ways = ((src, dst), (dst, src))
    return any(
        (sa.spec.proto, sa.spec.mode) == (proto, mode) and (sa.spec.src, sa.spec.dst) in ways
        for sa in state.sad
        if not sa.is_larval
    )


def _refuse_addresses(spec: PolicySpec) -> None:
    for ends in (spec.selector.src, spec.selector.dst):
        unsupported.refuse_address(ends.address, ends.prefixlen)
    for request in spec.requests:
        for end in (request.src, request.dst):
            if end is not None:
                unsupported.refuse_address(end)
