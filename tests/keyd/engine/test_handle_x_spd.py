"""The SPD's messages as Linux answers them; holds; what happens when steering refuses."""

import random
from dataclasses import replace
from errno import EEXIST, EINVAL, ELOOP, ENOBUFS, ENOENT

import pytest

from keyd.engine import Limits
from keyd.engine.effects import Effect, PoliciesChanged, Send
from keyd.model import PolicySpec, Request
from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from pfkey.selector import Range, Selector
from tests.keyd.engine.desk import (
    HERE,
    THERE,
    TRANSPORT_REQUIRE,
    TRANSPORT_USE,
    WALL,
    A,
    B,
    Desk,
    add,
    dst,
    message,
    policy,
    src,
)  # fmt: skip

FLUSH = message(MsgType.X_SPDFLUSH)


def ids(desk: Desk) -> list[int]:
    return [spec.id for spec in desk.engine.policies()]


def change_of(effects: list[Effect]) -> PoliciesChanged:
    (change,) = (e for e in effects if isinstance(e, PoliciesChanged))
    return change


def hold(desk: Desk, request: Message) -> PolicySpec:
    """A hold of the policy that `request` would make."""
    other = Desk(A)
    other.ask(request)
    (spec,) = other.engine.policies()
    desk.engine.adopt([spec])
    return replace(spec, is_hold=True)


def test_spdadd_is_echoed_to_all_with_the_record_of_linux() -> None:
    desk = Desk(A, B)
    request = policy(source=src(port=110, proto=6), to=dst(bytes(4), 0, proto=6), way=Dir.IN)
    heard = desk.ask(request)
    assert heard[A] == heard[B]
    (echo,) = heard[A]
    assert (echo.type, echo.satype, echo.errno, echo.seq, echo.reserved) == (14, 0, 0, 7, 1)
    assert [e.exttype for e in echo.extensions] == [
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT,
        ExtType.LIFETIME_CURRENT, ExtType.X_POLICY,
    ]  # fmt: skip
    assert echo.src == src(port=110, proto=6)
    assert echo.dst == dst(bytes(4), 0, proto=6)
    assert echo.current is not None
    assert echo.current.addtime == WALL
    assert echo.policy == Policy(
        type=PolicyType.IPSEC, dir=Dir.IN, id=8, priority=0x80000000, requests=(TRANSPORT_USE,)
    )


def test_steering_has_the_policy_before_the_reply() -> None:
    desk = Desk(A, B)
    change, *sends = desk.effects(policy())
    assert isinstance(change, PoliciesChanged)
    assert all(isinstance(send, Send) for send in sends)
    (spec,) = change.added
    assert change.removed == ()
    assert spec == PolicySpec(
        id=9, dir=Dir.OUT, type=PolicyType.IPSEC, priority=0x80000000, order=1,
        selector=Selector(Range(HERE, 32), Range(THERE, 32), 255),
        requests=(Request(proto=50, mode=Mode.TRANSPORT, level=Level.USE),),
    )  # fmt: skip
    (failure,) = change.on_failure
    assert failure.client == A
    assert Message.decode(failure.record).errno == ENOBUFS


def test_id_tells_the_direction() -> None:
    desk = Desk(A)
    for way in (Dir.IN, Dir.OUT, Dir.FWD):
        desk.ask(policy(way=way))
    assert ids(desk) == [8, 17, 26]


def test_equal_policy_is_eexist_but_not_in_another_direction_or_with_a_port() -> None:
    desk = Desk(A)
    assert desk.errno(policy()) == 0
    assert desk.errno(policy(kind=PolicyType.NONE, priority=1)) == EEXIST
    assert desk.errno(policy(MsgType.X_SPDSETIDX)) == EEXIST
    assert desk.errno(policy(way=Dir.IN)) == 0
    assert desk.errno(policy(source=src(port=25))) == 0
    assert desk.errno(policy(source=src(proto=6), to=dst(proto=6))) == 0


def test_protocol_is_the_destinations_and_zero_means_any() -> None:
    desk = Desk(A)
    desk.ask(policy(source=src(proto=17), to=dst(proto=0)))
    assert desk.engine.policies()[0].selector.proto == 255
    assert desk.errno(policy()) == EEXIST


def test_host_bits_tell_policies_apart_and_are_shown_as_given() -> None:
    """As on Linux and NetBSD; both select the same packets, and the first one decides."""
    desk = Desk(A)
    for octets in (b"\x0a\0\0\1", b"\x0a\0\0\0"):
        (echo,) = desk.ask(policy(source=src(octets, 24)))[A]
        assert echo.src == src(octets, 24)
    first, second = (spec.selector.src for spec in desk.engine.policies())
    assert first != second
    assert first.covers(b"\x0a\0\0\x07")
    assert second.covers(b"\x0a\0\0\x07")


