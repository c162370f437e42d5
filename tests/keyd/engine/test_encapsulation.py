"""ESP in UDP as ADD and UPDATE say it and records show it; peers that move; large windows."""

from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP

import pytest

from keyd.engine.effects import ClientId, Dump, InstallSa
from keyd.engine.encapsulation import UDPENCAP, encapsulation
from keyd.engine.sad import SaKey
from keyd.model import SaSpec
from pfkey.const import ExtType, MsgType, SaType
from pfkey.dialect import NETBSD, OPENBSD
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    HERE,
    SHA256,
    THERE,
    A,
    B,
    Desk,
    add,
    auth_key,
    dst,
    hard,
    message,
    named,
    soft,
    src,
)

OURS, THEIRS, KAME = ClientId(31), ClientId(32), ClientId(33)
TYPE = NatTType(type=2)
ELSEWHERE = bytes((198, 51, 100, 7))
OTHER = bytes((203, 0, 113, 9))
OTHER6 = bytes(15) + b"\1"


def port(exttype: ExtType, number: int) -> NatTPort:
    return NatTPort(exttype=exttype, port=number)


def ports(sport: int = 4500, dport: int = 4500) -> tuple[Extension, ...]:
    return (
        TYPE, port(ExtType.X_NAT_T_SPORT, sport), port(ExtType.X_NAT_T_DPORT, dport)
    )  # fmt: skip


def original(exttype: ExtType, address: bytes = ELSEWHERE) -> Address:
    return Address(exttype=exttype, address=address, prefixlen=8 * len(address))


def reversed_(request: Message) -> Message:
    """The same from there to here."""
    rest = [e for e in request.extensions if not isinstance(e, Address)]
    return replace(request, extensions=(*rest, src(THERE), dst(HERE)))


def installed(desk: Desk, request: Message) -> SaSpec:
    (effect,) = [e for e in desk.effects(request) if isinstance(e, InstallSa)]
    return effect.sa


def test_the_data_path_is_told_and_records_show_it() -> None:
    desk = Desk(A, B)
    spec = installed(desk, add(*ports(4500, 6000), original(ExtType.X_NAT_T_OA)))
    assert (spec.encap, spec.sport, spec.dport, spec.oa_src) == (2, 4500, 6000, ELSEWHERE)
    for request in (named(MsgType.GET), message(MsgType.DUMP)):
        (record,) = desk.ask(request)[A]
        assert record.extensions[-4:] == (*ports(4500, 6000), original(ExtType.X_NAT_T_OA))


def test_the_two_original_addresses_of_the_bsds_are_of_source_and_destination() -> None:
    both = (original(ExtType.X_NAT_T_OAI, HERE), original(ExtType.X_NAT_T_OAR))
    found = encapsulation(add(*ports(), *both), 50, 4)
    assert (found.oa_src, found.oa_dst) == (HERE, ELSEWHERE)
    desk = Desk(A)
    desk.engine.connect(B, "netbsd")
    effects = desk.engine.receive(B, add(*ports(), *both).encode(NETBSD), desk.now)
    (spec,) = [e.sa for e in effects if isinstance(e, InstallSa)]
    assert (spec.oa_src, spec.oa_dst) == (HERE, ELSEWHERE)
    effects = desk.engine.receive(B, message(MsgType.DUMP).encode(NETBSD), desk.now)
    (record,) = [record for e in effects if isinstance(e, Dump) for record in e.records]
    shown = Message.decode(record, NETBSD).extensions[-5:]
    assert [e.exttype for e in shown] == [e.exttype for e in (*ports(), *both)]
    assert shown[:3] == ports()
    assert [getattr(e, "address", b"") for e in shown[3:]] == [HERE, ELSEWHERE]


def openbsd(*, port: int | None, to: bytes = THERE, flags: int = UDPENCAP) -> Message:
    """ADD from a program of OpenBSD, such as iked after it has found a NAT."""
    more = () if port is None else (NatTPort(exttype=ExtType.X_UDPENCAP, port=port),)
    plain = add(*more, flags=flags)
    request = plain if to == THERE else reversed_(plain)
    mature = (replace(e, state=1) if isinstance(e, Sa) else e for e in request.extensions)
    return replace(request, extensions=tuple(mature))


