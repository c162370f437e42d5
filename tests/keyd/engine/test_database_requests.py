"""FLUSH, DUMP, REGISTER, PROMISC and who hears them (RFC 2367 sections 3.1.7 to 3.1.11)."""

from errno import EBUSY, EEXIST, EINVAL, EMSGSIZE, ENOENT

import pytest

from keyd.engine import Limits
from keyd.engine.effects import ClientId, Dump, Log, RemoveSa, Send
from pfkey.const import MsgType, SaType
from pfkey.errors import SadbError
from pfkey.ext_supported import SupportedAlgorithm
from pfkey.ext_x_linux import Filter
from pfkey.message import Message
from tests.keyd.engine.desk import HERE, THERE, WALL, A, B, C, Desk, add, message, named, policy

FLUSH, DUMP = message(MsgType.FLUSH), message(MsgType.DUMP)
ON = message(MsgType.X_PROMISC, satype=1)


def test_flush_is_echoed_once() -> None:
    desk = Desk(A, B)
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi))
    effects = desk.effects(FLUSH)
    assert [type(e) for e in effects] == [RemoveSa] * 3 + [Send] * 2
    heard = desk.heard(effects)
    for client in (A, B):
        (echo,) = heard[client]
        assert echo == FLUSH
        assert len(echo.octets or b"") == 16
    assert desk.engine.sas() == ()


def test_flush_of_nothing_is_heard_by_the_sender_alone() -> None:
    desk = Desk(A, B)
    assert desk.ask(FLUSH) == {A: [FLUSH]}
    desk.ask(add())
    ah = message(MsgType.FLUSH, satype=SaType.AH)
    assert desk.ask(ah) == {A: [ah]}
    assert len(desk.engine.sas()) == 1
    esp = message(MsgType.FLUSH, satype=SaType.ESP)
    assert desk.ask(esp) == {A: [esp], B: [esp]}


@pytest.mark.parametrize("type_", [MsgType.FLUSH, MsgType.DUMP])
@pytest.mark.parametrize("satype", [1, 4, 5, 8, 10, 255])
def test_unknown_satype_is_einval(type_: MsgType, satype: int) -> None:
    assert Desk(A).errno(message(type_, satype=satype)) == EINVAL


def test_dump_counts_up_and_its_last_record_is_zero() -> None:
    desk = Desk(A, B)
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi), B)
    heard = desk.ask(DUMP)
    assert set(heard) == {A}
    assert [m.seq for m in heard[A]] == [1, 2, 0]
    assert [m.sa and m.sa.spi for m in heard[A]] == [1, 2, 3]
    assert all(m.pid == 4711 and m.type == MsgType.DUMP and m.errno == 0 for m in heard[A])
    assert all(m.key_encrypt is not None for m in heard[A])


def test_empty_dump_is_enoent_in_16_octets() -> None:
    desk = Desk(A, B)
    assert desk.errno(DUMP) == ENOENT
    assert desk.errno(message(MsgType.X_SPDDUMP)) == ENOENT
    desk.ask(add())
    assert desk.errno(message(MsgType.DUMP, satype=SaType.AH)) == ENOENT


def test_a_second_dump_is_ebusy_until_the_first_is_done() -> None:
    desk = Desk(A, B)
    desk.ask(add())
    desk.ask(policy())
    (dump,) = (e for e in desk.effects(DUMP) if isinstance(e, Dump))
    assert desk.errno(DUMP) == EBUSY
    assert desk.errno(message(MsgType.X_SPDDUMP)) == EBUSY
    assert desk.ask(DUMP, B)[B]
    assert desk.ask(named(MsgType.GET))[A][0].errno == 0
    assert len(list(dump.records)) == 1
    desk.engine.dump_done(A)
    assert desk.ask(DUMP)[A][0].errno == 0


def test_a_dump_outlives_what_it_shows() -> None:
    """What ended before its turn is not shown, but for the one that was next: it has an end."""
    desk = Desk(A)
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi))
    (dump,) = (e for e in desk.effects(DUMP) if isinstance(e, Dump))
    first = Message.decode(next(dump.records))
    desk.effects(FLUSH)
    desk.effects(add(spi=9))
    rest = [Message.decode(record) for record in dump.records]
    assert [m.seq for m in (first, *rest)] == [1, 0]
    assert [m.sa and int(m.sa.state) for m in (first, *rest)] == [1, 3]


