"""ESP in UDP beside plain ESP: TCP between two hosts, and what handing over to the kernel costs.

Prints one line of JSON. `rate`: megabytes a second of one TCP connection in transport mode with
aes-gcm-16, medians of rounds that take turns, and how ESP in UDP compares (`udp_to_esp`, of the
median round). `cpu`: the same for the processor time that the workers of both hosts spend on a
megabyte, in milliseconds, which a busy machine changes less. `hand_over`: microseconds a datagram
of 1452 octets over a loopback with an MTU of 1500, 44 at a time, best of rounds in turns: `raw` is
how the workers do it (whole packets by sendmmsg, copies by recvmmsg of a raw socket), `segmented`
is one datagram cut by the kernel (UDP_SEGMENT) and joined by it (UDP_GRO). Needs root; makes its
own network namespaces.
"""

import array
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keyd.shell.batches import Receiver, Sender
from pfkey.control import control_call
from pfkey.lab.hosts import Host, Net

ROUNDS = 9
OCTETS = 64 << 20
A, B = "10.1.1.1", "20.1.1.1"
BIN = Path(sys.executable).parent
KEY = "0x" + "5a" * 20
KINDS = {"esp": "", "udp": "-udp"}

BURSTS, BURST, DATAGRAM = 300, 44, 1452
_UDP_SEGMENT, _UDP_GRO, _SO_RCVBUFFORCE = 103, 104, 33
_TURN = 8  # bursts before what was sent is read

RECEIVE = """
import socket, sys, time
with socket.create_server((sys.argv[1], 5001)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        room = bytearray(1 << 20)
        count, began = 0, time.monotonic()
        while octets := connection.recv_into(room):
            count += octets
        print(count / 1e6 / (time.monotonic() - began), flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5001)) as link:
    block = bytes(1 << 20)
    for _ in range(int(sys.argv[2]) >> 20):
        link.sendall(block)
"""


def keys(kind: str) -> str:
    """Both directions as plain ESP or in UDP, the policies being the same."""
    port = "[4500]" if kind == "udp" else ""
    found = "flush;\n"
    for n, (src, dst) in enumerate(((A, B), (B, A)), 256 if kind == "esp" else 512):
        found += f"add {src}{port} {dst}{port} esp{KINDS[kind]} {n} -r 64 -E aes-gcm-16 {KEY};\n"
    return found


@contextmanager
def daemon(host: Host, log: Path) -> Iterator[None]:
    """A pfkeyd in a host, ready."""
    with log.open("w") as out:
        process = host.start(str(BIN / "pfkeyd"), "--no-load", stdout=out, stderr=out)
    while "ready socket=" not in log.read_text():
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.02)
    yield
    host.stop(process)


def setkey(host: Host, text: str) -> None:
    """Feed setkey in a host."""
    host.run(str(BIN / "setkey"), "-f", "-", stdin=text)


def workers(host: Host) -> list[int]:
    """The process ids of a host's data path."""
    status = control_call(Path(f"/run/pfkey/{host.inode}.sock"), "status")
    return [worker["pid"] for worker in status["workers"]]


def spent(pids: list[int]) -> float:
    """Milliseconds of processor time of these processes."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    ticks = sum(int(one[11]) + int(one[12]) for one in stats)
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def rates() -> dict[str, dict[str, object]]:
    """TCP from one host to the other, in turns: how fast, and how much work that is."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    work: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with Net() as net, tempfile.TemporaryDirectory() as tmp:
        a, b = net.host("a"), net.host("b")
        net.link(a, f"{A}/32", b, f"{B}/32")
        with daemon(a, Path(tmp, "a")), daemon(b, Path(tmp, "b")):
            for host, (own, other) in ((a, (A, B)), (b, (B, A))):
                request = "ipsec esp/transport//require"
                setkey(host, f"spdadd {own} {other} tcp -P out {request};"
                             f"spdadd {other} {own} tcp -P in {request};")  # fmt: skip
            receiver = b.start(sys.executable, "-c", RECEIVE, B, stdout=subprocess.PIPE)
            assert receiver.stdout is not None
            receiver.stdout.readline()
            pids = workers(a) + workers(b)
            for _ in range(ROUNDS):
                for kind, rate in found.items():
                    for host in (a, b):
                        setkey(host, keys(kind))
                    before = spent(pids)
                    a.run(sys.executable, "-c", SEND, B, str(OCTETS))
                    rate.append(float(receiver.stdout.readline()))
                    work[kind].append((spent(pids) - before) * 1e6 / OCTETS)
            b.stop(receiver)
    return {
        "rate": {"unit": "megabytes a second", **compared(found)},
        "cpu": {"unit": "milliseconds a megabyte", **compared(work)},
    }


