"""pfkeyd's life: fail closed first, serve last; on the way out the other way round.

1. nft's table, guard and routes (with what a crashed predecessor left);
2. the engine, and the workers, until they are ready;
3. the file of keys and policies, if there is one;
4. the sockets;
5. READY, then clients, until a signal; SIGHUP loads the file again;
6. sockets away, workers ended, steering undone (or left closed: `--hold`, and after a fault).
"""

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import trio

from keyd.engine import Engine, Limits
from keyd.engine.effects import Now
from keyd.model import PolicySpec, SaSpec, Settings, Usage
from keyd.shell.adopted import ADOPT_PARAMS, adopt
from keyd.shell.applier import Applier
from keyd.shell.control import Control, Handed, Peer
from keyd.shell.knobs import Knobs
from keyd.shell.listener import accept_all, listen
from keyd.shell.load import Loader
from keyd.shell.marks import PAIRS_MAX, Marks
from keyd.shell.notify import notify
from keyd.shell.options import Options, program_version
from keyd.shell.own import is_own
from keyd.shell.paths import OTHER_DIALECTS, beside, netns_cookie, remove_socket
from keyd.shell.plane import Plane
from keyd.shell.reports import Reports
from keyd.shell.serve import CLIENTS, Server
from keyd.shell.socket_left import Left
from keyd.shell.socket_policies import Sockets
from keyd.shell.tap import Tap
from keyd.shell.timers import Timers
from pfkey import crypto
from pfkey.dialect import LINUX
from pfkey.errors import ShellError
from pfkey.transport import netns_inode

LOG = logging.getLogger("keyd.shell")

OfSocket = Callable[[int | None, dict[str, Any]], Awaitable[dict[str, Any]]]
Admit = Callable[[socket.socket], object]

STOPPING = (signal.SIGTERM, signal.SIGINT)


def clock() -> Now:
    """Both clocks."""
    return Now(time.monotonic(), time.time())


def pick(low: int, high: int) -> int:
    """A number that nobody can foretell, in [low, high]."""
    span = high - low + 1
    return low + int.from_bytes(os.urandom(16), "big") % span


def make_engine(usage: Callable[[int], Usage], socket_pairs: int = PAIRS_MAX) -> Engine:
    """The key engine with all that this machine can do."""
    limits = Limits(clients=CLIENTS, socket_pairs=socket_pairs)
    return Engine(
        supported=crypto.probe(), usage=usage, pick=pick, is_own=is_own, limits=limits
    )  # fmt: skip


def _settle() -> None:
    """What is there now stays: no later collection of garbage need look at it again.

    A look at 100,000 SAs takes a tenth of a second, and control answers nobody meanwhile.
    """
    gc.collect()
    gc.freeze()


