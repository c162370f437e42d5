"""pfkeyd's life: closed before open, workers that come back, and what a stop leaves."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from keyd.engine import Engine
from keyd.model import Need, PolicySpec, SaSpec, Settings, Usage
from keyd.packet.counters import ROWS, grouped
from keyd.shell import leftover
from keyd.shell.applier import Commit
from keyd.shell.channel import Record
from keyd.shell.committed import Step
from keyd.shell.daemon import Daemon
from keyd.shell.options import Options
from keyd.shell.plane import Counters, Report
from keyd.shell.ports import DataPath, NoDataPath
from keyd.shell.state import StateFile
from keyd.shell.timers import Timers
from keyd.shell.workers import OneWorker, Snapshot, Workers
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.const import Dir, Mode, PolicyType
from pfkey.errors import ShellError
from pfkey.selector import Range, Selector
from tests.support.shell import REGISTER, connect

ANY4 = Range(bytes(4), 0, 0)
POLICY = PolicySpec(id=9, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(ANY4, ANY4, 6))
HOLD = PolicySpec(
    id=1, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(ANY4, ANY4, 17), is_hold=True
)
SA = SaSpec(slot=4, proto=50, spi=256, src=bytes(4), dst=bytes(4), mode=Mode.ANY,
            auth=3, auth_key=b"k" * 20)  # fmt: skip
NEED = Need(policy=9, proto=50, mode=Mode.TRANSPORT, reqid=0, src=bytes(4), dst=bytes(4))


class FakePlane:
    """A data path that writes down what is asked of it, and whether the socket was there."""

    def __init__(self, path: Path, holds: Sequence[PolicySpec] = ()) -> None:
        self.did: list[str] = []
        self.steps: list[Step] = []
        self.snapshot: Snapshot | None = None
        self.fails_at = ""
        self._path = path
        self._holds = list(holds)

    @property
    def data_path(self) -> DataPath:
        return NoDataPath()

    @property
    def commit(self) -> Commit | None:
        return self._commit

    async def _commit(self, step: Step) -> None:
        self.steps.append(step)
        self._note("commit")

    async def commit_sockets(
        self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup]
    ) -> None:
        self._note("commit_sockets")

    def _note(self, what: str) -> None:
        self.did.append(f"{what} socket={self._path.exists()}")
        if self.fails_at == what:
            raise ShellError(f"no {what}", "remedy")

    async def open(
        self, pairs: Sequence[SocketPair] = (), groups: Sequence[SocketGroup] = ()
    ) -> list[PolicySpec]:
        self._note("open")
        return self._holds

    async def start(self, nursery: trio.Nursery, snapshot: Snapshot, report: Report) -> None:
        self.snapshot = snapshot
        self.report = report
        self._note("start")

    async def close(self, *, hold: bool) -> None:
        self._note(f"close hold={hold}")

    async def counters(self) -> Counters:
        return grouped([0] * len(ROWS))

    def usage(self, slot: int) -> Usage:
        return Usage()

    def status(self) -> dict[str, Any]:
        return {}


async def serve(
    path: Path, plane: FakePlane, *, hold: bool = False, load: Path | None = None
) -> None:
    """A daemon that is asked to stop as soon as it serves."""
    daemon = Daemon(Options(hold=hold, load=load, has_default_file=False), path, None, plane)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(5):
            await nursery.start(daemon.run)
        os.kill(os.getpid(), signal.SIGTERM)


async def test_it_is_closed_first_and_serves_last(tmp_path: Path) -> None:
    path = tmp_path / "s"
    plane = FakePlane(path)
    await serve(path, plane)
    assert plane.did == [
        "open socket=False", "start socket=False", "close hold=False socket=False",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == []


CONF = """
spdflush;
spdadd 10.1.1.1 20.1.1.1 any -P out ipsec esp/transport//require;
spdadd 20.1.1.1 10.1.1.1 any -P in ipsec esp/transport//require;
"""


async def test_the_file_is_in_force_in_one_transaction_before_anybody_can_come(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf").write_text(CONF)
    plane = FakePlane(tmp_path / "s", [HOLD])
    await serve(tmp_path / "s", plane, load=tmp_path / "conf")
    assert plane.did[:3] == ["open socket=False", "start socket=False", "commit socket=False"]
    assert len(plane.did) == 4
    (step,) = plane.steps
    assert len(step.added) == 2
    assert [policy.is_hold for policy in step.removed] == [True]


@pytest.mark.parametrize("holds", [[], [HOLD]], ids=["none", "holds"])
@pytest.mark.parametrize("what", ["spdad;", None, "nft"], ids=["fault", "missing", "refused"])
async def test_a_bad_file_ends_the_start_and_leaves_what_it_found(
    tmp_path: Path, holds: list[PolicySpec], what: str | None
) -> None:
    conf = tmp_path / "conf"
    if what:
        conf.write_text(CONF if what == "nft" else CONF + what)
    plane = FakePlane(tmp_path / "s", holds)
    plane.fails_at = "commit"
    with pytest.raises(BaseExceptionGroup) as raised:
        await Daemon(Options(load=conf), tmp_path / "s", None, plane).run()
    assert raised.group_contains(ShellError, match=f"{conf}: ")
    assert plane.did[-1] == f"close hold={bool(holds)} socket=False"
    assert any("commit" in did for did in plane.did) == (what == "nft")


async def test_hold_leaves_it_closed(tmp_path: Path) -> None:
    plane = FakePlane(tmp_path / "s")
    await serve(tmp_path / "s", plane, hold=True)
    assert plane.did[-1] == "close hold=True socket=False"


async def test_holds_are_adopted_and_told_to_workers_and_lifted_by_a_plain_stop(
    tmp_path: Path,
) -> None:
    plane = FakePlane(tmp_path / "s", [HOLD])
    await serve(tmp_path / "s", plane)
    assert plane.snapshot is not None
    assert [p.is_hold for p in plane.snapshot()[1]] == [True]
    assert plane.did[-1] == "close hold=False socket=False"


@pytest.mark.parametrize("holds", [[], [HOLD]], ids=["none", "holds"])
@pytest.mark.parametrize("step", ["open", "start"])
async def test_a_failed_start_leaves_what_it_found(
    tmp_path: Path, step: str, holds: list[PolicySpec]
) -> None:
    plane = FakePlane(tmp_path / "s", holds)
    plane.fails_at = step
    with pytest.raises(BaseExceptionGroup) as raised:
        await Daemon(Options(has_default_file=False), tmp_path / "s", None, plane).run()
    assert raised.group_contains(ShellError, match=f"no {step}")
    found = bool(holds) and step == "start"
    assert plane.did[-1] == f"close hold={found} socket=False"


async def test_a_fault_leaves_closed_what_was_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "receive", broken)
    for holds, is_held in (([HOLD], True), ([], False)):
        plane = FakePlane(tmp_path / "s", holds)
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    Daemon(Options(has_default_file=False), tmp_path / "s", None, plane).run
                )
                with connect(tmp_path / "s") as client:
                    client.send(REGISTER)
                    await trio.sleep(5)
        assert plane.did[-1] == f"close hold={is_held} socket=False"


class FakeWorker:
    """A worker that lives until it is told to die."""

    def __init__(self, log: list[str], role: str, number: int, starts: bool) -> None:
        self.got: list[Record] = []
        self.dies = trio.Event()
        self.pid = number
        self._starts = starts
        self._log = log
        log.append(f"make {role}")

    async def start(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self._starts:
            raise ShellError("it does not start")

    def send(self, record: Record, fd: int = -1) -> None:
        self.got.append(record)

    async def wait(self) -> int:
        await self.dies.wait()
        return -9

    is_behind = False

    async def flush(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        self._log.append(f"close {self.pid}")


class Shop:
    """Makes workers; the ones in `broken` do not start."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.log: list[str] = []
        self.made: list[FakeWorker] = []
        self._broken = broken
        self.made_nine = trio.Event()

    def make(self, role: str) -> OneWorker:
        number = len(self.made) + 1
        self.made.append(FakeWorker(self.log, role, number, number not in self._broken))
        if len(self.made) == 9:
            self.made_nine.set()
        return self.made[-1]


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile.open(tmp_path / "state")


