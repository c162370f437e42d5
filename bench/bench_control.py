"""How fast pfkeyd answers over PF_KEY, beside a plain echo over the same kind of socket.

Prints one line of JSON. `alone` and `saturated` (a spinning process on every core): microseconds
from a typed request of `pfkey.Client` to its typed reply, percentiles of all rounds, and those of
an echo that a Python loop gives over a SOCK_SEQPACKET socket; echo and requests take turns in
rounds, so that a busy machine disturbs both alike. `ratio` is request to echo, the median. Under
`plain` who asks is scheduled as any program, under `rr` it has SCHED_RR, as pfkeyd gives itself
where it may; the echo has not. `rate`: messages a second with many requests under way (`in`: ADD
and its reply), and out of a dump, as octets (`out`) and as entries (`out_entries`).
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pfkey import requests
from pfkey.blocking import Client
from pfkey.const import Mode, MsgType, SaType
from pfkey.entries import SadEntry
from pfkey.requests import authenticator, cipher

ROUNDS = 40
SETS = 25  # in a round
WINDOW = 64  # requests under way at once
SAS = 20_000
A, B = "10.1.1.1", "20.1.1.1"
ECHO = """
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
link, _ = listener.accept()
while octets := link.recv(65536):
    link.send(octets)
"""
SPIN = "while True: pass"
Timed = dict[str, list[float]]


def entry(spi: int) -> SadEntry:
    return SadEntry(
        satype=SaType.ESP, src=A, dst=B, spi=spi, mode=Mode.TRANSPORT, replay=32,
        encrypt=cipher("aes-cbc"), encrypt_key=bytes(16), auth=authenticator("hmac-sha256"),
        auth_key=bytes(32),
    )  # fmt: skip


@contextmanager
def running(*argv: str, until: Callable[[], object]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, *argv], stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as process:  # fmt: skip
        while not until():
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.terminate()


@contextmanager
def real_time() -> Iterator[None]:
    """SCHED_RR for this process, not for those that it starts."""
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def saturated() -> Iterator[None]:
    """A spinning process on every core."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def timed(times: Timed, name: str, call: Callable[[], object]) -> None:
    began = time.perf_counter()
    call()
    times.setdefault(name, []).append((time.perf_counter() - began) * 1e6)


def conversation(engine: Client, echo: socket.socket) -> Timed:
    """What a key manager asks, and as many echoes; each round ends all its SAs."""
    times: Timed = {}
    octets = requests.sa(MsgType.ADD, entry(0x1000)).encode()

    def both() -> object:
        echo.send(octets)
        return echo.recv(65536)

    for _ in range(ROUNDS):
        for _ in range(SETS):
            timed(times, "echo", both)
        for number in range(SETS):
            sa = entry(0x1000 + number)
            timed(times, "register", partial(engine.register, SaType.UNSPEC))
            began = time.perf_counter()
            spi = engine.getspi(SaType.ESP, A, B, spis=(0x10000, 0xFFFFFF)).spi
            times.setdefault("getspi", []).append((time.perf_counter() - began) * 1e6)
            timed(times, "update", partial(engine.update, entry(spi)))
            timed(times, "add", partial(engine.add, sa))
            timed(times, "get", partial(engine.get, SaType.ESP, A, B, sa.spi))
        engine.flush()
    return times


def summary(times: Timed) -> dict[str, object]:
    def percentiles(found: list[float]) -> dict[str, float]:
        cuts = statistics.quantiles(found, n=1000)
        return {"p50": round(cuts[499]), "p99": round(cuts[989]), "p99.9": round(cuts[998])}

    echo = statistics.median(times["echo"])
    ratios = {n: round(statistics.median(t) / echo, 2) for n, t in times.items() if n != "echo"}
    return {**{n: percentiles(t) for n, t in times.items()}, "ratio": ratios}


def rates(engine: Client) -> dict[str, int]:
    """Messages a second."""
    link = engine._socket  # octet by octet, past the client
    link.setblocking(True)
    records = [requests.sa(MsgType.ADD, entry(0x1000 + n)).encode() for n in range(SAS)]
    began = time.perf_counter()
    for number, record in enumerate(records):
        link.send(record)
        if number >= WINDOW:
            link.recv(65536)
    for _ in range(min(WINDOW, SAS)):
        link.recv(65536)
    into = SAS / (time.perf_counter() - began)
    link.send(requests.dump().encode())
    began = time.perf_counter()
    count = 1
    while link.recv(65536)[8:12] != bytes(4):  # sadb_msg_seq
        count += 1
    out = count / (time.perf_counter() - began)
    began = time.perf_counter()
    assert sum(1 for _ in engine.dump()) == count == SAS
    entries = SAS / (time.perf_counter() - began)
    engine.flush()
    return {"in": round(into), "out": round(out), "out_entries": round(entries)}


def measured(engine: Client, echo: socket.socket) -> dict[str, object]:
    """All of it, as things are now."""
    plain = summary(conversation(engine, echo))
    with real_time():
        raised = summary(conversation(engine, echo))
    return {"plain": plain, "rr": raised, "rate": rates(engine)}


def main() -> None:
    """Measure alone, then saturated."""
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "s", Path(folder) / "echo"
        daemon = ("-m", "keyd.shell.main", "--no-dataplane", "--socket", str(path))
        with (
            running(*daemon, until=path.exists),
            running("-c", ECHO, str(plain), until=plain.exists),
            Client(path, wait=10, timeout=60) as engine,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as echo,
        ):
            echo.connect(str(plain))
            conversation(engine, echo)  # what any use costs once
            alone = measured(engine, echo)
            with saturated():
                busy = measured(engine, echo)
    result = {
        "bench": "control",
        "unit": "microseconds; messages a second",
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "requests": ROUNDS * SETS,
        "alone": alone,
        "saturated": busy,
    }
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
