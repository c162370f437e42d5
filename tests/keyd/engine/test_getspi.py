"""GETSPI and larval SAs (RFC 2367 sections 3.1.1, 3.1.2)."""

from errno import EEXIST, EINVAL, ENOBUFS, ENOENT, EOPNOTSUPP, ESRCH

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.engine import Limits
from keyd.engine.effects import Effect, InstallSa, RemoveSa, Send
from pfkey.const import ExtType, Mode, MsgType, SaState, SaType
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    THERE,
    WALL,
    A,
    B,
    C,
    Desk,
    add,
    dst,
    hard,
    message,
    named,
    soft,
    src,
)  # fmt: skip

UPDATE = MsgType.UPDATE
SECOND = 1.0


def getspi(*more: Extension, satype: int = ESP, pid: int = 4711, seq: int = 7) -> Message:
    """What IKE daemons send: for packets from there to here."""
    return message(
        MsgType.GETSPI, *more, src(THERE), dst(HERE), satype=satype, pid=pid, seq=seq
    )  # fmt: skip


def spis(low: int, high: int) -> SpiRange:
    return SpiRange(min=low, max=high)


def reserve(desk: Desk, *more: Extension, pid: int = 4711) -> int:
    """The SPI that a client got."""
    reply = desk.reply(getspi(*more, pid=pid))
    assert reply.errno == 0
    assert reply.sa is not None
    return reply.sa.spi


def test_the_reply_is_a_larval_sa_for_the_sender_alone() -> None:
    desk = Desk(A, B)
    heard = desk.ask(getspi(Sa2(mode=Mode.TUNNEL, reqid=9)))
    assert set(heard) == {A}
    (reply,) = heard[A]
    assert (reply.type, reply.satype, reply.errno) == (MsgType.GETSPI, ESP, 0)
    assert (reply.seq, reply.pid) == (7, 4711)
    assert [e.exttype for e in reply.extensions] == [
        ExtType.SA, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT, ExtType.LIFETIME_CURRENT,
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_SA2,
    ]  # fmt: skip
    assert reply.sa is not None
    assert (reply.sa.spi, reply.sa.state) == (0x100, SaState.LARVAL)
    assert reply.hard == hard(addtime=30)
    assert reply.src == src(THERE, proto=0)
    assert reply.dst == dst(HERE, proto=0)
    assert reply.sa2 == Sa2(mode=Mode.TUNNEL, reqid=9)


def test_a_larval_sa_is_not_in_the_data_path_but_get_and_dump_show_it() -> None:
    desk = Desk(A, B)
    effects = desk.effects(getspi())
    assert all(isinstance(e, Send) for e in effects)
    assert desk.engine.sas() == ()
    assert desk.engine.stats()["larvals"] == 1
    for request in (named(MsgType.GET, 0x100, to=HERE), message(MsgType.DUMP)):
        (shown,) = desk.ask(request, B)[B]
        assert shown.sa is not None
        assert shown.sa.state == SaState.LARVAL
        assert shown.key_encrypt is None


def test_update_makes_it_mature_and_everybody_hears() -> None:
    desk = Desk(A, B)
    spi = reserve(desk, Sa2(mode=Mode.TUNNEL, reqid=9))
    desk.mono += 7
    request = add(
        hard(addtime=90), soft(addtime=80), type=UPDATE, spi=spi, to=HERE,
        sa2=Sa2(mode=Mode.TRANSPORT, reqid=11),
    )  # fmt: skip
    effects = desk.effects(request)
    (install,) = (e for e in effects if isinstance(e, InstallSa))
    assert (install.sa.spi, install.sa.slot, install.sa.reqid) == (spi, 0, 11)
    assert not any(isinstance(e, RemoveSa) for e in effects)
    heard = desk.heard(effects)
    for client in (A, B):
        (echo,) = heard[client]
        assert echo.type == UPDATE
        assert echo.sa is not None
        assert echo.sa.state == SaState.MATURE
        assert echo.sa2 == Sa2(mode=Mode.TRANSPORT, reqid=11)
        assert echo.current is not None
        assert echo.current.addtime == WALL + 7
    assert desk.engine.stats()["larvals"] == 0
    assert desk.tick(30) == [], "its time as a larval SA is no limit of the mature one"


def test_only_the_pid_that_reserved_an_spi_gives_it_keys() -> None:
    desk = Desk(A, B)
    spi = reserve(desk, pid=99)
    request = add(type=UPDATE, spi=spi, to=HERE)
    assert desk.errno(request) == EINVAL
    assert "reserved by pid 99, not by 4711" in desk.logs(request)[0].text
    desk = Desk(A, B)
    spi = reserve(desk)
    assert desk.ask(add(type=UPDATE, spi=spi, to=HERE), B)[B][0].errno == 0, "another connection"


def test_an_sa_that_is_wrong_leaves_the_larval_one_as_it_was() -> None:
    desk = Desk(A)
    spi = reserve(desk)
    assert desk.errno(add(type=UPDATE, spi=spi, to=HERE, keys=[])) == EINVAL
    assert desk.errno(add(type=UPDATE, spi=spi, to=HERE)) == 0


def test_add_of_a_reserved_spi_is_eexist_until_it_is_deleted() -> None:
    """charon deletes the larval SA and adds one."""
    desk = Desk(A, B)
    spi = reserve(desk)
    assert desk.errno(add(spi=spi, to=HERE)) == EEXIST
    effects = desk.effects(named(MsgType.DELETE, spi, to=HERE))
    assert not any(isinstance(e, RemoveSa) for e in effects)
    heard = desk.heard(effects)
    for client in (A, B):
        (echo,) = heard[client]
        assert echo.sa is not None
        assert echo.sa.state == SaState.DEAD
    assert desk.errno(add(spi=spi, to=HERE)) == 0


