"""The two packet workers: told of every change, started anew when they die.

While a worker is away nothing leaks: nft's guard and inbound drops do not depend on it.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import trio

from keyd import doors
from keyd.model import Need, PolicySpec, SaSpec, Settings
from keyd.shell.channel import Record, policy_records
from keyd.shell.natt import NattSets
from keyd.shell.state import StateFile
from keyd.socket_pair import SocketPair
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_GOOD_SECONDS = 10.0  # a worker that lived that long begins with the first pause again
_START_SECONDS = 30.0
_FLUSH_SECONDS = 5.0

Snapshot = Callable[[], tuple[Iterable[SaSpec], Sequence[PolicySpec], Settings]]


class OneWorker(Protocol):
    """A worker process, as `keyd.shell.spawn` makes it."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def start(self) -> None:
        """Return when it is ready; raise ShellError when it cannot be."""

    def send(self, record: Record, fd: int = -1) -> None:
        """Write a record to its channel, or keep it until there is room, without waiting."""

    @property
    def is_behind(self) -> bool:
        """Whether records are kept."""

    async def flush(self) -> None:
        """Return once none is, or the worker is gone."""

    async def wait(self) -> int:
        """Its exit status, once it has ended."""

    def close(self) -> None:
        """Close its channel and end it; it is gone when this returns."""


class Workers:
    """Both roles. `make` makes a worker of a role that has not been started.

    `natt` is told of every SA as well; None without steering.
    """

    def __init__(
        self, state: StateFile, make: Callable[[str], OneWorker], natt: NattSets | None = None
    ) -> None:
        self.had_sas = False
        self._natt = natt
        self._state = state
        self._make = make
        self._running: dict[str, OneWorker] = {}
        self._doors: dict[int, tuple[Record, int]] = {}

    @property
    def is_behind(self) -> bool:
        """Whether some of what they were told is not in their channels yet."""
        is_behind = self._natt is not None and self._natt.is_behind
        return is_behind or any(worker.is_behind for worker in self._running.values())

    async def flush(self) -> None:
        """Return once it is; a worker that takes nothing holds up nobody for longer than this."""
        with trio.move_on_after(_FLUSH_SECONDS) as scope:
            for worker in tuple(self._running.values()):
                await worker.flush()
            if self._natt is not None:
                await self._natt.settled()
        if scope.cancelled_caught:
            LOG.error("workers-behind seconds=%g", _FLUSH_SECONDS)

    def install(self, sa: SaSpec) -> None:
        """Give an SA its record in the state file and tell both workers."""
        self.had_sas = True
        if self._natt is not None:
            self._natt.install(sa)
        record = self._sa_record(sa)
        if record is not None:
            self._tell(record)

    def remove(self, sa: SaSpec) -> None:
        """Take an SA from both workers."""
        self._state.release(sa.slot)
        if self._natt is not None:
            self._natt.remove(sa.slot)
        self._tell({"op": "sa-", "slot": sa.slot})

    def move(self, old: SaSpec, new: SaSpec) -> None:
        """Give an SA other addresses in both workers; its numbers go on."""
        try:
            self._state.move(old.slot, new)
        except ShellError as error:
            LOG.error("sa-not-moved spi=%#010x reason=%s", new.spi, error)
            self.remove(old)
        else:
            self.install(new)

    def change(self, added: Sequence[PolicySpec], removed: Sequence[int]) -> None:
        """Tell both workers of policies, after nft has them."""
        for record in policy_records(added, removed):
            self._tell(record)

    def tune(self, settings: Settings) -> None:
        """Tell both workers of settings."""
        self._tell({"op": "settings", **settings.to_json()})

    def follow(self, pairs: Iterable[SocketPair], fds: Mapping[int, int]) -> None:
        """Tell both workers of policies of sockets and of their devices, by door.

        Of pairs without a device nft does all.
        """
        by_door = {doors.of_pair(pair.number): pair.to_json() for pair in pairs}
        wanted = {
            door: ({"op": "door+", "door": door, "pair": by_door.get(door)}, fd)
            for door, fd in fds.items()
        }
        for door, known in tuple(self._doors.items()):
            if wanted.get(door) != known:
                del self._doors[door]
                self._tell({"op": "door-", "door": door})
        for door, (record, fd) in wanted.items():
            if door not in self._doors:
                self._doors[door] = (record, fd)
                self._tell(record, fd)

    def end_wait(self, need: Need) -> None:
        """Tell the outbound worker that packets are to wait for this no longer."""
        if "out" in self._running:
            self._running["out"].send({"op": "wait-", "need": need.to_json()})

    def status(self) -> list[dict[str, Any]]:
        """Those that run, by role."""
        return [{"role": role, "pid": worker.pid} for role, worker in self._running.items()]

    async def supervise(
        self,
        role: str,
        snapshot: Snapshot,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep a worker of this role running, until cancelled.

        Raises:
            ShellError: the first one could not start.
        """
        pause = _FIRST_PAUSE
        is_first = True
        while True:
            worker = self._make(role)
            try:
                began = trio.current_time()
                await self._start(worker)
                self._bring_up(role, worker, snapshot)
                if is_first:
                    task_status.started()
                    is_first = False
                status = await worker.wait()
                LOG.error("worker-ended role=%s pid=%d status=%d", role, worker.pid, status)
                if trio.current_time() - began > _GOOD_SECONDS:
                    pause = _FIRST_PAUSE
            except ShellError as error:
                if is_first:
                    raise
                LOG.error("worker-not-started role=%s reason=%s", role, error)
            finally:
                self._running.pop(role, None)
                worker.close()
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _start(self, worker: OneWorker) -> None:
        try:
            with trio.fail_after(_START_SECONDS):
                await worker.start()
        except trio.TooSlowError:
            raise ShellError(f"a packet worker was not ready in {_START_SECONDS:g} s") from None

    def _bring_up(self, role: str, worker: OneWorker, snapshot: Snapshot) -> None:
        """Send everything; without a checkpoint, so that no change falls between."""
        sas, policies, settings = snapshot()
        worker.send({"op": "settings", **settings.to_json()})
        for sa in sas:
            record = self._sa_record(sa)
            if record is not None:
                worker.send(record)
        for change in policy_records(policies, ()):
            worker.send(change)
        for record, fd in self._doors.values():
            worker.send(record, fd)
        self._running[role] = worker
        LOG.info("worker-ready role=%s pid=%d", role, worker.pid)

    def _sa_record(self, sa: SaSpec) -> Record | None:
        """None for an SA whose numbers could not be kept; others do not suffer from that."""
        try:
            number = self._state.bind(sa.slot, sa)
        except ShellError as error:
            LOG.error("sa-not-installed spi=%#010x reason=%s", sa.spi, error)
            return None
        return {"op": "sa+", "sa": sa.to_json(), "record": number}

    def _tell(self, record: Record, fd: int = -1) -> None:
        for worker in self._running.values():
            worker.send(record, fd)
