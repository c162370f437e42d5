"""Soft and hard lifetimes (RFC 2367 sections 2.3.2 and 3.1.8), with a clock set by hand."""

import pytest

from keyd.engine import lifetimes
from keyd.engine.effects import InstallSa, RemoveSa, Send
from keyd.model import Usage
from pfkey.const import ExtType, MsgType, SaState
from pfkey.ext_lifetime import Lifetime
from tests.keyd.engine.desk import (
    KEY24,
    KEY32,
    WALL,
    A,
    B,
    C,
    Desk,
    add,
    hard,
    message,
    named,
    soft,
)  # fmt: skip


def registered(*lifetimes_: Lifetime) -> Desk:
    """A desk where B has registered and an SA of these lifetimes is in slot 0."""
    desk = Desk(A, B)
    desk.ask(message(MsgType.REGISTER, satype=2), B)
    desk.ask(add(*lifetimes_))
    return desk


def test_soft_addtime_makes_dying_and_hard_ends() -> None:
    desk = registered(hard(addtime=100), soft(addtime=80))
    assert desk.engine.next_deadline() == 1080.0
    assert desk.tick(79.9) == []
    install, send = desk.tick(0.1)
    assert isinstance(install, InstallSa)
    assert install.sa.is_dying
    assert isinstance(send, Send)
    assert send.client == B
    (notice,) = desk.heard([send])[B]
    assert (notice.type, notice.satype, notice.seq, notice.pid) == (MsgType.EXPIRE, 3, 0, 0)
    assert [e.exttype for e in notice.extensions] == [
        ExtType.SA, ExtType.LIFETIME_SOFT, ExtType.LIFETIME_CURRENT, ExtType.ADDRESS_SRC,
        ExtType.ADDRESS_DST, ExtType.X_SA2,
    ]  # fmt: skip
    assert notice.sa is not None
    assert notice.sa.state == SaState.DYING
    assert notice.soft == soft(addtime=80)
    assert desk.engine.next_deadline() == 1100.0
    desk.used[0] = Usage(packets=1, octets=84, first_use=WALL + 3)
    remove, send = desk.tick(20)
    assert isinstance(remove, RemoveSa)
    (notice,) = desk.heard([send])[B]
    assert notice.hard == hard(addtime=100)
    assert notice.soft is None
    assert notice.sa is not None
    assert notice.sa.state == SaState.DEAD
    assert notice.current is not None
    assert notice.current.usetime == WALL + 3
    assert desk.engine.sas() == ()
    assert desk.engine.next_deadline() is None
    assert desk.engine.stats()["expired_hard"] == desk.engine.stats()["expired_soft"] == 1


def test_a_dying_sa_is_shown_so_and_update_makes_it_mature() -> None:
    desk = registered(hard(addtime=100), soft(addtime=80))
    desk.tick(80)
    reply = desk.reply(named(MsgType.GET))
    assert reply.sa is not None
    assert reply.sa.state == SaState.DYING
    desk.ask(add(hard(addtime=200), soft(addtime=190), type=MsgType.UPDATE))
    reply = desk.reply(named(MsgType.GET))
    assert reply.sa is not None
    assert reply.sa.state == SaState.MATURE
    assert not desk.engine.sas()[0].is_dying
    assert desk.tick(30) == []
    assert desk.engine.next_deadline() == 1190.0


def test_a_late_tick_ends_without_a_soft_notice() -> None:
    desk = registered(hard(addtime=100), soft(addtime=80))
    remove, send = desk.tick(500)
    assert isinstance(remove, RemoveSa)
    assert desk.heard([send])[B][0].hard is not None
    assert desk.tick() == []


def test_equal_soft_and_hard_end_once() -> None:
    desk = registered(hard(addtime=10), soft(addtime=10))
    assert [type(e) for e in desk.tick(10)] == [RemoveSa, Send]