def compared(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians, and that of the rounds' ratios."""
    ratio = statistics.median(u / e for u, e in zip(found["udp"], found["esp"], strict=True))
    medians = {kind: round(statistics.median(values), 1) for kind, values in found.items()}
    return {**medians, "udp_to_esp": round(ratio, 2)}


class Raw:
    """As the workers do it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._sender, self._receiver = Sender(self._socket), Receiver(self._socket)
        own = socket.inet_aton("127.0.0.1")
        octets = 28 + DATAGRAM
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, octets, 0, 0x4000, 64, 17, 0, own, own)
        head += struct.pack("!HHHH", 4500, 4500, 8 + DATAGRAM, 0)
        self._packets = [head + bytes(DATAGRAM)] * BURST

    def send(self) -> None:
        """One burst."""
        assert not list(self._sender.send(self._packets))

    def receive(self) -> int:
        """Datagrams that were there."""
        return len(self._receiver.receive())

    def close(self) -> None:
        """Both ends."""
        self._socket.close()


class Segmented:
    """By the kernel's help."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 4501))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._socket.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        self._socket.setblocking(False)
        size = array.array("H", [DATAGRAM]).tobytes()
        self._control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)]
        self._octets = [bytes(DATAGRAM)] * BURST

    def send(self) -> None:
        """One burst."""
        self._socket.sendmsg(self._octets, self._control, 0, ("127.0.0.1", 4501))

    def receive(self) -> int:
        """Datagrams that were there, each by itself again."""
        try:
            octets, control, _, _ = self._socket.recvmsg(65536, 64)
        except BlockingIOError:
            return 0
        size = int.from_bytes(control[0][2][:4], sys.byteorder) if control else len(octets)
        return len([octets[at : at + size] for at in range(0, len(octets), size)])

    def close(self) -> None:
        """Both ends."""
        self._socket.close()


def hand_over() -> dict[str, dict[str, float]]:
    """Sending and receiving in turns, best of all rounds; to be called in a namespace."""
    best: dict[str, dict[str, float]] = {}
    # somebody must have the port, or the kernel answers each datagram; it reads nothing
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 4500))
        for _ in range(ROUNDS):
            for name, make in (("raw", Raw), ("segmented", Segmented)):
                side: Raw | Segmented = make()
                took = {"send": 0.0, "receive": 0.0}
                for _ in range(BURSTS // _TURN):
                    began = time.perf_counter()
                    for _ in range(_TURN):
                        side.send()
                    sent = time.perf_counter()
                    got = 0
                    while more := side.receive():
                        got += more
                    took["send"] += sent - began
                    took["receive"] += time.perf_counter() - sent
                    assert got == _TURN * BURST, f"{name}: {got} of {_TURN * BURST} arrived"
                side.close()
                known = best.setdefault(name, {})
                for what, seconds in took.items():
                    each = round(seconds * 1e6 / (BURSTS // _TURN * _TURN * BURST), 2)
                    known[what] = min(each, known.get(what, each))
    return best


def main() -> None:
    """Everything; with an argument, only the part that runs within a namespace."""
    if len(sys.argv) > 1:
        print(json.dumps(hand_over()))
        return
    with Net() as net:
        host = net.host("c")
        host.ip("link", "set", "lo", "mtu", "1500", "up")
        handed = json.loads(host.run(sys.executable, __file__, "hand-over").stdout)
    result = {
        "bench": "encap",
        "python": sys.version.split()[0],
        **rates(),
        "hand_over": {"unit": "microseconds a datagram", **handed},
    }
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
