"""Two hosts with nothing but workers: packets through TUN, nft's mark, sealing, the wire, and back.

a 10.1.1.1 ── toa/tob ── 20.1.1.1 b        pfkey0 and two workers in each
"""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from keyd.model import PolicySpec, Request, SaSpec
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.lab.hosts import Host, Net
from pfkey.selector import Range, Selector
from tests.support.packets import A, B
from tests.support.wire import in_host

pytestmark = [pytest.mark.root, pytest.mark.slow]

A_TEXT, B_TEXT = "10.1.1.1", "20.1.1.1"


def sa(slot: int, spi: int, src: bytes, dst: bytes, key: bytes = b"k" * 16) -> dict[str, Any]:
    return SaSpec(
        slot=slot, proto=50, spi=spi, src=src, dst=dst, mode=Mode.ANY, encrypt=12,
        encrypt_key=key, auth=5, auth_key=b"a" * 32, replay_packets=64,
    ).to_json()  # fmt: skip


SAS = [sa(0, 9876, A, B), sa(1, 10000, B, A, b"q" * 16)]


def policies(own: bytes, other: bytes, level: Level = Level.REQUIRE) -> list[dict[str, Any]]:
    return [
        PolicySpec(
            id=number, dir=direction, type=PolicyType.IPSEC,
            selector=Selector(Range(src, 32), Range(dst, 32)),
            requests=(Request(proto=50, mode=Mode.TRANSPORT, level=level),),
        ).to_json()
        for number, direction, src, dst in ((1, Dir.OUT, own, other), (2, Dir.IN, other, own))
    ]  # fmt: skip


