"""Bad times: links and policies change, workers stand still, everything dies, floods come."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pfkey.errors import ClosedError
from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, SEND, transfer
from tests.support.attacked import Attacked, counters, only_esp
from tests.support.steering import ESP
from tests.support.system import A6, AUTHENTIC_KEYS, A, B, over, require, until
from tests.support.wire import family, in_host

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def two(request: pytest.FixtureRequest, net: Net, tmp_path: Path) -> Attacked:
    return Attacked(net, tmp_path, request.param)


def test_links_addresses_and_routes_may_change(two: Attacked) -> None:
    def mtu(octets: int) -> None:
        for host, device in ((two.a, two.a_dev), (two.b, two.b_dev)):
            host.ip("link", "set", device, "mtu", str(octets))

    def address() -> None:
        bits, *how = ("32",) if two.version == 4 else ("128", "nodad")
        two.a.ip("addr", "replace", f"{two.own}/{bits}", "dev", two.a_dev, *how)
        two.a.ip("route", "replace", two.other, "dev", two.a_dev, "src", two.own)

    with only_esp(two):
        for octets in {4: (900, 1500, 700), 6: (1400, 1500, 1280)}[two.version]:
            mtu(octets)
            until(lambda: two.ping("-s", "3000"))
        mtu(1500)
        two.a.ip("link", "set", two.a_dev, "down")
        assert not two.ping()
        two.a.ip("link", "set", two.a_dev, "up")
        address()
        until(two.ping)
        two.a.ip("addr", "del", f"{two.own}/{32 if two.version == 4 else 128}", "dev", two.a_dev)
        assert two.version == 6 or not two.ping()  # IPv6 has another address to send from
        address()
        until(two.ping)
        metric = ("metric", "1") if two.version == 6 else ()
        two.a.ip("route", "replace", "unreachable", two.other, *metric)
        assert not two.ping()
        two.a.ip("route", "del", "unreachable", two.other, *metric)
        address()
        until(two.ping)
        assert len(transfer(two.a, two.b, two.other, MEGABYTE)) == MEGABYTE
    assert "internal" not in counters(two.da)


def test_the_largest_datagram_is_dropped_and_counted_where_it_no_longer_fits(two: Attacked) -> None:
    with only_esp(two):
        assert two.ping("-s", "65000")
        assert not two.ping("-s", {4: "65507", 6: "65480"}[two.version])
    assert counters(two.da)["toobig"] == 2


def test_clients_that_take_every_descriptor_do_not_end_the_data_path(
    net: Net, tmp_path: Path
) -> None:
    two = Attacked(net, tmp_path)
    workers = two.da.workers().values()
    resource.prlimit(two.da.process.pid, resource.RLIMIT_NOFILE, (160, 160))
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            link = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            link.connect(str(two.da.socket))
        until(lambda: "client-refused reason=descriptors" in two.da.log)
        two.a.ip("addr", "add", "10.77.0.1/32", "dev", "lo")  # it looks at routes and devices again
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        until(lambda: two.da.log.count("worker-ready") == 4, 10, "two workers more")
        with only_esp(two):
            until(two.ping, 10)

    def are_gone() -> bool:
        with contextlib.suppress(ClosedError):  # refused while they are
            return bool(two.da.control("status")["clients"] == 0)
        return False

    until(are_gone)
    assert "internal error" not in two.da.log


def test_a_hangup_or_an_interrupt_sent_to_all_ends_no_worker(net: Net, tmp_path: Path) -> None:
    two = Attacked(net, tmp_path)
    workers = two.da.workers()
    for pid in workers.values():
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGINT)
    with only_esp(two):
        assert two.ping()
    assert two.da.workers() == workers


def test_a_renamed_device_leaks_nothing_and_gets_its_name_back(net: Net, tmp_path: Path) -> None:
    two = Attacked(net, tmp_path)
    with only_esp(two):
        two.a.ip("link", "set", "pfkey0", "name", "other0")
        until(lambda: "restored what=device pfkey0" in two.da.log)
        until(two.ping)


@pytest.mark.parametrize("role", ["out", "in"])
def test_a_worker_that_stands_still_holds_up_nobody_and_hoards_nothing(
    net: Net, tmp_path: Path, role: str
) -> None:
    two = Attacked(net, tmp_path)
    pid = two.da.workers()[role]

    def resident() -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    before = resident()
    os.kill(pid, signal.SIGSTOP)
    try:
        with only_esp(two):
            two.a.run("ping", "-f", "-c", "20000", "-w1", B, check=False)
        for _ in range(3):
            began = time.monotonic()
            counters(two.da)
            assert time.monotonic() - began < 1
        two.da.setkey("spdadd 1.2.3.4 5.6.7.8 any -P out none;")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(two.ping, 10)
    assert resident() - before < 8 << 10, "KiB"


def test_a_transfer_survives_the_death_of_everything(two: Attacked) -> None:
    kind = family(two.other)
    listener = in_host(two.b, lambda: socket.create_server((two.other, 0), family=kind))
    size = 24 * MEGABYTE
    to = (two.other, str(listener.getsockname()[1]), str(size))
    with only_esp(two):
        sender = two.a.start(sys.executable, "-c", SEND.replace("timeout=20", "timeout=40"), *to)
        connection = listener.accept()[0]
        connection.settimeout(30)
        got = len(connection.recv(1 << 16, socket.MSG_WAITALL))
        for pid in (two.da.process.pid, *two.da.workers().values()):
            os.kill(pid, signal.SIGKILL)
        two.da.process.wait()
        time.sleep(0.3)
        two.da.start()
        two.da.setkey(over(two.version, AUTHENTIC_KEYS + require(A, B)))
        while piece := connection.recv(1 << 20):
            got += len(piece)
        connection.send(b"k")
        connection.close()
        assert got == size
        two.a.stop(sender)
    assert "replay" not in counters(two.db), "no sequence number went out twice"


def test_no_change_of_policies_lets_a_packet_out_in_clear(two: Attacked) -> None:
    code = (
        "import contextlib, socket, sys\n"
        "s = socket.socket(2 if '.' in sys.argv[1] else 10, socket.SOCK_DGRAM)\n"
        "while True:\n"
        "    with contextlib.suppress(OSError): s.sendto(b'in clear', (sys.argv[1], 9))\n"
    )
    with only_esp(two) as tap:
        sender = two.a.start(sys.executable, "-c", code, two.other)
        until(lambda: tap.protocols(two.own, two.other).get(ESP, 0) > 100)
        for number in range(8):
            changes = (
                f"spdupdate {A} {B} any -P out prio {number + 1} ipsec esp/transport//require;"
                f"spdadd {A} {B} udp -P out ipsec esp/transport//require;"
                f"spdadd {A} {B}[99] udp -P out none;"
                f"spddelete {A} {B} udp -P out; spddelete {A} {B}[99] udp -P out;"
            )
            two.da.setkey(over(two.version, changes))
        two.da.setkey(over(two.version, f"delete {A} {B} esp 9876;"))
        time.sleep(0.2)
        two.a.stop(sender)
    assert counters(two.da)["out_nosa"] > 0


FLOODS = {
    4: ("s = socket.socket(2, 3, 255); s.setsockopt(1, 25, b'pfkey0'); to = ('30.1.1.1', 0)\n"
        "head = b'E' + bytes(7) + b'@\\x11'",
        f"s = socket.socket(2, 3, 50); to = ('{A}', 0)\nhead = b''"),
    6: ("s = socket.socket(17, 2, 0); to = ('pfkey0', 0x86DD, 0, 0, b'')\n"
        "head = b'`' + bytes(4) + b'P\\x11@'",
        f"s = socket.socket(10, 3, 50); to = ('{A6}', 0)\nhead = b''"),
}  # fmt: skip


@pytest.mark.parametrize("of_junk", [False, True], ids=["into-the-tun", "of-sealed-junk"])
def test_a_flood_leaves_control_answering(two: Attacked, of_junk: bool) -> None:
    setup = FLOODS[two.version][of_junk]
    host = two.b if of_junk else two.a
    code = (
        f"import contextlib, os, socket\n{setup}\n"
        "while True:\n"
        "    with contextlib.suppress(OSError): s.sendto(head + os.urandom(112), to)\n"
    )
    process = host.start(sys.executable, "-c", code)
    try:
        until(lambda: {"foreign", "notdb"} & set(counters(two.da)))
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            two.da.control("status")
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.5
    finally:
        host.stop(process)
    until(two.ping)
    assert "internal" not in counters(two.da), two.da.log


def test_a_full_run_directory_is_said_in_one_line_and_leaves_nothing(
    net: Net, tmp_path: Path
) -> None:
    host = net.host("a")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", tmp_path], check=True)
    try:
        before = host.run("nft", "list", "ruleset").stdout
        done = host.run(
            str(Path(sys.executable).parent / "pfkeyd"), "--socket", f"{tmp_path}/s", check=False
        )
        assert done.returncode == 1
        assert "no room for the state file" in done.stderr
        assert "Traceback" not in done.stderr
        assert host.run("nft", "list", "ruleset").stdout == before
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
