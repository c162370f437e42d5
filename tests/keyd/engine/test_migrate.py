"""X_MIGRATE: tunnels and SAs move; X_NAT_T_NEW_MAPPING: a peer has moved."""

from dataclasses import replace
from errno import EEXIST, EINVAL, ELOOP, ENODATA, ENOENT

import pytest

from keyd.engine.effects import ClientId, InstallSa, MoveSa, PoliciesChanged
from keyd.engine.sad import SaKey
from keyd.model import Usage
from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType, SaType
from pfkey.ext_sa import Sa
from pfkey.ext_x_linux import KmAddress
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    THERE,
    TRANSPORT_REQUIRE,
    A,
    B,
    C,
    Desk,
    add,
    dst,
    hard,
    message,
    named,
    policy,
    soft,
    src,
)  # fmt: skip

NEW_HERE, NEW_THERE = bytes((30, 1, 1, 1)), bytes((40, 1, 1, 1))


def tunnel(near: bytes, far: bytes, reqid: int = 0, proto: int = 50) -> IpsecRequest:
    return IpsecRequest(
        proto=proto, mode=Mode.TUNNEL, level=Level.UNIQUE if reqid else Level.REQUIRE, reqid=reqid,
        src=near, dst=far,
    )  # fmt: skip


OLD, NEW = tunnel(HERE, THERE), tunnel(NEW_HERE, NEW_THERE)
INSIDE = src(bytes((10, 9, 0, 0)), 16), dst(bytes((10, 8, 0, 0)), 16)


def migrate(
    *requests: IpsecRequest, way: int = Dir.OUT, more: tuple[Extension, ...] = ()
) -> Message:
    steps = requests or (OLD, NEW)
    return message(
        MsgType.X_MIGRATE, Policy(type=PolicyType.IPSEC, dir=way, requests=steps), *INSIDE, *more
    )  # fmt: skip


def standing(*clients: ClientId, request: IpsecRequest = OLD) -> Desk:
    desk = Desk(*(clients or (A, B)))
    desk.ask(policy(requests=(request,), source=INSIDE[0], to=INSIDE[1]))
    return desk


def tunnelled(spi: int = 0x2694, reqid: int = 0, mode: Mode = Mode.TUNNEL) -> Message:
    return add(spi=spi, sa2=Sa2(mode=mode, reqid=reqid))


def test_policy_and_sa_move_and_the_sa_stays_what_it_is() -> None:
    desk = standing()
    desk.ask(tunnelled())
    desk.used[0] = Usage(packets=7, octets=700)
    effects = desk.effects(migrate())
    change, move = effects[:2]
    assert isinstance(change, PoliciesChanged)
    assert isinstance(move, MoveSa)
    (new,), (old,) = change.added, change.removed
    assert (old.id, new.id, old.order) == (9, 9, new.order)
    assert (new.requests[0].src, new.requests[0].dst) == (NEW_HERE, NEW_THERE)
    assert (move.old.src, move.old.dst) == (HERE, THERE)
    assert (move.new.src, move.new.dst) == (NEW_HERE, NEW_THERE)
    assert replace(move.new, src=HERE, dst=THERE, order=move.old.order) == move.old
    assert desk.engine.sas() == (move.new,)
    shown = desk.reply(named(MsgType.GET, to=NEW_THERE))
    assert shown.current is not None
    assert shown.current.octets == 700
    assert desk.errno(named(MsgType.GET)) != 0


def test_migrate_is_echoed_to_all() -> None:
    kma = KmAddress(local=HERE, remote=THERE)
    desk = standing(A, B)
    heard = desk.ask(migrate(more=(kma,)))
    assert heard[A] == heard[B]
    (echo,) = heard[A]
    assert (echo.seq, echo.pid, echo.errno) == (7, 4711, 0)
    assert [e.exttype for e in echo.extensions] == [
        ExtType.X_KMADDRESS, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_POLICY,
    ]  # fmt: skip
    assert echo.policy is not None
    assert echo.policy.requests == (OLD, NEW)


def test_old_and_new_sas_move_together() -> None:
    desk = standing()
    for spi, mode in ((1, Mode.TUNNEL), (2, Mode.ANY), (3, Mode.TRANSPORT)):
        desk.ask(tunnelled(spi, mode=mode))
    desk.ask(add(spi=4, to=HERE))
    moved = [e.new.spi for e in desk.effects(migrate()) if isinstance(e, MoveSa)]
    assert moved == [1, 2]
    orders = {sa.spi: sa.order for sa in desk.engine.sas()}
    assert orders[1] < orders[2]


def test_a_reqid_tells_whose_tunnel_moves() -> None:
    desk = standing(request=tunnel(HERE, THERE, 5))
    desk.ask(tunnelled(1, reqid=5))
    desk.ask(tunnelled(2, reqid=6))
    pair = (tunnel(HERE, THERE, 6), tunnel(NEW_HERE, NEW_THERE, 6))
    assert desk.errno(migrate(*pair)) == ENODATA
    pair = (tunnel(HERE, THERE, 5), tunnel(NEW_HERE, NEW_THERE, 5))
    moved = [e.new.spi for e in desk.effects(migrate(*pair)) if isinstance(e, MoveSa)]
    assert moved == [1]


def test_in_transport_mode_only_the_sas_move() -> None:
    desk = standing(request=TRANSPORT_REQUIRE)
    desk.ask(tunnelled(mode=Mode.TRANSPORT))
    pair = [replace(one, mode=Mode.TRANSPORT) for one in (OLD, NEW)]
    effects = desk.effects(migrate(*pair))
    assert [e.new.dst for e in effects if isinstance(e, MoveSa)] == [NEW_THERE]
    (spec,) = desk.engine.policies()
    assert (spec.requests[0].src, spec.requests[0].dst) == (None, None)


