"""Key management against a naive model: GETSPI to ADD, ACQUIREs, daemons that come, refuse, die."""

from dataclasses import dataclass, field, replace
from errno import EEXIST, EINVAL, ENOENT, ESRCH

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keyd.engine.acquires import LINGER_SECONDS
from keyd.engine.effects import (
    ClientId,
    Effect,
    EndWait,
    InstallSa,
    RemoveSa,
    Send,
    SettingsChanged,
)
from keyd.model import Need
from pfkey.const import Mode, MsgType, SaState, SaType
from pfkey.ext_spirange import SpiRange
from pfkey.message import Message
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
    message,
    named,
    policy,
    src,
)  # fmt: skip

OTHER = bytes((30, 1, 1, 1))
CLIENTS = st.sampled_from([A, B, C])
PIDS = st.sampled_from([100, 200])
PLACES = st.sampled_from([HERE, THERE, OTHER])
PEERS = st.sampled_from([THERE, OTHER])
SPIS = st.integers(256, 259)
LARVAL, BLOCKED, COUNT = 30, 20, 10


@dataclass
class Wanted:
    """A need that was asked for."""

    seq: int
    until: float
    clients: set[ClientId]
    packets: float = 0
    ended: str = ""  # "met" or "refused"
    larval: tuple[bytes, int] | None = None


@dataclass
class Larval:
    pid: int
    ends: float


@dataclass
class Model:
    larvals: dict[tuple[bytes, int], Larval] = field(default_factory=dict)
    sas: set[tuple[bytes, int]] = field(default_factory=set)
    wanted: dict[bytes, Wanted] = field(default_factory=dict)
    registered: set[ClientId] = field(default_factory=set)
    seq: int = 0


def need(to: bytes) -> Need:
    return Need(policy=9, proto=50, mode=Mode.TRANSPORT, reqid=0, src=HERE, dst=to)


