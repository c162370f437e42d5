"""The engine against a naive model: any requests in any order, and the same databases."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EEXIST, ENOENT, ESRCH
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyd.engine.effects import (
    ClientId,
    Effect,
    InstallSa,
    Log,
    PoliciesChanged,
    RemoveSa,
    Send,
)
from pfkey.const import Dir, Level, MsgType, PolicyType
from pfkey.ext_x_policy import Policy
from pfkey.message import Message
from tests.keyd.engine.desk import (
    HERE,
    THERE,
    TRANSPORT_REQUIRE,
    TRANSPORT_USE,
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

if TYPE_CHECKING:
    from keyd.model import PolicySpec, SaSpec

CLIENTS = st.sampled_from([A, B, C])
SPIS = st.integers(1, 4)
ENDS = st.sampled_from([HERE, THERE])
PORTS = st.integers(0, 2)
WAYS = st.sampled_from([Dir.IN, Dir.OUT, Dir.FWD])
PRIORITIES = st.integers(0, 2)
CHANGES = (InstallSa, RemoveSa, PoliciesChanged)


@dataclass
class NaiveSa:
    hard_at: float | None
    soft_at: float | None


@dataclass
class NaivePolicy:
    way: Dir
    port: int
    priority: int
    order: int
    level: Level


def check_order(effects: Iterable[Effect]) -> None:
    """Changes come first: what a Send says has happened."""
    kinds = [isinstance(e, CHANGES) for e in effects if not isinstance(e, Log)]
    assert kinds == sorted(kinds, reverse=True)


class Databases(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(A, B, C)
        self.sas: dict[tuple[bytes, int], NaiveSa] = {}
        self.policies: list[NaivePolicy] = []
        self.order = itertools.count()
        # What steering and data path were told.
        self.installed: dict[int, SaSpec] = {}
        self.steered: set[PolicySpec] = set()

    def obey(self, effects: list[Effect], *, refuse: bool = False) -> bool:
        check_order(effects)
        for effect in effects:
            if isinstance(effect, InstallSa):
                old = self.installed.get(effect.sa.slot)
                assert old is None or (old.dst, old.spi) == (effect.sa.dst, effect.sa.spi)
                self.installed[effect.sa.slot] = effect.sa
            elif isinstance(effect, RemoveSa):
                del self.installed[effect.sa.slot]
            elif isinstance(effect, PoliciesChanged):
                if refuse:
                    self.desk.engine.revert(effect)
                    return False
                assert set(effect.removed) <= self.steered
                self.steered -= set(effect.removed)
                self.steered |= set(effect.added)
        return True

    def errno(self, effects: list[Effect], client: ClientId) -> int:
        """What the sender hears last: before it come copies, for who is promiscuous."""
        replies = [e.record for e in effects if isinstance(e, Send) and e.client == client]
        return Message.decode(replies[-1]).errno

    def ask(self, request: Message, client: ClientId) -> int:
        effects = self.desk.effects(request, client)
        self.obey(effects)
        return self.errno(effects, client)

    @rule(client=CLIENTS, spi=SPIS, to=ENDS, life=st.integers(0, 5), early=st.integers(0, 5))
    def add(self, client: ClientId, spi: int, to: bytes, life: int, early: int) -> None:
        request = add(hard(addtime=life), soft(addtime=early), spi=spi, to=to)
        errno = self.ask(request, client)
        assert errno == (EEXIST if (to, spi) in self.sas else 0)
        if not errno:
            self.sas[to, spi] = self.lives(self.desk.mono, life, early)

    @rule(client=CLIENTS, spi=SPIS, to=ENDS, life=st.integers(0, 9))
    def update(self, client: ClientId, spi: int, to: bytes, life: int) -> None:
        request = add(hard(addtime=life), soft(), spi=spi, to=to, type=MsgType.UPDATE)
        errno = self.ask(request, client)
        assert errno == (0 if (to, spi) in self.sas else ESRCH)
        if not errno:
            (sa,) = (r for r in self.desk.engine._state.sad if r.key == (to, 50, spi))
            self.sas[to, spi] = self.lives(sa.created_mono, life, 0)

    def lives(self, since: float, life: int, early: int) -> NaiveSa:
        return NaiveSa(since + life if life else None, since + early if early else None)

    @rule(client=CLIENTS, spi=SPIS, to=ENDS)
    def delete(self, client: ClientId, spi: int, to: bytes) -> None:
        errno = self.ask(named(MsgType.DELETE, spi, to=to), client)
        assert errno == (0 if self.sas.pop((to, spi), None) else ESRCH)

    @rule(client=CLIENTS, spi=SPIS, to=ENDS)
    def get(self, client: ClientId, spi: int, to: bytes) -> None:
        assert self.ask(named(MsgType.GET, spi, to=to), client) == (
            0 if (to, spi) in self.sas else ESRCH
        )

    @rule(client=CLIENTS)
    def flush(self, client: ClientId) -> None:
        assert self.ask(message(MsgType.FLUSH), client) == 0
        self.sas.clear()

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.desk.mono += seconds
        effects = self.desk.engine.tick(self.desk.now)
        for effect in effects:
            self.obey([effect])
        now = self.desk.mono
        for key, sa in list(self.sas.items()):
            if sa.hard_at is not None and sa.hard_at <= now:
                del self.sas[key]
        dying = {
            key for key, sa in self.sas.items() if sa.soft_at is not None and sa.soft_at <= now
        }
        assert dying == {(s.dst, s.spi) for s in self.desk.engine.sas() if s.is_dying}

    @rule(
        client=CLIENTS, port=PORTS, way=WAYS, priority=PRIORITIES, refuse=st.booleans(),
        type_=st.sampled_from([MsgType.X_SPDADD, MsgType.X_SPDUPDATE]),
        step=st.sampled_from([TRANSPORT_USE, TRANSPORT_REQUIRE]),
    )  # fmt: skip
    def spd_add(
        self, client: ClientId, port: int, way: Dir, priority: int, refuse: bool, type_: MsgType,
        step: object,
    ) -> None:  # fmt: skip
        step = TRANSPORT_USE if step is TRANSPORT_USE else TRANSPORT_REQUIRE
        request = policy(
            type_, way, source=src(port=port), priority=priority, requests=(step,)
        )  # fmt: skip
        effects = self.desk.effects(request, client)
        errno = self.errno(effects, client)
        done = self.obey(effects, refuse=refuse)
        old = self.find(way, port)
        assert errno == (EEXIST if old and type_ == MsgType.X_SPDADD else 0)
        if errno or not done:
            return
        new = NaivePolicy(way, port, priority, next(self.order), Level(step.level))
        if old:
            self.policies.remove(old)
            if old.priority == priority:
                new.order = old.order
        self.policies.append(new)

    @rule(client=CLIENTS, port=PORTS, way=WAYS, refuse=st.booleans())
    def spd_delete(self, client: ClientId, port: int, way: Dir, refuse: bool) -> None:
        gone = message(MsgType.X_SPDDELETE, Policy(type=0, dir=way), src(port=port), dst())
        effects = self.desk.effects(gone, client)
        old = self.find(way, port)
        assert self.errno(effects, client) == (0 if old else ENOENT)
        if self.obey(effects, refuse=refuse) and old:
            self.policies.remove(old)

    @rule(client=CLIENTS, refuse=st.booleans())
    def spd_flush(self, client: ClientId, refuse: bool) -> None:
        effects = self.desk.effects(message(MsgType.X_SPDFLUSH), client)
        if self.obey(effects, refuse=refuse):
            self.policies.clear()

    @rule(client=CLIENTS, satype=st.integers(0, 1))
    def promisc(self, client: ClientId, satype: int) -> None:
        assert self.ask(message(MsgType.X_PROMISC, satype=satype), client) == 0

    @precondition(lambda self: self.policies)
    @rule(client=CLIENTS, data=st.data())
    def spd_get(self, client: ClientId, data: st.DataObject) -> None:
        spec = data.draw(st.sampled_from(self.desk.engine.policies()))
        request = message(MsgType.X_SPDGET, Policy(type=0, dir=0, id=spec.id))
        assert self.ask(request, client) == 0

    def find(self, way: Dir, port: int) -> NaivePolicy | None:
        return next((p for p in self.policies if (p.way, p.port) == (way, port)), None)

    @invariant()
    def same_sas(self) -> None:
        sas = self.desk.engine.sas()
        assert {(sa.dst, sa.spi) for sa in sas} == set(self.sas)
        assert {sa.slot: sa for sa in sas} == self.installed
        assert all(sa.slot < 8 for sa in sas)
        assert [sa.order for sa in sas] == sorted(sa.order for sa in sas)

    @invariant()
    def same_policies_in_the_same_order(self) -> None:
        specs = self.desk.engine.policies()
        shown = [
            (spec.dir, spec.selector.src.port, spec.priority, spec.requests[0].level)
            for spec in specs
        ]
        expected = sorted(self.policies, key=lambda p: (p.priority, p.order))
        assert shown == [(p.way, p.port, p.priority, p.level) for p in expected]
        assert set(specs) == self.steered
        assert len({spec.id for spec in specs}) == len(specs)
        assert all(spec.type == PolicyType.IPSEC for spec in specs)

    @invariant()
    def deadlines_are_kept(self) -> None:
        due = self.desk.engine.next_deadline()
        pending = [
            when
            for sa in self.sas.values()
            for when in (sa.hard_at, sa.soft_at)
            if when is not None and when > self.desk.mono
        ]
        assert not pending or (due is not None and due <= min(pending))


TestDatabases = Databases.TestCase
TestDatabases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
