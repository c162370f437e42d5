"""One worker of the data path: `python -m keyd.shell.worker out|in GIVEN`.

`out` reads the TUN device, seals, and sends; `in` receives ESP, opens, and writes to the TUN
device. The control process starts both (`keyd.shell.spawn`) and hands them descriptors; they give
up everything else before the first packet (`keyd.shell.sandbox`). What they must do comes over
the channel; one that ends means that the control process is gone, and the worker ends too. GIVEN is
JSON: the descriptors by name, the bypass `mark`, and `parent`, the control process's id.

There is no trio here, and one thread: trio adds 11 µs to a wake-up where epoll takes 1.4 µs, and a
packet's path waits for nothing but the next batch. Order matters once: packets are read first,
then the channel is drained, then the packets are judged. So a record that was written before a
packet was sent is obeyed before that packet.
"""

import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from keyd.model import Need, PolicySpec, SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, segment, trace
from keyd.packet.association import InSa, OutSa
from keyd.packet.inbound import Inbound
from keyd.packet.outbound import Outbound
from keyd.packet.used import Used
from keyd.shell import raw, sandbox
from keyd.shell.batches import Receiver, Receiver6, Sender
from keyd.shell.channel import Record, WorkerEnd
from keyd.shell.linkmtu import Links
from keyd.shell.state import StateFile
from keyd.shell.way import Way
from pfkey import crypto
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Dir, Mode
from pfkey.errors import CryptoError

READS_MAX = 16  # frames per wake-up before the channel gets its turn
OPENED_MAX = 64  # packets per wake-up before what was opened is written
SEALED_MAX = 64  # packets before what was sealed is sent
IDS_MAX = 8192  # in one record
KEEPALIVE_SECONDS = 5.0  # between two looks at which NATs are to be kept waiting
_TUN_READ = 10 + 65536
_PROTOS = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP)
_LOGS_PER_SECOND = 5
_INFO, _WARNING, _ERROR = 20, 30, 40
_NO_ROOM = frozenset((errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN))
_NO_WAY = frozenset((errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL))

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
                self.log(_ERROR, f"bad record op={record.get('op')} error={type(error).__name__}")
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
            self.log(_ERROR, f"cannot use spi={spec.spi:#010x}: {error}")

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
            self.log(_ERROR, f"internal error={type(error).__name__} at={line}")
        for text in trace.drops(before, self.counters, octets[self.skips :]) if before else ():
            self.log(_INFO, text)

    def write(self, *buffers: Any) -> None:
        """One frame to the TUN device."""
        try:
            os.writev(self.tun, buffers)
            self.counters[count.TUN_WRITES] += 1
        except OSError as error:
            if error.errno in _NO_ROOM or error.errno == errno.EIO:  # full, or the device is down
                self.counters[count.QFULL] += 1
            else:
                self.counters[count.INTERNAL] += 1
                self.log(_ERROR, f"tun write failed error={error.strerror}")

    def tell_used(self, used: Used, now_us: int) -> None:
        """Tell the control process which policies had packets, when it is time."""
        ids = used.take(now_us / 1e6)
        for at in range(0, len(ids), IDS_MAX):
            self.channel.post({"op": "used", "policies": ids[at : at + IDS_MAX]})

    def log(self, level: int, text: str) -> None:
        """A line for the control process's log, a few each second at most."""
        now = time.monotonic()
        since, lines = self._logged
        if now - since >= 1:
            since, lines = now, 0
        self._logged = (since, lines + 1)
        if lines < _LOGS_PER_SECOND:
            self.channel.post({"op": "log", "level": level, "text": f"worker={self.role} {text}"})