def test_a_dump_that_nobody_has_read_yet_ends_all_the_same() -> None:
    desk = Desk(A)
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi))
    (dump,) = (e for e in desk.effects(DUMP) if isinstance(e, Dump))
    desk.effects(FLUSH)
    assert [Message.decode(record).seq for record in dump.records] == [0]


def test_a_long_dump_shows_once_each_what_was_there_and_stays() -> None:
    desk = Desk(A, B)
    before = range(1, 1001)
    for spi in before:
        desk.ask(add(spi=spi))
    (dump,) = (e for e in desk.effects(DUMP) if isinstance(e, Dump))
    read = [Message.decode(next(dump.records)) for _ in range(400)]
    gone = {*range(300, 350), *range(450, 800, 3), 1000}
    for spi in gone:
        desk.ask(named(MsgType.DELETE, spi=spi), B)
    for spi in (*range(2000, 2300), 300, 453):  # some anew
        desk.ask(add(spi=spi), B)
    read += [Message.decode(record) for record in dump.records]
    spis = [m.sa.spi for m in read if m.sa]
    assert len(spis) == len(set(spis))
    assert set(spis) == {spi for spi in before if spi <= 400 or spi not in gone}
    assert [m.seq for m in read] == [*range(1, len(read)), 0]


def test_the_begin_of_a_dump_looks_at_none_but_the_first() -> None:
    """Else a hundred thousand SAs keep all others waiting."""
    desk = Desk(A)
    for spi in range(1, 1001):
        desk.ask(add(spi=spi))
    sad = desk.engine._state.sad
    for page in list(sad._pages)[1:]:
        sad._pages[page] = {}
    (dump,) = (e for e in desk.effects(DUMP) if isinstance(e, Dump))
    assert 0 < len(list(dump.records)) <= 256


@pytest.mark.parametrize(
    ("wanted", "spis"),
    [
        (Filter(saddr=bytes(16), daddr=bytes(16), family=2, splen=0, dplen=0), [1, 2]),
        (Filter(saddr=bytes(16), daddr=bytes(16), family=10, splen=0, dplen=0), []),
        (Filter(saddr=HERE + bytes(12), daddr=bytes(16), family=2, splen=32, dplen=0), [1, 2]),
        (Filter(saddr=bytes(16), daddr=THERE + bytes(12), family=0, splen=0, dplen=31), [1]),
        (Filter(saddr=bytes(16), daddr=HERE + bytes(12), family=2, splen=0, dplen=8), [2]),
    ],
)
def test_dump_filter_chooses_by_family_and_prefixes(wanted: Filter, spis: list[int]) -> None:
    desk = Desk(A)
    desk.ask(add(spi=1))
    desk.ask(add(spi=2, to=HERE))
    heard = desk.ask(message(MsgType.DUMP, wanted))[A]
    assert [m.sa and m.sa.spi for m in heard if not m.errno] == spis


def test_too_long_filter_is_einval() -> None:
    wanted = Filter(saddr=bytes(16), daddr=bytes(16), family=2, splen=128, dplen=0)
    assert Desk(A).errno(message(MsgType.DUMP, wanted)) == EINVAL


def test_register_lists_what_this_machine_does_in_the_order_of_linux() -> None:
    desk = Desk(A, B)
    heard = desk.ask(message(MsgType.REGISTER, satype=3))
    assert set(heard) == {A}
    (reply,) = heard[A]
    assert (reply.satype, reply.errno, reply.seq, reply.pid) == (3, 0, 7, 4711)
    assert reply.supported_auth is not None
    assert [row.id for row in reply.supported_auth.algorithms] == [2, 3, 5]
    assert reply.supported_encrypt is not None
    assert reply.supported_encrypt.algorithms == (
        SupportedAlgorithm(11, 0, 0, 0),
        SupportedAlgorithm(2, 8, 64, 64),
        SupportedAlgorithm(3, 8, 192, 192),
        SupportedAlgorithm(12, 8, 128, 256),
    )


def test_register_reply_goes_to_all_registered_and_to_the_sender() -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=3), B)
    heard = desk.ask(message(MsgType.REGISTER, satype=2), A)
    assert {client: len(got) for client, got in heard.items()} == {A: 1, B: 1}