def test_match_order_is_priority_then_insertion() -> None:
    desk = Desk(A)
    for port, priority in ((1, 5), (2, 3), (3, 5), (4, 0), (5, 3)):
        desk.ask(policy(source=src(port=port), priority=priority))
    ports = [spec.selector.src.port for spec in desk.engine.policies()]
    assert ports == [4, 2, 5, 1, 3]


def test_spdupdate_inserts_or_replaces_and_keeps_id_and_place() -> None:
    desk = Desk(A, B)
    for port in (1, 2, 3):
        desk.ask(policy(MsgType.X_SPDUPDATE, source=src(port=port)))
    before = desk.engine.policies()
    effects = desk.effects(
        policy(MsgType.X_SPDUPDATE, source=src(port=2), requests=(TRANSPORT_REQUIRE,))
    )
    change = change_of(effects)
    assert change.removed == (before[1],)
    assert change.added[0].id == before[1].id
    assert change.added[0].order == before[1].order
    assert desk.engine.policies() == (before[0], change.added[0], before[2])
    (echo,) = desk.heard(effects)[B]
    assert echo.type == MsgType.X_SPDUPDATE
    change = change_of(
        desk.effects(policy(MsgType.X_SPDUPDATE, source=src(port=2), priority=0xFFFFFFFF))
    )
    assert desk.engine.policies() == (before[0], before[2], change.added[0])


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (Level.DEFAULT, Level.REQUIRE),
        (Level.USE, Level.USE),
        (Level.REQUIRE, Level.REQUIRE),
    ],
)
def test_level_default_comes_back_as_require(level: Level, shown: Level) -> None:
    step = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=level)
    (echo,) = Desk(A).ask(policy(requests=(step,)))[A]
    assert echo.policy is not None
    assert [request.level for request in echo.policy.requests] == [shown]


def test_addresses_of_a_transport_request_say_nothing() -> None:
    """iked sends them."""
    step = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.USE, src=HERE, dst=THERE)
    (echo,) = Desk(A).ask(policy(requests=(step,)))[A]
    assert echo.policy is not None
    assert echo.policy.requests == (TRANSPORT_USE,)


def test_none_and_discard_need_no_requests() -> None:
    desk = Desk(A)
    desk.ask(policy(kind=PolicyType.NONE, requests=(), source=src(port=1)))
    desk.ask(policy(kind=PolicyType.DISCARD, requests=(), source=src(port=2)))
    assert [spec.type for spec in desk.engine.policies()] == [PolicyType.NONE, PolicyType.DISCARD]


def test_ipsec_policy_without_requests_is_refused() -> None:
    assert Desk(A).errno(policy(requests=())) == EINVAL


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (policy(way=0), EINVAL),
        (policy(way=4), EINVAL),
        (policy(kind=PolicyType.ENTRUST), EINVAL),
        (policy(kind=PolicyType.BYPASS), EINVAL),
        (message(MsgType.X_SPDADD, src(), dst()), EINVAL),
        (message(MsgType.X_SPDADD, Policy(type=1, dir=2), src()), EINVAL),
        (policy(to=dst(bytes(16), 128)), EINVAL),
        (policy(requests=(replace(TRANSPORT_USE, mode=0),)), EINVAL),
        (policy(requests=(replace(TRANSPORT_USE, mode=7),)), EINVAL),
        (policy(requests=(replace(TRANSPORT_USE, proto=6),)), EINVAL),
        (policy(requests=(replace(TRANSPORT_USE, level=4),)), EINVAL),
        (policy(requests=(TRANSPORT_USE,) * 7), ELOOP),
        (policy(MsgType.X_SPDDELETE), ENOENT),
        (policy(MsgType.X_SPDDELETE, way=0), EINVAL),
        (policy(MsgType.X_SPDGET, id=9), ENOENT),
        (policy(MsgType.X_SPDGET, id=11), EINVAL),
        (policy(MsgType.X_SPDDELETE2, id=9), ENOENT),
        (policy(MsgType.X_SPDDELETE2, id=12), EINVAL),
        (message(MsgType.X_SPDGET), EINVAL),
        (message(MsgType.X_SPDDELETE2, src(), dst()), EINVAL),
    ],
)
def test_a_wrong_request_is_refused_with_16_octets_for_the_sender(
    request_: Message, errno: int
) -> None:
    desk = Desk(A, B)
    assert desk.errno(request_) == errno
    assert desk.engine.policies() == ()


