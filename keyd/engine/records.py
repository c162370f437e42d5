"""The records that go to clients: an SA, a policy, a bare header (RFC 2367 section 3.1).

Fields and their order are those of Linux's af_key: an SA shows both lifetimes even when nothing
limits it, its addresses without port or protocol, and mode ANY as transport. DEVIATION: its flags
are shown, also those that Linux does not know (test_flags_are_shown_that_change_packets).
Lifetimes are wall-clock seconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from keyd.engine import encapsulation
from keyd.engine.lifetimes import NO_LIMIT
from keyd.engine.sad import SaRecord
from keyd.engine.spd import PolicyRecord
from keyd.engine.state import State
from keyd.engine.variants import KNOWN
from keyd.model import Need, PolicySpec, Usage
from pfkey import hot
from pfkey.base import Header, error_reply
from pfkey.const import IPPROTO_COMP, SATYPE_OF_PROTO, ExtType, Level, Mode, MsgType, SaFlag
from pfkey.ext_address import Address
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_word import Word
from pfkey.hot_events import Acquire
from pfkey.hot_parts import Place
from pfkey.message import Extension, Message
from pfkey.selector import Range

_Record = TypeVar("_Record")

REFERENCES = 1  # Linux counts who holds a policy; setkey prints the count
WINDOW_SAID = 255  # the most that sadb_sa_replay can say
# CYCSEQ is not shown: setkey sets it by default and Linux ignores it
SHOWN_FLAGS = KNOWN & ~SaFlag.CYCSEQ
MODE_SHOWN = {Mode.ANY: Mode.TRANSPORT}


def bare(request: Message) -> bytes:
    """A header alone: the echo of FLUSH and its like."""
    return error_reply(Header(request.type, request.satype, 0, request.seq, request.pid), 0)


def sa_record(
    sa: SaRecord, used: Usage, *, type: MsgType, seq: int = 0, pid: int = 0, keys: bool = True,
    own: bool = False, more: Iterable[Extension] = (),
) -> bytes:  # fmt: skip
    """All that is known of an SA; without `keys` for other clients' eyes. `more` comes last.

    `own`: for a client that knows of our own extensions.
    """
    record = _sa(sa, used, type, seq, pid, keys)
    extensions = (*encapsulation.extensions(sa.spec), *_window(sa, own=own), *more)
    if not extensions:
        return record.encode()
    whole = record.message()
    return replace(whole, extensions=(*whole.extensions, *extensions)).encode()


def expire_record(sa: SaRecord, used: Usage, *, is_hard: bool) -> bytes:
    """An SA without keys, and of its limits only the kind that was reached."""
    whole = _sa(sa, used, MsgType.EXPIRE, 0, 0, keys=False).message()
    udp = encapsulation.extensions(sa.spec)
    left_out = ExtType.LIFETIME_SOFT if is_hard else ExtType.LIFETIME_HARD
    return Message(
        type=whole.type,
        satype=whole.satype,
        extensions=(*(e for e in whole.extensions if e.exttype != left_out), *udp),
    ).encode()


def acquire_record(need: Need, seq: int, policy: PolicySpec, proposal: bytes) -> bytes:
    """What is asked of the registered: one SA, for one request of a policy."""
    bits = 8 * len(need.src)
    return Acquire(
        satype=SATYPE_OF_PROTO[need.proto], seq=seq, src=Place(need.src, bits),
        dst=Place(need.dst, bits), policy_id=policy.id, priority=policy.priority,
        policy_type=policy.type, dir=policy.dir, proposal=proposal,
    ).encode()  # fmt: skip


def migrate_record(request: Message) -> bytes:
    """What was asked, in the order of Linux: who moves, which policy, from where to where."""
    order = (ExtType.X_KMADDRESS, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_POLICY)
    found = (request.ext(exttype) for exttype in order)
    return Message(
        type=request.type, satype=request.satype, seq=request.seq, pid=request.pid,
        extensions=tuple(extension for extension in found if extension is not None),
    ).encode()  # fmt: skip


def mapping_record(sa: SaRecord, ports: tuple[int, int], address: bytes) -> bytes:
    """Where an SA's packets come from now; of the SA the SPI alone."""
    spec, (old, new) = sa.spec, ports
    return Message(
        type=MsgType.X_NAT_T_NEW_MAPPING, satype=sa.satype,
        extensions=(
            Sa(spi=spec.spi),
            _whole(ExtType.ADDRESS_SRC, spec.src),
            NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=old),
            _whole(ExtType.ADDRESS_DST, address),
            NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=new),
        ),
    ).encode()  # fmt: skip