def test_second_registration_is_eexist_and_satype_0_registers_nothing() -> None:
    desk = Desk(A, B)
    for _ in range(2):
        assert desk.errno(message(MsgType.REGISTER)) == 0
    assert desk.engine.stats()["registered"] == 0
    assert desk.errno(message(MsgType.REGISTER, satype=3)) == 0
    assert desk.errno(message(MsgType.REGISTER, satype=3)) == EEXIST
    assert desk.errno(message(MsgType.REGISTER, satype=9)) == 0
    assert desk.errno(message(MsgType.REGISTER, satype=10)) == EINVAL
    desk.engine.disconnect(A)
    desk.engine.connect(A)
    assert desk.errno(message(MsgType.REGISTER, satype=3)) == 0


def test_promiscuous_client_hears_every_message_besides_its_own() -> None:
    desk = Desk(A, B)
    heard = desk.ask(ON, B)
    assert {client: len(got) for client, got in heard.items()} == {A: 1, B: 2}
    heard = desk.ask(named(MsgType.GET))
    assert [m.errno for m in heard[B]] == [0, 3]  # the request, then the reply to A
    heard = desk.ask(add())
    assert [m.type for m in heard[B]] == [MsgType.ADD] * 3  # the request, the copy, its own
    heard = desk.ask(message(MsgType.X_PROMISC, satype=0), B)
    assert {client: len(got) for client, got in heard.items()} == {A: 1, B: 2}
    assert set(desk.ask(named(MsgType.GET))) == {A}


def test_promisc_takes_only_on_and_off_and_passes_a_body_on() -> None:
    desk = Desk(A, B)
    assert desk.errno(message(MsgType.X_PROMISC, satype=2)) == EINVAL
    body = message(MsgType.X_PROMISC, *policy().extensions, satype=77)
    assert desk.ask(body) == {A: [body], B: [body]}
    assert desk.engine.stats()["promiscuous"] == 0


def test_promiscuous_clients_see_the_first_records_of_a_dump() -> None:
    desk = Desk(A, B, limits=Limits(promiscuous_dump=2))
    for spi in (1, 2, 3):
        desk.ask(add(spi=spi))
    desk.ask(ON, B)
    heard = desk.ask(DUMP)
    assert [m.seq for m in heard[A]] == [1, 2, 0]
    assert [m.seq for m in heard[B]] == [7, 1, 2]
    assert all(m.key_encrypt is None for m in heard[B])


def test_user_acquire_gets_no_reply() -> None:
    desk = Desk(A, B)
    assert desk.ask(message(MsgType.ACQUIRE)) == {}
    assert desk.ask(message(MsgType.ACQUIRE, satype=3, seq=9)) == {}
    assert desk.errno(message(MsgType.ACQUIRE, *named(MsgType.GET).extensions)) == 95


@pytest.mark.parametrize(
    ("octets", "errno"),
    [
        (b"", EMSGSIZE),
        (b"\x02\x07", EMSGSIZE),
        (bytes(16), EINVAL),
        (FLUSH.encode() + bytes(8), EMSGSIZE),
        (FLUSH.encode()[:1] + b"\x19" + FLUSH.encode()[2:], EINVAL),
        (FLUSH.encode()[:6] + b"\x01\0" + FLUSH.encode()[8:], EINVAL),
    ],
)
def test_what_is_no_message_is_answered(octets: bytes, errno: int) -> None:
    desk = Desk(A, B)
    desk.ask(ON, B)
    log, send = desk.effects(octets)
    assert isinstance(log, Log)
    assert isinstance(send, Send)
    assert send.client == A
    assert len(send.record) == 16
    assert send.record[2] == errno


def test_a_stranger_is_not_answered_and_clients_are_bounded() -> None:
    desk = Desk(A, B, limits=Limits(clients=2))
    assert desk.effects(FLUSH, C) == []
    with pytest.raises(SadbError, match="ENOBUFS"):
        desk.engine.connect(ClientId(9))
    assert desk.engine.disconnect(A) == []
    desk.engine.connect(ClientId(9))
    desk.engine.dump_done(A)  # the shell may say so after the end


def test_time_in_messages_is_wall_time() -> None:
    desk = Desk(A)
    desk.mono += 100
    reply = desk.reply(add())
    assert reply.current is not None
    assert reply.current.addtime == WALL + 100
