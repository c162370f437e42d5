"""The data path as the daemon sees it: steering in its thread, the state file, the workers."""

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from keyd.model import PolicySpec, Usage
from keyd.packet.counters import ROWS, grouped
from keyd.shell import own
from keyd.shell.applier import Commit
from keyd.shell.committed import Committed, Step
from keyd.shell.leftover import forget_foreign, mark
from keyd.shell.lock import NamespaceLock
from keyd.shell.natt import NattSets
from keyd.shell.nft_natt import Element
from keyd.shell.options import Options
from keyd.shell.paths import beside, netns_cookie
from keyd.shell.plane import Counters, Report
from keyd.shell.ports import DataPath
from keyd.shell.privilege import raise_priority
from keyd.shell.raw import RawSockets, open_raw
from keyd.shell.spawn import Role, Worker
from keyd.shell.state import StateFile
from keyd.shell.steer import Steer
from keyd.shell.workers import OneWorker, Snapshot, Workers
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")
T = TypeVar("T")

_ROLES = ("out", "in")
_SETTLE_SECONDS = 0.05  # foreign changes come in bursts; one look after each
_STEER_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 1.0  # nothing tells of a table of iptables-legacy
_NOBODYS = 0x38000000  # user ids from here to twice this belong to no system's conventions

# What nft counts, and under which of netstat's names users find it.
_NFT_COUNTERS = {
    "in_polvio": ("ipsec", "in_polvio"),
    "in_own": ("ipsec", "in_polvio"),
    "in_discard": ("ipsec", "in_polvio"),
    "fwd_polvio": ("ipsec", "in_polvio"),
    "fwd_discard": ("ipsec", "in_polvio"),
    "out_discard": ("ipsec", "out_polvio"),
    "out_own": ("ipsec", "out_polvio"),
    "out_guard": ("pfkey", "out_guard"),
    "hold_dropped": ("pfkey", "hold_dropped"),
}