def test_a_larval_sa_ends_after_its_lifetime_and_the_registered_hear_it() -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=SaType.AH), B)
    spi = reserve(desk)
    assert desk.engine.next_deadline() == 1030.0
    assert desk.tick(29.9) == []
    heard = desk.heard(desk.tick(0.1))
    assert set(heard) == {B}
    (notice,) = heard[B]
    assert (notice.type, notice.seq, notice.pid) == (MsgType.EXPIRE, 0, 0)
    assert notice.hard == hard(addtime=30)
    assert notice.soft is None
    assert notice.sa is not None
    assert (notice.sa.spi, notice.sa.state) == (spi, SaState.DEAD)
    assert desk.errno(add(type=UPDATE, spi=spi, to=HERE)) == ESRCH
    assert desk.engine.stats()["larvals"] == 0


def test_the_lifetime_of_a_larval_sa_is_a_knob() -> None:
    desk = Desk(A)
    desk.engine._state.sysctl.set("net.key.larval_lifetime", 100)
    spi = reserve(desk)
    assert desk.tick(99) == []
    assert desk.errno(add(type=UPDATE, spi=spi, to=HERE)) == 0


def test_flush_ends_larval_sas_too() -> None:
    desk = Desk(A, B)
    reserve(desk)
    effects: list[Effect] = desk.effects(message(MsgType.FLUSH, satype=ESP))
    assert len(desk.heard(effects)) == 2, "something was there"
    assert not any(isinstance(e, RemoveSa) for e in effects)
    assert desk.engine.stats() | {"sas": 0, "larvals": 0} == desk.engine.stats()


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (message(MsgType.GETSPI, src(), satype=ESP), EINVAL),
        (message(MsgType.GETSPI, src(), dst(bytes(16), 128), satype=ESP), EINVAL),
        (getspi(satype=SaType.UNSPEC), EINVAL),
        (getspi(satype=SaType.MIP), EINVAL),
        (getspi(spis(900, 800)), EINVAL),
        (getspi(spis(0, 0)), ENOENT),
        (getspi(Sa2(mode=9)), EINVAL),
        (getspi(Sa2(mode=Mode.BEET)), EOPNOTSUPP),
        (getspi(spis(0x100, 0x10000), satype=SaType.X_IPCOMP), EINVAL),
    ],
)
def test_a_wrong_request_is_refused(request_: Message, errno: int) -> None:
    desk = Desk(A, B)
    assert desk.errno(request_) == errno
    assert desk.engine.stats()["larvals"] == 0


def test_a_range_is_used_up_and_then_enoent() -> None:
    desk = Desk(A)
    desk.ask(add(spi=502, to=HERE))
    got = [reserve(desk, spis(500, 504)) for _ in range(4)]
    assert sorted(got) == [500, 501, 503, 504]
    assert desk.errno(getspi(spis(500, 504))) == ENOENT
    desk.ask(named(MsgType.DELETE, 503, to=HERE))
    assert reserve(desk, spis(500, 504)) == 503


def test_spis_are_taken_per_destination_and_protocol() -> None:
    desk = Desk(A)
    assert reserve(desk, spis(500, 500)) == 500
    for request in (
        message(MsgType.GETSPI, spis(500, 500), src(), dst(), satype=ESP),
        getspi(spis(500, 500), satype=SaType.AH),
    ):
        assert desk.errno(request) == 0


def test_no_more_is_tried_than_the_knob_says() -> None:
    desk = Desk(A)
    for spi in range(500, 510):
        desk.ask(add(spi=spi, to=HERE))
    desk.engine._state.sysctl.set("net.key.spi_try", 10)
    assert desk.errno(getspi(spis(500, 600))) == ENOENT
    desk.engine._state.sysctl.set("net.key.spi_try", 11)
    assert reserve(desk, spis(500, 600)) == 510


def test_without_a_range_the_knobs_say_which() -> None:
    desk = Desk(A)
    desk.engine._state.sysctl.set("net.key.spi_min_value", 0x7000)
    desk.engine._state.sysctl.set("net.key.spi_max_value", 0x7000)
    assert reserve(desk) == 0x7000
    assert desk.errno(getspi()) == ENOENT
    desk.engine._state.sysctl.set("net.key.spi_max_value", 0x6FFF)
    assert desk.errno(getspi()) == ENOENT


def test_too_many_larval_sas_are_enobufs() -> None:
    desk = Desk(A, limits=Limits(larvals=2))
    reserve(desk)
    spi = reserve(desk)
    assert desk.errno(getspi()) == ENOBUFS
    assert desk.errno(add(type=UPDATE, spi=spi, to=HERE)) == 0
    reserve(desk)
    desk = Desk(A, limits=Limits(sas=1))
    reserve(desk)
    assert desk.errno(getspi()) == ENOBUFS


@given(low=st.integers(0, 40), width=st.integers(0, 20), start=st.integers(0, 20),
       taken=st.sets(st.integers(0, 60)))  # fmt: skip
def test_an_spi_of_the_range_is_found_if_one_is_free(
    low: int, width: int, start: int, taken: set[int]
) -> None:
    desk = Desk(A)
    desk.engine._state.pick = lambda low, high: low + min(start, high - low)
    for spi in taken - {0}:
        desk.ask(add(spi=spi, to=HERE))
    free = set(range(low, low + width + 1)) - taken - {0}
    (reply,) = desk.ask(getspi(spis(low, low + width)))[A]
    if free:
        assert reply.sa is not None
        assert reply.sa.spi in free
    else:
        assert reply.errno == ENOENT
