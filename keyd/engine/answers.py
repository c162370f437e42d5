"""What requests that change something are answered with, by each system's code.

Linux tells all that is known of the object. NetBSD and FreeBSD repeat some extensions of the
request, in an order of their own, OpenBSD all of them in the order of their numbers; neither has
keys. A request of another dialect is repeated as near as the hearer's can say it.
"""

from collections.abc import Sequence
from dataclasses import replace

from keyd.engine.encapsulation import asks_openbsd, extensions
from keyd.engine.manners import Kin, Manners
from keyd.engine.records import (
    flow_message,
    policy_current,
    policy_record,
    sa_record,
)
from keyd.engine.sad import SaRecord
from keyd.engine.spd import PolicyRecord
from keyd.engine.state import Request, State
from keyd.engine.told import Builder, Told, told_alike, told_by_kin
from pfkey.base import Header, error_reply
from pfkey.const import ExtType, MsgType
from pfkey.dialect import Dialect
from pfkey.ext_address import Address
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort
from pfkey.hot_parts import Limits
from pfkey.message import Extension, Message
from pfkey.neutral import spoken

_ENDS = (ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST)
_KEYS = (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT)
_IDENTITIES = (ExtType.IDENTITY_SRC, ExtType.IDENTITY_DST)
_LIMITS = (ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT)
# In the order of key_getmsgbuf_x1 of NetBSD and FreeBSD.
_KAME_SA = (
    ExtType.SA, ExtType.X_SA2, *_ENDS, *_LIMITS, *_IDENTITIES, ExtType.X_NAT_T_TYPE,
    ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OAI, ExtType.X_NAT_T_OAR,
    ExtType.X_NAT_T_FRAG, ExtType.X_NEW_ADDRESS_SRC, ExtType.X_NEW_ADDRESS_DST,
)  # fmt: skip


def bare(request: Message) -> Told:
    """A header alone: the echo of FLUSH and its like."""
    base = Header(request.type, request.satype, 0, request.seq, request.pid)

    def build(dialect: Dialect, keys: bool) -> bytes:
        return error_reply(base, 0, dialect)

    return told_by_kin(base.type, base.satype, linux=build, kame=build, openbsd=build)


def sa_changed(state: State, request: Request, sa: SaRecord, more: Sequence[Extension]) -> Told:
    """ADD and UPDATE; `more` are the identities that they came with."""
    message = request.message
    used = state.usage_of(sa)
    type, seq, pid = MsgType(message.type), message.seq, message.pid

    # OpenBSD's one port does not say which end it is of: KAME's clients are told as it was taken
    udp = extensions(sa.spec) if asks_openbsd(message) else ()
    in_full = replace(message, extensions=(*message.extensions, *udp))
    others = {Kin.KAME: _parts(in_full, _KAME_SA), Kin.OPENBSD: _repeated(message)}

    def build(manners: Manners, *, keys: bool) -> bytes | None:
        if manners.kin is not Kin.LINUX:
            return others[manners.kin](manners.dialect, keys)
        return sa_record(
            sa, used, type=type, seq=seq, pid=pid, keys=keys, more=more, manners=manners
        )  # fmt: skip

    return Told(type, sa.satype, build, has_keys=True)


def sa_gone(state: State, request: Request, sa: SaRecord) -> Told:
    """DELETE of one SA."""
    message = request.message
    return told_by_kin(
        MsgType.DELETE, sa.satype, linux=_dead(state, request, sa),
        kame=_parts(message, (ExtType.SA, *_ENDS)), openbsd=_repeated(message), has_keys=True,
    )  # fmt: skip


def one_of_all_gone(state: State, request: Request, sa: SaRecord) -> Told:
    """One of the SAs that a DELETE without an SPI has ended, for who knows no such DELETE."""

    def openbsd(dialect: Dialect, keys: bool) -> bytes:
        ends = _ends(sa.spec.src, sa.spec.dst)
        named = replace(request.message, extensions=(Sa(spi=sa.spec.spi), *ends))
        return _said(named, dialect)

    linux = _dead(state, request, sa)
    return told_by_kin(MsgType.DELETE, sa.satype, linux=linux, openbsd=openbsd, has_keys=True)