async def test_a_worker_that_dies_is_started_anew_and_told_everything(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, state: StateFile
) -> None:
    shop = Shop()
    workers = Workers(state, shop.make)
    sas: list[SaSpec] = []
    snapshot: Snapshot = lambda: (sas, [POLICY], Settings(is_asking=True))  # noqa: E731
    await nursery.start(workers.supervise, "out", snapshot)
    workers.install(SA)
    sas.append(SA)
    workers.change([HOLD], [9])
    workers.tune(Settings(wait_seconds=9))
    workers.end_wait(NEED)
    assert [r["op"] for r in shop.made[0].got] == [
        "settings", "policy", "sa+", "policy", "settings", "wait-",
    ]  # fmt: skip
    assert [r.get("is_asking") for r in shop.made[0].got[::4]] == [True, False]
    assert workers.status() == [{"role": "out", "pid": 1}]
    shop.made[0].dies.set()
    await trio.sleep(0.05)
    assert workers.status() == []
    workers.remove(SA)  # while none is there
    workers.end_wait(NEED)
    workers.install(SA)
    await trio.sleep(0.1)
    assert workers.status() == [{"role": "out", "pid": 2}]
    assert [r["op"] for r in shop.made[1].got] == ["settings", "sa+", "policy"]
    assert shop.made[0].got[2]["record"] == shop.made[1].got[1]["record"], "the same numbers go on"
    assert workers.had_sas


