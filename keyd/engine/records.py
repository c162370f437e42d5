"""What is known of an SA or a policy, as each system records it (RFC 2367 section 3.1).

Which fields, and in which order, is the system's (specs/tables/records.toml). On Linux an SA shows
both lifetimes even when nothing limits it, its addresses without port or protocol, and mode ANY as
transport. DEVIATION: its flags are shown, also those that Linux does not know
(test_flags_are_shown_that_change_packets). Lifetimes are wall-clock seconds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from keyd.engine import encapsulation
from keyd.engine.flows import flow_of
from keyd.engine.lifetimes import NO_LIMIT
from keyd.engine.manners import LINUX_MANNERS, Count, Kin, Manners
from keyd.engine.sad import SaRecord
from keyd.engine.spd import CODE_OF_DIR, ID_STEP, PolicyRecord
from keyd.engine.state import State
from keyd.engine.told import Told, told_by_kin
from keyd.engine.variants import KNOWN
from keyd.model import Need, PolicySpec, Usage
from pfkey import hot
from pfkey.const import (
    IPPROTO_COMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SATYPE_OF_PROTO,
    UNSPEC_PROTO,
    Dir,
    ExtType,
    Level,
    Mode,
    MsgType,
    SaFlag,
)
from pfkey.dialect import FREEBSD, LINUX, Dialect
from pfkey.ext_ident import Ident
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_x_natt import NatTType
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.hot_events import Acquire, Expire
from pfkey.hot_parts import Limits, Place
from pfkey.message import Extension, Message
from pfkey.selector import Range

_Record = TypeVar("_Record")

PACKETS_MAX = 2**32 - 1  # the wire has 32 bits for them, and 64 for octets
REFERENCES = 1  # Linux counts who holds a policy; setkey prints the count
# CYCSEQ is not shown on Linux: setkey sets it by default and Linux ignores it
SHOWN_FLAGS = int(KNOWN & ~SaFlag.CYCSEQ)
MODE_SHOWN = {Mode.ANY: Mode.TRANSPORT}
LINUX_WINDOW_MAX = LINUX.window_max


def sa_record(
    sa: SaRecord, used: Usage, *, type: MsgType, seq: int = 0, pid: int = 0, keys: bool = True,
    more: Sequence[Extension] = (), manners: Manners = LINUX_MANNERS,
) -> bytes:  # fmt: skip
    """All that is known of an SA; without `keys` for other clients' eyes. `more` comes last."""
    record = _sa(sa, used, type, seq, pid, keys, manners)
    dialect = manners.dialect
    extensions = (*_udp(sa, dialect), *_window(sa, manners), *more, *_last_use(used, manners))
    if not extensions:
        return record.encode(dialect)
    whole = record.message(dialect)
    found = (*_without_type_0(whole.extensions), *extensions)
    if manners.kin is Kin.OPENBSD:
        found = tuple(sorted(found, key=lambda one: dialect.exttype(one.exttype)))
    return replace(whole, extensions=found).encode(dialect)


def _last_use(used: Usage, manners: Manners) -> tuple[Lifetime, ...]:
    """When the SA was last used, where an extension of its own says so."""
    if manners.kin is not Kin.OPENBSD or not used.last_use:
        return ()
    return (Lifetime(exttype=ExtType.X_LIFETIME_LASTUSE, usetime=int(used.last_use)),)


def sa_told(
    state: State, sa: SaRecord, *, type: MsgType, seq: int, pid: int, has_keys: bool = True
) -> Told:
    """All that is known of an SA, for clients of any system."""
    used = state.usage_of(sa)

    def build(manners: Manners, *, keys: bool) -> bytes:
        return sa_record(
            sa, used, type=type, seq=seq, pid=pid, keys=keys, manners=manners
        )  # fmt: skip

    return Told(type, sa.satype, build, has_keys=has_keys)


