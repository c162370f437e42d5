"""What both workers of the data path share: the state file, the channel, the log.

The channel is the control process's, and its end is theirs (`keyd.shell.worker`).
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Literal

from keyd.model import Need, PolicySpec, SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet import trace
from keyd.packet.tallies import Tallies
from keyd.shell.channel import Record, WorkerEnd
from keyd.shell.linkmtu import Links
from keyd.shell.state import StateFile
from keyd.socket_pair import SocketPair
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Dir, Mode
from pfkey.errors import CryptoError

TALLIES_MAX = 1024  # in one record
INFO, WARNING, ERROR = 20, 30, 40
NO_ROOM = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN))
_PROTOS = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP)
_LOGS_PER_SECOND = 5

Role = Literal["out", "in"]


class Worker:
    """What both roles share: the state file, the channel, the log."""

    skips = 0  # octets before the packet in what the pipeline is given

    def __init__(self, role: Role, given: dict[str, int]) -> None:
        self.role: Role = role
        self.tun = given["tun"]
        self.channel = WorkerEnd(socket.socket(fileno=given["channel"]))
        self.state = StateFile.attach(given["state"])
        self.counters = self.state.counters_of(role)
        self.links = Links(given["mark"])
        self.poll = select.epoll()
        self.poll.register(self.channel.fileno(), select.EPOLLIN)
        self._added: list[PolicySpec] = []
        self._removed: list[int] = []
        self._logged = (0.0, 0)
        self.is_debugging = False

    def obey(self) -> bool:
        """Do what the channel says; False when the control process is gone."""
        records = self.channel.drain()
        if records is None:
            return False
        for record in records:
            try:
                self._obey(record)
            except (KeyError, ValueError, TypeError) as error:
                self.log(ERROR, f"bad record op={record.get('op')} error={type(error).__name__}")
        return True

    def _obey(self, record: Record) -> None:
        op = record["op"]
        if op == "sa+":
            self._install(SaSpec.from_json(record["sa"]), record["record"])
        elif op == "sa-":
            self.remove(record["slot"])
        elif op == "policy":
            directions = (Dir.OUT,) if self.role == "out" else (Dir.IN, Dir.FWD)
            policies = map(PolicySpec.from_json, record["added"])
            self._added += [policy for policy in policies if policy.dir in directions]
            self._removed += record["removed"]
            if not record["more"]:
                added, removed = self._added, self._removed
                self._added, self._removed = [], []
                self.links.forget()
                self.update_policies(added, removed)
        elif op == "settings":
            del record["op"]
            self.tune(Settings.from_json(record))
        elif op == "wait-":
            self.end_wait(Need.from_json(record["need"]))
        elif op == "door+":
            given = record["pair"]
            pair = None if given is None else SocketPair.from_json(given)
            self.open_door(record["door"], record["fd"], pair)
        elif op == "door-":
            self.close_door(record["door"])

    def _install(self, spec: SaSpec, record: int) -> None:
        try:
            if not self.state.is_record_of(record, spec):
                # its sequence numbers are unknown: not to be used is the only safe thing
                raise CryptoError("the state file has no record of it")
            if spec.proto not in _PROTOS or spec.mode == Mode.BEET:
                raise CryptoError("neither protocol nor mode can be done here")
            self.install(spec, self.state.part(record, self.role), self.state.since(record))
        except CryptoError as error:
            self.remove(spec.slot)
            self.log(ERROR, f"cannot use spi={spec.spi:#010x}: {error}")

    def install(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        """Put an SA into the pipeline, or replace the one with its slot."""
        raise NotImplementedError

    def remove(self, slot: int) -> None:
        """Take an SA out of the pipeline."""
        raise NotImplementedError

    def update_policies(self, added: list[PolicySpec], removed: list[int]) -> None:
        """Follow a change of policies of this direction."""
        raise NotImplementedError

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        self.is_debugging = settings.is_debugging

    def end_wait(self, need: Need) -> None:
        """Nothing waits but what goes out."""

    def open_door(self, door: int, fd: int, pair: SocketPair | None) -> None:
        """Use another TUN device, which is that of a pair of policies of sockets."""
        raise NotImplementedError

    def close_door(self, door: int) -> None:
        """Use it no more."""
        raise NotImplementedError

    def guarded(self, handle: Callable[[bytes, int], None], octets: bytes, now_us: int) -> None:
        """Handle one packet. A fault of ours costs that packet and a counter, not the worker."""
        before = self.counters.tolist() if self.is_debugging else []
        try:
            handle(octets, now_us)
        except Exception as error:  # the last resort, see above
            self.counters[count.INTERNAL] += 1
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where else "?"
            self.log(ERROR, f"internal error={type(error).__name__} at={line}")
        for text in trace.drops(before, self.counters, octets[self.skips :]) if before else ():
            self.log(INFO, text)

    def write(self, *buffers: Any, fd: int = -1) -> None:
        """One frame to the TUN device, or to another one."""
        try:
            os.writev(self.tun if fd < 0 else fd, buffers)
            self.counters[count.TUN_WRITES] += 1
        except OSError as error:
            if error.errno in NO_ROOM or error.errno == errno.EIO:  # full, or the device is down
                self.counters[count.QFULL] += 1
            else:
                self.counters[count.INTERNAL] += 1
                self.log(ERROR, f"tun write failed error={error.strerror}")

    def tell(self, tallies: Tallies, now_us: int) -> None:
        """Tell the control process what policies have done with packets, when it is time."""
        told = tallies.take(now_us / 1e6)
        for at in range(0, len(told), TALLIES_MAX):
            part = told[at : at + TALLIES_MAX]
            if not self.channel.post({"op": "used", "policies": part}):
                tallies.put_back(part)

    def log(self, level: int, text: str) -> None:
        """A line for the control process's log, a few each second at most."""
        now = time.monotonic()
        since, lines = self._logged
        if now - since >= 1:
            since, lines = now, 0
        self._logged = (since, lines + 1)
        if lines < _LOGS_PER_SECOND:
            self.channel.post({"op": "log", "level": level, "text": f"worker={self.role} {text}"})
