"""A live worker process: what it gave up, what it obeys, and that it ends with its parent."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from keyd.model import Need, PolicySpec, Request, SaSpec, Settings
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.shell.channel import policy_records
from keyd.shell.raw import FAMILIES, RawSockets, open_raw
from keyd.shell.spawn import Worker
from keyd.shell.state import StateFile
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.errors import ShellError
from pfkey.selector import Range, Selector
from tests.support.packets import frame, ipv4, udp

LO = bytes((127, 0, 0, 1))
TEST_NET = bytes((192, 0, 2, 1))
SA = SaSpec(
    slot=0, proto=50, spi=9876, src=LO, dst=LO, mode=Mode.TRANSPORT, encrypt=12,
    encrypt_key=b"k" * 16, auth=5, auth_key=b"a" * 32, replay_packets=32,
)  # fmt: skip
REQUIRE = PolicySpec(
    id=1, dir=Dir.OUT, type=PolicyType.IPSEC, selector=Selector(Range(LO, 32), Range(LO, 32)),
    requests=(Request(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE),),
)  # fmt: skip


class Rig:
    """A state file, a pair of sockets in place of a TUN device, and others in place of raw ones."""

    def __init__(self, tmp: Path) -> None:
        self.state = StateFile.open(tmp / "state")
        self.tun, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tun.settimeout(5)
        theirs.setblocking(False)
        self._theirs = theirs
        self.raw = {
            version: RawSockets(*(
                socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(8)
            ))
            for version, family in FAMILIES.items()
        }  # fmt: skip
        self.records: list[dict[str, Any]] = []

    def worker(self, role: Any) -> Worker:
        return Worker(
            role, tun_fd=self._theirs.fileno(), raw=self.raw, state=self.state,
            on_record=self.records.append,
        )  # fmt: skip

    def install(self, worker: Worker, sa: SaSpec = SA) -> None:
        record = self.state.bind(sa.slot, sa)
        worker.send({"op": "sa+", "sa": sa.to_json(), "record": record})

    def policies(self, worker: Worker, *policies: PolicySpec) -> None:
        for record in policy_records(policies, ()):
            worker.send(record)

    def close(self) -> None:
        self.state.close()
        self.tun.close()
        self._theirs.close()
        for sockets in self.raw.values():
            sockets.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


async def eventually(claim: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not claim():  # noqa: ASYNC110 (another process brings it about)
            await trio.sleep(0.01)


def proc(pid: int, name: str) -> Path:
    return Path(f"/proc/{pid}/{name}")


def status(pid: int) -> dict[str, list[str]]:
    lines = proc(pid, "status").read_text().splitlines()
    return {name: words.split() for name, words in (line.split(":", 1) for line in lines)}


def core_limit(pid: int) -> list[str]:
    limits = proc(pid, "limits").read_text().splitlines()
    return next(line.split()[4:6] for line in limits if line.startswith("Max core file size"))


def is_root_of_all() -> bool:
    """Not in a user namespace, where there may be no other user to become."""
    words = Path("/proc/self/uid_map").read_text().split()
    return os.geteuid() == 0 and words == ["0", "0", "4294967295"]


def owner(pid: int) -> int:
    """Root's, though the process is another's, when it is not dumpable."""
    return proc(pid, "environ").stat().st_uid


@pytest.mark.slow
@pytest.mark.parametrize("role", ["out", "in"])
async def test_a_ready_worker_has_no_rights_left(rig: Rig, role: str) -> None:
    worker = rig.worker(role)
    await worker.start()
    said = status(worker.pid)
    for kind in ("Prm", "Eff", "Inh", "Amb"):
        assert int(said[f"Cap{kind}"][0], 16) == 0
    assert said["NoNewPrivs"] == ["1"]
    assert core_limit(worker.pid) == ["0", "0"]
    if os.geteuid() == 0:
        assert owner(worker.pid) == 0
    if is_root_of_all():
        assert int(said["CapBnd"][0], 16) == 0
        assert "0" not in said["Uid"] + said["Gid"]
        assert said["Groups"] == []
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


@pytest.mark.slow
async def test_a_worker_is_ready_soon(rig: Rig) -> None:
    began = time.monotonic()
    worker = rig.worker("out")
    await worker.start()
    took = time.monotonic() - began
    worker.close()
    assert took < 2, "half a second, on a machine with nothing else to do"


@pytest.mark.slow
@pytest.mark.parametrize("octets", [b"\xff", b"[]", b"[" * 100_000], ids=["no", "list", "deep"])
async def test_a_worker_that_talks_nonsense_is_ended(rig: Rig, octets: bytes) -> None:
    worker = rig.worker("in")
    with socket.socket(fileno=os.dup(worker._theirs.fileno())) as its:
        await worker.start()
        with trio.fail_after(10):
            its.setblocking(True)
            its.send(octets)
            assert await worker.wait() == -signal.SIGKILL
    worker.close()


@pytest.mark.slow
async def test_a_worker_that_cannot_start_says_so(rig: Rig) -> None:
    worker = rig.worker("out")
    worker._descriptors["state"] = rig.tun.fileno()  # nothing that can be mapped
    with pytest.raises(ShellError, match="before it was ready"):
        await worker.start()
    worker.close()


@pytest.mark.slow
async def test_thousands_of_changes_are_sent_without_waiting_and_obeyed_in_order(rig: Rig) -> None:
    worker = rig.worker("out")
    await worker.start()
    os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(20000):
        worker.send({"op": "sa-", "slot": 1, "filler": "x" * 500})
    rig.policies(worker, REQUIRE)
    assert time.monotonic() - began < 5
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.wait)
        with trio.move_on_after(0.2) as scope:
            await worker.flush()
        assert scope.cancelled_caught, "more than the socket holds is waiting"
        os.kill(worker.pid, signal.SIGCONT)
        with trio.fail_after(20):
            await worker.flush()
        rig.tun.send(frame(ipv4(17, udp(b"x"), src=LO, dst=LO)))
        await eventually(lambda: rig.state.counters()["ipsec"]["out_nosa"] == 1)
        worker.close()


@pytest.mark.slow
async def test_a_bad_record_is_reported_and_survived(rig: Rig) -> None:
    worker = rig.worker("in")
    await worker.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.wait)
        worker.send({"op": "sa+"})
        worker.send({"op": "sa+", "sa": SA.to_json(), "record": 77})
        await eventually(lambda: len(rig.records) == 2)
        worker.close()
    texts = [record["text"] for record in rig.records]
    assert "bad record op=sa+" in texts[0]
    assert "no record" in texts[1]
    assert not any("61" * 32 in text for text in texts)


@pytest.mark.slow
@pytest.mark.root
async def test_a_record_written_before_a_packet_is_obeyed_before_it(
    rig: Rig, tmp_path: Path
) -> None:
    """Over loopback: what goes out under an SA, and how its numbers survive the worker."""
    for sockets in rig.raw.values():
        sockets.close()
    rig.raw = open_raw()
    wire = rig.raw[4]
    numbers = []
    for _ in range(2):
        worker = rig.worker("out")
        await worker.start()
        os.kill(worker.pid, signal.SIGSTOP)
        rig.policies(worker, REQUIRE)
        rig.install(worker)
        rig.tun.send(frame(ipv4(17, udp(b"hello", src=LO, dst=LO), src=LO, dst=LO)))
        os.kill(worker.pid, signal.SIGCONT)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(wire.esp_in)
        packet = wire.esp_in.recv(2000)
        numbers.append(int.from_bytes(packet[24:28], "big"))
        opened = EspSa(SA).open(packet[20:])
        assert not isinstance(opened, Drop)
        assert bytes(opened[1]) == udp(b"hello", src=LO, dst=LO)
        os.kill(worker.pid, signal.SIGKILL)
        assert await worker.wait() == -signal.SIGKILL
        worker.close()
    assert numbers == [1, 2]
    assert rig.state.usage(0).packets == 2


@pytest.mark.slow
async def test_a_worker_asks_for_what_is_missing_and_its_packets_wait(rig: Rig) -> None:
    worker = rig.worker("out")
    await worker.start()

    def counted(name: str) -> int:
        return sum(group.get(name, 0) for group in rig.state.counters().values())

    def asked() -> list[dict[str, Any]]:
        return [record for record in rig.records if record["op"] == "need"]

    settings = {"op": "settings", **Settings(is_asking=True, wait_seconds=1).to_json()}
    other = replace(REQUIRE, selector=Selector(Range(LO, 32), Range(TEST_NET, 32)))
    packet = frame(ipv4(17, udp(b"x", src=LO, dst=TEST_NET), src=LO, dst=TEST_NET))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.wait)
        rig.policies(worker, other)
        worker.send(settings)
        rig.tun.send(packet)
        await eventually(asked)
        need = Need.from_json(asked()[0]["need"])
        assert (need.policy, need.src, need.dst) == (1, LO, TEST_NET)
        assert (asked()[0]["packets"], counted("queue_dropped")) == (1, 0)
        worker.send({"op": "wait-", "need": need.to_json()})
        await eventually(lambda: counted("queue_dropped") == 1)
        rig.tun.send(packet)
        await eventually(lambda: counted("queue_dropped") == 2)  # its time is over
        worker.send(settings | {"is_asking": False})
        rig.tun.send(packet)
        await eventually(lambda: counted("out_nosa") == 1)
        assert counted("internal") == 0
        worker.close()


PARENT = """
import json, sys, trio
from pathlib import Path
from tests.keyd.shell.test_worker import Rig
async def main():
    rig = Rig(Path(sys.argv[1]))
    workers = [rig.worker(role) for role in ("out", "in")]
    for worker in workers:
        await worker.start()
    print(json.dumps([worker.pid for worker in workers]), flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_workers_end_when_the_control_process_is_killed(tmp_path: Path, stopped: bool) -> None:
    """By the end of the channel, and by a signal that also ends what cannot run."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    pids = json.loads(parent.stdout.readline())
    if stopped:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 5
    with (tmp_path / "state").open("rb+") as file:
        while True:
            try:  # the lock goes when the last of them is gone
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
