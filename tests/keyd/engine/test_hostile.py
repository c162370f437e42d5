"""Whatever the octets are: effects, never an exception, and no key for others."""

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.engine import Limits
from keyd.engine.effects import Dump, Effect, PoliciesChanged, Send
from keyd.engine.sysctl import ROWS
from keyd.model import Need, PolicyUse, Usage
from pfkey.const import ExtType, Level, Mode, MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import SadbError
from pfkey.ext_ident import Ident
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import Filter
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.keyd.engine.desk import (
    HERE,
    KEY24,
    KEY32,
    THERE,
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

TUNNEL = IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.UNIQUE, src=HERE, dst=THERE)
SEEDS = [
    request.encode()
    for request in (
        add(hard(5, 6, 7, 8), soft(1, 2, 3, 4)),
        add(sa2=Sa2(mode=1, reqid=77), type=MsgType.UPDATE),
        named(MsgType.GET),
        named(MsgType.DELETE),
        message(MsgType.REGISTER, satype=3),
        message(MsgType.FLUSH),
        message(MsgType.DUMP, Filter(saddr=bytes(16), daddr=bytes(16), family=2, splen=1, dplen=1)),
        message(MsgType.X_PROMISC, satype=1),
        policy(),
        policy(MsgType.X_SPDUPDATE, 1),
        policy(MsgType.X_SPDDELETE),
        policy(MsgType.X_SPDGET, id=9),
        policy(MsgType.X_SPDDELETE2, id=9),
        message(MsgType.X_SPDDUMP),
        message(MsgType.X_SPDFLUSH),
        message(MsgType.GETSPI, SpiRange(min=1, max=9), src(), dst(), satype=3),
        replace(message(MsgType.ACQUIRE, satype=3, seq=1), errno=2),
        add(
            Ident(exttype=ExtType.IDENTITY_SRC, kind=2, id=0, text=b"a"),
            Ident(exttype=ExtType.IDENTITY_DST, kind=2, id=0, text=b"b"),
            type=MsgType.UPDATE, spi=1,
        ),
        replace(policy(), extensions=(*policy().extensions, hard(addtime=3, usetime=2))),
        policy(MsgType.X_MIGRATE, requests=(TUNNEL, replace(TUNNEL, dst=HERE))),
    )
]  # fmt: skip


def flip(dice: random.Random, octets: bytearray) -> None:
    octets[dice.randrange(len(octets))] = dice.choice([0, 1, 2, 0x7F, 0xFF, dice.randrange(256)])


def cut(dice: random.Random, octets: bytearray) -> None:
    del octets[dice.randrange(2, len(octets)) :]


