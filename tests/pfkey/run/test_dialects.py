"""`pfkey run --dialect`: programs that were built for another system's PF_KEY."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.const import MsgType, SaType
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.message import Message
from pfkey.run.daemons import RETRY_SECONDS
from pfkey.run.held import PATIENCE_SECONDS, Held
from pfkey.transport import dialect_path
from tests.pfkey.run.test_restart import Side, end_of, kill
from tests.support.shell import Process, ask, connect
from tests.support.supervised import BIN

pytestmark = pytest.mark.root

ASK = """
import socket, sys
with socket.socket(15, socket.SOCK_RAW, 2) as sock:
    sock.send(bytes.fromhex(sys.argv[1]))
    print(sock.recv(65536).hex())
"""
every = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)


def register(dialect: Dialect) -> bytes:
    message = Message(type=MsgType.REGISTER, satype=SaType.ESP, seq=1, pid=7)
    return message.encode(dialect)


def run(daemon: Process, *words: str) -> subprocess.CompletedProcess[str]:
    """`pfkey run` to its end."""
    command = [str(BIN / "pfkey"), "run", "--socket", str(daemon.socket), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@every
def test_a_program_speaks_the_dialect_that_it_was_built_for(
    daemon: Process, dialect: Dialect
) -> None:
    given = ["--dialect", dialect.name] if dialect is not LINUX else []
    done = run(daemon, *given, "--", sys.executable, "-c", ASK, register(dialect).hex())
    assert done.stderr == ""
    with connect(dialect_path(daemon.socket, dialect)) as sock:
        assert bytes.fromhex(done.stdout) == ask(sock, register(dialect))


def test_a_dialect_that_is_none_runs_nothing(daemon: Process) -> None:
    done = run(daemon, "--dialect", "plan9", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "plan9" in done.stderr


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    made = Side(tmp_path / "s")
    yield made
    made.close()


@every
def test_a_successor_and_its_absence_are_told_in_the_dialect(
    tmp_path: Path, side: Side, dialect: Dialect
) -> None:
    held = Held(blocking=True, dialect=dialect)
    with Process(tmp_path) as first:
        side.hall.admit(held, side.errors.append)
        side.until_served(held)
        now = side.lose(first)
    program = end_of(held)
    program.send(register(dialect))
    side.daemon.tend(now + PATIENCE_SECONDS)
    side.watch.wait(0)
    refused = Message.decode(program.recv(65536), dialect)
    assert (refused.type, refused.errno, refused.seq) == (MsgType.REGISTER, errno.ENETDOWN, 1)

    with Process(tmp_path) as second:
        side.daemon.tend(now + PATIENCE_SECONDS + RETRY_SECONDS)
        side.until_served(held)
        told = [MsgType.FLUSH, *([MsgType.X_SPDFLUSH] if dialect.has_policies else [])]
        for kind in told:
            notice = Message.decode(program.recv(65536), dialect)
            assert (notice.type, notice.errno, notice.pid) == (kind, 0, 0)
        program.send(register(dialect))
        answer = Message.decode(program.recv(65536), dialect)
        assert (answer.type, answer.errno, answer.satype) == (MsgType.REGISTER, 0, SaType.ESP)
        program.close()
        side.close()
        kill(second)