@pytest.mark.parametrize(
    ("to", "port", "shown"),
    [
        (THERE, 61000, (4500, 61000)), (HERE, 61000, (61000, 4500)), (THERE, 0, (4500, 4500)),
        (HERE, None, (4500, 4500)), (THERE, 4500, (4500, 4500)),
    ],
)  # fmt: skip
def test_openbsd_names_the_peers_port_and_ours_is_4500(
    to: bytes, port: int | None, shown: tuple[int, int]
) -> None:
    """Where the SA ends is the peer's end or ours; a port of 0 is 4500."""
    desk = Desk(A, B)
    for name, dialect in (OURS, OPENBSD), (THEIRS, OPENBSD), (KAME, NETBSD):
        desk.join(name, dialect)
    request = openbsd(port=port, to=to)
    heard = desk.ask(request, OURS)
    (spec,) = desk.engine.sas()
    assert (spec.encap, (spec.sport, spec.dport)) == (2, shown)
    # the answer is the request without keys, and all hear it: OpenBSD's as it was
    for name in (OURS, THEIRS):
        (echo,) = heard[name]
        assert echo.sa is not None
        assert echo.sa.flags == UDPENCAP
        given = echo.ext(ExtType.X_UDPENCAP)
        assert (given is None) == (port is None)
        assert given is None or given == NatTPort(exttype=ExtType.X_UDPENCAP, port=port or 0)
    for name in (A, KAME):
        (echo,) = heard[name]
        assert [e for e in echo.extensions if isinstance(e, NatTType | NatTPort)] == [
            *ports(*shown)
        ]
    get = message(MsgType.GET, Sa(spi=0x2694), src(), dst(to), satype=SaType.ESP)
    for asked in (get, message(MsgType.DUMP)):
        (record,) = desk.ask(asked, OURS)[OURS]
        assert record.sa is not None
        assert record.sa.flags == UDPENCAP
        kinds = [e.exttype for e in record.extensions]
        assert kinds[-2:] == [ExtType.X_UDPENCAP, ExtType.X_REPLAY], "in the order of numbers"
        assert record.extensions[-2] == NatTPort(exttype=ExtType.X_UDPENCAP, port=port or 4500)
        (record,) = desk.ask(replace(asked, seq=9), A)[A]
        assert record.extensions[-3:] == ports(*shown)


def test_openbsd_hears_of_others_esp_in_udp_in_its_own_words() -> None:
    desk = Desk(A)
    desk.join(OURS, OPENBSD)
    (echo,) = desk.ask(add(*ports(4500, 6000), flags=0))[OURS]
    (record,) = desk.ask(message(MsgType.DUMP), OURS)[OURS]
    for told in (echo, record):
        assert told.sa is not None
        assert told.sa.flags == UDPENCAP
        assert told.ext(ExtType.X_UDPENCAP) == NatTPort(exttype=ExtType.X_UDPENCAP, port=6000)


def test_an_expire_on_openbsd_has_the_flag_alone() -> None:
    desk = Desk(A)
    desk.join(OURS, OPENBSD)
    desk.ask(add(*ports(4500, 6000), hard(addtime=9), soft(addtime=5), flags=0))
    desk.mono += 6
    (told,) = desk.heard(desk.engine.tick(desk.now))[OURS]
    assert told.sa is not None
    assert told.sa.flags == UDPENCAP
    assert told.ext(ExtType.X_UDPENCAP) is None


