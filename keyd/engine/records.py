"""The records that go to clients: an SA, a policy, a bare header (RFC 2367 section 3.1).

Fields and their order are those of Linux's af_key: an SA shows both lifetimes even when nothing
limits it, its addresses without port or protocol, mode ANY as transport, and of its flags only
those that Linux knows. Lifetimes are wall-clock seconds.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.sad import SaRecord
from keyd.engine.spd import PolicyRecord
from keyd.engine.state import State
from keyd.model import Usage
from pfkey.const import (
    ExtType,
    Level,
    Mode,
    MsgType,
    SaFlag,
)
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from pfkey.selector import Range

_Record = TypeVar("_Record")

REFERENCES = 1  # Linux counts who holds a policy; setkey prints the count
SHOWN_FLAGS = SaFlag.NOPMTUDISC | SaFlag.DECAP_DSCP | SaFlag.NOECN


def bare(request: Message, *, satype: int | None = None) -> bytes:
    """A header alone: the echo of FLUSH and its like."""
    return Message(
        type=request.type,
        satype=request.satype if satype is None else satype,
        seq=request.seq,
        pid=request.pid,
    ).encode()


def sa_record(
    sa: SaRecord,
    used: Usage,
    *,
    type: MsgType,
    seq: int = 0,
    pid: int = 0,
    keys: bool = True,
    hard: bool = True,
    soft: bool = True,
) -> bytes:
    """All that is known of an SA; without `keys` for other clients' eyes."""
    spec = sa.spec
    shown = Sa(
        spi=spec.spi, replay=spec.replay_packets, state=sa.state, auth=spec.auth,
        encrypt=spec.encrypt, flags=spec.flags & SHOWN_FLAGS,
    )  # fmt: skip
    current = Lifetime(
        exttype=ExtType.LIFETIME_CURRENT, allocations=used.packets, octets=used.octets,
        addtime=int(sa.created_wall), usetime=int(used.first_use),
    )  # fmt: skip
    mode = Mode.TRANSPORT if spec.mode == Mode.ANY else spec.mode
    extensions = (
        shown,
        *((_lifetime(ExtType.LIFETIME_HARD, sa.hard),) if hard else ()),
        *((_lifetime(ExtType.LIFETIME_SOFT, sa.soft),) if soft else ()),
        current,
        _address(ExtType.ADDRESS_SRC, Range(spec.src, 8 * len(spec.src)), 0),
        _address(ExtType.ADDRESS_DST, Range(spec.dst, 8 * len(spec.dst)), 0),
        *(_keys(sa) if keys else ()),
        Sa2(mode=mode, reqid=spec.reqid),
    )
    return Message(
        type=type, satype=sa.satype, seq=seq, pid=pid, extensions=extensions
    ).encode()  # fmt: skip


def policy_record(policy: PolicyRecord, *, type: MsgType, seq: int = 0, pid: int = 0) -> bytes:
    """All that is known of a policy."""
    spec = policy.spec
    requests = tuple(
        IpsecRequest(
            proto=request.proto, mode=request.mode, reqid=request.reqid, src=request.src,
            dst=request.dst, level=Level.UNIQUE if request.reqid else request.level,
        )
        for request in spec.requests
    )  # fmt: skip
    current = Lifetime(exttype=ExtType.LIFETIME_CURRENT, addtime=int(policy.created_wall))
    extensions = (
        _address(ExtType.ADDRESS_SRC, spec.selector.src, spec.selector.proto),
        _address(ExtType.ADDRESS_DST, spec.selector.dst, spec.selector.proto),
        _lifetime(ExtType.LIFETIME_HARD, NO_LIMIT),
        _lifetime(ExtType.LIFETIME_SOFT, NO_LIMIT),
        current,
        Policy(type=spec.type, dir=spec.dir, id=spec.id, priority=spec.priority, requests=requests),
    )
    return Message(
        type=type, seq=seq, pid=pid, reserved=REFERENCES, extensions=extensions
    ).encode()  # fmt: skip


def sa_dump(state: State, sas: list[SaRecord], pid: int, *, keys: bool) -> Iterator[bytes]:
    """The records of a DUMP, encoded as they are asked for."""
    for seq, sa in _numbered(sas):
        yield sa_record(sa, state.usage_of(sa), type=MsgType.DUMP, seq=seq, pid=pid, keys=keys)


def policy_dump(policies: list[PolicyRecord], pid: int) -> Iterator[bytes]:
    """The records of an SPDDUMP, encoded as they are asked for."""
    for seq, policy in _numbered(policies):
        yield policy_record(policy, type=MsgType.X_SPDDUMP, seq=seq, pid=pid)


def _numbered(records: list[_Record]) -> Iterator[tuple[int, _Record]]:
    """Linux counts a dump's records up from 1, and the last one is 0."""
    for seq, record in enumerate(records, 1):
        yield seq % len(records), record


def _lifetime(exttype: ExtType, limit: Limit) -> Lifetime:
    return Lifetime(
        exttype=exttype, allocations=limit.allocations, octets=limit.octets,
        addtime=limit.addtime, usetime=limit.usetime,
    )  # fmt: skip


def _address(exttype: ExtType, ends: Range, proto: int) -> Address:
    return Address(
        exttype=exttype, address=ends.address, prefixlen=ends.prefixlen, port=ends.port, proto=proto
    )


def _keys(sa: SaRecord) -> Iterable[Key]:
    spec = sa.spec
    if spec.auth:
        yield Key(exttype=ExtType.KEY_AUTH, bits=8 * len(spec.auth_key), key=spec.auth_key)
    if spec.encrypt:
        yield Key(exttype=ExtType.KEY_ENCRYPT, bits=8 * len(spec.encrypt_key), key=spec.encrypt_key)
