"""No number twice: workers and daemon are killed in the middle of transfers, the wire is counted.

Every (key, IV) and every sequence number that leaves the host is looked at. SOAK_KILLS says how
often something is killed: `make soak` does so hundreds of times. Loading the same keys again and
reloading the file are among the blows.
"""

import contextlib
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.support.system import Daemon, until
from tests.support.wire import Tap, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
ESP, AH = 50, 51
TCP_PORT = 4001
OWN, OTHER = "10.1.1.{}", "20.1.1.{}"

# SPI: protocol, what setkey is told, octets of the IV that stands after SPI and number
SAS = {
    1001: ("esp", f"-E aes-gcm-16 0x{bytes(range(20)).hex()}", 8),
    1002: ("esp", f"-E aes-ctr 0x{bytes(range(30, 50)).hex()} -A hmac-sha1 0x{'11' * 20}", 8),
    1003: ("esp", f"-E aes-cbc 0x{bytes(range(60, 76)).hex()} -A hmac-sha2-256 0x{'22' * 32}", 16),
    1004: ("ah", f"-A aes-128-gmac 0x{bytes(range(90, 110)).hex()}", 0),
    1005: ("ah", f"-A hmac-sha2-256 0x{'33' * 32}", 0),
}
GMAC_IV = slice(12, 20)  # in AH, where the ICV begins

# a stream of TCP to the first address, datagrams to the others, for as long as it may
SENDER = """
import contextlib, socket, sys, time
stream, port, *others = sys.argv[1:]
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
plain.setblocking(False)
tcp = None
while True:
    for other in others:
        with contextlib.suppress(OSError):
            plain.sendto(bytes(200), (other, 9))
    try:
        if tcp is None:
            tcp = socket.create_connection((stream, int(port)), timeout=0.5)
            tcp.setblocking(False)
        tcp.send(bytes(8192))
    except BlockingIOError:
        pass
    except OSError:
        tcp = None
    time.sleep(0.002)
"""
SINK = """
import socket, sys, threading
def swallow(one):
    try:
        while one.recv(1 << 20): pass
    except OSError:
        pass
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    threading.Thread(target=swallow, args=(server.accept()[0],), daemon=True).start()
"""


def keys() -> str:
    """Both directions; the way back has other SPIs, and other keys."""
    text = ""
    for n, (spi, (proto, how, _)) in enumerate(SAS.items(), 1):
        own, other = OWN.format(n), OTHER.format(n)
        text += f"add {own} {other} {proto} {spi} -r 64 {how};\n"
        back = re.sub(r"0x(\w+)", lambda key: f"0x{key[1][::-1]}", how)
        text += f"add {other} {own} {proto} {spi + 1000} -r 64 {back};\n"
    return text


def policies(ways: tuple[str, str]) -> str:
    text = ""
    for n, (proto, _, _) in enumerate(SAS.values(), 1):
        for src, dst, way in ((OWN, OTHER, ways[0]), (OTHER, OWN, ways[1])):
            text += f"spdadd {src.format(n)} {dst.format(n)} any -P {way} ipsec"
            text += f" {proto}/transport//require;\n"
    return text