def test_an_update_on_openbsd_may_leave_it_out_or_move_the_port() -> None:
    """There an UPDATE of an SA that has keys brings lifetimes and the port; flags say nothing."""
    desk = Desk(A)
    desk.join(OURS, OPENBSD)
    desk.ask(openbsd(port=61000), OURS)
    for port, flags, expected in ((None, 0, 61000), (61001, UDPENCAP, 61001), (0, UDPENCAP, 4500)):
        given = openbsd(port=port, flags=flags)
        rest = tuple(e for e in given.extensions if not isinstance(e, Key))
        request = replace(given, type=MsgType.UPDATE, extensions=rest)
        (reply,) = desk.ask(request, OURS)[OURS]
        assert reply.errno == 0
        (spec,) = desk.engine.sas()
        assert (spec.encap, spec.sport, spec.dport) == (2, 4500, expected)


def test_udpencap_without_its_flag_is_refused() -> None:
    desk = Desk(A)
    desk.join(OURS, OPENBSD)
    (reply,) = desk.ask(openbsd(port=61000, flags=0), OURS)[OURS]
    assert reply.errno == EINVAL
    assert desk.engine.sas() == ()


def test_getspi_may_say_it_and_it_changes_nothing() -> None:
    """racoon does."""
    plain, udp = (
        Desk(A).reply(message(MsgType.GETSPI, src(), dst(), *more, satype=SaType.ESP))
        for more in ((), ports())
    )
    assert plain == udp


@pytest.mark.parametrize(
    "more",
    [
        (TYPE,),
        ports(0, 4500),
        ports(4500, 0),
        ports()[1:],
        (NatTType(type=0), *ports()[1:]),
        (NatTType(type=3), *ports()[1:]),
        (original(ExtType.X_NAT_T_OA),),
        (*ports(), original(ExtType.X_NAT_T_OA, OTHER6)),
    ],
    ids=str,
)
def test_what_is_not_whole_is_refused(more: tuple[Extension, ...]) -> None:
    desk = Desk(A)
    assert desk.errno(add(*more)) == EINVAL
    assert desk.engine.sas() == ()


def test_type_0_is_plain_esp() -> None:
    zeros = (port(ExtType.X_NAT_T_SPORT, 0), port(ExtType.X_NAT_T_DPORT, 0))
    assert installed(Desk(A), add(NatTType(type=0), *zeros)).encap == 0


def test_ah_and_the_drafts_are_refused() -> None:
    desk = Desk(A)
    assert desk.errno(add(NatTType(type=1), *ports()[1:])) == EOPNOTSUPP
    ah = add(*ports(), satype=SaType.AH, encrypt=0, auth=SHA256, keys=[auth_key()])
    assert desk.errno(ah) == EINVAL


def test_update_changes_the_ports_of_a_mature_sa_and_no_more() -> None:
    """As strongSwan does where a NAT has changed them; counters go on, for the slot is the same."""
    desk = Desk(A)
    before = installed(desk, add(*ports()))
    after = installed(desk, add(*ports(4500, 6000), type=MsgType.UPDATE))
    assert (after.slot, after.order, after.dport) == (before.slot, before.order, 6000)
    assert desk.errno(add(type=MsgType.UPDATE)) == EOPNOTSUPP
    (sa,) = desk.engine.sas()
    assert sa.dport == 6000


def test_what_sends_to_a_peer_follows_it() -> None:
    """By port and by address; the names of SAs stay, and neighbours behind that NAT too."""
    desk = Desk(A, B)
    desk.ask(message(MsgType.REGISTER, satype=SaType.ESP), B)
    desk.ask(reversed_(add(*ports(4500, 4500), spi=1000)))
    desk.ask(add(*ports(4500, 4500), spi=1001))
    desk.ask(add(*ports(4500, 4777), spi=1002))
    key = SaKey(HERE, 50, 1000)
    effects = desk.engine.new_mapping(key, (4500, 6000), THERE)
    moved = {e.sa.spi: e.sa for e in effects if isinstance(e, InstallSa)}
    assert set(moved) == {1000, 1001}
    assert (moved[1000].sport, moved[1001].dport, moved[1001].via) == (6000, 6000, b"")
    assert [m.type for m in desk.heard(effects)[B]] == [MsgType.X_NAT_T_NEW_MAPPING]
    effects = desk.engine.new_mapping(key, (6000, 7000), ELSEWHERE)
    moved = {e.sa.spi: e.sa for e in effects if isinstance(e, InstallSa)}
    assert set(moved) == {1000, 1001}
    assert (moved[1000].src, moved[1000].sport, moved[1000].origin) == (THERE, 7000, ELSEWHERE)
    assert (moved[1001].dst, moved[1001].dport, moved[1001].via) == (THERE, 7000, ELSEWHERE)
    assert {sa.spi: sa for sa in desk.engine.sas() if sa.spi < 1002} == moved, "for a next worker"
    effects = desk.engine.new_mapping(key, (7000, 6000), THERE)
    moved = {e.sa.spi: e.sa for e in effects if isinstance(e, InstallSa)}
    assert (moved[1001].dport, moved[1001].via) == (6000, b"")
    assert (moved[1000].sport, moved[1000].origin) == (6000, b"")
    desk.ask(message(MsgType.FLUSH))
    assert desk.engine.new_mapping(key, (6000, 1), THERE) == []
    assert desk.engine._state.sad._in_udp == {}


