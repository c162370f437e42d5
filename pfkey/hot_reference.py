"""The frequent records by way of their extensions: what the structs of `hot` are held to.

Which extensions, and in which order, is each system's (specs/tables/records.toml).
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from pfkey.const import ExtType, Mode, OpenbsdFlag
from pfkey.dialect import FREEBSD, LINUX, NETBSD, Dialect
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_x_bsd import Replay
from pfkey.ext_x_natt import NatTType
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.hot_bsd_spd import SCOPE
from pfkey.hot_parts import NO_LIMITS, Limits, Place
from pfkey.message import Extension

if TYPE_CHECKING:
    from pfkey.hot import PolicyRecord, SaRecord
    from pfkey.hot_events import Acquire, Expire


def _addresses(src: Place, dst: Place) -> tuple[Extension, Extension]:
    return (
        Address(exttype=ExtType.ADDRESS_SRC, **src._asdict()),
        Address(exttype=ExtType.ADDRESS_DST, **dst._asdict()),
    )


def _lifetime(exttype: int, limits: Limits) -> Lifetime:
    allocations, octets, addtime, usetime = limits
    return Lifetime(
        exttype=exttype, allocations=allocations, octets=octets, addtime=addtime, usetime=usetime
    )


def _sa(record: "SaRecord | Expire", dialect: Dialect) -> tuple[Extension, ...]:
    """The association, with what a window or a mode needs beside it."""
    sa = Sa(
        spi=record.spi, replay=record.replay, state=record.state, auth=record.auth,
        encrypt=record.encrypt, flags=record.flags,
    )  # fmt: skip
    if not dialect.has_policies:
        is_tunnel = record.mode == Mode.TUNNEL
        return (replace(sa, flags=sa.flags | OpenbsdFlag.TUNNEL) if is_tunnel else sa,)
    sa2 = Sa2(mode=record.mode, reqid=record.reqid, sequence=record.sequence)
    if dialect is FREEBSD and sa.replay > dialect.window_max:
        window = Word(exttype=ExtType.X_SA_REPLAY, value=sa.replay)
        return replace(sa, replay=dialect.window_max), sa2, window
    return sa, sa2


def extensions_of_sa(record: "SaRecord", dialect: Dialect) -> tuple[Extension, ...]:
    """Those of a DUMP or GET record."""
    hard = _lifetime(ExtType.LIFETIME_HARD, record.hard)
    soft = _lifetime(ExtType.LIFETIME_SOFT, record.soft)
    current = _lifetime(ExtType.LIFETIME_CURRENT, record.current)
    ends = _addresses(record.src, record.dst)
    keys = tuple(
        Key(exttype=exttype, bits=bits, key=key)
        for exttype, bits, key in (
            (ExtType.KEY_AUTH, record.auth_bits, record.auth_key),
            (ExtType.KEY_ENCRYPT, record.encrypt_bits, record.encrypt_key),
        )
        if key is not None
    )
    if dialect is LINUX:
        sa, sa2 = _sa(record, dialect)
        return (sa, hard, soft, current, *ends, *keys, sa2)
    if dialect.has_policies:
        limits = () if record.hard == record.soft == NO_LIMITS else (hard, soft)
        after = (NatTType(type=0),) if dialect is NETBSD else ()
        return (*_sa(record, dialect), *limits, current, *ends, *keys, *after)
    apart = [
        limit for limit, said in ((hard, record.hard), (soft, record.soft)) if said != NO_LIMITS
    ]
    return (*_sa(record, dialect), current, *apart, *ends, *keys, Replay(count=record.sequence))


def extensions_of_policy(record: "PolicyRecord", dialect: Dialect) -> tuple[Extension, ...]:
    """Those of an SPDDUMP or SPDGET record."""
    hard = _lifetime(ExtType.LIFETIME_HARD, record.hard)
    soft = _lifetime(ExtType.LIFETIME_SOFT, record.soft)
    current = _lifetime(ExtType.LIFETIME_CURRENT, record.current)
    ends = _addresses(record.src, record.dst)
    policy = Policy(
        type=record.policy_type, dir=record.dir, id=record.id, priority=record.priority,
        requests=record.requests, scope=SCOPE.get(dialect.name, 0),
    )  # fmt: skip
    if dialect is LINUX:
        return (*ends, hard, soft, current, policy)
    return (*ends, policy) if record.hard == NO_LIMITS else (*ends, policy, current, hard)


def extensions_of_acquire(record: "Acquire", dialect: Dialect) -> tuple[Extension, ...]:
    """Those of an ACQUIRE."""
    extensions: tuple[Extension, ...] = _addresses(record.src, record.dst)
    if dialect.has_policies:
        policy = Policy(
            type=record.policy_type, dir=record.dir, id=record.policy_id, priority=record.priority
        )
        extensions = (*extensions, policy)
    return (*extensions, Proposal.decode(record.proposal)) if record.proposal else extensions


def extensions_of_expire(record: "Expire", dialect: Dialect) -> tuple[Extension, ...]:
    """Those of an EXPIRE."""
    fired = _lifetime(record.fired, record.limits)
    current = _lifetime(ExtType.LIFETIME_CURRENT, record.current)
    ends = _addresses(record.src, record.dst)
    if dialect is LINUX:
        sa, sa2 = _sa(record, dialect)
        return (sa, fired, current, *ends, sa2)
    return (*_sa(record, dialect), current, fired, *ends)