class RealPlane:
    """nft, routes, TUN and workers.

    Steering is called in one thread at a time; its thread gets the control process's priority, so
    that a commit does not wait behind packets.
    """

    def __init__(
        self, steer: Steer, state_path: Path, open_sockets: Callable[[], dict[int, RawSockets]]
    ) -> None:
        self._steer = steer
        self._state_path = state_path
        self._had_state = False
        self._open_sockets = open_sockets
        self._raw: dict[int, RawSockets] = {}
        self._mine: NamespaceLock | None = None
        self._one = trio.CapacityLimiter(1)
        self._state: StateFile | None = None
        self._workers: Workers | None = None
        self._natt: NattSets | None = None
        self._committed = Committed()
        self._commits = 0
        self._report: Report | None = None

    @property
    def data_path(self) -> DataPath:
        """The workers; there once `open` has returned."""
        return self._opened

    @property
    def commit(self) -> Commit | None:
        """nft's transactions."""
        return self._commit

    @property
    def _opened(self) -> Workers:
        if self._workers is None:
            raise ShellError("the data path is not open")
        return self._workers

    async def _in_thread(self, job: Callable[[], T]) -> T:
        def raised() -> T:
            raise_priority()
            return job()

        return await trio.to_thread.run_sync(raised, limiter=self._one)

    async def open(
        self, pairs: Sequence[SocketPair] = (), groups: Sequence[SocketGroup] = ()
    ) -> list[PolicySpec]:
        """Table, guard, routes and device; then the state file and the raw sockets."""
        self._mine = NamespaceLock()
        holds = await self._in_thread(lambda: self._steer.open(pairs, groups))
        try:
            self._state = await self._in_thread(self._open_state)
            self._raw = await self._in_thread(self._open_sockets)
        except BaseException:
            with trio.CancelScope(shield=True):  # what a predecessor held stays held
                await self._in_thread(lambda: self._steer.close(bool(holds)))
            raise
        self._committed = Committed(holds)
        self._natt = NattSets(self._commit_natt)
        self._workers = Workers(self._state, self._worker, self._natt)
        self._workers.follow(pairs, self._steer.socket_fds)
        return holds

    def _open_state(self) -> StateFile:
        cookie = netns_cookie()
        if forget_foreign(self._state_path, cookie):
            LOG.info("state-forgotten reason=of-a-namespace-that-is-gone path=%s", self._state_path)
        self._had_state = self._state_path.exists()
        state = StateFile.open(self._state_path)
        mark(state.fd, cookie)
        return state

    def _worker(self, role: str) -> OneWorker:
        if self._state is None or not self._raw:
            raise ShellError("the data path is not open")
        side: Role = "out" if role == "out" else "in"
        return Worker(
            side,
            tun_fd=self._steer.tun_fd,
            raw=self._raw,
            state=self._state,
            mark=self._steer.marks.bypass,
            on_report=self._report,
        )

    async def start(self, nursery: trio.Nursery, snapshot: Snapshot, report: Report) -> None:
        """Start the workers, then watch them and the namespace."""
        self._report = report
        workers = self._opened
        async with trio.open_nursery() as starting:
            for role in _ROLES:
                starting.start_soon(nursery.start, workers.supervise, role, snapshot)
        *links, nft = self._steer.event_fds()
        for fd in links:
            nursery.start_soon(self._watch, fd)
        nursery.start_soon(self._watch, nft, _LOOK_SECONDS)
        nursery.start_soon(self._watch_own)
        if self._natt is not None:
            nursery.start_soon(self._natt.run)

    async def close(self, *, hold: bool) -> None:
        """Undo the steering, and keep the state file if any SA ever was."""
        for sockets in self._raw.values():
            sockets.close()
        await self._in_thread(lambda: self._steer.close(hold))
        if self._mine is not None:
            self._mine.release()
        if self._state is not None:
            self._state.close()
            if not self._had_state and not (self._workers and self._workers.had_sas):
                self._state_path.unlink(missing_ok=True)

    async def counters(self) -> Counters:
        """The workers' counters and nft's together."""
        if self._state is None:
            return grouped([0] * len(ROWS))
        found = self._state.counters()
        for name, packets in (await self._in_thread(self._steer.counters)).items():
            if name in _NFT_COUNTERS:
                group, row = _NFT_COUNTERS[name]
                found[group][row] += packets
        return found

    def usage(self, slot: int) -> Usage:
        """From the state file."""
        return self._state.usage(slot) if self._state else Usage()

    def status(self) -> dict[str, Any]:
        """Workers by role, and how safe the table is from others."""
        return {
            "dataplane": True,
            "owned_table": self._steer.owned,
            "workers": self._opened.status() if self._workers else [],
        }

    async def commit_sockets(
        self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup]
    ) -> None:
        """Devices and nft, then the workers."""
        await self._in_thread(lambda: self._steer.commit_sockets(pairs, groups))
        self._opened.follow(pairs, self._steer.socket_fds)

    async def _commit(self, step: Step) -> None:
        began = time.monotonic()
        await self._in_thread(lambda: self._steer.commit(step.added, step.removed))
        self._committed.take(step)
        self._commits += 1
        LOG.debug(
            "commit policies=%d added=%d removed=%d ms=%.1f", len(self._committed), len(step.added),
            len(step.removed), 1000 * (time.monotonic() - began),
        )  # fmt: skip

    async def _commit_natt(self, elements: frozenset[Element]) -> None:
        await self._in_thread(lambda: self._steer.natt(elements))

    async def _watch(self, fd: int, at_most: float = math.inf) -> None:
        """Put back what others take, until cancelled; look also where nothing was said so long."""
        failed = ""
        while True:
            if not failed:
                with trio.move_on_after(at_most):
                    await trio.lowlevel.wait_readable(fd)
            self._steer.drain_events(fd)
            try:
                restored = await self._in_thread(partial(self._steer.ensure, fd))
            except ShellError as error:
                if str(error) != failed:
                    LOG.error("restore-failed reason=%s", error)
                failed = str(error)
                await trio.sleep(_STEER_RETRY_SECONDS)
                continue
            failed = ""
            for what in restored:
                LOG.warning("restored what=%s", what)
            await trio.sleep(_SETTLE_SECONDS)

    async def _watch_own(self) -> None:
        """Say why the host cannot speak to itself, until cancelled."""
        drops, looked_at, refuses = own.OwnDrops(), 0, False
        policies: Sequence[PolicySpec] = ()
        while True:
            await trio.sleep(own.SECONDS)
            if self._commits != looked_at:
                looked_at, policies = self._commits, self._committed.policies
                refuses = any(policy.is_required for policy in policies)
            if refuses:
                await self._in_thread(partial(self._look, drops, policies))

    def _look(self, drops: own.OwnDrops, policies: Sequence[PolicySpec]) -> None:
        try:
            if more := drops.grown(self._steer.counters()):
                own.report(more, policies, self._steer.own_addresses())
        except ShellError as error:
            LOG.debug("own-drops-unknown reason=%s", error)


def real_plane(options: Options, path: Path) -> RealPlane:
    """The data path of this network namespace, not opened yet.

    Raises:
        ShellError: what the options ask for cannot be had.
    """
    uid = bypass_uid()
    steer = Steer(
        mark_mask=options.mark_mask, bypass_uid=uid, owned=False if options.plain_table else None
    )
    return RealPlane(
        steer,
        beside(path, "state"),
        lambda: open_raw(mark=steer.marks.bypass, bypass_uid=uid, natt_port=steer.natt_port),
    )


def bypass_uid() -> int:
    """A user that nobody is, as whom the socket for clear packets is made.

    nft lets out in clear what bears the bypass mark and comes from this user's sockets; a number
    drawn at each start is one that no other program with CAP_NET_RAW can have by chance. In a
    user namespace where it is not mapped it is ours: there we are no mightier.
    """
    uid = _NOBODYS + secrets.randbelow(_NOBODYS)
    return uid if _is_mapped(uid) else os.geteuid()


def _is_mapped(uid: int) -> bool:
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False
