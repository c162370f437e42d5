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

from keyd import doors
from keyd.model import Need, PolicySpec, SaSpec, Settings
from keyd.packet import counters as count
from keyd.packet import datagram, segment
from keyd.packet.association import InSa, OutSa
from keyd.packet.branches import Branches
from keyd.packet.inbound import Inbound
from keyd.packet.outbound import Outbound
from keyd.packet.trunk import Trunk
from keyd.shell import raw, sandbox
from keyd.shell.batches import Receiver, Receiver6, Sender
from keyd.shell.readers import Readers
from keyd.shell.way import Way
from keyd.shell.worker_base import ERROR, NO_ROOM, WARNING, Worker
from keyd.socket_pair import SocketPair
from pfkey import crypto

OPENED_MAX = 64  # packets per wake-up before what was opened is written
SEALED_MAX = 64  # packets before what was sealed is sent
KEEPALIVE_SECONDS = 5.0  # between two looks at which NATs are to be kept waiting
_NO_WAY = frozenset((errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL))


class OutWorker(Worker):
    """TUN device to wire."""

    skips = segment.VNET_OCTETS

    def __init__(self, given: dict[str, int]) -> None:
        super().__init__("out", given)
        self._ways = {v: Way(given, v) for v in raw.FAMILIES if f"esp_out{v}" in given}
        trunk = Trunk(self.counters, self.links.mtu, os.urandom, self.links.is_local)
        self._branches = Branches(Outbound(trunk))
        self._readers = Readers(self.tun, self._branches, self.poll)
        self._kept = 0.0
        for way in self._ways.values():
            for descriptor, mask in way.events.items():
                self.poll.register(descriptor, mask)

    def install(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        """Put an SA into the pipelines."""
        self._branches.main.install(OutSa(spec, part, since))

    def remove(self, slot: int) -> None:
        """Take an SA out of the pipelines."""
        self._branches.main.remove(slot)

    def update_policies(self, added: list[PolicySpec], removed: list[int]) -> None:
        """Follow a change of the outbound policies."""
        self._branches.main.update_policies(added, removed)

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        super().tune(settings)
        self._branches.main.tune(settings)

    def end_wait(self, need: Need) -> None:
        """Drop what waits for this."""
        self._branches.end_wait(need)

    def open_door(self, door: int, fd: int, pair: SocketPair | None) -> None:
        """Read the device of a pair that seals."""
        self._readers.open(door, fd, pair)

    def close_door(self, door: int) -> None:
        """Read it no more."""
        self._readers.close(door)

    def run(self) -> None:
        """Until the control process is gone."""
        main = self._branches.main
        while True:
            patience = (*self._branches.patiences(), self._keepalives)
            events = dict(self.poll.poll(_sooner(*patience)))
            frames = self._readers.frames(events)
            if not self.obey():
                return
            now_us = time.time_ns() // 1000
            for way in self._ways.values():
                for error in way.errors(events):
                    main.icmp_error(error.type, error.code, error.mtu, error.quoted, now_us)
            self.guarded(self._resume, b"", now_us)
            for pipeline, octets in frames:
                self.guarded(pipeline.process, octets, now_us)
                if len(main.batch.sealed) + len(main.batch.sealed6) >= SEALED_MAX:
                    self._flush()
            if self._keepalives(now_us / 1e6) == 0:
                self._kept = now_us / 1e6
                self.guarded(self._keep, b"", now_us)
            self._flush()
            for need, packets in main.waiting.needs.take(now_us / 1e6).items():
                self.channel.post({"op": "need", "need": need.to_json(), "packets": packets})
            self.tell(main.tallies, now_us)

    def _keepalives(self, now: float) -> float | None:
        """In how many seconds to see whether a NAT waits; None: there is none."""
        if not self._branches.main.has_mappings:
            return None
        passed = now - self._kept
        return max(0.0, KEEPALIVE_SECONDS - passed) if passed >= 0 else 0.0

    def _keep(self, _: bytes, now_us: int) -> None:
        self._branches.main.keepalives(now_us)

    def _resume(self, _: bytes, now_us: int) -> None:
        self._branches.resume(now_us)
        self._flush()

    def _flush(self) -> None:
        batch = self._branches.main.batch
        if batch.sealed or batch.clear:
            self._emit(self._ways[4], batch.sealed, batch.clear)
        if batch.sealed6 or batch.clear6:
            self._emit(self._ways.get(6), batch.sealed6, batch.clear6)
        for frame in batch.back:
            self.write(frame, fd=self._readers.back)
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
            if error in NO_ROOM:
                self.counters[count.OUT_NOMEM] += 1
            elif error in _NO_WAY:
                self.counters[count.OUT_NOROUTE] += 1
            else:
                self.counters[count.OUT_INVAL] += 1
                self.log(WARNING, f"send failed error={os.strerror(error)}")
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
        self._doors = {doors.MAIN: self.tun}
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

    def open_door(self, door: int, fd: int, pair: SocketPair | None) -> None:
        """Write to another device."""
        self._doors[door] = fd
        self._pipeline.open_door(door, pair)

    def close_door(self, door: int) -> None:
        """Write to it no more."""
        self._pipeline.close_door(door)
        os.close(self._doors.pop(door))

    def run(self) -> None:
        """Until the control process is gone."""
        tallies, mappings = self._pipeline.tallies, self._pipeline.mappings
        while True:
            events = self.poll.poll(_sooner(tallies.patience, mappings.patience))
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
            self.tell(tallies, now_us)
            for mapping in mappings.take(now_us / 1e6):
                self.channel.post({"op": "mapping", **mapping.to_json()})
            for door, segments, buffers in self._pipeline.flush():
                if segments > 1:
                    self.counters[count.COALESCED_WRITES] += 1
                    self.counters[count.COALESCED_SEGMENTS] += segments
                self.write(*buffers, fd=self._doors[door])


def _sooner(*patience: Callable[[float], float | None]) -> float | None:
    """The least of several times to wait, in seconds; None: for ever."""
    now = time.time()
    return min((t for ask in patience if (t := ask(now)) is not None), default=None)


def main(argv: list[str]) -> int:
    """Set up, give everything up, tell the control process, and work."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal, or sent to all: for control
        signal.signal(number, signal.SIG_IGN)
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
        worker.log(ERROR, f"cannot go on error={error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