def expire_told(state: State, sa: SaRecord, used: Usage, *, is_hard: bool) -> Told:
    """An SA without keys, and of its limits only the kind that was reached.

    Its sequence number is 0 on Linux, on NetBSD and FreeBSD that of the request that made it, and
    on OpenBSD the next one of ACQUIREs and EXPIREs.
    """
    was_larval = sa.spec.slot < 0

    def build(manners: Manners, *, keys: bool) -> bytes | None:
        if is_hard and not (manners.tells_larval_end if was_larval else manners.tells_hard_end):
            return None
        seq = sa.seq if manners.kin is Kin.KAME else 0
        if manners.kin is Kin.OPENBSD:
            seq = state.acquires.next_seq()
        r = _sa(sa, used, MsgType.EXPIRE, seq, 0, keys=False, manners=manners)
        record = Expire(
            satype=r.satype, spi=r.spi, src=r.src, dst=r.dst,
            fired=ExtType.LIFETIME_HARD if is_hard else ExtType.LIFETIME_SOFT,
            limits=r.hard if is_hard else r.soft, current=r.current, seq=seq, replay=r.replay,
            state=r.state, auth=r.auth, encrypt=r.encrypt, flags=r.flags, mode=r.mode,
            reqid=r.reqid,
        )  # fmt: skip
        udp = _udp(sa, manners.dialect)
        if not udp or manners.kin is not Kin.LINUX:
            return record.encode(manners.dialect)
        whole = record.message()
        return replace(whole, extensions=(*whole.extensions, *udp)).encode()

    return Told(MsgType.EXPIRE, sa.satype, build)


def acquire_told(need: Need, seq: int, policy: PolicyRecord, proposal: bytes) -> Told:
    """What is asked of the registered: one SA, for one request of a policy.

    FreeBSD also tells the request id, and what a policy for TCP or UDP selects; OpenBSD tells the
    identities that the flow has.
    """
    spec = policy.spec
    satype = SATYPE_OF_PROTO[need.proto]

    def build(manners: Manners, *, keys: bool) -> bytes:
        dialect = manners.dialect
        src, dst = _wanted_ends(need, spec, manners)
        record = Acquire(
            satype=satype, seq=seq, src=src, dst=dst, policy_id=spec.id, priority=spec.priority,
            policy_type=spec.type, dir=spec.dir, proposal=proposal,
        )  # fmt: skip
        more: tuple[Extension, ...] = ()
        if dialect is FREEBSD and need.reqid:
            more = (Sa2(mode=need.mode, reqid=need.reqid),)
        elif manners.kin is Kin.OPENBSD:
            more = identities_of(policy)
        if not more:
            return record.encode(dialect)
        whole = record.message(dialect)
        *head, last = whole.extensions
        is_last = last.exttype == ExtType.PROPOSAL
        found = (*head, *more, last) if is_last else (*head, last, *more)
        return replace(whole, extensions=found).encode(dialect)

    return Told(MsgType.ACQUIRE, satype, build)


def _wanted_ends(need: Need, spec: PolicySpec, manners: Manners) -> tuple[Place, Place]:
    """The ends of the SA; on FreeBSD with upper protocol, and port and prefix of the policy."""
    selector, bits = spec.selector, 8 * len(need.src)
    proto = UNSPEC_PROTO if manners.kin is Kin.KAME else 0
    is_told = selector.proto in (IPPROTO_TCP, IPPROTO_UDP) and manners.dialect is FREEBSD
    if not is_told or 8 * len(selector.src.address) != bits:  # a tunnel over the other version
        return Place(need.src, bits, proto), Place(need.dst, bits, proto)
    src, dst = (
        Place(address, ends.prefixlen if ends.port else bits, selector.proto, ends.port)
        for address, ends in ((need.src, selector.src), (need.dst, selector.dst))
    )
    return src, dst