class KeyManagement(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(A, B, C)
        anywhere = src(bytes(4), 0), dst(bytes(4), 0)
        self.desk.ask(
            policy(requests=(TRANSPORT_REQUIRE,), source=anywhere[0], to=anywhere[1])
        )  # fmt: skip
        self.model = Model()
        self.installed: dict[int, tuple[bytes, int]] = {}
        self.is_asking = False

    # ------------------------------------------------------------ what the shell would do

    def obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, InstallSa):
                name = (effect.sa.dst, effect.sa.spi)  # an UPDATE installs it again
                assert self.installed.get(effect.sa.slot, name) == name
                self.installed[effect.sa.slot] = name
            elif isinstance(effect, RemoveSa):
                del self.installed[effect.sa.slot]
            elif isinstance(effect, SettingsChanged):
                assert effect.settings.is_asking != self.is_asking
                self.is_asking = effect.settings.is_asking

    def ask(self, request: Message, client: ClientId) -> Message:
        effects = self.desk.effects(request, client)
        self.obey(effects)
        replies = [e.record for e in effects if isinstance(e, Send) and e.client == client]
        return Message.decode(replies[-1])

    @property
    def now(self) -> float:
        return self.desk.mono

    def known(self, to: bytes) -> Wanted | None:
        one = self.model.wanted.get(to)
        if one is not None and one.until <= self.now:
            del self.model.wanted[to]
            return None
        return one

    def by_seq(self, seq: int) -> tuple[bytes, Wanted] | None:
        for to in list(self.model.wanted):
            one = self.known(to)
            if one is not None and one.seq == seq:
                return to, one
        return None

    def met(self, to: bytes, seq: int) -> None:
        found = [self.known(to)]
        named_ = self.by_seq(seq)
        if named_ and named_[0] == to:
            found.append(named_[1])
        for one in found:
            if one is not None:
                if one.larval in self.model.larvals:
                    del self.model.larvals[one.larval]
                one.larval = None
                one.ended, one.until = "met", self.now + LINGER_SECONDS

    # ------------------------------------------------------------ clients

    @rule(client=CLIENTS, satype=st.sampled_from([SaType.AH, SaType.ESP]))
    def register(self, client: ClientId, satype: SaType) -> None:
        reply = self.ask(message(MsgType.REGISTER, satype=satype), client)
        if reply.errno:
            assert reply.errno == EEXIST
            return
        if client not in self.model.registered:
            self.model.registered.add(client)
            for to, one in list(self.model.wanted.items()):
                if one.ended == "refused":
                    del self.model.wanted[to]
                one.packets = float("inf")

    @rule(client=CLIENTS)
    def die_and_come_back(self, client: ClientId) -> None:
        self.obey(self.desk.engine.disconnect(client))
        self.desk.engine.connect(client)
        self.model.registered.discard(client)
        for to, one in list(self.model.wanted.items()):
            if client in one.clients:
                one.clients.discard(client)
                if not one.clients and not one.ended:
                    del self.model.wanted[to]

    # ------------------------------------------------------------ SAs

    @rule(client=CLIENTS, pid=PIDS, to=PLACES, seq=st.integers(0, 6))
    def getspi(self, client: ClientId, pid: int, to: bytes, seq: int) -> None:
        request = message(
            MsgType.GETSPI, SpiRange(min=256, max=259), src(HERE), dst(to), satype=ESP, seq=seq,
            pid=pid,
        )  # fmt: skip
        named_ = self.by_seq(seq)
        one = named_[1] if named_ and named_[0] == to else None
        if one is None:
            same = self.known(to)
            one = None if same is None or same.larval in self.model.larvals else same
        reply = self.ask(request, client)
        if one is not None and one.larval in self.model.larvals:
            assert reply.sa is not None
            assert (to, reply.sa.spi) == one.larval
            return
        taken = set(self.model.larvals) | self.model.sas
        free = [spi for spi in range(256, 260) if (to, spi) not in taken]
        if not free:
            assert reply.errno == ENOENT
            return
        assert reply.sa is not None
        assert (reply.sa.spi, reply.sa.state) == (free[0], SaState.LARVAL)
        self.model.larvals[to, free[0]] = Larval(pid, self.now + LARVAL)
        if one is not None:
            one.larval = (to, free[0])

    @rule(client=CLIENTS, pid=PIDS, to=PLACES, spi=SPIS, seq=st.integers(0, 6))
    def update(self, client: ClientId, pid: int, to: bytes, spi: int, seq: int) -> None:
        self.change(client, pid, to, spi, seq)

    def change(self, client: ClientId, pid: int, to: bytes, spi: int, seq: int) -> None:
        request = replace(add(type=MsgType.UPDATE, spi=spi, to=to), pid=pid, seq=seq)
        errno = self.ask(request, client).errno
        larval = self.model.larvals.get((to, spi))
        if (to, spi) in self.model.sas:
            assert errno == 0
        elif larval is None:
            assert errno == ESRCH
        elif larval.pid != pid:
            assert errno == EINVAL
        else:
            assert errno == 0
            del self.model.larvals[to, spi]
            self.model.sas.add((to, spi))
            self.met(to, seq)

    @precondition(lambda self: self.model.larvals)
    @rule(client=CLIENTS, pid=PIDS, seq=st.integers(0, 6), data=st.data())
    def update_larval(self, client: ClientId, pid: int, seq: int, data: st.DataObject) -> None:
        to, spi = data.draw(st.sampled_from(sorted(self.model.larvals)))
        self.change(client, pid, to, spi, seq)

    @rule(client=CLIENTS, to=PLACES, spi=SPIS, seq=st.integers(0, 6))
    def add(self, client: ClientId, to: bytes, spi: int, seq: int) -> None:
        errno = self.ask(replace(add(spi=spi, to=to), seq=seq), client).errno
        if (to, spi) in self.model.sas or (to, spi) in self.model.larvals:
            assert errno == EEXIST
            return
        assert errno == 0
        self.model.sas.add((to, spi))
        self.met(to, seq)

    @rule(client=CLIENTS, to=PLACES, spi=SPIS)
    def delete(self, client: ClientId, to: bytes, spi: int) -> None:
        errno = self.ask(named(MsgType.DELETE, spi, to=to), client).errno
        there = (to, spi) in self.model.sas or (to, spi) in self.model.larvals
        assert errno == (0 if there else ESRCH)
        self.model.sas.discard((to, spi))
        self.model.larvals.pop((to, spi), None)

    @rule(client=CLIENTS)
    def flush(self, client: ClientId) -> None:
        assert self.ask(message(MsgType.FLUSH), client).errno == 0
        self.model.sas.clear()
        self.model.larvals.clear()
        self.model.wanted.clear()

    # ------------------------------------------------------------ the data path and time

    @rule(to=PEERS, packets=st.sampled_from([1, 5, 10, 11]))
    def want(self, to: bytes, packets: int) -> None:
        effects = self.desk.need(need(to), packets)
        sends = {e.client: Message.decode(e.record) for e in effects if isinstance(e, Send)}
        has_ended = EndWait(need(to)) in effects
        if not self.model.registered:
            assert (sends, has_ended) == ({}, True)
            return
        one = self.known(to)
        if one is not None and one.ended:
            assert (sends, has_ended) == ({}, one.ended == "refused")
            return
        if one is not None:
            one.packets += packets
            if one.packets <= COUNT:
                assert (sends, has_ended) == ({}, False)
                return
        else:
            self.model.seq += 1
            one = self.model.wanted[to] = Wanted(self.model.seq, self.now + BLOCKED, set())
        one.packets = 0
        one.clients = set(self.model.registered)
        assert set(sends) == self.model.registered
        assert {(m.type, m.seq, m.pid) for m in sends.values()} == {(MsgType.ACQUIRE, one.seq, 0)}
        assert {m.dst.address for m in sends.values() if m.dst} == {to}

    @precondition(lambda self: self.model.wanted)
    @rule(client=CLIENTS, data=st.data())
    def refuse(self, client: ClientId, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from([one.seq for one in self.model.wanted.values()]))
        effects = self.desk.effects(
            replace(message(MsgType.ACQUIRE, satype=ESP, seq=seq), errno=2), client
        )
        assert not [e for e in effects if isinstance(e, Send)]
        found = self.by_seq(seq)
        if found is None or found[1].ended:
            assert effects == []
            return
        to, one = found
        one.clients = one.clients - {client} if client in self.model.registered else set()
        assert (EndWait(need(to)) in effects) == (not one.clients)
        if not one.clients:
            one.ended, one.until = "refused", self.now + BLOCKED

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.desk.mono += seconds
        effects = self.desk.engine.tick(self.desk.now)
        self.obey(effects)
        ended = {key for key, one in self.model.larvals.items() if one.ends <= self.now}
        told = [Message.decode(e.record) for e in effects if isinstance(e, Send)]
        expected = {(*key, client) for key in ended for client in self.model.registered}
        heard = {
            (m.dst.address, m.sa.spi, e.client)
            for e, m in zip([e for e in effects if isinstance(e, Send)], told, strict=True)
            if m.dst and m.sa and m.hard is not None and m.type == MsgType.EXPIRE
        }
        assert heard == expected
        for key in ended:
            del self.model.larvals[key]

    # ------------------------------------------------------------ what always holds

    @invariant()
    def the_databases_are_the_models(self) -> None:
        engine = self.desk.engine
        assert {(sa.dst, sa.spi) for sa in engine.sas()} == self.model.sas
        assert set(self.installed.values()) == self.model.sas
        larvals = {(r.spec.dst, r.spec.spi) for r in engine._state.sad if r.is_larval}
        assert larvals == set(self.model.larvals)
        stats = engine.stats()
        assert stats["larvals"] == len(larvals)
        assert stats["sas"] == len(larvals) + len(self.model.sas)
        assert stats["acquires_limited"] == 0

    @invariant()
    def whoever_listens_is_known(self) -> None:
        assert self.is_asking == bool(self.model.registered)
        assert self.desk.engine.settings().is_asking == self.is_asking

    @invariant()
    def a_larval_sa_ends_in_time(self) -> None:
        due = self.desk.engine.next_deadline()
        ends = [one.ends for one in self.model.larvals.values()]
        assert not ends or (due is not None and due <= min(ends))


TestKeyManagement = KeyManagement.TestCase
TestKeyManagement.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