def followed(desk: Desk) -> SaSpec:
    """An SA whose peer has moved to another address, since."""
    desk.ask(reversed_(add(*ports(4500, 4500), spi=1000)))
    desk.ask(add(*ports(4500, 4500), spi=1001))
    effects = desk.engine.new_mapping(SaKey(HERE, 50, 1000), (4500, 7000), ELSEWHERE)
    (moved,) = [e.sa for e in effects if isinstance(e, InstallSa) and e.sa.spi == 1001]
    assert (moved.dport, moved.via) == (7000, ELSEWHERE)
    return moved


def test_new_lifetimes_do_not_lead_back_to_where_a_peer_was() -> None:
    """What GET says comes back, and where the peer was seen is not among it; other ports say."""
    desk = Desk(A)
    moved = followed(desk)
    again = add(*ports(4500, 7000), spi=1001, type=MsgType.UPDATE)
    assert installed(desk, again) == moved
    elsewhere = installed(desk, add(*ports(4500, 7001), spi=1001, type=MsgType.UPDATE))
    assert (elsewhere.dport, elsewhere.via) == (7001, b"")


def test_migrate_says_where_the_peer_is_now() -> None:
    desk = Desk(A)
    moved = followed(desk)
    (sa,) = [sa for sa in desk.engine.sas() if sa.spi == moved.spi]
    record = desk.engine._state.sad.find(SaKey(THERE, 50, moved.spi))
    desk.engine._state.sad.move([(record, (HERE, OTHER))])
    (after,) = [sa for sa in desk.engine.sas() if sa.spi == moved.spi]
    assert (sa.via, after.dst, after.via) == (ELSEWHERE, OTHER, b"")


# ---------------------------------------------------------------- windows


def window(packets: int) -> Word:
    return Word(exttype=ExtType.X_REPLAY_WINDOW, value=packets)


def test_a_window_beyond_255_is_told_to_those_who_know_of_it_alone() -> None:
    desk = Desk(A, B)
    request = add(window(4096))
    heard = desk.ask(request)
    assert desk.engine.sas()[0].replay_packets == 4096
    (mine,), (theirs,) = heard[A], heard[B]
    assert mine.ext(ExtType.X_REPLAY_WINDOW) == window(4096)
    assert theirs.ext(ExtType.X_REPLAY_WINDOW) is None
    for answer in (mine, theirs):
        assert answer.sa is not None
        assert answer.sa.replay == 255
    assert desk.ask(named(MsgType.GET), B)[B][0].ext(ExtType.X_REPLAY_WINDOW) is None
    asking = message(MsgType.DUMP, window(0))
    assert desk.ask(asking, B)[B][0].ext(ExtType.X_REPLAY_WINDOW) == window(4096)
    assert desk.ask(named(MsgType.GET), B)[B][0].ext(ExtType.X_REPLAY_WINDOW) == window(4096)


def test_32768_packets_are_the_most() -> None:
    assert Desk(A).errno(add(window(32768))) == 0
    assert Desk(A).errno(add(window(32769))) == EOPNOTSUPP