class Daemon:
    """One run. `is_asked` tells a stop on request from a fault."""

    def __init__(self, options: Options, path: Path, gid: int | None, plane: Plane) -> None:
        self._options = options
        self._path = path
        self._gid = gid
        self._plane = plane
        self._netns = netns_inode()
        self._is_asked = False
        self._is_serving = False
        self._holds = 0
        self._marks = Marks(options.mark_mask)
        self._engine = make_engine(plane.usage, self._marks.pairs)
        self._reload = trio.Event()
        self._tap = Tap()
        self._server: Server | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until SIGTERM or SIGINT; started when clients can come.

        Raises:
            ShellError: something is missing; all that was begun is undone.
        """
        with trio.open_signal_receiver(*STOPPING, signal.SIGHUP) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # they were held back till now
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_asked, signals, nursery.cancel_scope)
                    await self._serve(nursery, task_status)
            finally:
                with trio.CancelScope(shield=True):
                    await self._plane.close(hold=self._leaves_hold())

    def _leaves_hold(self) -> bool:
        if self._is_asked:
            return self._options.hold
        # a fault: what was protected stays closed; a start that failed leaves no more than it found
        return bool(self._engine.policies()) if self._is_serving else self._holds > 0

    async def _until_asked(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number not in STOPPING:
                self._reload.set()
                continue
            LOG.info("stopping signal=%s hold=%s", name, self._options.hold)
            notify("STOPPING=1")
            self._is_asked = True
            scope.cancel()

    async def _serve(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        plane, engine = self._plane, self._engine
        sockets = Sockets(
            engine.sockets, commit=plane.commit_sockets, marks=self._marks, clock=clock,
            left=Left(beside(self._path, "sockets"), netns_cookie()),
        )  # fmt: skip
        holds = await plane.open(*sockets.restore())
        self._holds = len(holds)
        if holds:
            LOG.warning("holds-adopted policies=%d", len(holds))
        engine.adopt(holds)
        applier = Applier(
            engine, plane.data_path, send=lambda e: server.send(e), dump=lambda e: server.dump(e),
            commit=plane.commit,
        )  # fmt: skip
        timers = Timers(engine, clock, applier.obey)
        server = self._server = Server(
            engine, applier=applier, clock=clock, called=timers.changed, tap=self._tap,
            nursery=nursery,
        )  # fmt: skip
        control = Control(
            status=self._status, counters=plane.counters, policies=engine.counted,
            tap=self._tap, nursery=nursery, knobs=Knobs(engine, applier.obey, plane.counters),
            handed=self._handed(server, sockets),
        )  # fmt: skip

        def snapshot() -> tuple[tuple[SaSpec, ...], tuple[PolicySpec, ...], Settings]:
            return engine.sas(), applier.committed.policies, engine.settings()

        reports = Reports(engine, clock, applier.obey)
        await plane.start(nursery, snapshot, reports.take)
        nursery.start_soon(applier.run)
        nursery.start_soon(timers.run)
        nursery.start_soon(sockets.run)
        nursery.start_soon(reports.run)
        options = self._options
        loader = Loader(
            options.load, engine, obey=applier.obey, clock=clock, called=timers.changed,
            default=options.default_file,
        )  # fmt: skip
        await loader.load()
        _settle()
        # the first socket comes last: who waits for it finds all
        first = self._options.dialect
        others = OTHER_DIALECTS if first == LINUX.name else (*OTHER_DIALECTS, LINUX.name)
        stale = beside(self._path, LINUX.name)
        if stale.is_socket():  # of one that was killed: our clients would look there first
            remove_socket(stale)
        doors: dict[Path, tuple[Admit, Admit | None]] = {
            beside(self._path, "ctl"): (control.admit, control.admit_stranger),
            **{
                beside(self._path, name): (partial(server.admit, dialect=name), None)
                for name in others
            },
            self._path: (partial(server.admit, dialect=first), None),
        }
        with ExitStack() as stack:
            listeners = []
            for path, (_, admit_stranger) in doors.items():
                listeners.append(listen(path, self._gid, for_all=admit_stranger is not None))
                stack.callback(remove_socket, path)
                stack.callback(listeners[-1].close)
            for listener, admits in zip(listeners, doors.values(), strict=True):
                nursery.start_soon(accept_all, listener, self._gid, *admits)
            self._is_serving = True
            LOG.info(
                "ready socket=%s pid=%d dataplane=%s version=%s", self._path, os.getpid(),
                str(self._options.dataplane).lower(), program_version(),
            )  # fmt: skip
            notify("READY=1")
            task_status.started()
            await self._reloads(loader)

    async def _reloads(self, loader: Loader) -> None:
        """Load the file again whenever that is asked for; a bad one changes nothing."""
        while True:
            await self._reload.wait()
            self._reload = trio.Event()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                if not await loader.load():
                    LOG.info("reload-ignored reason=no-file")
                _settle()
            except ShellError as error:
                LOG.error("reload-refused reason=%s", error)
            notify("READY=1")

    def _handed(
        self, server: Server, sockets: Sockets
    ) -> dict[str, tuple[Handed, tuple[str, ...]]]:
        """The control socket's methods that take a descriptor."""

        def of(handle: OfSocket) -> Handed:
            return lambda _, fd, params: handle(fd, params)

        def for_user(handle: OfSocket) -> Handed:
            async def checked(peer: Peer, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
                peer.check_user(params)
                return await handle(fd, params)

            return checked

        return {
            "adopt": (partial(adopt, server.adopt), ADOPT_PARAMS),
            "set_policy": (for_user(sockets.set), ("policies", "uid", "keep")),
            "get_policy": (of(sockets.get), ("direction",)),
            "set_encap": (for_user(sockets.encapsulate), ("encap", "uid")),
            "get_encap": (of(sockets.get_encap), ()),
            "set_mark": (of(sockets.mark), ("mark",)),
            "set_group": (for_user(sockets.group), ("policies", "uid")),
        }

    def _status(self) -> dict[str, Any]:
        stats = self._engine.stats()
        clients = self._server.clients.values() if self._server else ()
        return {
            **stats,
            "schema_version": 1,
            "pid": os.getpid(),
            "version": program_version(),
            "netns": self._netns,
            "socket": str(self._path),
            "hold": self._options.hold,
            "clients": len(clients),
            "records_dropped": sum(client.dropped for client in clients),
            **self._plane.status(),
        }