def _dead(state: State, request: Request, sa: SaRecord) -> Builder:
    message = request.message

    def linux(dialect: Dialect, keys: bool) -> bytes:
        used = state.usage_of(sa)
        return sa_record(
            sa, used, type=MsgType.DELETE, seq=message.seq, pid=message.pid, keys=keys
        )  # fmt: skip

    return linux


def all_gone(message: Message) -> Told:
    """DELETE of all SAs between two addresses, which only NetBSD and FreeBSD know."""
    return told_by_kin(
        message.type, message.satype, linux=_nothing, kame=_parts(message, _ENDS)
    )  # fmt: skip


def spi_reserved(state: State, request: Request, sa: SaRecord) -> Told:
    """GETSPI: the larval SA; elsewhere than on Linux its SPI and addresses alone."""
    message = request.message
    used = state.usage_of(sa)

    def linux(dialect: Dialect, keys: bool) -> bytes:
        return sa_record(sa, used, type=MsgType.GETSPI, seq=message.seq, pid=message.pid)

    def others(dialect: Dialect, keys: bool) -> bytes | None:
        named = replace(message, extensions=(Sa(spi=sa.spec.spi), *message.extensions))
        return _parts(named, (ExtType.SA, *_ENDS))(dialect, keys)

    return told_by_kin(message.type, sa.satype, linux=linux, kame=others, openbsd=others)


def policy_changed(request: Request, policy: PolicyRecord, type: MsgType) -> Told:
    """SPDADD, SPDUPDATE, SPDSETIDX and ADDFLOW; to others than who asked it is of `type`.

    NetBSD and FreeBSD tell the policy first, as it was asked for, its id and request ids filled in.
    """
    message = request.message
    record = _policy(request, policy, type)

    def kame(dialect: Dialect, keys: bool) -> bytes | None:
        asked = message.policy
        if asked is None:  # a flow
            return record(dialect, keys)
        requests = tuple(
            replace(given, reqid=made.reqid)
            for given, made in zip(asked.requests, policy.spec.requests, strict=False)
        )
        shown = replace(asked, id=policy.spec.id, requests=requests)
        rest = (ExtType.LIFETIME_HARD, *_ENDS)
        found = (one for one in map(message.ext, rest) if one is not None)
        return _said(replace(message, type=type, extensions=(shown, *found)), dialect)

    openbsd = _flow(request, policy, MsgType.X_ADDFLOW)
    return told_by_kin(type, 0, linux=record, kame=kame, openbsd=openbsd)


def policy_gone(request: Request, policy: PolicyRecord, type: MsgType) -> Told:
    """SPDDELETE, SPDDELETE2 and DELFLOW; to others than who asked it is of `type`."""
    message = request.message
    record = _policy(request, policy, type)

    def kame(dialect: Dialect, keys: bool) -> bytes | None:
        if message.policy is None:
            return record(dialect, keys)
        named = replace(message.policy, id=policy.spec.id)
        order = _ENDS if type == MsgType.X_SPDDELETE else ()
        found = (one for one in map(message.ext, order) if one is not None)
        return _said(replace(message, extensions=(named, *found)), dialect)

    openbsd = _flow(request, policy, MsgType.X_DELFLOW)
    return told_by_kin(type, 0, linux=record, kame=kame, openbsd=openbsd)


def _policy(request: Request, policy: PolicyRecord, type: MsgType) -> Builder:
    seq, pid = request.message.seq, request.message.pid

    def record(dialect: Dialect, keys: bool) -> bytes:
        return policy_record(policy, type=type, seq=seq, pid=pid, dialect=dialect)

    return record


def _flow(request: Request, policy: PolicyRecord, type: MsgType) -> Builder:
    """A change of a policy as OpenBSD tells it: the flow as it was asked for, or as it would be."""
    message = request.message

    def openbsd(dialect: Dialect, keys: bool) -> bytes | None:
        if message.type == type:
            return _said(message, dialect)
        flow = flow_message(policy, type=type, seq=message.seq, pid=message.pid)
        return None if flow is None else flow.encode(dialect)

    return openbsd