class OutWorker(Worker):
    """TUN device to wire."""

    skips = segment.VNET_OCTETS

    def __init__(self, given: dict[str, int]) -> None:
        super().__init__("out", given)
        self._ways = {v: Way(given, v) for v in raw.FAMILIES if f"esp_out{v}" in given}
        self._pipeline = Outbound(self.counters, self.links.mtu, os.urandom, self.links.is_local)
        self._kept = 0.0
        self.poll.register(self.tun, select.EPOLLIN)
        for way in self._ways.values():
            for descriptor, mask in way.events.items():
                self.poll.register(descriptor, mask)

    def install(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        """Put an SA into the pipeline."""
        self._pipeline.install(OutSa(spec, part, since))

    def remove(self, slot: int) -> None:
        """Take an SA out of the pipeline."""
        self._pipeline.remove(slot)

    def update_policies(self, added: list[PolicySpec], removed: list[int]) -> None:
        """Follow a change of the outbound policies."""
        self._pipeline.update_policies(added, removed)

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        super().tune(settings)
        self._pipeline.tune(settings)

    def end_wait(self, need: Need) -> None:
        """Drop what waits for this."""
        self._pipeline.waiting.end(need)

    def run(self) -> None:
        """Until the control process is gone."""
        pipeline = self._pipeline
        waiting = pipeline.waiting
        while True:
            patience = (waiting.patience, pipeline.used.patience, self._keepalives)
            events = dict(self.poll.poll(_sooner(*patience)))
            frames = self._read() if self.tun in events else []
            if not self.obey():
                return
            now_us = time.time_ns() // 1000
            for way in self._ways.values():
                for error in way.errors(events):
                    pipeline.icmp_error(error.type, error.code, error.mtu, error.quoted, now_us)
            self.guarded(self._resume, b"", now_us)
            for octets in frames:
                self.guarded(pipeline.process, octets, now_us)
                if len(pipeline.batch.sealed) + len(pipeline.batch.sealed6) >= SEALED_MAX:
                    self._flush()
            if self._keepalives(now_us / 1e6) == 0:
                self._kept = now_us / 1e6
                self.guarded(self._keep, b"", now_us)
            self._flush()
            for need, packets in waiting.needs.take(now_us / 1e6).items():
                self.channel.post({"op": "need", "need": need.to_json(), "packets": packets})
            self.tell_used(pipeline.used, now_us)

    def _keepalives(self, now: float) -> float | None:
        """In how many seconds to see whether a NAT waits; None: there is none."""
        if not self._pipeline.has_mappings:
            return None
        passed = now - self._kept
        return max(0.0, KEEPALIVE_SECONDS - passed) if passed >= 0 else 0.0

    def _keep(self, _: bytes, now_us: int) -> None:
        self._pipeline.keepalives(now_us)

    def _resume(self, _: bytes, now_us: int) -> None:
        self._pipeline.resume(now_us)
        self._flush()

    def _read(self) -> list[bytes]:
        frames = []
        for _ in range(READS_MAX):
            try:
                frames.append(os.read(self.tun, _TUN_READ))
            except BlockingIOError:
                break
        return frames

    def _flush(self) -> None:
        batch = self._pipeline.batch
        if batch.sealed or batch.clear:
            self._emit(self._ways[4], batch.sealed, batch.clear)
        if batch.sealed6 or batch.clear6:
            self._emit(self._ways.get(6), batch.sealed6, batch.clear6)
        for frame in batch.back:
            self.write(frame)
        batch.back.clear()

    def _emit(self, way: Way | None, sealed: list[bytes], clear: list[bytes]) -> None:
        if way is None:  # the kernel has no IPv6
            self.counters[count.OUT_NOROUTE] += len(sealed) + len(clear)
        else:
            for sender, packets in ((way.sealed, sealed), (way.clear, clear)):
                if packets:
                    refused = self._send(sender, packets)
                    self.counters[count.SEGMENTS_OUT] += len(packets) - refused
        sealed.clear()
        clear.clear()

    def _send(self, sender: Sender, packets: list[bytes]) -> int:
        """How many the system refused; each is counted by its reason."""
        refused = 0
        for packet, error in sender.send(packets):
            refused += 1
            if error in _NO_ROOM:
                self.counters[count.OUT_NOMEM] += 1
            elif error in _NO_WAY:
                self.counters[count.OUT_NOROUTE] += 1
            else:
                self.counters[count.OUT_INVAL] += 1
                self.log(_WARNING, f"send failed error={os.strerror(error)}")
            if error == errno.EMSGSIZE:
                self.links.forget(datagram.dst(packet))
        return refused


class InWorker(Worker):
    """Wire to TUN device."""

    def __init__(self, given: dict[str, int]) -> None:
        super().__init__("in", given)
        sockets = [
            socket.socket(fileno=descriptor)
            for name, descriptor in given.items()
            if name.startswith(("esp_in", "ah", "comp", "bare", "udp"))
        ]
        self._receivers: list[Receiver | Receiver6] = [
            Receiver(s) if s.family == socket.AF_INET else Receiver6(s) for s in sockets
        ]
        self._pipeline = Inbound(self.counters, self.links.is_local)
        for sock in sockets:
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def install(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        """Put an SA into the pipeline."""
        self._pipeline.install(InSa(spec, part, since))

    def remove(self, slot: int) -> None:
        """Take an SA out of the pipeline."""
        self._pipeline.remove(slot)

    def update_policies(self, added: list[PolicySpec], removed: list[int]) -> None:
        """Follow a change of the inbound policies."""
        self._pipeline.update_policies(added, removed)

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        super().tune(settings)
        self._pipeline.tune(settings)

    def run(self) -> None:
        """Until the control process is gone."""
        used = self._pipeline.used
        while True:
            events = self.poll.poll(_sooner(used.patience))
            ready = {descriptor for descriptor, _ in events}
            receivers = [r for r in self._receivers if r.fileno() in ready]
            opened = 0
            while True:
                packets = [packet for receiver in receivers for packet in receiver.receive()]
                if not self.obey():
                    return
                now_us = time.time_ns() // 1000
                for packet in packets:
                    self.guarded(self._pipeline.process, packet, now_us)
                opened += len(packets)
                # more came while these were opened: they join the same writes
                if not packets or opened >= OPENED_MAX:
                    break
            self.tell_used(used, now_us)
            for mapping in self._pipeline.mappings():
                self.channel.post({"op": "mapping", **mapping.to_json()})
            for segments, buffers in self._pipeline.flush():
                if segments > 1:
                    self.counters[count.COALESCED_WRITES] += 1
                    self.counters[count.COALESCED_SEGMENTS] += segments
                self.write(*buffers)


def _sooner(*patience: Callable[[float], float | None]) -> float | None:
    """The least of several times to wait, in seconds; None: for ever."""
    now = time.time()
    return min((t for ask in patience if (t := ask(now)) is not None), default=None)


def main(argv: list[str]) -> int:
    """Set up, give everything up, tell the control process, and work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the control process
    role, given = argv[1], json.loads(argv[2])
    crypto.probe()  # what is imported at the first use must be so before the user changes
    worker = OutWorker(given) if role == "out" else InWorker(given)
    sandbox.enter(given["parent"])
    gc.collect()
    gc.freeze()
    worker.channel.post({"op": "ready"})
    try:
        worker.run()
    except OSError as error:  # the TUN device is gone: a successor may find another
        worker.log(_ERROR, f"cannot go on error={error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
