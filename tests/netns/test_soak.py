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
from dataclasses import dataclass
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.support.system import Daemon, until
from tests.support.wire import Tap, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(0)]

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
TCP_PORT, NATT_PORT = 4001, 4500
ENDS = {4: ("10.1.1.{}", "20.1.1.{}"), 6: ("2001:db8:1::{}", "2001:db8:2::{}")}
GMAC_IV = slice(12, 20)  # in AH, where the ICV begins


@dataclass(frozen=True)
class Way:
    """One SA from a, the other back from b, and what sends a packet through it."""

    spi: int
    proto: str
    how: str  # setkey is told
    iv_octets: int = 0  # behind SPI and number, as the wire shows them
    version: int = 4
    is_of_socket: bool = False  # the policy of a's way out is a socket's, not of the SPD
    is_compressed: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        own, other = ENDS[self.version]
        return own.format(self.spi - 1000), other.format(self.spi - 1000)

    def keys(self) -> str:
        """Both directions; the way back has another SPI, and other keys."""
        own, other = self.ends
        back = re.sub(r"0x(\w+)", lambda key: f"0x{key[1][::-1]}", self.how)
        port = f"[{NATT_PORT}]" if self.proto == "esp-udp" else ""
        text = ""
        for src, dst, spi, how in (
            (own, other, self.spi, self.how), (other, own, self.spi + 1000, back),
        ):  # fmt: skip
            text += f"add {src}{port} {dst}{port} {self.proto} {spi} -r 64 {how};\n"
            if self.is_compressed:
                text += f"add {src} {dst} ipcomp {spi} -C deflate;\n"
        return text

    @property
    def steps(self) -> str:
        """The bundle of its policies."""
        proto = self.proto.partition("-")[0]
        return "ipcomp/transport//require " * self.is_compressed + f"{proto}/transport//require"

    def policies(self, is_own: bool) -> str:
        text = ""
        for ends, is_out in ((self.ends, is_own), (self.ends[::-1], not is_own)):
            if not (self.is_of_socket and is_own and is_out):
                way = "out" if is_out else "in"
                text += f"spdadd {ends[0]} {ends[1]} any -P {way} ipsec {self.steps};\n"
        return text


def key(first: int, octets: int) -> str:
    return f"0x{bytes(range(first, first + octets)).hex()}"


SHA1, SHA256 = f"-A hmac-sha1 0x{'11' * 20}", f"-A hmac-sha2-256 0x{'22' * 32}"
# the first has a stream of TCP, the others have datagrams
SAS = {
    way.spi: way
    for way in (
        Way(1001, "esp", f"-E aes-gcm-16 {key(0, 20)}", 8),
        Way(1002, "esp", f"-E aes-ctr {key(30, 20)} {SHA1}", 8),
        Way(1003, "esp", f"-E aes-cbc {key(60, 16)} {SHA256}", 16),
        Way(1004, "ah", f"-A aes-128-gmac {key(90, 20)}", 8),
        Way(1005, "ah", SHA256),
        Way(1006, "esp", f"-esn -E aes-ctr {key(7, 20)} {SHA1}", 8, version=6),
        Way(1007, "esp", f"-esn -E chacha20-poly1305 {key(110, 36)}", 8),
        Way(1008, "esp-udp", f"-E aes-gcm-16 {key(150, 20)}", 8),
        Way(1009, "ah", f"-esn {SHA1}", version=6),
        Way(1010, "esp", f"-E aes-ccm-16 {key(180, 19)}", 8, is_compressed=True),
        Way(1011, "esp", f"-E aes-gcm-16 {key(200, 20)}", 8, is_of_socket=True),
    )
}

# a stream of TCP to the first address, datagrams to the others, for as long as it may; of the
# last, the socket has a policy
SENDER = """
import contextlib, socket, sys, time
from pfkey import set_policy
policy, stream, port, *others = sys.argv[1:]
def datagrams(other):
    made = socket.socket(socket.AF_INET6 if ":" in other else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
plain = [(datagrams(other), other) for other in others]
set_policy(plain[-1][0], policy)
tcp = None
while True:
    for sock, other in plain:
        with contextlib.suppress(OSError):
            sock.sendto(bytes(200), (other, 9))
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
    return "".join(way.keys() for way in SAS.values())


def policies(*, is_own: bool) -> str:
    return "".join(way.policies(is_own) for way in SAS.values())


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
        if packet[0] >> 4 == 4:
            proto, body = packet[9], packet[20:]
            is_later = int.from_bytes(packet[6:8], "big") & 0x1FFF
        else:
            proto, body = packet[6], packet[40:]
            is_later = proto == 44
        if is_later:
            return  # the rest of a packet whose number was seen
        if proto == 17 and int.from_bytes(body[2:4], "big") == NATT_PORT:
            if len(body) == 9:
                return  # a keepalive
            proto, body = 50, body[8:]
        if proto not in (50, 51):
            self.clear += 1
            return
        head = body[:8] if proto == 50 else body[4:12]
        spi, number = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
        if spi not in self.numbers:
            return
        octets = SAS[spi].iv_octets
        iv = (body[8:] if proto == 50 else body[GMAC_IV])[:octets]
        if number in self.numbers[spi]:
            self.again.append((spi, "number", number))
        if iv and iv in self.ivs[spi]:
            self.again.append((spi, "IV", iv.hex()))
        self.numbers[spi].add(number)
        self.ivs[spi].add(iv)


class Site:
    """Two hosts with an address for each SA; a is struck, b only listens."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = (net.host(name, ipv6=True) for name in "ab")
        a_dev, self.b_dev = net.link(self.a, "10.1.1.1/32", self.b, "20.1.1.1/32")
        for side, (host, device) in enumerate(((self.a, a_dev), (self.b, self.b_dev))):
            host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0")
            for way in SAS.values():
                own, other = way.ends[side], way.ends[1 - side]
                bits = {4: "32", 6: "128"}[way.version]
                nodad = ("nodad",) if way.version == 6 else ()
                host.ip("addr", "replace", f"{own}/{bits}", "dev", device, *nodad)
                host.ip("route", "replace", f"{other}/{bits}", "dev", device, "src", own)
        file = tmp / "soak.conf"
        file.touch(0o600)
        file.write_text("flush; spdflush;\n" + keys() + policies(is_own=True))
        self.da = Daemon(self.a, tmp, "--load", str(file))
        self.db = Daemon(self.b, tmp)
        self.db.setkey(keys() + policies(is_own=False))

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        first, *rest = SAS.values()
        others = [way.ends[1] for way in rest]
        stream = (first.ends[1], str(TCP_PORT))
        sink = self.b.start(sys.executable, "-c", SINK, *stream, stderr=None)
        listeners = [udp_listener(self.b, other, 9) for other in others]
        policy = f"out ipsec {rest[-1].steps}"
        argv = (sys.executable, "-c", SENDER, policy, *stream, *others)
        sender = self.a.start(*argv, stderr=None)
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
    assert all(len(ivs) == len(wire.numbers[spi]) for spi, ivs in wire.ivs.items()
               if SAS[spi].iv_octets)  # fmt: skip
    for group in ("esp", "ah"):
        assert site.db.counter(group, "replay") == 0, "and the peer found none either"
    assert "internal error" not in site.da.log