def test_delete_goes_by_selector_or_id_and_shows_the_policy_to_all() -> None:
    desk = Desk(A, B)
    (added,) = desk.ask(policy())[A]
    gone = message(MsgType.X_SPDDELETE, Policy(type=0, dir=2), src(), dst())
    effects = desk.effects(gone)
    assert isinstance(effects[0], PoliciesChanged)
    assert [spec.id for spec in effects[0].removed] == [9]
    heard = desk.heard(effects)
    assert heard[A] == heard[B] == [replace(added, type=MsgType.X_SPDDELETE)]
    assert desk.engine.policies() == ()
    (added,) = desk.ask(policy())[A]
    assert added.policy is not None
    heard = desk.ask(message(MsgType.X_SPDDELETE2, Policy(type=0, dir=0, id=added.policy.id)))
    assert heard[B] == [replace(added, type=MsgType.X_SPDDELETE2)]
    assert desk.engine.policies() == ()


def test_spdget_is_for_the_sender_only() -> None:
    desk = Desk(A, B)
    (added,) = desk.ask(policy())[A]
    heard = desk.ask(message(MsgType.X_SPDGET, Policy(type=0, dir=0, id=9), src(), dst()))
    assert heard == {A: [replace(added, type=MsgType.X_SPDGET)]}


def test_spddump_shows_in_then_out_then_fwd_in_match_order() -> None:
    desk = Desk(A, B)
    for port, way, priority in ((1, 3, 9), (2, 2, 9), (3, 1, 9), (4, 2, 1), (5, 1, 9)):
        desk.ask(policy(source=src(port=port), way=way, priority=priority))
    heard = desk.ask(message(MsgType.X_SPDDUMP))
    assert set(heard) == {A}
    assert [m.src and m.src.port for m in heard[A]] == [3, 5, 4, 2, 1]
    assert [m.seq for m in heard[A]] == [1, 2, 3, 4, 0]
    assert all(m.reserved == 1 and m.type == MsgType.X_SPDDUMP for m in heard[A])


def test_spdflush_is_echoed_once() -> None:
    desk = Desk(A, B)
    assert desk.ask(FLUSH) == {A: [FLUSH]}
    for port in (1, 2):
        desk.ask(policy(source=src(port=port)))
    effects = desk.effects(FLUSH)
    assert [spec.id for spec in change_of(effects).removed] == [9, 17]
    assert desk.heard(effects) == {A: [FLUSH], B: [FLUSH]}
    assert desk.engine.policies() == ()


def test_a_full_spd_is_enobufs_but_can_be_updated() -> None:
    desk = Desk(A, limits=Limits(policies=1))
    assert desk.errno(policy()) == 0
    assert desk.errno(policy(way=1)) == ENOBUFS
    assert desk.errno(policy(MsgType.X_SPDUPDATE, kind=PolicyType.NONE)) == 0


def test_a_hold_comes_first_and_nobody_sees_it() -> None:
    desk = Desk(A, B)
    held = hold(desk, policy(priority=0xFFFFFFFF))
    desk.ask(policy(source=src(port=1), priority=0))
    assert desk.engine.policies()[0] == held
    assert len(desk.ask(message(MsgType.X_SPDDUMP))[A]) == 1
    assert desk.errno(policy(MsgType.X_SPDDELETE)) == ENOENT
    assert desk.errno(policy(MsgType.X_SPDGET, id=held.id)) == ENOENT
    assert desk.engine.policies()[0] == held


@pytest.mark.parametrize("type_", [MsgType.X_SPDADD, MsgType.X_SPDUPDATE])
def test_an_equal_policy_lifts_its_hold(type_: MsgType) -> None:
    desk = Desk(A)
    held = hold(desk, policy())
    other = hold(desk, policy(way=1))
    change = change_of(desk.effects(policy(type_)))
    assert change.removed == (held,)
    assert desk.engine.policies() == (other, *change.added)
    assert change.added[0].id not in (held.id, other.id)


def test_spdflush_lifts_all_holds_even_without_policies() -> None:
    desk = Desk(A, B)
    held = hold(desk, policy())
    effects = desk.effects(FLUSH)
    assert change_of(effects).removed == (held,)
    assert desk.heard(effects) == {A: [FLUSH]}
    assert desk.engine.policies() == ()


def test_a_refused_commit_leaves_everything_as_it_was() -> None:
    desk = Desk(A, B)
    hold(desk, policy(way=3))
    for port in (1, 2, 3):
        desk.ask(policy(source=src(port=port)))
    before = desk.engine.policies()
    dumped = desk.ask(message(MsgType.X_SPDDUMP))
    desk.mono += 50
    for request in (
        policy(source=src(port=9)),
        policy(way=3),
        policy(MsgType.X_SPDUPDATE, source=src(port=2), priority=1),
        policy(MsgType.X_SPDDELETE, source=src(port=2)),
        message(MsgType.X_SPDDELETE2, Policy(type=0, dir=0, id=before[1].id)),
        FLUSH,
    ):
        change = change_of(desk.effects(request))
        assert desk.engine.policies() != before
        desk.engine.revert(change)
        assert desk.engine.policies() == before
        assert desk.ask(message(MsgType.X_SPDDUMP)) == dumped