def splice(dice: random.Random, octets: bytearray) -> None:
    other = dice.choice(SEEDS)
    octets += other[16 + 8 * dice.randrange(len(other) // 8) :]


def fix_length(dice: random.Random, octets: bytearray) -> None:
    del octets[len(octets) // 8 * 8 :]
    if len(octets) >= 16:
        octets[4:6] = (len(octets) // 8).to_bytes(2, "little")


def change_type(dice: random.Random, octets: bytearray) -> None:
    octets[1] = dice.randrange(26)


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [
    flip, flip, flip, cut, splice, fix_length, fix_length, change_type,
]  # fmt: skip


def obey(desk: Desk, effect: Effect, *, is_refused: bool, dialect: Dialect = LINUX) -> None:
    """As the shell does; `is_refused`: nft does not take a change of policies.

    `dialect` is that of the client which a dump is for.
    """
    if isinstance(effect, Send):
        assert len(effect.record) >= 16
    elif isinstance(effect, Dump):
        for record in effect.records:
            assert Message.decode(record, dialect)
        desk.engine.dump_done(effect.client)
    elif isinstance(effect, PoliciesChanged) and is_refused:
        desk.engine.revert(effect)


def run(desk: Desk, octets: bytes) -> None:
    for effect in desk.effects(octets):
        obey(desk, effect, is_refused=len(octets) % 3 == 0)


def test_thirty_thousand_mutated_records_never_raise() -> None:
    dice = random.Random(20260101)
    desk = Desk(A, B, C)
    desk.used = {slot: Usage(3, 4, 5.0, 6.0) for slot in range(64)}
    for number in range(30_000):
        octets = bytearray(dice.choice(SEEDS))
        for _ in range(dice.randrange(4)):
            if len(octets) > 2:
                dice.choice(MUTATIONS)(dice, octets)
        run(desk, bytes(octets))
        if number % 100 == 0:
            desk.tick(1)
        if number % 7 == 0:
            policy_id = dice.choice([spec.id for spec in desk.engine.policies()] or [9])
            desk.engine.used([PolicyUse(policy_id, 1, 2)], desk.now)
            ends = [bytes((dice.randrange(4), 0, 0, n)) for n in (1, 2)]
            desk.need(
                Need(
                    policy=policy_id, proto=dice.choice([50, 51]), mode=Mode(dice.randrange(1, 3)),
                    reqid=dice.choice([0, 0x4000]), src=ends[0], dst=ends[1],
                ),
                dice.randrange(99),
            )  # fmt: skip
        if number % 997 == 0:
            row = dice.choice(ROWS)
            with contextlib.suppress(SadbError):
                desk.engine.tune(row.name, dice.choice([row.default, -1, 0, 1, 2, 2**31]))
        if number % 5000 == 0:
            desk.engine.disconnect(A)
            desk.engine.connect(A)
    assert desk.engine.stats()["clients"] == 3
    assert len({sa.slot for sa in desk.engine.sas()}) == len(desk.engine.sas())
    assert desk.ask(message(MsgType.REGISTER), B)[B][-1].errno == 0


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_octets_are_answered(octets: bytes) -> None:
    desk = Desk(A, B)
    effects = desk.effects(octets)
    assert any(isinstance(effect, Send) and effect.client == A for effect in effects)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_promiscuous_copies_of_damaged_requests_show_no_key(data: st.DataObject) -> None:
    """Damage outside the key and the type that says it is one."""
    octets = bytearray(add().encode())
    keys = [octets.index(KEY24), octets.index(KEY32)]
    at = data.draw(st.integers(8, len(octets) - 1))
    inside = any(start - 6 <= at < start - 4 or start <= at < start + 24 for start in keys)
    octets[at] = octets[at] if inside else data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        fix_length(random.Random(0), octets)
    desk = Desk(A, B)
    desk.ask(message(MsgType.X_PROMISC, satype=1), B)
    for effect in desk.effects(bytes(octets)):
        if isinstance(effect, Send) and effect.client == B:
            assert KEY24[:6] not in effect.record
            assert KEY32[:6] not in effect.record


def test_key_of_an_unknown_extension_type_is_hidden_too() -> None:
    octets = bytearray(add().encode())
    assert octets[18] == ExtType.KEY_ENCRYPT
    octets[18] = 99
    desk = Desk(A, B)
    desk.ask(message(MsgType.X_PROMISC, satype=1), B)
    sends = [e for e in desk.effects(bytes(octets)) if isinstance(e, Send)]
    assert any(KEY24 not in send.record for send in sends if send.client == B)
    assert not any(KEY24 in send.record for send in sends)


def test_storms_of_everything_leave_what_is_kept_bounded() -> None:
    """A client that reserves, a data path that lacks, policies that come and go."""
    desk = Desk(A, B, limits=Limits(larvals=50, acquires=60, policies=40, sas=200))
    desk.ask(message(MsgType.REGISTER, satype=3), B)
    reserve = SEEDS[-5].replace(b"\x09\0\0\0", b"\xff\xff\0\0", 1)
    for number in range(6_000):
        desk.effects(reserve)
        source = src(port=number % 100)
        life = (hard(addtime=1 + number % 50), soft())
        timed = policy(requests=(TUNNEL,), source=source)
        desk.effects(replace(timed, extensions=(*timed.extensions, *life)))
        desk.effects(add(*life, spi=1 + number % 300))
        for spec in desk.engine.policies()[:3]:
            wanted = spec.requests[0]
            desk.need(
                Need(
                    policy=spec.id, proto=50, mode=Mode.TUNNEL, reqid=wanted.reqid, src=HERE,
                    dst=THERE,
                )
            )  # fmt: skip
        if number % 50 == 0:
            desk.tick(1)
    state = desk.engine._state
    assert state.sad.larvals <= 50
    assert len(state.sad) <= 200
    assert len(state.spd) <= 40
    assert len(state.acquires._by_need) == len(state.acquires._by_seq) <= 60
    assert len(state.acquires._buckets) <= 60
    assert len(state.schedule._heap) <= 4 * 200 + 1000
    assert len(state.spd.times._heap) <= 2 * 40 + 1000
    assert len(state.reqids._used) <= 40
    assert len(state.proposals._encoded) <= 2
    desk.tick(100)
    assert state.sad.larvals == len(state.sad) == len(state.spd) == 0
    assert not state.reqids._used


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(
        st.sampled_from(["policy", "proto", "mode", "reqid", "src", "dst"]), inner, max_size=6
    ), max_leaves=9,
))  # fmt: skip
def test_any_need_that_a_worker_tells_is_read_or_refused(said: Any) -> None:
    with contextlib.suppress(KeyError, ValueError, TypeError):
        Desk(A).need(Need.from_json(said))
