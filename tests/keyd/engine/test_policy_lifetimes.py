"""Policies that end by age or disuse, X_SPDEXPIRE, and the time of their last use."""

from errno import EOPNOTSUPP

import pytest

from keyd.engine import policy_times
from keyd.engine.effects import PoliciesChanged, Send
from keyd.model import PolicyUse
from pfkey.const import Dir, ExtType, MsgType, PolicyType, SaType
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_x_policy import Policy
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    TRANSPORT_REQUIRE,
    TRANSPORT_USE,
    WALL,
    A,
    B,
    C,
    Desk,
    dst,
    hard,
    message,
    policy,
    soft,
    src,
)  # fmt: skip

REGISTER = message(MsgType.REGISTER, satype=SaType.AH)


def living(*lives: Extension, port: int = 0, type: MsgType = MsgType.X_SPDADD) -> Message:
    plain = policy(type, source=src(port=port), requests=(TRANSPORT_REQUIRE,))
    return Message(
        type=plain.type, seq=plain.seq, pid=plain.pid, extensions=(*plain.extensions, *lives)
    )  # fmt: skip


def registered() -> Desk:
    desk = Desk(A, B, C)
    desk.ask(REGISTER, B)
    return desk


def shown(desk: Desk) -> Message:
    return desk.reply(message(MsgType.X_SPDGET, Policy(type=0, dir=0, id=9)))


def test_a_policy_ends_by_age_and_the_registered_hear_it() -> None:
    desk = registered()
    (echo,) = desk.ask(living(hard(addtime=100)))[C]
    assert echo.hard == hard(addtime=100)
    assert echo.soft == soft()
    assert desk.engine.next_deadline() == 1100.0
    assert desk.tick(99.9) == []
    change, *sends = desk.tick(0.1)
    assert isinstance(change, PoliciesChanged)
    assert [spec.id for spec in change.removed] == [9]
    heard = desk.heard(sends)
    assert set(heard) == {B}
    (notice,) = heard[B]
    assert (notice.type, notice.seq, notice.pid, notice.errno) == (MsgType.X_SPDEXPIRE, 0, 0, 0)
    assert [e.exttype for e in notice.extensions] == [
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT,
        ExtType.LIFETIME_CURRENT, ExtType.X_POLICY,
    ]  # fmt: skip
    assert notice.hard == hard(addtime=100)
    assert notice.policy is not None
    assert notice.policy.id == 9
    assert desk.engine.policies() == ()


def test_a_policy_ends_when_nothing_uses_it() -> None:
    desk = registered()
    desk.ask(living(hard(usetime=10)))
    for _ in range(5):
        assert desk.tick(9) == []
        desk.engine.used([PolicyUse(9), PolicyUse(17)], desk.now)
    assert desk.tick(9) == []
    current = shown(desk).current
    assert current is not None
    assert (current.addtime, current.usetime) == (WALL, WALL + 45)
    assert len(desk.tick(1)) == 2
    assert desk.engine.policies() == ()


def test_what_was_never_used_ends_after_its_idle_time_too() -> None:
    desk = registered()
    desk.ask(living(hard(usetime=10, addtime=100)))
    assert desk.engine.next_deadline() == 1010.0
    assert desk.tick(10) != []


def test_age_ends_it_however_much_it_is_used() -> None:
    desk = registered()
    desk.ask(living(hard(usetime=10, addtime=30)))
    for _ in range(6):
        assert desk.engine.policies() != ()
        desk.tick(5)
        desk.engine.used([PolicyUse(9)], desk.now)
    assert desk.engine.policies() == ()


def test_the_last_use_of_any_policy_is_shown() -> None:
    desk = Desk(A)
    desk.ask(policy())
    assert shown(desk).current == Lifetime(exttype=ExtType.LIFETIME_CURRENT, addtime=int(WALL))
    desk.mono += 33
    desk.engine.used([PolicyUse(9)], desk.now)
    current = shown(desk).current
    assert current is not None
    assert current.usetime == WALL + 33


