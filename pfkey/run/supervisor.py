"""Shell: the supervisor's loop: notified system calls in, answers out. One thread, no trio.

    socket(AF_KEY, …)   see `pfkey.run.keysocket`
    setsockopt, getsockopt of policies and marks
                        see `pfkey.run.socketoptions`
    connect, listen     see `pfkey.run.group`
    recv with MSG_PEEK, poll for up to 10 ms
                        go on at once, unless a request waits for pfkeyd: then when that has been
                        handled. So a client that looks right after it has sent finds its reply, as
                        it does where the kernel answers within send(2)

It ends when the last program under the filter has. Nothing here waits for one program while
another asks: what must wait is noted and looked at again.
"""

import select
import syslog
import time
from dataclasses import dataclass
from errno import EIO
from pathlib import Path

from pfkey.dialect import LINUX, Dialect
from pfkey.run.caller import socket_inode
from pfkey.run.daemons import Daemons
from pfkey.run.filter import MACHINES
from pfkey.run.group import Group, Keeper
from pfkey.run.keysocket import KeySockets
from pfkey.run.notify import Call, Listener
from pfkey.run.socketoptions import SocketOptions
from pfkey.run.watch import Watch

WAIT_SECONDS = 10.0  # for pfkeyd to handle a request, before a peek may find nothing
_TICK_FIRST, _TICK_LAST, _TICK_GROWS = 0.0001, 0.005, 1.2


@dataclass(slots=True)
class _Waiting:
    """A look at a queue that must not come before the answer."""

    call: Call
    inode: int | None  # of the socket that is looked at; None: unknown
    deadline: float


class Supervisor:
    """All programs under one filter; see `Daemons` for the arguments. `group` has a policy.

    PF_KEY is spoken in this dialect.
    """

    def __init__(
        self,
        listener: Listener,
        path: Path,
        machine: str,
        *,
        is_default: bool,
        group: Group | None = None,
        dialect: Dialect = LINUX,
    ) -> None:
        self._listener = listener
        self._abis = {abi.arch: abi for abi in MACHINES[machine]}
        self._watch = Watch()
        self._daemons = Daemons(listener, self._watch, path, is_default=is_default)
        self._keys = KeySockets(listener, self._watch, self._daemons, dialect)
        self._options = SocketOptions(listener, self._daemons, group)
        self._keeper = Keeper(group, self._daemons.own) if group else None
        self._waiting: list[_Waiting] = []
        self._tick = _TICK_FIRST
        self._is_over = False
        self._watch.add(listener.fileno(), select.EPOLLIN, self._on_call)

    def run(self) -> None:
        """Serve until the last program under the filter has ended."""
        while not self._is_over:
            self._watch.wait(self._pause())
            now = time.monotonic()
            self._daemons.tend(now)
            if self._waiting:
                self._waiting = [one for one in self._waiting if not self._let_go(one, now)]

    def _pause(self) -> float | None:
        due = self._daemons.deadline
        pause = None if due is None else max(0.0, due - time.monotonic())
        if not self._waiting:
            self._tick = _TICK_FIRST
            return pause
        self._tick = min(_TICK_GROWS * self._tick, _TICK_LAST)
        return self._tick if pause is None else min(self._tick, pause)

    def _on_call(self, events: int) -> None:
        if not events & select.EPOLLIN:
            self._is_over = bool(events & select.EPOLLHUP)
            return
        call = self._listener.receive()
        if call is None:
            return
        try:
            self._serve(call)
        except OSError as error:
            self._listener.refuse(call, error.errno or EIO)
        except Exception as error:  # the last resort: no program is to lose its supervisor
            syslog.syslog(syslog.LOG_ERR, f"pfkey run: internal error: {error!r}")
            self._listener.refuse(call, EIO)

    def _serve(self, call: Call) -> None:
        abi = self._abis[call.arch]
        if call.number == abi.socket:
            self._keys.serve(call)
            return
        if call.number in abi.begins:
            self._options.join(call)
            return
        if call.number in (abi.setsockopt, abi.getsockopt):
            self._options.serve(abi, call)
            return
        one = _Waiting(call, None, time.monotonic() + WAIT_SECONDS)
        if not self._keys.is_waiting(None):
            self._listener.let_go(call)
            return
        if call.number not in (abi.poll, abi.ppoll):
            one.inode = socket_inode(call.tid, call.argument(0))
        self._waiting.append(one)

    def _let_go(self, one: _Waiting, now: float) -> bool:
        """Let a call go on when its answer is there; whether it is settled."""
        if now < one.deadline and self._keys.is_waiting(one.inode):
            return False
        self._listener.let_go(one.call)
        return True