def test_revert_does_not_undo_what_came_later() -> None:
    desk = Desk(A)
    desk.ask(policy())
    deletion = change_of(desk.effects(policy(MsgType.X_SPDDELETE)))
    desk.ask(policy(kind=PolicyType.NONE))
    after = desk.engine.policies()
    desk.engine.revert(deletion)
    assert desk.engine.policies() == after


def unique(reqid: int = 0) -> IpsecRequest:
    return IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.UNIQUE, reqid=reqid)


def reqids(of: Message) -> list[int]:
    assert of.policy is not None
    assert all(request.level == Level.UNIQUE for request in of.policy.requests)
    return [request.reqid for request in of.policy.requests]


def test_unique_without_a_number_gets_one_that_users_do_not_choose() -> None:
    desk = Desk(A, B)
    (echo,) = desk.ask(policy(requests=(unique(), unique())))[B]
    assert reqids(echo) == [0x4000, 0x4001]
    (spec,) = desk.engine.policies()
    assert [r.reqid for r in spec.requests] == [0x4000, 0x4001]
    assert spec.is_required
    (other,) = desk.ask(policy(way=1, requests=(unique(),)))[A]
    assert reqids(other) == [0x4002]


def test_unique_with_a_number_keeps_it() -> None:
    desk = Desk(A)
    assert reqids(desk.reply(policy(requests=(unique(1), unique(0x3FFF))))) == [1, 0x3FFF]
    assert [r.reqid for r in desk.engine.policies()[0].requests] == [1, 0x3FFF]


def test_a_reqid_of_a_daemon_is_kept_as_given() -> None:
    assert reqids(Desk(A).reply(policy(requests=(unique(0x4001),)))) == [0x4001]


def test_a_number_is_not_given_to_two() -> None:
    desk = Desk(A)
    desk.ask(policy(requests=(unique(0x4000),)))
    desk.ask(add(sa2=Sa2(mode=Mode.TRANSPORT, reqid=0x4001)))
    assert reqids(desk.reply(policy(way=1, requests=(unique(),)))) == [0x4002]
    desk.ask(FLUSH)
    desk.ask(message(MsgType.FLUSH))
    desk.engine._state.reqids._last = 2**32 - 1
    assert reqids(desk.reply(policy(requests=(unique(),)))) == [0x4000]
    assert not desk.engine._state.reqids._used.keys() - {0x4000}


def test_a_reqid_without_level_unique_is_refused() -> None:
    assert Desk(A).errno(policy(requests=(replace(TRANSPORT_USE, reqid=4),))) == EINVAL


def one_change(desk: Desk, dice: random.Random) -> PoliciesChanged | None:
    port = dice.randrange(2)
    request = dice.choice(
        [
            policy(source=src(port=port)),
            policy(MsgType.X_SPDUPDATE, source=src(port=port), priority=dice.randrange(2)),
            policy(MsgType.X_SPDDELETE, source=src(port=port)),
            FLUSH,
        ]
    )
    changes = [e for e in desk.effects(request) if isinstance(e, PoliciesChanged)]
    return changes[0] if changes else None


@pytest.mark.parametrize("seed", range(100))
def test_several_changes_refused_one_after_the_other_leave_nothing(seed: int) -> None:
    dice = random.Random(seed)
    desk = Desk(A)
    hold(desk, policy(source=src(port=1)))
    desk.ask(policy(source=src(port=0)))
    for _ in range(dice.randrange(3)):
        one_change(desk, dice)
    before, records = desk.engine.policies(), list(desk.engine._state.spd)
    dated = {(r.spec, r.created) for r in records}
    desk.mono += 9
    changes = [one_change(desk, dice) for _ in range(dice.randrange(1, 6))]
    for change in changes:
        if change is not None:
            desk.engine.revert(change)
    assert desk.engine.policies() == before
    assert {(r.spec, r.created) for r in desk.engine._state.spd} == dated


@pytest.mark.parametrize("proto", [50, 51])
def test_a_tunnel_keeps_its_end_points_whatever_goes_through_it(proto: int) -> None:
    v6 = bytes.fromhex("20010db8" + "00" * 11 + "01"), bytes.fromhex("20010db8" + "00" * 11 + "02")
    for near, far in ((HERE, THERE), v6):
        desk = Desk(A)
        step = IpsecRequest(proto=proto, mode=Mode.TUNNEL, level=Level.REQUIRE, src=near, dst=far)
        shown = desk.reply(policy(requests=(step,)))
        assert shown.policy is not None
        assert shown.policy.requests == (step,)
        (spec,) = desk.engine.policies()
        assert (spec.requests[0].src, spec.requests[0].dst) == (near, far)
        assert spec.requests[0].mode == Mode.TUNNEL