def policy_record(policy: PolicyRecord, *, type: MsgType, seq: int = 0, pid: int = 0) -> bytes:
    """All that is known of a policy."""
    spec = policy.spec
    last_use = policy.used.wall if policy.used else 0
    requests = tuple(
        IpsecRequest(
            proto=request.proto, mode=request.mode, reqid=request.reqid, src=request.src,
            dst=request.dst, level=Level.UNIQUE if request.reqid else request.level,
        )
        for request in spec.requests
    )  # fmt: skip
    return hot.PolicyRecord(
        src=_place(spec.selector.src, spec.selector.proto),
        dst=_place(spec.selector.dst, spec.selector.proto),
        policy_type=spec.type, dir=spec.dir, id=spec.id, priority=spec.priority,
        requests=requests, type=type, seq=seq, pid=pid, refcount=REFERENCES, hard=policy.hard,
        soft=NO_LIMIT, current=(0, 0, int(policy.created.wall), int(last_use)),
    ).encode()  # fmt: skip


def sa_dump(
    state: State, sas: list[SaRecord], pid: int, *, keys: bool, own: bool = False
) -> Iterator[bytes]:
    """The records of a DUMP, encoded as they are asked for."""
    type = MsgType.DUMP
    for seq, sa in _numbered(sas):
        used = state.usage_of(sa)
        yield sa_record(sa, used, type=type, seq=seq, pid=pid, keys=keys, own=own)


def policy_dump(policies: list[PolicyRecord], pid: int) -> Iterator[bytes]:
    """The records of an SPDDUMP, encoded as they are asked for."""
    for seq, policy in _numbered(policies):
        yield policy_record(policy, type=MsgType.X_SPDDUMP, seq=seq, pid=pid)


def _numbered(records: list[_Record]) -> Iterator[tuple[int, _Record]]:
    """Linux counts a dump's records up from 1, and the last one is 0."""
    for seq, record in enumerate(records, 1):
        yield seq % len(records), record


def _sa(
    sa: SaRecord, used: Usage, type: MsgType, seq: int, pid: int, keys: bool
) -> hot.SaRecord:  # fmt: skip
    spec = sa.spec
    has_auth = keys and spec.auth != 0
    has_encrypt = keys and spec.encrypt != 0 and spec.proto != IPPROTO_COMP
    # The wire counts packets in 32 bits, the data path in more.
    current = (min(used.packets, 2**32 - 1), used.octets, int(sa.created_wall), int(used.first_use))
    return hot.SaRecord(
        satype=sa.satype, spi=spec.spi, src=Place(spec.src, 8 * len(spec.src)),
        dst=Place(spec.dst, 8 * len(spec.dst)), type=type, seq=seq, pid=pid,
        replay=min(spec.replay_packets, WINDOW_SAID), state=sa.state, auth=spec.auth,
        encrypt=spec.encrypt, flags=spec.flags & SHOWN_FLAGS, hard=sa.hard, soft=sa.soft,
        current=current,
        auth_bits=8 * len(spec.auth_key), auth_key=spec.auth_key if has_auth else None,
        encrypt_bits=8 * len(spec.encrypt_key),
        encrypt_key=spec.encrypt_key if has_encrypt else None,
        mode=MODE_SHOWN.get(spec.mode, spec.mode), reqid=spec.reqid,
    )  # fmt: skip


def _window(sa: SaRecord, *, own: bool) -> tuple[Extension, ...]:
    packets = sa.spec.replay_packets
    if not own or packets <= WINDOW_SAID:
        return ()
    return (Word(exttype=ExtType.X_REPLAY_WINDOW, value=packets),)


def _whole(exttype: ExtType, address: bytes) -> Address:
    return Address(exttype=exttype, address=address, prefixlen=8 * len(address))


def _place(ends: Range, proto: int) -> Place:
    return Place(ends.address, ends.prefixlen, proto, ends.port)
