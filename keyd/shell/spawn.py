"""Trio shell: starts a worker process and holds the control process's end of its channel.

A worker is started from the main thread and not from one of trio's: the signal that it gets when
its parent dies is bound to the *thread* that made it, and trio's threads come and go. That blocks
the loop for the few milliseconds until the new program runs.
"""

import json
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

import trio

from keyd.shell import channel
from keyd.shell.channel import Record
from keyd.shell.raw import RawSockets
from keyd.shell.state import StateFile
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")

WAITING_MAX = 64 << 20  # octets beyond the socket's own room, before a stuck worker is ended
Role = Literal["out", "in"]


class Worker:
    """One worker, not started yet.

    Args:
        tun_fd: the TUN device, non-blocking.
        raw: the raw sockets by IP version.
        mark: the senders' bypass mark, under which routes are asked for.
        on_record: what to do with a record from the worker; without it, log lines are logged.
        on_report: what to do with other records than log lines.
    """

    def __init__(
        self,
        role: Role,
        *,
        tun_fd: int,
        raw: Mapping[int, RawSockets],
        state: StateFile,
        mark: int = 0x4C000000,
        on_record: Callable[[Record], None] | None = None,
        on_report: Callable[[Record], None] | None = None,
    ) -> None:
        self.role = role
        self._on_record = on_record or self._log
        self._on_report = on_report
        self._ours, self._theirs = channel.pair()
        self._descriptors = {
            f"{name}{version}": sock.fileno()
            for version, sockets in raw.items()
            for name, sock in (sockets.sending if role == "out" else sockets.receiving).items()
        }
        self._descriptors |= {"tun": tun_fd, "state": state.fd, "channel": self._theirs.fileno()}
        self._mark = mark
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: deque[tuple[bytes, int]] = deque()  # with a descriptor, or -1
        self._waiting_octets = 0
        self._more = trio.Event()
        self._empty = trio.Event()
        self._empty.set()

    @property
    def pid(self) -> int:
        """Its process id; 0 before it is started."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process; return once it has given up its rights and listens.

        Raises:
            ShellError: it ended before.
        """
        given = {**self._descriptors, "mark": self._mark, "parent": os.getpid()}
        # Isolated: neither the environment nor the current directory has a say in what is run.
        self._process = subprocess.Popen(  # noqa: ASYNC220 (see the module's text)
            [sys.executable, "-I", "-m", "keyd.shell.worker", self.role, json.dumps(given)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            pass_fds=tuple(self._descriptors.values()), env={"LANG": "C.UTF-8"},
        )  # fmt: skip
        self._theirs.close()
        while True:
            record = await self._receive()
            if record is None:
                self._kill()
                raise ShellError(f"the {self.role} worker ended before it was ready")
            if record.get("op") == "ready":
                return
            self._on_record(record)

    def send(self, record: Record, fd: int = -1) -> None:
        """Write a record to the channel, or keep it until there is room; never waits.

        A copy of the descriptor goes with it.
        A worker that leaves far too much unread is stuck: it is ended, and its successor told anew.
        """
        octets = channel.encode(record)
        if not self._waiting:
            try:
                channel.send(self._ours, octets, fd)
            except BlockingIOError:
                pass
            except OSError:  # it is gone, as `wait` will tell
                return
            else:
                return
        self._waiting.append((octets, os.dup(fd) if fd >= 0 else -1))
        self._waiting_octets += len(octets)
        if self._waiting_octets > WAITING_MAX:
            LOG.error("worker-stuck role=%s pid=%d", self.role, self.pid)
            self._kill()
        self._empty = trio.Event() if self._empty.is_set() else self._empty
        self._more.set()

    @property
    def is_behind(self) -> bool:
        """Whether something that was sent is not in the channel yet."""
        return bool(self._waiting)

    async def flush(self) -> None:
        """Return once all that was sent is in the channel, or the worker is gone."""
        await self._empty.wait()

    async def wait(self) -> int:
        """Serve the channel until the process ends; its exit status.

        Somebody must be in here for `flush`, and for the worker's log lines.
        """
        process = self._process
        if process is None:
            raise ShellError(f"the {self.role} worker was never started")
        pidfd = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._write)
                await trio.lowlevel.wait_readable(pidfd)
                nursery.cancel_scope.cancel()
        finally:
            os.close(pidfd)
        self._empty.set()
        return process.wait()

    def close(self) -> None:
        """End the worker and its channel; what was not sent is forgotten."""
        while self._waiting:
            self._pop()
        self._empty.set()
        trio.lowlevel.notify_closing(self._ours)
        self._ours.close()
        self._theirs.close()
        self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()  # it dies at once: a successor must find it gone

    async def _listen(self) -> None:
        while (record := await self._receive()) is not None:
            self._on_record(record)

    async def _receive(self) -> Record | None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._ours)
                octets = self._ours.recv(channel.RECORD_MAX)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return None
            try:
                return channel.decode(octets) if octets else None
            except (ValueError, TypeError):  # it is not itself any more: a new one takes its place
                LOG.error("worker-garbled role=%s pid=%d", self.role, self.pid)
                self._kill()
                return None

    async def _write(self) -> None:
        while True:
            while self._waiting:
                try:
                    await trio.lowlevel.wait_writable(self._ours)
                    channel.send(self._ours, *self._waiting[0])
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError):
                    return
                self._pop()
            self._empty.set()
            self._more = trio.Event()
            await self._more.wait()

    def _pop(self) -> None:
        octets, fd = self._waiting.popleft()
        self._waiting_octets -= len(octets)
        if fd >= 0:
            os.close(fd)

    def _log(self, record: Record) -> None:
        level, text = record.get("level"), record.get("text")
        if record.get("op") == "log" and isinstance(level, int) and isinstance(text, str):
            LOG.log(level, "%s pid=%d", text, self.pid)
        elif self._on_report:
            self._on_report(record)
