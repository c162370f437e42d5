"""A hundred thousand SAs and ten thousand policies: memory, rates, and what others feel of it.

Prints one line of JSON. `load`: ADD and SPDADD with 64 under way, messages a second, and resident
octets for each entry; `echo` is a Python loop that answers the same octets over the same kind of
socket, with as many under way, and `times_echo` how much longer an ADD takes. `dump`, `flush`:
seconds and records a second. `slow_reader`: another process reads a dump of all SAs, a few
records at a time; `missing` is what it did not get, and GETs of another client are timed
meanwhile (`during`) and without a dump (`before`), in microseconds, by a client under SCHED_RR.
`setkey_n`: seconds to read a file of 20,000 lines. `no_dataplane`: seconds to start with that file,
to load it again as it is, to load it again with other keys and levels throughout (`…_silent`: for
how long control answered nobody meanwhile, at worst), and for setkey to send it to a pfkeyd;
`…_cpu`: processor time of the control process, which a busy machine changes less. As root,
`dataplane` is the same with nft and packet workers, in a network namespace of its own.

`bench_scale.py SAS POLICIES` takes other numbers.
"""

import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench_control import ECHO, WINDOW, entry, real_time, running

from pfkey import requests
from pfkey.blocking import Client
from pfkey.const import MsgType, SaType
from pfkey.control import control_call
from pfkey.errors import PfkeyError
from pfkey.lab.hosts import Net
from pfkey.setkey import grammar, messages

ROUNDS = 2000  # GETs of each kind
NAP_SECONDS = 0.002
AT_ONCE = 64  # records between two naps
HERE = "10.0.0.1"
BIN = Path(sys.executable).parent
SLOW = f"""
import socket, sys, time
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect(sys.argv[1])
link.send(bytes.fromhex(sys.argv[2]))
count = 0
while True:
    record = link.recv(65536)
    count += 1
    if record[8:12] == bytes(4):
        break
    if count % {AT_ONCE} == 0:
        time.sleep({NAP_SECONDS})
print(count)
"""


def there(number: int) -> str:
    """An address for each."""
    return f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def lines(sas: int, policies: int, first: int = 0) -> str:
    """A file of setkey's; `first` makes another of it, entry by entry."""
    keys = [
        f"add {HERE} {there(n)} esp {0x1000 + n} -E aes-cbc 0x{first + n:032x}"
        f" -A hmac-sha2-256 0x{first + n:064x};"
        for n in range(sas)
    ]
    words = ["use", "require"][bool(first)]
    rules = [
        f"spdadd {HERE} {there(n)} any -P out ipsec esp/transport//{words};"
        for n in range(policies)
    ]
    return "\n".join(["flush;", "spdflush;", *keys, *rules, ""])