class Wire:
    """What has left host a: each number and each IV once, by SPI."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self.numbers: dict[int, set[int]] = {spi: set() for spi in SAS}
        self.ivs: dict[int, set[bytes]] = {spi: set() for spi in SAS}
        self.again: list[tuple[int, str, object]] = []
        self.clear = 0
        self._lock = threading.Lock()

    def look(self) -> dict[int, int]:
        """Take what has come; how many packets of each SPI there were so far."""
        with self._lock:
            packets = self._tap.packets
            self._tap.drop(len(packets))
            for packet in packets:
                self._note(packet)
        return {spi: len(numbers) for spi, numbers in self.numbers.items()}

    def _note(self, packet: bytes) -> None:
        proto, later = packet[9], packet[6:8] != b"\x40\0" and packet[7]
        body = packet[20:]
        if later or packet[6] & 0x1F:
            return  # the rest of a packet whose number was seen
        if proto not in (ESP, AH):
            self.clear += 1
            return
        head = body[:8] if proto == ESP else body[4:12]
        spi, number = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
        if spi not in self.numbers:
            return
        octets = SAS[spi][2]
        iv = (
            body[8 : 8 + octets]
            if proto == ESP
            else body[GMAC_IV]
            if "gmac" in SAS[spi][1]
            else b""
        )
        if number in self.numbers[spi]:
            self.again.append((spi, "number", number))
        if iv and iv in self.ivs[spi]:
            self.again.append((spi, "IV", iv.hex()))
        self.numbers[spi].add(number)
        self.ivs[spi].add(iv)


class Site:
    """Two hosts with an address for each SA; a is struck, b only listens."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a"), net.host("b")
        a_dev, self.b_dev = net.link(self.a, "10.1.1.1/32", self.b, "20.1.1.1/32")
        for n in range(2, len(SAS) + 1):
            self.a.ip("addr", "add", f"{OWN.format(n)}/32", "dev", a_dev)
            self.b.ip("addr", "add", f"{OTHER.format(n)}/32", "dev", self.b_dev)
        for n in range(1, len(SAS) + 1):
            self.a.ip("route", "replace", OTHER.format(n), "dev", a_dev, "src", OWN.format(n))
            self.b.ip("route", "replace", OWN.format(n), "dev", self.b_dev, "src", OTHER.format(n))
        file = tmp / "soak.conf"
        file.touch(0o600)
        file.write_text("flush; spdflush;\n" + keys() + policies(("out", "in")))
        self.da = Daemon(self.a, tmp, "--load", str(file))
        self.db = Daemon(self.b, tmp)
        self.db.setkey(keys() + policies(("in", "out")))

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        others = [OTHER.format(n) for n in range(2, len(SAS) + 1)]
        stream = (OTHER.format(1), str(TCP_PORT))
        sink = self.b.start(sys.executable, "-c", SINK, *stream, stderr=None)
        listeners = [udp_listener(self.b, other, 9) for other in others]
        sender = self.a.start(sys.executable, "-c", SENDER, *stream, *others, stderr=None)
        yield
        for process in (sender, sink):
            assert process.poll() is None
            process.kill()
        for listener in listeners:
            listener.close()

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def worker(self, role: str) -> None:
        pid = self.da.workers()[role]
        self.kill(pid)
        until(lambda: self.da.workers().get(role, pid) != pid, 20, f"another worker {role}")

    def daemon(self) -> None:
        self.da.kill()
        self.da.start()

    def everything(self) -> None:
        self.kill(self.da.process.pid, *self.da.workers().values())
        self.da.process.wait()
        self.da.start()

    def again(self) -> None:
        """The same keys once more, by hand."""
        self.da.setkey("flush;" + keys())

    def reload(self) -> None:
        self.da.process.send_signal(signal.SIGHUP)


def test_no_number_and_no_iv_comes_twice_whatever_is_killed(net: Net, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    site = Site(net, tmp_path)
    blows: list[Callable[[], None]] = [
        lambda: site.worker("out"), site.everything, site.again, lambda: site.worker("in"),
        site.reload, site.daemon,
    ]  # fmt: skip
    with Tap(site.b, site.b_dev) as tap:
        wire = Wire(tap)

        def flows(seen: dict[int, int], packets: int) -> bool:
            counted = wire.look()
            assert wire.again == [], f"{SEED=}"
            return all(n >= seen[spi] + packets for spi, n in counted.items())

        with site.traffic():
            for n in range(KILLS):
                seen = wire.look()
                # struck at any moment of a transfer under way
                until(lambda: flows(seen, chance.randrange(10, 60)), 60, f"blow {n}, {SEED=}")  # noqa: B023
                blows[n % len(blows)]()
            seen = wire.look()
            until(lambda: flows(seen, 10), 60, "traffic after the last blow")
        wire.look()
        assert tap.lost == 0, "every packet was looked at"
    assert wire.again == []
    assert wire.clear == 0
    assert all(len(ivs) == len(wire.numbers[spi]) for spi, ivs in wire.ivs.items() if SAS[spi][2])
    for group in ("esp", "ah"):
        assert site.db.counter(group, "replay") == 0, "and the peer found none either"
    assert "internal error" not in site.da.log