def test_sas_may_take_each_others_names() -> None:
    desk = standing()
    desk.ask(tunnelled())
    desk.ask(add(to=HERE, sa2=Sa2(mode=Mode.TUNNEL)))
    here = tunnel(HERE, HERE)
    swap = (OLD, here, here, OLD)
    moved = [e for e in desk.effects(migrate(*swap)) if isinstance(e, MoveSa)]
    assert [(e.old.dst, e.new.dst) for e in moved] == [(THERE, HERE), (HERE, THERE)]
    assert {(sa.dst, sa.slot) for sa in desk.engine.sas()} == {(HERE, 0), (THERE, 1)}
    for to in (HERE, THERE):
        assert desk.errno(named(MsgType.DELETE, to=to)) == 0


def test_of_two_moves_the_first_counts() -> None:
    desk = standing(request=tunnel(HERE, THERE, 5))
    desk.ask(tunnelled(1, reqid=5))
    other = tunnel(HERE, NEW_HERE)
    five = tunnel(HERE, THERE, 5), tunnel(NEW_HERE, NEW_THERE, 5)
    moved = [e for e in desk.effects(migrate(*five, OLD, other)) if isinstance(e, MoveSa)]
    assert [e.new.dst for e in moved] == [NEW_THERE]
    assert len(desk.engine.sas()) == 1


def test_an_sa_that_moved_ends_by_its_limits_and_once() -> None:
    desk = standing()
    desk.ask(replace(tunnelled(), extensions=(*tunnelled().extensions, hard(octets=9), soft())))
    desk.effects(migrate())
    desk.used[0] = Usage(packets=1, octets=9)
    assert [type(e).__name__ for e in desk.tick(1)] == ["RemoveSa"]
    assert desk.tick(1) == []
    assert desk.engine.next_deadline() is None


def test_a_larval_sa_stays() -> None:
    desk = standing()
    desk.ask(message(MsgType.GETSPI, Sa2(mode=Mode.TUNNEL), src(), dst(), satype=ESP))
    assert not [e for e in desk.effects(migrate()) if isinstance(e, MoveSa | InstallSa)]
    assert desk.errno(named(MsgType.GET, 0x100)) == 0


def test_an_sa_cannot_take_anothers_name() -> None:
    desk = standing()
    desk.ask(tunnelled())
    desk.ask(add(to=NEW_THERE))
    before = desk.engine.sas(), desk.engine.policies()
    assert desk.errno(migrate()) == EEXIST
    assert (desk.engine.sas(), desk.engine.policies()) == before


def test_a_refused_commit_brings_the_policy_back() -> None:
    desk = standing()
    before = desk.engine.policies()
    change = desk.effects(migrate())[0]
    assert isinstance(change, PoliciesChanged)
    desk.engine.revert(change)
    assert desk.engine.policies() == before


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (migrate(way=Dir.IN), ENOENT),
        (migrate(way=4), EINVAL),
        (migrate(OLD), EINVAL),
        (migrate(OLD, NEW, OLD), EINVAL),
        (migrate(OLD, NEW, OLD, NEW), EINVAL),
        (migrate(*(OLD, NEW) * 7), ELOOP),
        (migrate(OLD, replace(NEW, proto=51)), EINVAL),
        (migrate(OLD, replace(NEW, reqid=3)), EINVAL),
        (migrate(OLD, replace(NEW, src=bytes(4))), EINVAL),
        (migrate(replace(OLD, mode=Mode.BEET), replace(NEW, mode=Mode.BEET)), EINVAL),
        (migrate(TRANSPORT_REQUIRE, TRANSPORT_REQUIRE), EINVAL),
        (migrate(tunnel(THERE, HERE), NEW), ENODATA),
        (message(MsgType.X_MIGRATE, *INSIDE), EINVAL),
        (message(MsgType.X_MIGRATE, Policy(type=2, dir=2), *INSIDE), EINVAL),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_and_nothing_moves(request_: Message, errno: int) -> None:
    desk = standing()
    desk.ask(tunnelled())
    before = desk.engine.sas(), desk.engine.policies()
    assert desk.errno(request_) == errno
    assert (desk.engine.sas(), desk.engine.policies()) == before


# ---------------------------------------------------------------- X_NAT_T_NEW_MAPPING


def test_a_peer_that_moved_is_told_to_the_registered_as_linux_does() -> None:
    desk = Desk(A, B, C)
    desk.ask(message(MsgType.REGISTER, satype=SaType.AH), B)
    ports = (
        NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500),
        NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=4500),
    )
    desk.ask(add(NatTType(type=2), *ports))
    heard = desk.heard(desk.engine.new_mapping(SaKey(THERE, 50, 0x2694), (4500, 61000), NEW_HERE))
    assert set(heard) == {B}
    (notice,) = heard[B]
    assert (notice.type, notice.satype) == (MsgType.X_NAT_T_NEW_MAPPING, SaType.ESP)
    assert (notice.seq, notice.pid, notice.errno) == (0, 0, 0)
    assert notice.extensions == (
        Sa(spi=0x2694), src(proto=0), NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500),
        dst(NEW_HERE, proto=0), NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=61000),
    )  # fmt: skip


def test_what_is_not_there_has_not_moved() -> None:
    desk = Desk(A)
    desk.ask(message(MsgType.REGISTER, satype=ESP))
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=ESP))
    for spi in (0x100, 0x101):
        assert desk.engine.new_mapping(SaKey(THERE, 50, spi), (4500, 61000), NEW_HERE) == []
