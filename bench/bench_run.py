"""What system calls cost a program under `pfkey run`: the ratio to the same program without.

Prints one line of JSON. `ratio` has the calls that no program should notice, and `dd`, which copies
an octet at a time; `peek` (MSG_PEEK of any socket) goes by the supervisor. `pf_key` is a request
and its reply in microseconds, over a socket of `pfkey run` and over a plain connection to pfkeyd
(Python's, so an upper bound of what the hand-over can cost); with `+peek` the program looks for the
reply at once, as racoon does.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.shell import Process, connect, header
from tests.support.supervised import compile_client, words

ROUNDS = 7
COPIES = 300_000
DD = ["dd", "if=/dev/zero", "of=/dev/null", "bs=1", f"count={COPIES}"]
FREE = {"getppid": 300_000, "write+read": 100_000, "send+recv": 100_000, "socket+close": 50_000,
        "poll": 100_000}  # fmt: skip
SERVED = {"peek": 2000, "pf_key": 2000, "pf_key+peek": 1000}


def nanoseconds(command: list[str]) -> float:
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def copying(command: list[str]) -> float:
    """What dd says that one octet took, in nanoseconds."""
    said = subprocess.run(
        command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}
    ).stderr
    return float(said.split(b"copied, ")[1].split()[0]) * 1e9 / COPIES


def direct(daemon: Process, times: int) -> float:
    """A request and its reply over a connection of our own, in nanoseconds."""
    request = header(7, seq=1, pid=1)
    with connect(daemon.socket) as sock:
        sock.setblocking(True)
        began = time.perf_counter_ns()
        for _ in range(times):
            sock.send(request)
            sock.recv(65536)
        return (time.perf_counter_ns() - began) / times


def main() -> None:
    """Interleave the rounds, so that a busy machine disturbs all alike."""
    best: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        best[name] = min(value, best.get(name, value))

    with tempfile.TemporaryDirectory() as directory:
        client = compile_client(Path(directory))
        with Process(Path(directory)) as daemon:
            for _ in range(ROUNDS):
                for name, times in FREE.items():
                    command = [str(client), "time", name, str(times)]
                    note(f"{name} plain", nanoseconds(command))
                    note(name, nanoseconds(words(daemon.socket, *command)))
                note("dd plain", copying(DD))
                note("dd", copying(words(daemon.socket, *DD)))
                for name, times in SERVED.items():
                    note(name, nanoseconds(words(daemon.socket, client, "time", name, str(times))))
                note("peek plain", nanoseconds([str(client), "time", "peek", "50000"]))
                note("direct", direct(daemon, SERVED["pf_key"]))
            daemon.stop()
    result = {
        "bench": "run",
        "python": sys.version.split()[0],
        "ratio": {name: round(best[name] / best[f"{name} plain"], 3) for name in (*FREE, "dd")},
        "nanoseconds": {name: round(best[name]) for name in (*FREE, "dd")},
        "microseconds": {
            "peek": round(best["peek"] / 1000, 1),
            "peek_plain": round(best["peek plain"] / 1000, 2),
            "pf_key": round(best["pf_key"] / 1000, 1),
            "pf_key_direct": round(best["direct"] / 1000, 1),
            "pf_key_peek": round(best["pf_key+peek"] / 1000, 1),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