def identities_of(policy: PolicyRecord) -> tuple[Ident, ...]:
    """Those that came with a flow of OpenBSD's."""
    return () if policy.flow is None else policy.flow.identities


def policy_record(
    policy: PolicyRecord, *, type: MsgType, seq: int = 0, pid: int = 0, dialect: Dialect = LINUX
) -> bytes:
    """All that is known of a policy.

    Raises:
        WireError: the dialect cannot say it: a direction that it has not, or any on OpenBSD.
    """
    spec = policy.spec
    return hot.PolicyRecord(
        src=_place(spec.selector.src, spec.selector.proto),
        dst=_place(spec.selector.dst, spec.selector.proto),
        policy_type=spec.type, dir=_shown_dir(spec), id=spec.id, priority=spec.priority,
        requests=shown_requests(spec), type=type, seq=seq, pid=pid, refcount=REFERENCES,
        hard=policy.hard, soft=NO_LIMIT, current=policy_current(policy),
    ).encode(dialect)  # fmt: skip


def _shown_dir(spec: PolicySpec) -> int:
    """Of a socket's policy Linux shows another number, and says so in the id's low bits too."""
    return spec.dir + len(CODE_OF_DIR) * (spec.id % ID_STEP >= len(CODE_OF_DIR))


def policy_current(policy: PolicyRecord) -> Limits:
    """What passed under it; when it was made and last used, in wall-clock seconds.

    DEVIATION from kernels, which have the first two fields and leave them 0
    (test_a_policys_record_says_what_passed_under_it).
    """
    last_use, counts = policy.used.wall if policy.used else 0, policy.counts
    packets = min(counts.packets, PACKETS_MAX)
    return (packets, counts.octets, int(policy.created.wall), int(last_use))


def shown_requests(spec: PolicySpec) -> tuple[IpsecRequest, ...]:
    """The requests as a record shows them: what has a request id is unique."""
    return tuple(
        IpsecRequest(
            proto=request.proto, mode=request.mode, reqid=request.reqid, src=request.src,
            dst=request.dst, level=Level.UNIQUE if request.reqid else request.level,
        )
        for request in spec.requests
    )  # fmt: skip


def sa_dump(
    state: State, sas: Iterable[SaRecord], pid: int, manners: Manners, seq: int
) -> Iterator[bytes]:
    """The records of a DUMP, keys included, encoded as they are asked for."""
    for number, sa in _numbered(sas, manners.counts, seq):
        yield sa_record(
            sa, state.usage_of(sa), type=MsgType.DUMP, seq=number, pid=pid, manners=manners
        )


def sa_dump_told(
    state: State, sas: Iterable[SaRecord], pid: int, manners: Manners, seq: int
) -> Iterator[Told]:
    """The same records without keys, for promiscuous clients."""
    for number, sa in _numbered(sas, manners.counts, seq):
        yield sa_told(state, sa, type=MsgType.DUMP, seq=number, pid=pid, has_keys=False)


def policy_dump(
    policies: Iterable[PolicyRecord], pid: int, manners: Manners, seq: int
) -> Iterator[Told]:
    """The records of an SPDDUMP."""
    for number, policy in _numbered(policies, manners.counts, seq):
        yield policy_told(policy, type=MsgType.X_SPDDUMP, seq=number, pid=pid)


def policy_told(policy: PolicyRecord, *, type: MsgType, seq: int, pid: int) -> Told:
    """All that is known of a policy, for clients of any system; on OpenBSD it is a flow."""

    def record(dialect: Dialect, keys: bool) -> bytes:
        return policy_record(policy, type=type, seq=seq, pid=pid, dialect=dialect)

    def flow(dialect: Dialect, keys: bool) -> bytes | None:
        found = flow_message(policy, type=type, seq=seq, pid=pid)
        return None if found is None else found.encode(dialect)

    return told_by_kin(type, 0, linux=record, kame=record, openbsd=flow)


