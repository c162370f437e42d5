"""One conversation for each system, held to that system's facts, and all systems together.

Numbers on the wire are spelled out here as `specs/tables/dialects.toml` has them, not looked up.
"""

import struct
from dataclasses import replace
from errno import EEXIST, EINVAL, ENOBUFS, ENOENT, EOPNOTSUPP, ESRCH

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.engine.effects import ClientId, Dump, PoliciesChanged, Send
from keyd.engine.encapsulation import UDPENCAP
from keyd.model import Need, Usage
from pfkey.base import header, walk
from pfkey.const import (
    Dir,
    ExtType,
    FlowType,
    Level,
    Mode,
    MsgType,
    OpenbsdFlag,
    PolicyType,
    SaState,
    SaType,
)
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_sa import Sa
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_bsd import Protocol
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.neutral import spoken
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    KEY24,
    KEY32,
    THERE,
    A,
    Desk,
    add,
    auth_key,
    dst,
    hard,
    message,
    policy,
    soft,
    src,
)  # fmt: skip

BSDS = [NETBSD, FREEBSD, OPENBSD]
KAMES = [NETBSD, FREEBSD]
N, F, P, Q = ClientId(11), ClientId(12), ClientId(13), ClientId(14)
TUNNEL = IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.REQUIRE, src=HERE, dst=THERE)
UNIQUE = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.UNIQUE)
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
EACH_BSD = pytest.mark.parametrize("dialect", BSDS, ids=repr)
EACH_KAME = pytest.mark.parametrize("dialect", KAMES, ids=repr)


def desk_of(*dialects: Dialect) -> tuple[Desk, list[ClientId]]:
    """An engine with a Linux client, A, and one of each of these systems."""
    desk = Desk(A)
    names = [ClientId(21 + number) for number in range(len(dialects))]
    for name, dialect in zip(names, dialects, strict=True):
        desk.join(name, dialect)
    return desk, names


def records(desk: Desk, request: Message | bytes, client: ClientId) -> list[bytes]:
    """What the sender itself is sent, as octets; a dump is read whole."""
    found = []
    for effect in desk.effects(request, client):
        if isinstance(effect, Send) and effect.client == client:
            found.append(effect.record)
        elif isinstance(effect, Dump):
            found += list(effect.records)
            desk.engine.dump_done(client)
    return found


def numbers(octets: bytes, dialect: Dialect) -> list[int]:
    """The numbers of the extensions of a message as they stand on the wire."""
    return [number for number, _, _ in walk(octets, dialect)]


def words(octets: bytes, dialect: Dialect) -> dict[int, bytes]:
    return {number: octets[start:end] for number, start, end in walk(octets, dialect)}


def said(octets: bytes) -> tuple[int, int, int, int, int, int]:
    """Type, errno, SA type, length in words, sequence number and pid, as they stand there."""
    version, kind, errno, satype, length, _, seq, pid = struct.unpack_from("=BBBBHHII", octets)
    assert version == 2
    return kind, errno, satype, length, seq, pid


def mature(request: Message) -> Message:
    """The same with the state that RFC 2367 has in an ADD and OpenBSD wants, without CYCSEQ."""
    changed = tuple(
        replace(one, state=SaState.MATURE, flags=one.flags & ~0x40) if isinstance(one, Sa) else one
        for one in request.extensions
    )
    return replace(request, extensions=changed)


def named(type: MsgType, spi: int = 0x2694) -> Message:
    """What GET and DELETE are about."""
    return message(type, Sa(spi=spi), src(), dst(), satype=ESP)


# NetBSD and FreeBSD.