async def test_an_sa_that_moves_goes_on_and_one_that_cannot_is_taken_out(
    nursery: trio.Nursery, state: StateFile
) -> None:
    shop = Shop()
    workers = Workers(state, shop.make)
    await nursery.start(workers.supervise, "out", lambda: ((), (), Settings()))
    elsewhere = replace(SA, dst=bytes((1, 1, 1, 1)))
    workers.install(SA)
    workers.move(SA, elsewhere)
    workers.install(replace(SA, slot=5))
    workers.move(replace(SA, slot=5), replace(elsewhere, slot=5))
    told = [r for r in shop.made[0].got if r["op"].startswith("sa")]
    assert [r["op"] for r in told] == ["sa+", "sa+", "sa+", "sa-"]
    assert told[0]["record"] == told[1]["record"] != told[2]["record"]
    assert told[1]["sa"]["dst"] == "01010101"
    assert told[3]["slot"] == 5


async def test_a_worker_that_takes_nothing_delays_answers_for_five_seconds_at_most(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, state: StateFile
) -> None:
    shop = Shop()
    workers = Workers(state, shop.make)
    await nursery.start(workers.supervise, "in", lambda: ((), (), Settings()))
    before = workers.is_behind
    shop.made[0].is_behind = True
    assert (before, workers.is_behind) == (False, True)
    began = trio.current_time()
    await workers.flush()
    assert trio.current_time() - began == pytest.approx(5)


async def test_the_pauses_between_starts_grow_to_five_seconds(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, state: StateFile
) -> None:
    shop = Shop(broken=range(2, 9))
    workers = Workers(state, shop.make)
    await nursery.start(workers.supervise, "in", lambda: ((), (), Settings()))
    shop.made[0].dies.set()
    began = trio.current_time()
    await shop.made_nine.wait()
    pauses = 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5 + 5
    assert trio.current_time() - began == pytest.approx(pauses, abs=0.2)


async def test_the_first_worker_that_does_not_start_ends_the_start(state: StateFile) -> None:
    workers = Workers(state, Shop(broken=[1]).make)
    with pytest.raises(ShellError, match="does not start"):
        await workers.supervise("out", lambda: ((), (), Settings()))


async def test_timers_wake_the_engine_when_its_deadline_comes_or_changes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    from keyd.engine.effects import Effect, Log, Now

    class Lifetimes:
        due: float | None = None
        ticks: list[float] = []  # noqa: RUF012

        def next_deadline(self) -> float | None:
            return self.due

        def tick(self, now: Now) -> list[Effect]:
            self.ticks.append(now.mono)
            self.due = None
            return [Log(20, "x")]

    obeyed: list[Effect] = []

    async def obey(effects: Sequence[Effect]) -> None:
        obeyed.extend(effects)

    engine = Lifetimes()
    began = trio.current_time()
    timers = Timers(engine, lambda: Now(trio.current_time(), 0.0), obey)  # type: ignore[arg-type]
    nursery.start_soon(timers.run)
    await trio.sleep(10)
    engine.due = began + 30
    timers.changed()
    await trio.sleep(1)
    engine.due = began + 20  # sooner than what it waits for
    timers.changed()
    await trio.sleep(100)
    assert engine.ticks == [pytest.approx(began + 20)]
    assert len(obeyed) == 1


def test_state_of_a_namespace_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert not leftover.forget_foreign(path, 5)
    with path.open("wb") as file:
        file.truncate(8192)
    fd = os.open(path, os.O_RDWR)
    leftover.mark(fd, 5)
    os.close(fd)
    assert not leftover.forget_foreign(path, 5)
    assert not leftover.forget_foreign(path, 0)
    assert leftover.forget_foreign(path, 6)
    assert not path.exists()