def resident(pid: int) -> int:
    """Octets."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def pushed(link: socket.socket, records: Sequence[bytes]) -> float:
    """Messages a second, each answered by one."""
    began = time.perf_counter()
    for number, record in enumerate(records):
        link.send(record)
        if number >= WINDOW:
            assert link.recv(65536)[2] == 0, "refused"
    for _ in range(min(WINDOW, len(records))):
        assert link.recv(65536)[2] == 0, "refused"
    return len(records) / (time.perf_counter() - began)


def read(link: socket.socket, kind: int) -> int:
    """How many records a dump has."""
    link.send(requests.bare(MsgType(kind)).encode())
    count = 1
    while link.recv(65536)[8:12] != bytes(4):
        count += 1
    return count


def latency(engine: Client, until: Callable[[int], bool]) -> dict[str, float]:
    """Of GETs, in microseconds."""
    found: list[float] = []
    while until(len(found)):
        spi = 0x1000 + len(found) % 1000
        began = time.perf_counter()
        engine.get(SaType.ESP, "10.1.1.1", "20.1.1.1", spi)
        found.append((time.perf_counter() - began) * 1e6)
    cuts = statistics.quantiles(found, n=1000)
    return {
        "count": len(found), "p50": round(cuts[499]), "p99": round(cuts[989]),
        "p99.9": round(cuts[998]), "max": round(max(found)),
    }  # fmt: skip


def databases(path: Path, pid: int, echo: Path, sas: int, policies: int) -> dict[str, object]:
    """Load, dump, a slow reader, flush."""
    adds = [requests.sa(MsgType.ADD, entry(0x1000 + n)).encode() for n in range(sas)]
    found, faults = grammar.parse(lines(0, policies))
    assert not faults
    rules = [m.encode() for s in found[2:] for m in messages.of_statement(s, os.getpid())]
    with Client(path, timeout=60) as engine, ExitStack() as stack:
        plain = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        plain.connect(str(echo))
        link = engine._socket  # octet by octet, past the client
        link.setblocking(True)
        pushed(link, adds[:500])  # what any use costs once
        engine.flush()
        small = resident(pid)
        echoed = pushed(plain, adds[:20_000])
        in_sas = pushed(link, adds)
        of_sas = resident(pid) - small
        in_policies = pushed(link, rules)
        of_policies = resident(pid) - small - of_sas
        dumps = [timed(lambda: read(link, MsgType.DUMP)), timed(lambda: read(link, 18))]
        with real_time():
            before = latency(engine, lambda count: count < ROUNDS)
        asked = requests.dump().encode().hex()
        with subprocess.Popen(
            [sys.executable, "-c", SLOW, path, asked], stdout=subprocess.PIPE, text=True
        ) as reader:
            with real_time():  # as pfkeyd itself: else others' work is what is measured
                during = latency(engine, lambda _: reader.poll() is None)
            got = int(reader.stdout.read()) if reader.stdout else 0
        flushes = [timed(engine.flush), timed(engine.spdflush)]
    return {
        "load": {
            "sas_per_second": round(in_sas), "policies_per_second": round(in_policies),
            "octets_per_sa": round(of_sas / sas),
            "octets_per_policy": round(of_policies / policies),
            "echo": round(echoed), "times_echo": round(echoed / in_sas, 1),
        },
        "dump": {
            "seconds": round(sum(dumps), 2), "sas_per_second": round(sas / dumps[0]),
            "policies_per_second": round(policies / dumps[1]),
        },
        "slow_reader": {
            "missing": sas - got, "before": before, "during": during,
            "ratio_p50": round(during["p50"] / before["p50"], 2),
        },
        "flush": {"sas_seconds": round(flushes[0], 2), "policies_seconds": round(flushes[1], 2)},
    }  # fmt: skip


@contextmanager
def daemon(enter: Sequence[str], path: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """pfkeyd, once it answers."""
    argv = [*enter, str(BIN / "pfkeyd"), "--socket", str(path), *options]
    log = path.with_suffix(".log").open("w")
    with log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        while not answers(path):
            assert process.poll() is None, path.with_suffix(".log").read_text()
            time.sleep(0.01)
        yield process
        process.terminate()


def answers(path: Path) -> bool:
    """Whether control does."""
    try:
        return bool(control_call(path, "version"))
    except PfkeyError:
        return False


def cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def loaded(path: Path) -> int:
    """How often it has said so."""
    return path.with_suffix(".log").read_text().count("info loaded file=")


def files(enter: Sequence[str], folder: Path, text: str, *options: str) -> dict[str, float]:
    """A file at the start, loaded again, changed and loaded again, and fed to setkey."""
    path, file = folder / "files", folder / "ipsec.conf"
    file.write_text(text)
    file.chmod(0o600)
    found: dict[str, float] = {}
    began = time.perf_counter()
    with daemon(enter, path, *options, "--load", str(file)) as process:
        found["start"] = round(time.perf_counter() - began, 2)
        found["start_cpu"] = cpu(process.pid)
        for name in ("same_again", "all_changed"):
            if name == "all_changed":
                file.write_text(text.replace("0x0", "0x1").replace("//use", "//require"))
            before, began, worst = loaded(path), time.perf_counter(), 0.0
            spent = cpu(process.pid)
            process.send_signal(signal.SIGHUP)
            while loaded(path) == before:
                worst = max(worst, timed(lambda: control_call(path, "version")))
                time.sleep(0.01)
            found[name] = round(time.perf_counter() - began, 2)
            found[f"{name}_cpu"] = round(cpu(process.pid) - spent, 2)
            found[f"{name}_silent"] = round(worst, 2)
    with daemon(enter, path, *options, "--no-load") as process:
        fed = [*enter, str(BIN / "setkey"), "--socket", str(path), "-f", str(file)]
        spent = cpu(process.pid)
        found["setkey"] = round(timed(lambda: subprocess.run(fed, check=True)), 2)
        found["setkey_cpu"] = round(cpu(process.pid) - spent, 2)
    return found


def main() -> None:
    """Measure; about a minute."""
    sas, policies = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (100_000, 10_000)
    text = lines(min(sas, 10_000), policies)
    result: dict[str, object] = {
        "bench": "scale", "python": sys.version.split()[0], "cores": os.cpu_count(),
        "sas": sas, "policies": policies,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, echo = folder / "s", folder / "echo"
        plain = ("--no-dataplane", "--no-load")
        with (
            daemon((), path, *plain) as process,
            running("-c", ECHO, str(echo), until=echo.exists),
        ):
            result |= databases(path, process.pid, echo, sas, policies)
        (folder / "n").write_text(text)
        reads = timed(
            lambda: subprocess.run([BIN / "setkey", "-n", "-f", folder / "n"], check=True)
        )
        result["file_lines"] = text.count("\n")
        result["setkey_n"] = round(reads, 2)
        result["no_dataplane"] = files((), folder, text, "--no-dataplane")
        if os.geteuid() == 0:
            with Net() as net:
                host, other = net.host("a"), net.host("b")
                net.link(host, f"{HERE}/8", other, "10.255.0.1/8")
                result["dataplane"] = files(host.enter, folder, text)
    print(json.dumps(result))  # one line, for `make bench`


if __name__ == "__main__":
    main()