@EACH_KAME
def test_kame_repeats_an_add_without_keys_in_an_order_of_its_own(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    (reply,) = records(desk, add(hard(addtime=9), soft(addtime=5), replay=32), own)
    assert said(reply) == (3, 0, 3, len(reply) // 8, 7, 4711)
    # SA, SA2, SRC, DST, HARD, SOFT; no key
    assert numbers(reply, dialect) == [1, 19, 5, 6, 3, 4]
    found = words(reply, dialect)
    assert struct.unpack("=HHIBBBBI", found[1])[3] == 4, "a window of 32 packets is 4 octets"
    assert found[5][4] == 255, "the upper protocol is any"
    assert found[5][8:12] == bytes((16, 2, 0, 0)), "sa_len and a family of one octet"
    assert KEY24[:8] not in reply


@EACH_KAME
def test_kame_counts_dumps_down(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    for spi in (0x101, 0x102, 0x103):
        desk.ask(add(spi=spi), own)
    for way in (1, 2):
        desk.ask(policy(way=way, priority=0), own)
    found = records(desk, message(MsgType.DUMP), own)
    assert [said(one)[4] for one in found] == [2, 1, 0]
    assert all(said(one)[0] == 10 for one in found)
    # SA, SA2, CURRENT, SRC, DST, keys, and on NetBSD NAT_T_TYPE: no limits, for there are none
    tail = [20] if dialect is NETBSD else []
    assert numbers(found[0], dialect) == [1, 19, 2, 5, 6, 8, 9, *tail]
    shown = records(desk, message(MsgType.X_SPDDUMP), own)
    assert [(said(one)[0], said(one)[4]) for one in shown] == [(18, 1), (18, 0)]
    assert numbers(shown[0], dialect) == [5, 6, 18]
    assert [words(one, dialect)[18][6] for one in shown] == [1, 2], "in, then out"


def test_linux_counts_dumps_up() -> None:
    desk = Desk(A)
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi))
    assert [said(one)[4] for one in records(desk, message(MsgType.DUMP), A)] == [1, 2, 0]


@EACH_KAME
def test_kame_tells_the_spi_alone_of_a_reservation(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    request = message(MsgType.GETSPI, SpiRange(min=0x200, max=0x200), src(), dst(), satype=ESP)
    (reply,) = records(desk, request, own)
    assert numbers(reply, dialect) == [1, 5, 6]
    assert words(reply, dialect)[1][4:] == bytes.fromhex("00000200") + bytes(8)


NO_SA = named(MsgType.DELETE, spi=0x999)
MISSING: list[tuple[Message, dict[str, int]]] = [
    (NO_SA, {"linux": 3, "netbsd": 2, "freebsd": 3, "openbsd": 3}),
    (named(MsgType.GET, spi=0x999), {"linux": 3, "netbsd": 2, "freebsd": 3, "openbsd": 3}),
    (add(type=MsgType.UPDATE), {"linux": 3, "netbsd": 2, "freebsd": 22, "openbsd": 3}),
    (policy(MsgType.X_SPDDELETE, priority=0), {"linux": 2, "netbsd": 22, "freebsd": 22}),
    (policy(MsgType.X_SPDDELETE2, id=9, priority=0), {"linux": 2, "netbsd": 22, "freebsd": 22}),
    (policy(MsgType.X_SPDGET, id=8, priority=0), {"linux": 2, "netbsd": 2, "freebsd": 2}),
    (message(MsgType.DUMP), {"linux": 2, "netbsd": 2, "freebsd": 2, "openbsd": 2}),
    (add(encrypt=22), {"linux": 38, "netbsd": 22, "freebsd": 22}),
    (message(MsgType.EXPIRE, satype=ESP), {"linux": 95, "netbsd": 22, "freebsd": 22}),
    (
        policy(requests=(replace(UNIQUE, proto=17),), priority=0),
        {"linux": 22, "netbsd": 43, "freebsd": 43},
    ),
]  # fmt: skip


@EACH
@pytest.mark.parametrize(
    ("request_", "expected"), MISSING, ids=[MsgType(one.type).name for one, _ in MISSING]
)
def test_each_system_refuses_with_its_own_errno(
    dialect: Dialect, request_: Message, expected: dict[str, int]
) -> None:
    if dialect.name not in expected:
        assert request_.type not in dialect.messages or dialect is OPENBSD
        return
    desk, (own,) = desk_of(dialect)
    (reply,) = records(desk, mature(request_), own)
    assert said(reply)[1] == expected[dialect.name]


@EACH
def test_a_range_without_a_free_spi(dialect: Dialect) -> None:
    """NetBSD: EINVAL; FreeBSD and OpenBSD: EEXIST; Linux: ENOENT."""
    desk, (own,) = desk_of(dialect)
    request = message(MsgType.GETSPI, SpiRange(min=0x200, max=0x200), src(), dst(), satype=ESP)
    assert said(records(desk, request, own)[-1])[1] == 0
    (reply,) = records(desk, replace(request, seq=8), own)
    expected = {"linux": 2, "netbsd": 22, "freebsd": 17, "openbsd": 17}
    assert said(reply)[1] == expected[dialect.name]


@EACH
def test_a_refusal_has_the_form_of_its_system(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    octets = spoken(NO_SA, dialect).encode(dialect)
    (reply,) = records(desk, octets, own)
    if dialect in KAMES:
        assert reply[:2] + reply[3:] == octets[:2] + octets[3:], "all of it, with errno"
    else:
        assert len(reply) == 16


@EACH_BSD
def test_the_bsds_refuse_extensions_that_they_do_not_know(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    request = spoken(mature(add()), dialect).encode(dialect)
    octets = request + struct.pack("=HHI", 1, 99, 0)
    octets = octets[:4] + struct.pack("=H", len(octets) // 8) + octets[6:]
    assert [said(one)[1] for one in records(desk, octets, own)] == [22]
    linux = add().encode() + struct.pack("=HHI", 1, 99, 0)
    linux = linux[:4] + struct.pack("=H", len(linux) // 8) + linux[6:]
    assert [said(one)[1] for one in records(desk, linux, A)] == [0], "Linux skips it"


@EACH_BSD
def test_errnos_are_those_of_4_4_bsd(dialect: Dialect) -> None:
    """EOPNOTSUPP is 95 on Linux and 45 there."""
    desk, (own,) = desk_of(dialect)
    ident = Ident(exttype=ExtType.IDENTITY_SRC, kind=2, text=b"a")
    request = message(MsgType.FLUSH, ident)
    assert said(records(desk, request, own)[0])[1] == 45
    assert said(records(desk, request, A)[0])[1] == 95


@EACH_KAME
def test_kame_wants_sa_types_where_they_belong(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    assert desk.ask(add(satype=0), own)[own][0].errno == EINVAL
    assert desk.ask(replace(policy(priority=0), satype=ESP), own)[own][0].errno == EINVAL
    assert desk.ask(message(MsgType.REGISTER, satype=SaType.RSVP), own)[own][0].errno == EOPNOTSUPP
    two = message(MsgType.DELETE, Sa(spi=0x300), src(proto=6), dst(proto=17), satype=ESP)
    assert desk.ask(two, own)[own][0].errno == EINVAL
    assert desk.ask(add(spi=0xFF), own)[own][0].errno == EINVAL
    assert desk.ask(add(spi=0xFF), A)[A][0].errno == 0


@EACH_KAME
def test_kame_deletes_all_between_two_addresses(dialect: Dialect) -> None:
    desk, (own, bsd) = desk_of(dialect, OPENBSD)
    for spi in (0x101, 0x102):
        desk.ask(add(spi=spi))
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=ESP))
    request = message(MsgType.DELETE, src(), dst(), satype=ESP)
    heard = desk.heard(desk.effects(request, own))
    (reply,) = heard[own]
    assert [one.exttype for one in reply.extensions] == [ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST]
    for name in (A, bsd):
        assert [one.sa.spi for one in heard[name] if one.sa] == [0x101, 0x102]
    assert desk.engine.stats()["sas"] == 1, "the larval one stays"
    assert desk.ask(request, own)[own][0].errno == 0, "none is no mistake"
    assert desk.ask(request)[A][0].errno == EINVAL, "Linux needs an SPI"


@EACH_KAME
def test_kame_wraps_copies_for_the_promiscuous(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    on = message(MsgType.X_PROMISC, satype=1)
    assert said(records(desk, on, own)[-1])[:3] == (11, 0, 1)
    sends = [e for e in desk.effects(add(), A) if isinstance(e, Send) and e.client == own]
    copy, plain = (send.record for send in sends)
    assert copy == struct.pack("=BBBBHHII", 2, 11, 0, 0, 2 + len(plain) // 8, 0, 0, 0) + plain
    linux = [e for e in desk.effects(named(MsgType.GET), A) if isinstance(e, Send)]
    assert [e.client for e in linux] == [own, A], "the answer, not the request"
    assert KEY24 not in linux[0].record


@EACH_KAME
def test_kame_tells_a_policy_first_and_then_its_selector(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    lives = (hard(addtime=60),)
    request = policy(requests=(UNIQUE,), priority=0)
    request = replace(request, extensions=(*request.extensions, *lives))
    (reply,) = records(desk, request, own)
    assert numbers(reply, dialect) == [18, 3, 5, 6]
    found = Message.decode(reply, dialect).policy
    (spec,) = desk.engine.policies()
    assert found is not None
    assert (found.id, found.requests[0].reqid) == (spec.id, spec.requests[0].reqid)
    assert 0x3FFF < found.requests[0].reqid <= 0xFFFF
    assert found.requests[0].level == Level.UNIQUE
    gone = message(MsgType.X_SPDDELETE, Policy(type=0, dir=2), src(), dst())
    assert numbers(records(desk, gone, own)[0], dialect) == [18, 5, 6]


def test_the_order_of_policies_without_a_priority_is_that_of_their_coming() -> None:
    """NetBSD has no priorities; on Linux setkey gives all the same, and so they mix."""
    desk, (own,) = desk_of(NETBSD)
    for port, client in ((1, own), (2, A), (3, own)):
        priority = 0 if client == own else 0x80000000
        desk.ask(policy(source=src(port=port), priority=priority), client)
    assert [spec.selector.src.port for spec in desk.engine.policies()] == [1, 2, 3]


def test_request_ids_for_kame_have_sixteen_bits() -> None:
    desk, (own,) = desk_of(NETBSD)
    desk.engine._state.reqids._last = 0xFFFE
    for port in (1, 2, 3):
        desk.ask(policy(source=src(port=port), requests=(UNIQUE,), priority=0), own)
    assert [s.requests[0].reqid for s in desk.engine.policies()] == [0xFFFF, 0x4000, 0x4001]


def test_kame_does_not_see_what_its_dialect_cannot_say() -> None:
    """A policy for what is forwarded has a direction that NetBSD has not."""
    desk, (own,) = desk_of(NETBSD)
    assert own not in desk.ask(policy(way=Dir.FWD))
    (spec,) = desk.engine.policies()
    by_id = message(MsgType.X_SPDGET, Policy(type=0, dir=0, id=spec.id))
    assert desk.ask(by_id, own)[own][0].errno == ENOENT
    assert desk.ask(message(MsgType.X_SPDDUMP), own)[own][0].errno == ENOENT
    desk.ask(policy(way=Dir.OUT))
    (only,) = desk.ask(message(MsgType.X_SPDDUMP), own)[own]
    assert only.seq == 0


def test_freebsd_dumps_policies_by_scope() -> None:
    desk, (own,) = desk_of(FREEBSD)
    desk.ask(policy(priority=5), own)
    for scope, errno in ((0, 0), (1, 0), (2, ENOENT), (4, ENOENT), (3, EINVAL)):
        octets = bytearray(message(MsgType.X_SPDDUMP).encode(FREEBSD))
        octets[3] = scope
        assert said(records(desk, bytes(octets), own)[0])[1] == errno


def test_freebsd_has_windows_beyond_an_octet() -> None:
    desk, (own,) = desk_of(FREEBSD)
    desk.ask(add(replay=4096), own)
    (spec,) = desk.engine.sas()
    assert spec.replay_packets == 4096
    (shown,) = records(desk, named(MsgType.GET), own)
    assert struct.unpack("=HHI", words(shown, FREEBSD)[26]) == (1, 26, 4096)
    assert desk.reply(named(MsgType.GET)).sa.replay == 255, "as much as Linux can say"  # type: ignore[union-attr]
    assert desk.ask(add(replay=2**31, spi=0x300), own)[own][0].errno == EOPNOTSUPP


def test_netbsd_knows_that_no_nat_is_no_nat() -> None:
    """Its records always have NAT_T_TYPE; who sends them back asks for nothing."""
    desk, (own,) = desk_of(NETBSD)
    assert desk.ask(add(NatTType(type=0)), own)[own][0].errno == 0


# EXPIRE and ACQUIRE.


def test_expire_is_told_as_each_system_tells_it() -> None:
    desk, (n, f, o, quiet) = desk_of(NETBSD, FREEBSD, OPENBSD, OPENBSD)
    for name in (A, n, f, o):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    desk.ask(add(hard(addtime=9), soft(addtime=5)))
    heard = desk.heard(desk.tick(5))
    assert set(heard) == {A, n, f, o, quiet}, "OpenBSD tells all, registered or not"
    assert [heard[name][0].seq for name in (A, n, f)] == [0, 7, 7], "KAME: that of the request"
    assert heard[o][0].seq == heard[quiet][0].seq != 0
    order = [one.exttype for one in heard[n][0].extensions]
    assert order == [1, 19, 2, 4, 5, 6], "SA, SA2, CURRENT, SOFT, SRC, DST"
    assert all(one.soft is not None for (one,) in heard.values())
    heard = desk.heard(desk.tick(4))
    assert set(heard) == {A, f, o, quiet}, "NetBSD ends an SA in silence"
    assert all(one.hard is not None for (one,) in heard.values())


def test_the_end_of_a_reservation_is_told_on_linux_only() -> None:
    desk, names = desk_of(NETBSD, FREEBSD, OPENBSD)
    for name in (A, *names):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=ESP))
    assert set(desk.heard(desk.tick(30))) == {A}


def want(desk: Desk, **more: int) -> Need:
    (spec, *_) = desk.engine.policies()
    (request,) = spec.requests
    return Need(
        policy=spec.id, proto=50, mode=request.mode, reqid=request.reqid, src=HERE, dst=THERE
    )


@pytest.mark.parametrize("proto", [6, 17, 1, 255])
def test_freebsds_acquire_has_what_a_policy_for_tcp_or_udp_selects(proto: int) -> None:
    """The port with the prefix length that goes with it, and each end by itself."""
    desk, (n, f) = desk_of(NETBSD, FREEBSD)
    for name in (n, f):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    port = 110 if proto in (6, 17) else 0
    source = replace(src(), prefixlen=24, proto=proto)
    desk.ask(policy(source=source, to=replace(dst(), prefixlen=16, proto=proto, port=port)))
    sent = {e.client: e.record for e in desk.need(want(desk)) if isinstance(e, Send)}
    shown = {
        name: [
            (one.proto, one.prefixlen, one.port)
            for one in Message.decode(sent[name], dialect).extensions
            if isinstance(one, Address)
        ]
        for name, dialect in ((n, NETBSD), (f, FREEBSD))
    }
    assert shown[n] == [(255, 32, 0), (255, 32, 0)]
    assert shown[f] == ([(proto, 32, 0), (proto, 16, 110)] if port else shown[n])


def test_acquire_is_told_as_each_system_tells_it() -> None:
    desk, (n, f, o, ah) = desk_of(NETBSD, FREEBSD, OPENBSD, OPENBSD)
    for name in (A, n, f, o):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    desk.ask(message(MsgType.REGISTER, satype=SaType.AH), ah)
    desk.ask(policy(requests=(UNIQUE,)))
    effects = desk.need(want(desk))
    sent = {e.client: e.record for e in effects if isinstance(e, Send)}
    assert set(sent) == {A, n, f, o}, "OpenBSD asks those who registered for the SA type"
    assert numbers(sent[n], NETBSD) == [5, 6, 18, 13]
    assert numbers(sent[f], FREEBSD) == [5, 6, 18, 19, 13], "FreeBSD tells the request id"
    assert numbers(sent[o], OPENBSD) == [5, 6, 13]
    assert said(sent[n])[2:3] == (3,)
    assert said(sent[o])[2:3] == (2,), "ESP is 2 there"
    assert words(sent[n], NETBSD)[5][4:6] == bytes((255, 32))
    assert words(sent[A], LINUX)[5][4:6] == bytes((0, 32))
    assert len({said(one)[4] for one in sent.values()}) == 1


def test_nobody_waits_for_an_openbsd_client_of_another_sa_type() -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(message(MsgType.REGISTER, satype=SaType.AH), own)
    desk.ask(policy(requests=(UNIQUE,)))
    assert not any(isinstance(e, Send) for e in desk.need(want(desk)))


# OpenBSD.


def flow(
    type: int = MsgType.X_ADDFLOW, way: int = 2, kind: int = FlowType.REQUIRE, *,
    ends: tuple[bytes, bytes] | None = (HERE, THERE), nets: tuple[int, int] = (24, 16),
    upper: int = 0, port: int = 0, flags: int = 0, satype: int = ESP,
    more: tuple[Extension, ...] = (), seq: int = 7,
) -> Message:  # fmt: skip
    """What iked sends for a flow between two networks."""
    sources = (bytes((10, 0, 1, 9)), bytes((10, 7, 8, 9)))
    masks = [((1 << n) - 1 << 32 - n).to_bytes(4, "big") for n in nets]

    def address(exttype: int, octets: bytes, port: int = 0) -> Address:
        return Address(exttype=exttype, address=octets, prefixlen=32, port=port)

    tunnel: tuple[Extension, ...] = ()
    if ends is not None:
        tunnel = (
            address(ExtType.ADDRESS_SRC, ends[0]), address(ExtType.ADDRESS_DST, ends[1])
        )  # fmt: skip
    return message(
        MsgType(type),
        Protocol(exttype=ExtType.X_FLOW_TYPE, proto=kind, direction=way, flags=flags),
        *tunnel,
        address(ExtType.X_SRC_FLOW, sources[0]),
        address(ExtType.X_SRC_MASK, masks[0]),
        address(ExtType.X_DST_FLOW, sources[1], port),
        address(ExtType.X_DST_MASK, masks[1], 0xFFFF if port else 0),
        Protocol(exttype=ExtType.X_PROTOCOL, proto=upper),
        *more,
        satype=satype,
        seq=seq,
    )


def test_openbsd_repeats_requests_in_the_order_of_the_numbers() -> None:
    desk, (own,) = desk_of(OPENBSD)
    request = mature(add(sa2=Sa2(mode=Mode.TUNNEL), flags=0))
    octets = spoken(request, OPENBSD).encode(OPENBSD)
    assert octets[3] == 2, "ESP"
    (reply,) = records(desk, octets, own)
    assert numbers(reply, OPENBSD) == [1, 5, 6]
    assert struct.unpack("=HHIBBBBI", words(reply, OPENBSD)[1])[7] == 4, "the flag TUNNEL"
    (spec,) = desk.engine.sas()
    assert spec.mode == Mode.TUNNEL
    (shown,) = records(desk, named(MsgType.GET), own)
    # SA, CURRENT, SRC, DST, keys, REPLAY
    assert numbers(shown, OPENBSD) == [1, 2, 5, 6, 8, 9, 39]
    desk.used[spec.slot] = Usage(3, 4, 5.0, 1_600_000_000.0)
    (shown,) = records(desk, named(MsgType.GET), own)
    assert numbers(shown, OPENBSD) == [1, 2, 5, 6, 8, 9, 32, 39]
    assert struct.unpack("=HHIQQQ", words(shown, OPENBSD)[32])[5] == 1_600_000_000


def test_openbsd_says_no_mode_and_means_either() -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(mature(add(flags=0)), own)
    assert [spec.mode for spec in desk.engine.sas()] == [Mode.ANY]


def test_openbsd_adds_only_mature_sas() -> None:
    desk, (own,) = desk_of(OPENBSD)
    assert desk.ask(add(flags=0), own)[own][0].errno == EINVAL


def test_openbsd_has_limits_one_by_one() -> None:
    desk, (own,) = desk_of(OPENBSD)
    assert desk.ask(mature(add(hard(addtime=60), flags=0)), own)[own][0].errno == 0
    (shown,) = records(desk, named(MsgType.GET), own)
    assert numbers(shown, OPENBSD) == [1, 2, 3, 5, 6, 8, 9, 39]
    assert desk.ask(add(hard(addtime=60), spi=0x300))[A][0].errno == EINVAL, "pairs on Linux"


@pytest.mark.parametrize("dialect", [FREEBSD, OPENBSD], ids=repr)
def test_lifetimes_are_changed_without_keys(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    before, after = [(hard(addtime=n), soft(addtime=n)) for n in (60, 99)]
    desk.ask(mature(add(*before, flags=0)), own)
    request = mature(add(*after, type=MsgType.UPDATE, keys=(), flags=0))
    assert desk.ask(request, own)[own][0].errno == 0
    found = desk.reply(named(MsgType.GET))
    assert found.hard is not None
    assert found.hard.addtime == 99


@EACH
@pytest.mark.parametrize(("low", "high"), [(1, 0xFF), (1, 0x1FF), (0x80, 0x80), (0x300, 0x300)])
def test_openbsd_gives_out_no_reserved_spi(dialect: Dialect, low: int, high: int) -> None:
    desk, (own,) = desk_of(dialect)
    spis = SpiRange(min=low, max=high)
    (reply,) = desk.ask(message(MsgType.GETSPI, spis, src(), dst(), satype=ESP), own)[own]
    if dialect is OPENBSD and high < 0x100:
        assert reply.errno == EINVAL
    else:
        assert reply.sa is not None
        assert reply.sa.spi == (max(low, 0x100) if dialect is OPENBSD else low)


def test_openbsd_registers_as_often_as_it_likes() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for _ in range(2):
        (reply,) = records(desk, message(MsgType.REGISTER, satype=ESP), own)
        assert said(reply)[:3] == (7, 0, 2)
        assert numbers(reply, OPENBSD) == [14, 15, 30]
    algorithms = {one.id: one for one in Message.decode(reply, OPENBSD).extensions[1].algorithms}  # type: ignore[union-attr]
    assert algorithms[12].ivlen == 128, "in bits"


def test_compression_has_its_own_numbers_everywhere() -> None:
    desk, (own, other) = desk_of(OPENBSD, NETBSD)
    sa = Sa(spi=0x1234, encrypt=2, state=SaState.MATURE)
    request = message(MsgType.ADD, sa, src(), dst(), satype=SaType.X_IPCOMP)
    sent = {e.client: e.record for e in desk.effects(request, own) if isinstance(e, Send)}
    assert {said(one)[2] for one in sent.values()} == {9}
    assert {one[24 + 3] for one in (sent[own], sent[other])} == {2}
    shown = named(MsgType.GET, 0x1234)
    (found,) = records(desk, replace(shown, satype=SaType.X_IPCOMP), own)
    assert numbers(found, OPENBSD) == [1, 2, 5, 6, 39], "no key"


def test_openbsd_hears_all_answers_and_no_key() -> None:
    desk, (own, other) = desk_of(OPENBSD, OPENBSD)
    desk.ask(add())
    sent = [e for e in desk.effects(named(MsgType.GET)) if isinstance(e, Send)]
    assert {e.client for e in sent} == {A, own, other}
    assert all(KEY24 not in e.record for e in sent if e.client != A)
    assert any(KEY24 in e.record for e in sent if e.client == A)
    refused = [e for e in desk.effects(NO_SA, own) if isinstance(e, Send)]
    assert {e.client for e in refused} == {own, other}
    assert {len(e.record) for e in refused} == {16}


def test_openbsd_flush_ends_flows_too() -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(flow(), own)
    desk.ask(mature(add(flags=0)), own)
    assert said(records(desk, message(MsgType.FLUSH, satype=ESP), own)[0])[:3] == (9, 0, 2)
    assert (desk.engine.stats()["sas"], desk.engine.stats()["policies"]) == (0, 1)
    effects = desk.effects(message(MsgType.FLUSH), own)
    assert any(isinstance(e, PoliciesChanged) for e in effects)
    assert desk.engine.stats()["policies"] == 0


def test_openbsd_flows_become_policies() -> None:
    """What iked sends for a tunnel: `require` out, `use` in, each with its own end first."""
    desk, (own,) = desk_of(OPENBSD)
    (reply,) = records(desk, flow(), own)
    assert said(reply)[:3] == (12, 0, 2)
    # SRC, DST, masks, PROTOCOL, FLOW_TYPE, flows
    assert numbers(reply, OPENBSD) == [5, 6, 17, 18, 19, 20, 21, 22]
    desk.ask(flow(way=1, kind=FlowType.USE), own)
    out, inward = sorted(desk.engine.policies(), key=lambda spec: -spec.dir)
    assert out.selector.src.address == bytes((10, 0, 1, 0)), "masked"
    assert (out.selector.src.prefixlen, out.selector.dst.prefixlen) == (24, 16)
    (request,) = out.requests
    assert (request.mode, request.level) == (Mode.TUNNEL, Level.REQUIRE)
    assert (request.src, request.dst) == (HERE, THERE)
    (request,) = inward.requests
    assert (request.src, request.dst) == (THERE, HERE), "what comes in comes from the peer"
    assert request.level == Level.USE


@pytest.mark.parametrize(
    ("kind", "type_", "level"),
    [
        (FlowType.BYPASS, PolicyType.NONE, None), (FlowType.DENY, PolicyType.DISCARD, None),
        (FlowType.USE, PolicyType.IPSEC, Level.USE),
        (FlowType.ACQUIRE, PolicyType.IPSEC, Level.USE),
        (FlowType.REQUIRE, PolicyType.IPSEC, Level.REQUIRE),
        (FlowType.DONTACQ, PolicyType.IPSEC, Level.REQUIRE),
    ],
)  # fmt: skip
def test_openbsd_types_of_flows(kind: FlowType, type_: PolicyType, level: Level | None) -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(message(MsgType.REGISTER, satype=ESP), own)
    desk.ask(flow(kind=kind), own)
    (spec,) = desk.engine.policies()
    assert spec.type == type_
    assert [one.level for one in spec.requests] == ([] if level is None else [level])
    (shown,) = desk.ask(message(MsgType.X_SPDDUMP), own)[own]
    found = shown.ext(ExtType.X_FLOW_TYPE)
    assert isinstance(found, Protocol)
    assert (found.proto, found.direction) == (kind, 2)
    if level is not None:
        asks = any(isinstance(e, Send) for e in desk.need(want(desk)))
        assert asks == (kind in (FlowType.ACQUIRE, FlowType.REQUIRE))


def test_the_narrowest_flow_decides_whatever_came_first() -> None:
    desk, (own,) = desk_of(OPENBSD)
    for nets, upper, port in (((8, 8), 0, 0), ((24, 16), 0, 0), ((24, 16), 6, 25), ((24, 8), 0, 0)):
        desk.ask(flow(nets=nets, upper=upper, port=port), own)
    desk.ask(policy(), A)
    found = [
        (spec.selector.src.prefixlen, spec.selector.dst.prefixlen, spec.selector.dst.port)
        for spec in desk.engine.policies()
    ]
    assert found == [(24, 16, 25), (24, 16, 0), (24, 8, 0), (8, 8, 0), (32, 32, 0)]


def test_openbsd_flows_are_dumped_over_the_socket() -> None:
    """Their own, and the policies of others as the flows that they would be; the newest first."""
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(flow(), own)
    desk.ask(policy(requests=(TUNNEL,)), A)
    desk.ask(policy(way=Dir.FWD), A)
    found = records(desk, replace(message(MsgType.X_SPDDUMP), seq=99), own)
    assert [said(one)[0] for one in found] == [16, 16]
    assert [said(one)[4] for one in found] == [99, 0], "the request's number, and 0 at the end"
    assert all(numbers(one, OPENBSD) == [5, 6, 17, 18, 19, 20, 21, 22] for one in found)
    first = Message.decode(found[0], OPENBSD)
    kind = first.ext(ExtType.X_FLOW_TYPE)
    assert isinstance(kind, Protocol)
    assert kind.proto == FlowType.REQUIRE


def test_openbsd_deletes_flows_by_selector() -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(flow(), own)
    assert said(records(desk, flow(MsgType.X_DELFLOW, ends=None), own)[0])[:2] == (13, 0)
    assert desk.engine.policies() == ()
    assert said(records(desk, flow(MsgType.X_DELFLOW), own)[0])[1] == ESRCH


def test_a_static_flow_is_only_replaced_by_another() -> None:
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(flow(flags=1), own)
    assert desk.ask(flow(kind=FlowType.DENY), own)[own][0].errno == EEXIST
    assert desk.ask(flow(kind=FlowType.DENY, flags=1), own)[own][0].errno == 0
    assert [spec.type for spec in desk.engine.policies()] == [PolicyType.DISCARD]


def test_a_flow_between_hosts_is_a_tunnel_unless_the_sa_says_otherwise() -> None:
    desk, (own,) = desk_of(OPENBSD)
    pair = (bytes((10, 0, 1, 9)), bytes((10, 7, 8, 9)))
    request = flow(ends=pair, nets=(32, 32))
    desk.ask(request, own)
    assert desk.engine.policies()[0].requests[0].mode == Mode.TUNNEL
    here, there = pair
    sa = replace(
        mature(add(flags=0)),
        extensions=tuple(
            replace(one, address=here if one.exttype == ExtType.ADDRESS_SRC else there)
            if isinstance(one, Address)
            else one
            for one in mature(add(flags=0)).extensions
        ),
    )
    desk.ask(sa, own)
    desk.ask(request, own)
    assert desk.engine.policies()[0].requests[0].mode == Mode.TRANSPORT
    desk.ask(flow(ends=None, nets=(32, 32), upper=6), own)
    assert {spec.requests[0].mode for spec in desk.engine.policies()} == {Mode.TRANSPORT}


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (flow(way=3), EINVAL), (flow(kind=7), EINVAL), (flow(kind=0), EINVAL),
        (flow(satype=SaType.X_IPIP), EOPNOTSUPP),
        (replace(flow(), extensions=flow().extensions[:-1]), EINVAL),
        (flow(more=(Ident(exttype=ExtType.IDENTITY_SRC, kind=2, text=b"a"),)), EINVAL),
        (flow(more=(Word(exttype=ExtType.X_TAP, value=1),)), EOPNOTSUPP),
        (message(MsgType.X_ASKPOLICY), EINVAL),
        (message(MsgType.X_ASKPOLICY, Word(exttype=ExtType.X_OPENBSD_POLICY, value=9)), ESRCH),
        (mature(add(satype=SaType.AH, encrypt=0, keys=(auth_key(),), flags=UDPENCAP)), EINVAL),
        (mature(add(flags=int(OpenbsdFlag.CHAINDEL))), EOPNOTSUPP),
        (mature(add(satype=SaType.X_IPIP)), EOPNOTSUPP),
        (mature(add(flags=1)), EOPNOTSUPP),
    ],
)  # fmt: skip
def test_what_openbsd_may_not_ask(request_: Message, errno: int) -> None:
    desk, (own,) = desk_of(OPENBSD)
    assert [one.errno for one in desk.ask(request_, own)[own]] == [errno]


def test_masks_that_are_no_prefix_are_refused() -> None:
    desk, (own,) = desk_of(OPENBSD)
    whole = flow()
    holes = tuple(
        replace(one, address=bytes((255, 0, 255, 0)))
        if isinstance(one, Address) and one.exttype == ExtType.X_SRC_MASK
        else one
        for one in whole.extensions
    )
    assert desk.ask(replace(whole, extensions=holes), own)[own][0].errno == EOPNOTSUPP
    some = tuple(
        replace(one, port=0xFF00)
        if isinstance(one, Address) and one.exttype == ExtType.X_DST_MASK
        else one
        for one in whole.extensions
    )
    assert desk.ask(replace(whole, extensions=some), own)[own][0].errno == EOPNOTSUPP


def test_askpolicy_tells_the_flow_of_an_acquire() -> None:
    idents = tuple(
        Ident(exttype=exttype, kind=2, text=text)
        for exttype, text in ((ExtType.IDENTITY_SRC, b"me"), (ExtType.IDENTITY_DST, b"you"))
    )
    desk, (own,) = desk_of(OPENBSD)
    desk.ask(message(MsgType.REGISTER, satype=ESP), own)
    desk.ask(flow(upper=6, more=idents), own)
    (acquire,) = (e.record for e in desk.need(want(desk)) if isinstance(e, Send))
    assert numbers(acquire, OPENBSD) == [5, 6, 10, 11, 13], "with the identities"
    number = Word(exttype=ExtType.X_OPENBSD_POLICY, value=said(acquire)[4])
    (reply,) = records(desk, message(MsgType.X_ASKPOLICY, number), own)
    assert said(reply)[:2] == (15, 0)
    assert numbers(reply, OPENBSD) == [17, 18, 20, 21, 22, 25]
    assert words(reply, OPENBSD)[20][4:6] == bytes((6, 2)), "the protocol, and out"


# All of them together.


def test_an_add_is_heard_in_everybodys_own_layout() -> None:
    desk, (n, f, o) = desk_of(NETBSD, FREEBSD, OPENBSD)
    for name in (n, f, o):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    request = add(sa2=Sa2(mode=Mode.TUNNEL, reqid=77), replay=32)
    sent = {e.client: e.record for e in desk.effects(request) if isinstance(e, Send)}
    assert {name: numbers(sent[name], desk.dialects.get(name, LINUX)) for name in sent} == {
        A: [1, 3, 4, 2, 5, 6, 8, 9, 19], n: [1, 19, 5, 6], f: [1, 19, 5, 6], o: [1, 5, 6],
    }  # fmt: skip
    sas = {name: struct.unpack_from("=BBBBI", sent[name], 24) for name in (n, f, o)}
    assert sas[n][:4] == (4, 0, 5, 3)
    assert sas[o] == (32, 0, 5, 3, 4), "packets, and the flag TUNNEL"
    assert said(sent[o])[2] == 2
    assert said(sent[n])[2] == 3
    assert struct.unpack("=HHBxxxII", words(sent[n], NETBSD)[19]) == (2, 19, 2, 0, 77)
    assert not any(KEY24 in sent[name] or KEY32 in sent[name] for name in (n, f, o))


def test_a_change_is_built_once_for_each_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each client."""
    desk, _ = desk_of(*[NETBSD] * 20, *[OPENBSD] * 20)
    built: list[str] = []
    encode = Message.encode

    def counted(self: Message, dialect: Dialect = LINUX) -> bytes:
        built.append(dialect.name)
        return encode(self, dialect)

    octets = add().encode()
    monkeypatch.setattr(Message, "encode", counted)
    sends = [e for e in desk.engine.receive(A, octets, desk.now) if isinstance(e, Send)]
    assert len(sends) == 41
    assert sorted(built) == ["netbsd", "openbsd"], "and Linux's by its struct"


def test_policies_and_flows_are_heard_by_each_other() -> None:
    desk, (n, o) = desk_of(NETBSD, OPENBSD)
    heard = desk.ask(flow(), o)
    assert [heard[name][0].type for name in (A, n, o)] == [
        MsgType.X_SPDUPDATE, MsgType.X_SPDUPDATE, MsgType.X_ADDFLOW,
    ]  # fmt: skip
    heard = desk.ask(flow(MsgType.X_DELFLOW), o)
    assert [heard[name][0].type for name in (A, n, o)] == [
        MsgType.X_SPDDELETE, MsgType.X_SPDDELETE, MsgType.X_DELFLOW,
    ]  # fmt: skip
    heard = desk.ask(policy(requests=(TUNNEL,)))
    assert heard[o][0].type == MsgType.X_ADDFLOW
    assert (heard[o][0].seq, heard[o][0].pid) == (7, 4711)
    assert heard[n][0].type == MsgType.X_SPDADD
    (spec,) = desk.engine.policies()
    away = bytes((30, 1, 1, 1))
    moving = Policy(type=2, dir=2, requests=(TUNNEL, replace(TUNNEL, dst=away)))
    heard = desk.ask(message(MsgType.X_MIGRATE, moving, src(), dst()))
    assert heard[n][0].type == MsgType.X_SPDUPDATE
    assert heard[o][0].type == MsgType.X_ADDFLOW
    moved = heard[o][0].dst
    assert moved is not None
    assert moved.address == away
    gone = message(MsgType.X_SPDDELETE2, Policy(type=0, dir=0, id=spec.id))
    heard = desk.ask(gone)
    assert [heard[name][0].type for name in (n, o)] == [MsgType.X_SPDDELETE2, MsgType.X_DELFLOW]


def test_the_end_of_a_policy_is_told_to_kame_lifetimes_first() -> None:
    desk, (n, o) = desk_of(NETBSD, OPENBSD)
    for name in (A, n, o):
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    request = policy()
    desk.ask(replace(request, extensions=(*request.extensions, hard(addtime=3))))
    sent = {e.client: e.record for e in desk.tick(4) if isinstance(e, Send)}
    assert set(sent) == {A, n}, "OpenBSD's flows do not end by themselves"
    assert said(sent[n])[:3] == (21, 0, 0)
    assert numbers(sent[n], NETBSD) == [2, 3, 5, 6, 18]


@EACH
def test_a_promiscuous_client_is_shown_everything_in_its_own_dialect(dialect: Dialect) -> None:
    desk, names = desk_of(dialect, NETBSD, OPENBSD, LINUX)
    own, *others = names
    desk.ask(message(MsgType.X_PROMISC, satype=1), own)
    for number, other in enumerate(others):
        for request in (
            mature(add(spi=0x1000 + number, flags=0)), named(MsgType.GET, spi=0x1000 + number),
            message(MsgType.DUMP), message(MsgType.REGISTER, satype=ESP), message(MsgType.FLUSH),
        ):  # fmt: skip
            effects = desk.effects(request, other)
            shown = [e.record for e in effects if isinstance(e, Send) and e.client == own]
            assert shown, request
            assert not any(KEY24 in one or KEY32 in one for one in shown)
            for one in shown:
                inner = one[16:] if dialect is not LINUX and one[1] == 11 else one
                assert header(inner, dialect, is_request=False)
                assert Message.decode(inner, dialect)
            desk.engine.dump_done(other)


@EACH_BSD
def test_a_message_in_a_promiscuous_one_goes_to_everybody(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    inner = mature(add(flags=0))
    octets = spoken(inner, dialect).encode(dialect)
    head = struct.pack("=BBBBHHII", 2, 11, 0, 0, 2 + len(octets) // 8, 0, 0, 0)
    sent = {e.client: e.record for e in desk.effects(head + octets, own) if isinstance(e, Send)}
    assert sent[own] == octets
    assert KEY24 not in sent[A]
    assert Message.decode(sent[A]).type == MsgType.ADD
    assert desk.engine.sas() == (), "nothing is done"
    (reply,) = records(desk, head + b"\2" + octets[1:-8], own)
    assert said(reply)[1] == EINVAL


def test_what_is_no_message_is_answered_in_every_dialect() -> None:
    desk, names = desk_of(*BSDS)
    for name in names:
        for octets in (b"", b"\2\x0b", bytes(24), b"\2\3\0\3\xff\xff" + bytes(40)):
            (reply,) = records(desk, octets, name)
            assert len(reply) == 16
            assert struct.unpack_from("=BBBBH", reply)[2::2] == (EINVAL, 2)


@EACH_BSD
def test_too_long_a_request_is_refused(dialect: Dialect) -> None:
    """2048 octets on NetBSD and FreeBSD, ENOBUFS; 4096 on OpenBSD, EMSGSIZE."""
    desk, (own,) = desk_of(dialect)
    octets = message(MsgType.FLUSH).encode(dialect) + bytes(8192)
    octets = octets[:4] + struct.pack("=H", len(octets) // 8) + octets[6:]
    (reply,) = records(desk, octets, own)
    assert said(reply)[1] == (40 if dialect is OPENBSD else 55)


@EACH_BSD
def test_a_second_dump_is_refused_as_if_the_queue_were_full(dialect: Dialect) -> None:
    desk, (own,) = desk_of(dialect)
    desk.ask(add())
    assert any(isinstance(e, Dump) for e in desk.effects(message(MsgType.DUMP), own))
    (reply,) = (e.record for e in desk.effects(message(MsgType.DUMP), own) if isinstance(e, Send))
    assert header(reply, dialect, is_request=False).errno == ENOBUFS


# Whatever comes.


def seeds(dialect: Dialect) -> list[bytes]:
    """One request of each kind, in a dialect that has it."""
    requests = [
        mature(add(hard(5, 6, 7, 8), soft(1, 2, 3, 4), flags=0)),
        mature(add(sa2=Sa2(mode=2), type=MsgType.UPDATE, flags=0)),
        named(MsgType.GET), named(MsgType.DELETE), message(MsgType.REGISTER, satype=ESP),
        message(MsgType.FLUSH), message(MsgType.DUMP), message(MsgType.X_PROMISC, satype=1),
        message(MsgType.GETSPI, SpiRange(min=0x100, max=0x109), src(), dst(), satype=ESP),
        message(MsgType.DELETE, src(), dst(), satype=ESP), message(MsgType.X_SPDDUMP),
        policy(priority=0), policy(MsgType.X_SPDUPDATE, 1, requests=(TUNNEL,), priority=0),
        policy(MsgType.X_SPDDELETE, priority=0), policy(MsgType.X_SPDGET, id=9, priority=0),
        message(MsgType.X_SPDFLUSH), flow(), flow(way=1, kind=FlowType.USE),
        flow(MsgType.X_DELFLOW),
        message(MsgType.X_ASKPOLICY, Word(exttype=ExtType.X_OPENBSD_POLICY, value=1)),
        replace(message(MsgType.ACQUIRE, satype=ESP, seq=1), errno=2),
        mature(add(Word(exttype=ExtType.X_SA_REPLAY, value=300), flags=0)),
        mature(add(NatTPort(exttype=ExtType.X_UDPENCAP, port=4501), flags=UDPENCAP, spi=0x301)),
        mature(add(satype=SaType.AH, encrypt=0, keys=(auth_key(),), flags=0, spi=0x302)),
        message(
            MsgType.X_GRPSPIS, Sa(spi=0x301), dst(),
            Sa(spi=0x302, exttype=ExtType.X_OPENBSD_SA2), replace(dst(), exttype=ExtType.X_DST2),
            Protocol(exttype=ExtType.X_SATYPE2, proto=SaType.AH), satype=ESP,
        ),
    ]  # fmt: skip
    return [
        spoken(request, dialect).encode(dialect)
        for request in requests
        if request.type in dialect.messages
        and all(e.exttype in dialect.extensions or isinstance(e, Sa2) for e in request.extensions)
    ]


SEEDS = {name: seeds(dialect) for name, dialect in DIALECTS.items()}


@given(st.data())
def test_anything_from_anybody_is_answered_or_refused(data: st.DataObject) -> None:
    """Requests of all dialects, whole, damaged or made up, and four systems that listen."""
    desk, names = desk_of(*BSDS, LINUX)
    desk.ask(message(MsgType.REGISTER, satype=ESP), A)
    for name in names:
        desk.ask(message(MsgType.REGISTER, satype=ESP), name)
    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from(names))
        dialect = desk.dialects[name]
        of = data.draw(st.sampled_from([dialect.name] * 4 + list(DIALECTS)))
        octets = bytearray(data.draw(st.sampled_from(SEEDS[of])))
        if data.draw(st.integers(0, 2)) == 0:
            at = data.draw(st.integers(1, len(octets) - 1))
            octets[at] = data.draw(st.integers(0, 255))
        elif data.draw(st.integers(0, 9)) == 0:
            octets = bytearray(data.draw(st.binary(max_size=120)))
        effects = desk.effects(bytes(octets), name)
        is_message = has_header(bytes(octets), dialect)
        for effect in effects:
            if isinstance(effect, Send):
                to = desk.dialects.get(effect.client, LINUX)
                # Linux shows the promiscuous what came, damaged as it is.
                is_raw = to is LINUX and desk.engine._state.clients[effect.client].is_promiscuous
                check(effect.record, to, is_message=is_message, is_raw=is_raw)
                assert effect.client == name or KEY24 not in effect.record
            elif isinstance(effect, Dump):
                for record in effect.records:
                    assert Message.decode(record, dialect)
                desk.engine.dump_done(effect.client)
            elif isinstance(effect, PoliciesChanged) and data.draw(st.booleans()):
                desk.engine.revert(effect)
        answered = any(isinstance(e, Send | Dump) and e.client == name for e in effects)
        assert answered or octets[1] == MsgType.ACQUIRE
        if data.draw(st.booleans()):
            for spec in desk.engine.policies()[:2]:
                for one in spec.requests:
                    wanted = Need(
                        policy=spec.id, proto=one.proto, mode=one.mode, reqid=one.reqid,
                        src=one.src or HERE, dst=one.dst or THERE,
                    )  # fmt: skip
                    for effect in desk.need(wanted):
                        if isinstance(effect, Send):
                            check(effect.record, desk.dialects.get(effect.client, LINUX))
            for effect in desk.tick(data.draw(st.integers(1, 9))):
                if isinstance(effect, Send):
                    check(effect.record, desk.dialects.get(effect.client, LINUX))


def has_header(octets: bytes, dialect: Dialect) -> bool:
    try:
        header(octets, dialect)
    except WireError:
        return False
    return True


def check(
    record: bytes, dialect: Dialect, *, is_message: bool = True, is_raw: bool = False
) -> None:
    """A client of this dialect can read it; of a refusal, and a damaged copy, the header."""
    if not is_message:
        assert len(record) == 16
        return
    base = header(record, dialect, is_request=False)
    if base.errno or base.type == MsgType.X_PROMISC or is_raw:
        return
    assert Message.decode(record, dialect)
