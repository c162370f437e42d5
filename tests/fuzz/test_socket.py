"""A hostile client against a running pfkeyd: 10,000 seeded mutations of real messages."""

import os
import random
import socket
from pathlib import Path

import pytest

from pfkey.const import MsgType
from tests.keyd.engine.test_hostile import MUTATIONS, SEEDS
from tests.support.shell import REGISTER, Process, ask, connect, control, drain, header, sent

RECORDS = 10_000
GROWTH_OCTETS = 10 << 20


def mutated(dice: random.Random) -> bytes:
    octets = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randrange(1, 5)):
        if len(octets) > 2:
            dice.choice(MUTATIONS)(dice, octets)
    return bytes(octets)


def wipe(sock: socket.socket) -> None:
    for kind in (MsgType.FLUSH, MsgType.X_SPDFLUSH):
        sent(sock, header(kind))
    drain(sock)


@pytest.mark.slow
def test_ten_thousand_mutations_leave_it_answering_and_lean(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "20261123"))
    dice = random.Random(seed)
    with Process(tmp_path) as daemon:
        sock = connect(daemon.socket)
        for _ in range(500):  # what any use allocates once
            sent(sock, mutated(dice))
        wipe(sock)
        before = daemon.resident_octets()
        for number in range(RECORDS):
            sent(sock, mutated(dice))
            if number % 50 == 0:
                drain(sock)
            if number % 1000 == 999:
                sock.close()
                sock = connect(daemon.socket)
        wipe(sock)
        sock.close()
        with connect(daemon.socket) as fresh:
            reply = ask(fresh, REGISTER)
            assert (reply[1], reply[2]) == (MsgType.REGISTER, 0), f"FUZZ_SEED={seed}"
        growth = daemon.resident_octets() - before
        assert growth < GROWTH_OCTETS, f"FUZZ_SEED={seed}: {growth} octets more"
        assert control(daemon.socket, "status")["result"]["requests"] > RECORDS
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log
        assert "internal error" not in daemon.log


@pytest.mark.slow
def test_a_log_at_debug_shows_no_key(tmp_path: Path) -> None:
    dice = random.Random(1)
    with Process(tmp_path, "--log-level", "debug") as daemon, connect(daemon.socket) as sock:
        for _ in range(1000):
            sent(sock, mutated(dice))
            drain(sock)
        assert daemon.stop() == 0
        for key in (bytes(range(1, 25)), bytes(range(100, 132))):  # the seeds' keys
            assert key.hex()[:16] not in daemon.log
            assert repr(key)[2:18] not in daemon.log


@pytest.mark.slow
def test_any_octets_on_the_control_socket_are_answered_or_ignored(tmp_path: Path) -> None:
    dice = random.Random(2)
    calls = [b'{"jsonrpc":"2.0","id":1,"method":"%s"}' % m for m in
             (b"status", b"counters", b"version", b"subscribe", b"log_level")]  # fmt: skip
    with Process(tmp_path) as daemon:
        with connect(Path(f"{daemon.socket}.ctl")) as sock:
            for _ in range(3000):
                octets = bytearray(dice.choice(calls))
                for _ in range(dice.randrange(4)):
                    octets[dice.randrange(len(octets))] = dice.randrange(256)
                sock.send(octets[: dice.randrange(1, len(octets) + 1)])
                drain(sock)
        assert control(daemon.socket, "version")["result"]
        assert daemon.stop() == 0