def test_a_policys_record_says_what_passed_under_it() -> None:
    desk = Desk(A)
    desk.ask(policy())
    lost = (("ipsec", "out_nosa"), 2), (("pfkey", "queue_dropped"), 1)
    desk.engine.used([PolicyUse(9, 3, 252), PolicyUse(17, 1, 1)], desk.now)
    desk.engine.used([PolicyUse(9, 1, 84, lost), PolicyUse(9, drops=lost[:1])], desk.now)
    current = shown(desk).current
    assert current is not None
    assert (current.allocations, current.octets) == (4, 336)
    (shown_,) = desk.engine.counted(0)
    assert shown_["drops"] == {"ipsec": {"out_nosa": 4}, "pfkey": {"queue_dropped": 1}}
    assert desk.engine.counted(9) == []
    desk.engine.used([PolicyUse(9, 2**33)], desk.now)
    current = shown(desk).current
    assert current is not None
    assert current.allocations == 2**32 - 1
    desk.ask(policy(type=MsgType.X_SPDUPDATE))
    assert desk.engine.counted(0)[0]["packets"] == 0, "another policy, though of the same id"


def test_update_begins_a_new_life_and_delete_ends_the_watch() -> None:
    desk = registered()
    desk.ask(living(hard(addtime=10)))
    desk.mono += 9
    desk.ask(living(hard(addtime=10), type=MsgType.X_SPDUPDATE))
    assert desk.tick(1) == []
    desk.ask(living(type=MsgType.X_SPDUPDATE))
    assert desk.tick(1000) == []
    desk.ask(living(hard(addtime=10), port=1))
    desk.ask(message(MsgType.X_SPDDELETE, Policy(type=0, dir=2), src(port=1), dst()))
    assert desk.tick(1000) == []


def test_a_policy_that_nft_would_not_let_go_is_tried_again() -> None:
    desk = registered()
    desk.ask(living(hard(addtime=10)))
    before = shown(desk)
    change = desk.tick(10)[0]
    assert isinstance(change, PoliciesChanged)
    assert change.on_failure == ()
    desk.engine.revert(change)
    assert shown(desk) == before
    assert desk.engine.next_deadline() == 1011.0
    assert desk.tick(0.5) == []
    assert isinstance(desk.tick(0.5)[0], PoliciesChanged)


def test_many_ends_are_one_commit_each_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_times, "PORTION", 4)
    desk = registered()
    for port in range(1, 11):
        desk.ask(living(hard(addtime=10), port=port))
    desk.mono += 10
    counts = []
    while (deadline := desk.engine.next_deadline()) is not None and deadline <= desk.mono:
        change, *sends = desk.tick()
        assert isinstance(change, PoliciesChanged)
        assert all(isinstance(e, Send) for e in sends)
        counts.append((len(change.removed), len(sends)))
    assert counts == [(4, 4), (4, 4), (2, 2)]


def test_updates_without_end_do_not_grow_the_watch() -> None:
    desk = registered()
    for _ in range(4000):
        desk.ask(living(hard(addtime=10**6), type=MsgType.X_SPDUPDATE))
    assert len(desk.engine._state.spd.times._heap) < 1100


@pytest.mark.parametrize(
    ("lives", "kind", "way"),
    [
        ((hard(octets=1),), PolicyType.IPSEC, Dir.OUT),
        ((hard(allocations=1),), PolicyType.IPSEC, Dir.OUT),
        ((hard(), soft(addtime=1)), PolicyType.IPSEC, Dir.OUT),
        ((hard(usetime=1),), PolicyType.NONE, Dir.OUT),
        ((hard(usetime=1),), PolicyType.DISCARD, Dir.IN),
        ((hard(usetime=1),), PolicyType.IPSEC, Dir.IN),  # level use: nft lets clear packets in
    ],
)
def test_a_lifetime_that_cannot_be_kept_is_refused(
    lives: tuple[Lifetime, ...], kind: PolicyType, way: Dir
) -> None:
    requests = (TRANSPORT_USE,) if kind == PolicyType.IPSEC else ()
    plain = policy(kind=kind, way=way, requests=requests)
    desk = Desk(A)
    for extensions, errno in ((lives, EOPNOTSUPP), ((hard(addtime=9), soft()), 0)):
        request = Message(
            type=plain.type, seq=7, pid=4711, extensions=(*plain.extensions, *extensions)
        )  # fmt: skip
        assert desk.errno(request) == errno


def test_libipsec_says_a_lifetime_with_spddelete_too() -> None:
    desk = Desk(A)
    desk.ask(policy())
    gone = message(MsgType.X_SPDDELETE, Policy(type=0, dir=2), src(), dst(), hard(addtime=5))
    assert desk.errno(gone) == 0