def flow_message(policy: PolicyRecord, *, type: MsgType, seq: int, pid: int) -> Message | None:
    """A policy as OpenBSD's flow (`keyd.engine.flows`); None for a direction that has none."""
    if policy.spec.dir not in (Dir.IN, Dir.OUT):
        return None
    satype, extensions = flow_of(policy)
    return Message(type=type, satype=satype, seq=seq, pid=pid, extensions=extensions)


def _numbered(
    records: Iterable[_Record], counts: Count, asked: int
) -> Iterator[tuple[int, _Record]]:
    """A dump's records with their sequence numbers; the last one is 0.

    Who counts down must know how many there are, the others only which is the last.
    """
    if counts is Count.DOWN:
        known = list(records)
        yield from zip(reversed(range(len(known))), known, strict=True)
        return
    coming = iter(records)
    held = next(coming, None)
    number = 0
    while held is not None:
        number += 1
        following = next(coming, None)
        said = number if counts is Count.UP else asked
        yield (0 if following is None else said), held
        held = following


def _sa(
    sa: SaRecord, used: Usage, type: MsgType, seq: int, pid: int, keys: bool, manners: Manners
) -> hot.SaRecord:  # fmt: skip
    spec = sa.spec
    has_auth = keys and spec.auth != 0
    has_encrypt = keys and spec.encrypt != 0 and spec.proto != IPPROTO_COMP
    used_at = used.first_use
    bits, proto = 8 * len(spec.src), 0
    mode, flags, replay = spec.mode, spec.flags, spec.replay_packets
    if manners.kin is Kin.LINUX:
        mode, flags = MODE_SHOWN.get(mode, mode), flags & SHOWN_FLAGS
        replay = min(replay, LINUX_WINDOW_MAX)
    else:
        proto = UNSPEC_PROTO if manners.kin is Kin.KAME else 0
        flags |= encapsulation.UDPENCAP * bool(spec.encap and manners.kin is Kin.OPENBSD)
        used_at = used.last_use if manners.shows_last_use else used_at
    current = (min(used.packets, PACKETS_MAX), used.octets, int(sa.created_wall), int(used_at))
    return hot.SaRecord(
        satype=sa.satype, spi=spec.spi, src=Place(spec.src, bits, proto),
        dst=Place(spec.dst, bits, proto), type=type, seq=seq, pid=pid, replay=replay,
        state=sa.state, auth=spec.auth, encrypt=spec.encrypt, flags=flags, hard=sa.hard,
        soft=sa.soft, current=current, auth_bits=8 * len(spec.auth_key),
        auth_key=spec.auth_key if has_auth else None, encrypt_bits=8 * len(spec.encrypt_key),
        encrypt_key=spec.encrypt_key if has_encrypt else None, mode=mode, reqid=spec.reqid,
    )  # fmt: skip


def _udp(sa: SaRecord, dialect: Dialect) -> tuple[Extension, ...]:
    """What a system's records say about ESP in UDP."""
    if not sa.spec.encap:
        return ()
    known = encapsulation.extensions(sa.spec)
    return tuple(one for one in known if one.exttype in dialect.extensions)


def _without_type_0(extensions: tuple[Extension, ...]) -> list[Extension]:
    """NetBSD says of an SA that is not in UDP that it is not."""
    return [one for one in extensions if not (isinstance(one, NatTType) and one.type == 0)]


def _window(sa: SaRecord, manners: Manners) -> tuple[Extension, ...]:
    packets, dialect = sa.spec.replay_packets, manners.dialect
    is_said = packets <= dialect.window_max or ExtType.X_SA_REPLAY in dialect.extensions
    if is_said or not manners.knows_own:
        return ()
    return (Word(exttype=ExtType.X_REPLAY_WINDOW, value=packets),)


def _place(ends: Range, proto: int) -> Place:
    return Place(ends.address, ends.prefixlen, proto, ends.port)