def policy_expired(policy: PolicyRecord) -> Told:
    """SPDEXPIRE; NetBSD and FreeBSD tell the lifetimes first, OpenBSD has no such message."""

    def linux(dialect: Dialect, keys: bool) -> bytes:
        return policy_record(policy, type=MsgType.X_SPDEXPIRE)

    def kame(dialect: Dialect, keys: bool) -> bytes:
        octets = policy_record(policy, type=MsgType.X_SPDEXPIRE, dialect=dialect)
        whole = Message.decode(octets, dialect)
        lives = (
            _lifetime(ExtType.LIFETIME_CURRENT, policy_current(policy)),
            _lifetime(ExtType.LIFETIME_HARD, policy.hard),
        )
        rest = (one for one in whole.extensions if not isinstance(one, Lifetime))
        return replace(whole, reserved=0, extensions=(*lives, *rest)).encode(dialect)

    return told_by_kin(MsgType.X_SPDEXPIRE, 0, linux=linux, kame=kame)


def flow_grown(request: Request, policy: PolicyRecord) -> Told:
    """A flow's policy has more steps since a GRPSPIS; OpenBSD's flows do not show them."""
    record = _policy(request, policy, MsgType.X_SPDUPDATE)
    return told_by_kin(MsgType.X_SPDUPDATE, 0, linux=record, kame=record)


def repeated(message: Message) -> Told:
    """GRPSPIS, which OpenBSD alone knows."""
    return told_by_kin(
        message.type, message.satype, linux=_nothing, openbsd=_repeated(message)
    )  # fmt: skip


def migrated(request: Request, policy: PolicyRecord) -> Told:
    """MIGRATE: what was asked, in the order of Linux; to others, the policy that came of it."""
    message = request.message
    order = (ExtType.X_KMADDRESS, *_ENDS, ExtType.X_POLICY)

    def linux(dialect: Dialect, keys: bool) -> bytes:
        found = tuple(one for one in map(message.ext, order) if one is not None)
        return replace(message, extensions=found).encode(dialect)

    return told_by_kin(
        message.type, 0, linux=linux, kame=_policy(request, policy, MsgType.X_SPDUPDATE),
        openbsd=_flow(request, policy, MsgType.X_ADDFLOW),
    )  # fmt: skip


def mapping(sa: SaRecord, ports: tuple[int, int], address: bytes) -> Told:
    """Where an SA's packets come from now; of the SA the SPI alone."""
    old, new = ports
    src, _ = _ends(sa.spec.src, sa.spec.dst)
    return told_alike(
        Message(
            type=MsgType.X_NAT_T_NEW_MAPPING, satype=sa.satype,
            extensions=(
                Sa(spi=sa.spec.spi),
                src,
                NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=old),
                _whole(ExtType.ADDRESS_DST, address),
                NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=new),
            ),
        )
    )  # fmt: skip


def _nothing(dialect: Dialect, keys: bool) -> None:
    return None


def _said(message: Message, dialect: Dialect) -> bytes:
    """A message in the hearer's words, as near as they come."""
    return spoken(message, dialect, is_nearest=True).encode(dialect)


def _parts(message: Message, order: Sequence[ExtType]) -> Builder:
    """Some of a request's extensions, in this order."""

    def build(dialect: Dialect, keys: bool) -> bytes:
        found = tuple(one for one in map(message.ext, order) if one is not None)
        return _said(replace(message, extensions=found), dialect)

    return build


def _repeated(message: Message) -> Builder:
    """All of a request but its keys, and what is of our own."""
    left_out = (*_KEYS, ExtType.X_REPLAY_WINDOW)

    def build(dialect: Dialect, keys: bool) -> bytes:
        found = tuple(one for one in message.extensions if one.exttype not in left_out)
        return _said(replace(message, extensions=found), dialect)

    return build


def _lifetime(exttype: ExtType, limits: Limits) -> Lifetime:
    allocations, octets, addtime, usetime = limits
    return Lifetime(
        exttype=exttype, allocations=allocations, octets=octets, addtime=addtime, usetime=usetime
    )


def _ends(src: bytes, dst: bytes) -> tuple[Address, Address]:
    return _whole(ExtType.ADDRESS_SRC, src), _whole(ExtType.ADDRESS_DST, dst)


def _whole(exttype: ExtType, address: bytes) -> Address:
    return Address(exttype=exttype, address=address, prefixlen=8 * len(address))
