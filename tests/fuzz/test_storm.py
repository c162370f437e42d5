"""Storms of connections, halves of records and clients that never read: what is left of them."""

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.const import MsgType
from tests.keyd.shell.test_serve import add
from tests.support.shell import REGISTER, Process, ask, connect, control, drain, header, sent

ROUNDS = 12
AT_ONCE = 120
DEAF = 200
NOTICES = 300
GROWTH_OCTETS = 8 << 20
CALL = b'{"jsonrpc":"2.0","id":1,"method":"status"}'


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    with Process(tmp_path) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log
        assert "internal error" not in running.log


def descriptors(daemon: Process) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def clients(daemon: Process) -> int:
    found: int = control(daemon.socket, "status")["result"]["clients"]
    return found


def rude(dice: random.Random, path: Path) -> None:
    """One who says something, or nothing, or half of it, and goes without listening."""
    with connect(path) as sock:
        octets = dice.choice((REGISTER, header(MsgType.DUMP), add(dice.randrange(99)), CALL))
        match dice.randrange(5):
            case 0:
                return
            case 1:
                sock.send(octets[: dice.randrange(1, len(octets))])
            case 2:
                sock.send(octets)
                sock.shutdown(dice.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)))
            case 3:
                for _ in range(10):
                    with contextlib.suppress(OSError):
                        sock.send(octets, socket.MSG_DONTWAIT)
            case _:
                sock.send(octets)


def storm(dice: random.Random, daemon: Process) -> None:
    paths = (daemon.socket, Path(f"{daemon.socket}.ctl"))
    for _ in range(AT_ONCE):
        rude(dice, dice.choice(paths))
    with contextlib.ExitStack() as stack:
        for _ in range(AT_ONCE):
            stack.enter_context(connect(dice.choice(paths)))
    daemon.until(lambda: clients(daemon) == 0)


@pytest.mark.slow
def test_storms_leave_no_descriptor_and_no_memory_behind(daemon: Process) -> None:
    dice = random.Random(7)
    for _ in range(3):  # what any use allocates once
        storm(dice, daemon)
    before, memory = descriptors(daemon), daemon.resident_octets()
    for _ in range(ROUNDS):
        storm(dice, daemon)
        with connect(daemon.socket) as sock:
            assert ask(sock, REGISTER)[2] == 0
    daemon.until(lambda: clients(daemon) == 0)
    daemon.until(lambda: descriptors(daemon) <= before)
    assert daemon.resident_octets() - memory < GROWTH_OCTETS


@pytest.mark.slow
def test_memory_is_bounded_while_hundreds_never_read(daemon: Process) -> None:
    """What they are told is in the kernel's queues, of a bounded size, or dropped."""
    with connect(daemon.socket) as talker, contextlib.ExitStack() as stack:
        for number in range(NOTICES):  # as many again will be told to all
            sent(talker, add(number))
        sent(talker, header(MsgType.FLUSH))
        drain(talker)
        deaf = [stack.enter_context(connect(daemon.socket)) for _ in range(DEAF)]
        for sock in deaf:
            sent(sock, REGISTER)
        memory = daemon.resident_octets()
        for number in range(NOTICES):
            sent(talker, add(number))
            drain(talker)
        for sock in deaf:
            sent(sock, header(MsgType.DUMP))
        assert daemon.resident_octets() - memory < GROWTH_OCTETS
        assert ask(talker, REGISTER)[1] == MsgType.REGISTER
        heard = [len(drain(sock)) for sock in deaf[:5]]
        assert min(heard) > NOTICES, "the queue of each holds that much"


@pytest.mark.slow
def test_a_queue_that_is_full_drops_what_it_is_told_and_counts_it(daemon: Process) -> None:
    """One that is told more than its queue holds: 8 MiB, which the kernel counts in full."""
    with connect(daemon.socket) as deaf, connect(daemon.socket) as talker:
        sent(deaf, header(MsgType.X_PROMISC, satype=1))
        before = daemon.resident_octets()
        record = add(1)
        while not control(daemon.socket, "status")["result"]["records_dropped"]:
            for _ in range(1000):
                sent(talker, record)
            drain(talker)
        assert daemon.resident_octets() - before < GROWTH_OCTETS
        assert len(drain(deaf)) > 5000
        assert ask(talker, REGISTER)[1] == MsgType.REGISTER