class DataPath:
    """The harness of one host."""

    def __init__(self, host: Host, state: Path) -> None:
        self.host = host
        self.state = state
        self.start()

    def start(self) -> None:
        self.process = self.host.start(
            sys.executable, "-m", "tests.netns.datapath_host", str(self.state),
            stdin=subprocess.PIPE, stderr=None,
        )  # fmt: skip
        assert self._read() == {"ready": True}

    def _read(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        assert isinstance(answer, dict)
        return answer

    def counters(self) -> dict[str, int]:
        groups = self.ask(counters=1)["counters"]
        for other in ("ah", "ipcomp"):  # whose names are those of esp
            del groups[other]
        return {name: n for group in groups.values() for name, n in group.items()}


class Two:
    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a"), net.host("b")
        net.link(self.a, f"{A_TEXT}/32", self.b, f"{B_TEXT}/32")
        self.da, self.db = DataPath(self.a, tmp / "a"), DataPath(self.b, tmp / "b")

    def load(self, sas: list[dict[str, Any]] = SAS, level: Level = Level.REQUIRE) -> None:
        self.da.ask(sas=sas, policies=policies(A, B, level), steer=[B_TEXT])
        self.db.ask(sas=sas, policies=policies(B, A, level), steer=[A_TEXT])

    def ping(self, *options: str) -> bool:
        argv = ("ping", "-c2", "-i0.1", "-W1", *options, B_TEXT)
        return self.a.run(*argv, check=False).returncode == 0


@pytest.fixture
def two(net: Net, tmp_path: Path) -> Two:
    return Two(net, tmp_path)


def transfer(two: Two, octets: int) -> None:
    with in_host(two.b, lambda: socket.create_server((B_TEXT, 5000))) as server:
        server.settimeout(20)
        code = (
            "import socket, sys\n"
            f"with socket.create_connection(({B_TEXT!r}, 5000)) as c:\n"
            f"    c.sendall(bytes(range(256)) * ({octets} // 256))\n"
        )
        sender = two.a.start(sys.executable, "-c", code)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            got = bytearray()
            while piece := connection.recv(1 << 20):
                got += piece
        assert sender.wait(10) == 0
    assert got == bytes(range(256)) * (octets // 256)


def test_pings_and_datagrams_of_all_sizes_cross_sealed(two: Two) -> None:
    two.load()
    for size in ("56", "1400", "1472", "3000", "20000"):
        assert two.ping("-s", size), size
    sent, got = two.da.counters(), two.db.counters()
    assert sent["icmp_toobig_sent"] == 1, "the kernel took our answer and remembers it"
    assert got["input"] == got["output"] == 9
    assert sent["clear_out"] == sent["foreign"] == sent["frag_dropped"] == 0


def test_tcp_moves_in_super_packets(two: Two) -> None:
    two.load()
    transfer(two, 16 << 20)
    sent, got = two.da.counters(), two.db.counters()
    assert sent["tun_segments"] / sent["tun_reads"] > 10
    assert got["coalesced_segments"] / got["coalesced_writes"] > 10
    assert got["badauth"] == got["replay"] == got["internal"] == sent["internal"] == 0
    usage = two.da.ask(usage=0)["usage"]
    assert usage == two.db.ask(usage=0)["usage"]
    assert usage[1] > 16 << 20


def test_udp_super_packets_arrive_as_the_datagrams_they_are(two: Two) -> None:
    """UDP_SEGMENT: the kernel hands over one super-packet and leaves cutting to us."""
    two.load()
    receiver = in_host(two.b, lambda: bound((B_TEXT, 4000)))
    sender = in_host(two.a, lambda: bound((A_TEXT, 4001)))
    sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
    sender.sendto(b"".join(bytes((n,)) * 1000 for n in range(9)) + b"rest", (B_TEXT, 4000))
    got = [receiver.recv(2000) for _ in range(10)]
    assert got == [*(bytes((n,)) * 1000 for n in range(9)), b"rest"]
    assert two.da.counters()["tun_reads"] == two.da.counters()["superpacket_in"] == 1
    sender.close()
    receiver.close()


def bound(address: tuple[str, int]) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(5)
    made.bind(address)
    return made


def test_streams_in_both_directions_at_once_arrive_whole(two: Two) -> None:
    two.load()
    octets = 4 << 20
    code = (
        "import socket, sys, threading\n"
        "own, other, listens = sys.argv[1:]\n"
        "if listens == 'yes':\n"
        "    server = socket.create_server((own, 5000)); print('up', flush=True)\n"
        "    c = server.accept()[0]\n"
        "else:\n"
        "    c = socket.create_connection((other, 5000))\n"
        f"threading.Thread(target=c.sendall, args=(b'x' * {octets},)).start()\n"
        "n = 0\n"
        f"while n < {octets}: n += len(c.recv(1 << 20))\n"
        "print(n)\n"
    )
    argv = (sys.executable, "-c", code)
    server = two.b.start(*argv, B_TEXT, A_TEXT, "yes")
    assert server.stdout
    assert server.stdout.readline() == "up\n"
    assert two.a.run(*argv, A_TEXT, B_TEXT, "no").stdout == f"{octets}\n"
    assert server.stdout.readline() == f"{octets}\n"
    for counters in (two.da.counters(), two.db.counters()):
        assert counters["internal"] == counters["qfull"] == counters["out_nomem"] == 0


def test_use_without_an_sa_leaves_in_clear_in_packets_of_the_links_size(two: Two) -> None:
    two.load([], Level.USE)
    transfer(two, 1 << 20)
    assert two.ping("-s", "3000")
    sent = two.da.counters()
    assert sent["clear_out"] > 700
    assert sent["output"] == sent["internal"] == 0


def test_a_smaller_mtu_on_the_way_is_learned_from_icmp(net: Net, tmp_path: Path) -> None:
    """a ── r ── b with 1280 octets behind the router: TCP adapts by our own cutting."""
    a, r, b = net.host("a"), net.host("r"), net.host("b")
    net.link(a, f"{A_TEXT}/32", r, "10.9.9.1/32")
    net.link(r, "10.9.9.2/32", b, f"{B_TEXT}/32", mtu=1280)
    for host, dev, other in ((a, "tor", B_TEXT), (b, "tor", A_TEXT)):
        host.ip("route", "add", other, "dev", dev)
        host.run("sysctl", "-qw", f"net.ipv4.conf.{dev}.proxy_arp=1")
    r.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.proxy_arp=1")
    two = Two.__new__(Two)
    two.a, two.b = a, b
    two.da, two.db = DataPath(a, tmp_path / "a"), DataPath(b, tmp_path / "b")
    two.load()
    transfer(two, 1 << 20)
    counters = two.da.counters()
    assert counters["icmp_accepted"] >= 1
    assert two.ping("-s", "1240", "-M", "dont")


def test_the_same_key_loaded_after_a_restart_goes_on_counting(two: Two) -> None:
    two.load()
    assert two.ping()
    sent = two.da.ask(usage=0)["usage"][0]
    two.da.process.kill()
    two.da.process.wait()
    two.a.ip("rule", "del", "priority", "75")
    two.a.run("nft", "delete", "table", "ip", "steer")
    two.da.start()
    two.da.ask(sas=SAS, policies=policies(A, B), steer=[B_TEXT])
    assert two.ping(), "the other side has a window and would refuse old numbers"
    assert sent == 2
    assert two.db.counters()["replay"] == 0


def test_what_others_send_into_the_tun_device_is_dropped(two: Two) -> None:
    two.load()
    two.a.ip("route", "add", "99.0.0.0/8", "dev", "pfkey0")
    two.a.run("ping", "-c1", "-W1", "99.1.1.1", check=False)
    assert two.da.counters()["foreign"] == 1


def test_workers_end_with_the_control_process(two: Two) -> None:
    pids = two.da.ask()["pids"].values()
    two.da.process.send_signal(signal.SIGKILL)
    two.da.process.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "pfkey0" not in two.a.ip("link")