@pytest.mark.parametrize(
    ("lower", "upper", "below", "at_soft", "at_hard"),
    [
        (soft(octets=800), hard(octets=1000), Usage(9, 799), Usage(9, 800), Usage(9, 1000)),
        (soft(allocations=8), hard(allocations=9), Usage(7, 1), Usage(8, 1), Usage(12, 1)),
    ],
)
def test_octets_and_packets_are_asked_for_once_a_second(
    lower: Lifetime, upper: Lifetime, below: Usage, at_soft: Usage, at_hard: Usage
) -> None:
    desk = registered(upper, lower)
    assert desk.engine.next_deadline() == 1001.0
    desk.used[0] = at_hard
    assert desk.tick(0.5) == []
    desk.used[0] = below
    assert desk.tick(0.5) == []
    assert desk.engine.next_deadline() == 1002.0
    desk.used[0] = at_soft
    assert [type(e) for e in desk.tick(1)] == [InstallSa, Send]
    assert desk.tick(1) == []
    desk.used[0] = at_hard
    assert [type(e) for e in desk.tick(1)] == [RemoveSa, Send]
    assert desk.engine.next_deadline() is None


def test_usetime_counts_from_the_first_use_and_not_before() -> None:
    desk = registered(hard(usetime=10), soft(usetime=5))
    assert desk.tick(100) == []
    desk.used[0] = Usage(packets=1, octets=1, first_use=WALL + 99)
    assert desk.tick(1) == []  # used two seconds ago
    assert desk.tick(2) == []
    assert [type(e) for e in desk.tick(1)] == [InstallSa, Send]
    assert desk.tick(4) == []
    assert [type(e) for e in desk.tick(1)] == [RemoveSa, Send]


def test_a_wall_clock_that_jumps_does_not_end_an_sa() -> None:
    desk = registered(hard(usetime=10), soft(usetime=9))
    desk.used[0] = Usage(packets=1, octets=1, first_use=WALL - 1_000_000)
    assert desk.tick(1) == []  # the SA itself is one second old
    desk.used[0] = Usage(packets=1, octets=1, first_use=WALL + 1_000_000)
    assert desk.tick(1) == []


def test_update_voids_what_was_scheduled() -> None:
    desk = registered(hard(addtime=100), soft(addtime=80))
    desk.ask(add(hard(octets=5), soft(), type=MsgType.UPDATE))
    assert desk.tick(200) == []
    desk.ask(add(hard(), soft(), type=MsgType.UPDATE))
    desk.used[0] = Usage(packets=1, octets=1_000_000)
    assert desk.tick(200) == []
    assert desk.engine.next_deadline() is None


def test_a_new_sa_of_the_same_name_does_not_inherit_the_old_ones_end() -> None:
    desk = registered(hard(addtime=100), soft(addtime=80))
    desk.tick(50)
    desk.ask(named(MsgType.DELETE))
    desk.ask(add(hard(addtime=100), soft(addtime=80)))
    assert desk.tick(50) == []
    assert desk.engine.next_deadline() is not None


def test_updates_without_end_do_not_grow_the_schedule() -> None:
    desk = registered(hard(addtime=10**9), soft(addtime=10**9))
    for _ in range(3000):
        desk.ask(add(hard(addtime=10**9), soft(addtime=10**9), type=MsgType.UPDATE))
    assert len(desk.engine._state.schedule._heap) < 1100


def test_no_expire_carries_a_key_and_only_the_registered_hear_it() -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=3), B)
    desk.ask(message(MsgType.X_PROMISC, satype=1), C)
    desk.ask(add(hard(addtime=9), soft(addtime=5)))
    sends = [e for e in desk.tick(6) + desk.tick(6) if isinstance(e, Send)]
    assert [send.client for send in sends] == [B, C] * 2
    assert not any(KEY24 in send.record or KEY32 in send.record for send in sends)


def test_many_ends_at_once_are_done_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetimes, "EXPIRY_PORTION", 3)
    monkeypatch.setattr(lifetimes, "POLL_PORTION", 4)
    desk = Desk(A)
    for spi in range(1, 11):
        desk.ask(add(hard(addtime=10), soft(), spi=spi))
    for spi in range(11, 21):
        desk.ask(add(hard(octets=10), soft(), spi=spi))
    for slot in range(10, 20):
        desk.used[slot] = Usage(packets=1, octets=10)
    desk.mono += 10
    desk.tick()
    desk.ask(named(MsgType.DELETE, spi=20))  # in the middle of a round
    left = [len(desk.engine.sas())]
    while (deadline := desk.engine.next_deadline()) is not None:
        assert deadline <= desk.mono
        desk.tick()
        assert 0 < left[-1] - len(desk.engine.sas()) <= 6
        left.append(len(desk.engine.sas()))
    assert left[-1] == 0
