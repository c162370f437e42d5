"""pfkeyd killed and started again under a running program: no end, no signal, no spinning."""

import errno
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfkey.const import ExtType, MsgType
from pfkey.ext_x_word import Word
from pfkey.message import Message
from pfkey.run.daemons import RETRY_SECONDS, Daemon
from pfkey.run.filter import SHORT_POLL_MS
from pfkey.run.held import PATIENCE_SECONDS, Hall, Held
from pfkey.run.supervisor import WAIT_SECONDS
from pfkey.run.watch import Watch
from tests.support.shell import HEADER, REGISTER, Process, connect, control, header, sent
from tests.support.supervised import Program, is_looking
from tests.support.system import until


def kill(daemon: Process) -> None:
    daemon.signal(signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL
    daemon.log_path.unlink()  # its successor's begins anew


def registered(daemon: Process) -> int:
    count: int = control(daemon.socket, "status")["result"]["registered"]
    return count


@pytest.mark.root
def test_a_program_is_registered_again_and_told_of_the_flush(tmp_path: Path, client: Path) -> None:
    with Process(tmp_path) as first, Program(first.socket, client, "listen") as program:
        assert program.line() == f"type {MsgType.REGISTER} errno 0 pid 1"
        kill(first)
        with Process(tmp_path) as second:
            assert program.line() == f"type {MsgType.FLUSH} errno 0 pid 0"
            assert program.line() == f"type {MsgType.X_SPDFLUSH} errno 0 pid 0"
            until(lambda: registered(second) == 1)
            with connect(second.socket) as other:
                sent(other, REGISTER)  # all that are registered hear the answer
            assert program.line() == f"type {MsgType.REGISTER} errno 0 pid 0"
            program.kill()
            until(lambda: registered(second) == 0)
            assert second.stop() == 0


@pytest.mark.root
def test_a_request_made_meanwhile_is_answered_by_the_successor(
    tmp_path: Path, client: Path
) -> None:
    with Process(tmp_path) as first, Program(first.socket, client, "asks") as program:
        assert program.stdin is not None
        assert program.line() == "ready"
        program.tell()
        assert program.line() == "errno 0"
        kill(first)
        program.tell()
        with Process(tmp_path) as second:
            assert program.line() == "errno 0"
            program.stdin.close()
            assert program.wait(10) == 0
            assert second.stop() == 0


@pytest.mark.root
def test_a_stopped_pfkeyd_makes_nobody_spin(tmp_path: Path, client: Path) -> None:
    """The program sleeps in recv(2) and never reads an end."""
    with Process(tmp_path) as first, Program(first.socket, client, "listen") as program:
        assert program.line().startswith(f"type {MsgType.REGISTER}")
        assert first.stop() == 0
        until(lambda: is_looking(program.pid))
        assert program.stdout is not None
        assert not select.select([program.stdout], [], [], 0)[0]
        assert program.poll() is None


def end_of(held: Held) -> socket.socket:
    """What the program would have, with some patience."""
    program = held.theirs.dup()
    program.settimeout(10)
    return program


def refuses(held: Held) -> int:
    return held.errno


def has_asked(held: Held) -> bool:
    return held.is_waiting


class Side:
    """The supervisor's side, in this process, with a clock of our own."""

    def __init__(self, path: Path) -> None:
        self.watch = Watch()
        self.daemon = Daemon(path, self.watch)
        self.hall = Hall(self.daemon, self.watch)
        self.errors: list[int] = []

    def admit(self) -> Held:
        """A socket that is not served yet."""
        held = Held(blocking=True)
        self.hall.admit(held, self.errors.append)
        return held

    def until(self, claim: Callable[[], object]) -> None:
        """Handle what comes until something has come true."""

        def settled() -> object:
            self.watch.wait(0.01)
            return claim()

        until(settled)

    def until_served(self, *sockets: Held) -> None:
        """pfkeyd has answered for all of them."""
        self.until(lambda: all(held.client for held in sockets))

    def lose(self, pfkeyd: Process) -> float:
        """Kill it, and notice; when that was."""
        kill(pfkeyd)
        self.until(lambda: not self.daemon.is_here)
        return self.daemon.lost_at

    def close(self) -> None:
        """As a supervisor that is killed."""
        for held in tuple(self.hall.held):
            self.hall.forget(held)
        self.daemon.close()


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    made = Side(tmp_path / "s")
    yield made
    made.close()


def test_without_a_successor_requests_are_refused_after_a_while(tmp_path: Path, side: Side) -> None:
    with Process(tmp_path) as first:
        held = side.admit()
        side.until_served(held)
        now = began = side.lose(first)
    program = end_of(held)
    program.send(REGISTER)
    assert has_asked(held)
    while now < began + PATIENCE_SECONDS:
        assert side.daemon.deadline is not None
        side.daemon.tend(now)
        side.watch.wait(0)
        assert refuses(held) == 0
        now += RETRY_SECONDS
    side.daemon.tend(now)
    assert refuses(held) == errno.ENETDOWN
    side.watch.wait(0)
    version, kind, code, satype, words, _, seq, pid = HEADER.unpack(program.recv(65536))
    assert (version, kind, code) == (2, MsgType.REGISTER, errno.ENETDOWN)
    assert (satype, words, seq, pid) == (3, 2, 1, 7)
    program.send(b"\1\2")  # no message, and answered all the same
    side.watch.wait(0)
    assert HEADER.unpack(program.recv(65536))[2] == errno.ENETDOWN
    assert not has_asked(held)

    with Process(tmp_path) as second:
        side.daemon.tend(now + RETRY_SECONDS)
        side.until_served(held)
        assert refuses(held) == 0
        assert [HEADER.unpack_from(program.recv(65536))[1] for _ in range(2)] == [
            MsgType.FLUSH, MsgType.X_SPDFLUSH
        ]  # fmt: skip
        program.send(REGISTER)
        assert HEADER.unpack_from(program.recv(65536))[1:3] == (MsgType.REGISTER, 0)
        program.close()
        side.close()
        assert second.stop() == 0


def test_who_used_an_extension_of_ours_keeps_being_told_such(tmp_path: Path, side: Side) -> None:
    window = Word(exttype=ExtType.X_REPLAY_WINDOW, value=4096)
    asking = Message(type=MsgType.REGISTER, satype=3, extensions=(window,)).encode()
    with Process(tmp_path) as first:
        held, other = side.admit(), side.admit()
        side.until_served(held, other)
        with end_of(held) as program:
            program.send(asking)  # it need not be granted
        side.until(lambda: held.knows_own)
        lost_at = side.lose(first)
    with Process(tmp_path) as second:
        side.daemon.tend(lost_at + RETRY_SECONDS)
        side.until_served(held, other)
        assert (held.knows_own, other.knows_own) == (True, False), "as the successor says"
        side.close()
        assert second.stop() == 0


def test_who_finds_the_successor_first_finds_it_for_all(tmp_path: Path, side: Side) -> None:
    """A program's call is as good as the regular look."""
    with Process(tmp_path) as first:
        held = side.admit()
        side.until_served(held)
        side.lose(first)
    with Process(tmp_path) as second:
        other = side.admit()
        side.until_served(held, other)
        assert control(second.socket, "status")["result"]["clients"] == 2
        side.close()
        assert second.stop() == 0


def test_a_supervisor_that_dies_leaves_the_program_its_pfkeyd(tmp_path: Path, side: Side) -> None:
    with Process(tmp_path) as first:
        held = side.admit()
        program = end_of(held)
        side.until_served(held)
        side.close()
        program.send(header(MsgType.REGISTER, seq=5))
        assert HEADER.unpack_from(program.recv(65536))[6] == 5
        program.close()
        until(lambda: control(first.socket, "status")["result"]["clients"] == 0)
        assert first.stop() == 0


def test_hundreds_of_sockets_find_the_successor(tmp_path: Path, side: Side) -> None:
    """More than fit one queue: adoptions wait for the answers to earlier ones."""
    with Process(tmp_path) as first:
        sockets = [side.admit() for _ in range(400)]
        side.until_served(*sockets)
        assert side.errors == [0] * len(sockets)
        now = side.lose(first)
        with Process(tmp_path) as second:
            side.daemon.tend(now)
            side.until_served(*sockets)
            assert control(second.socket, "status")["result"]["clients"] == len(sockets)
            side.close()
            assert second.stop() == 0


def test_a_socket_that_is_not_served_before_pfkeyd_dies_is_refused(
    tmp_path: Path, side: Side
) -> None:
    with Process(tmp_path) as first:
        first.signal(signal.SIGSTOP)
        side.admit()
        side.lose(first)
    assert side.errors == [errno.EAFNOSUPPORT]
    assert side.hall.held == []
    assert side.daemon.deadline is None


def test_without_pfkeyd_no_socket_is_served(side: Side) -> None:
    held = Held(blocking=True)
    with pytest.raises(OSError, match="no pfkeyd") as refused:
        side.hall.admit(held, side.errors.append)
    assert refused.value.errno == errno.EAFNOSUPPORT
    assert side.daemon.deadline is None
    held.close()


def test_the_guide_has_the_times_of_the_code() -> None:
    guide = " ".join((Path(__file__).parents[3] / "docs" / "run.md").read_text().split())
    assert f"stays away for more than {PATIENCE_SECONDS:g} s" in guide
    assert f"waits, for {WAIT_SECONDS:g} s at most" in guide
    assert f"one descriptor for at most {SHORT_POLL_MS} ms" in guide
