"""The blocking client: where it connects, whose replies it takes, and what it says of silence."""

import errno
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import blocking
from pfkey.base import error_reply
from pfkey.blocking import (
    ClosedError,
    Connection,
    Control,
    ControlError,
    NoAnswerError,
    control_call,
    socket_path,
)
from pfkey.client import Exchange
from pfkey.const import MsgType
from pfkey.errors import ShellError
from pfkey.message import Message

DUMP = Message(type=MsgType.DUMP, pid=7)
FLUSH = Message(type=MsgType.FLUSH, pid=7)


def record(seq: int, *, type: int = MsgType.DUMP, pid: int = 7, errno: int = 0) -> bytes:
    return Message(type=type, seq=seq, pid=pid, errno=errno).encode()


def test_a_dump_ends_at_sequence_number_zero() -> None:
    exchange = Exchange(DUMP)
    taken = [(exchange.offer(record(seq)), exchange.is_done) for seq in (1, 0, 0)]
    assert taken == [(True, False), (True, True), (False, True)]
    assert [reply.seq for reply in exchange.replies()] == [1, 0]


def test_a_dump_ends_at_an_error() -> None:
    exchange = Exchange(DUMP)
    assert exchange.offer(error_reply(DUMP.encode(), errno.ENOENT))
    assert (exchange.is_done, exchange.errno, exchange.replies()) == (True, errno.ENOENT, [])


def test_what_is_not_ours_is_left_alone() -> None:
    exchange = Exchange(FLUSH)
    for stranger in (
        record(0, type=MsgType.FLUSH, pid=8),
        record(5, type=MsgType.FLUSH),
        record(5, type=MsgType.FLUSH, errno=1),
        record(0, type=MsgType.ADD),
        b"no message",
        b"",
    ):
        assert not exchange.offer(stranger)
    assert exchange.offer(record(0, type=MsgType.FLUSH))


@given(st.binary(max_size=40))
def test_any_octets_may_be_offered(octets: bytes) -> None:
    Exchange(FLUSH).offer(octets)


def test_the_socket_is_named_by_the_environment() -> None:
    assert socket_path({"PFKEY_SOCKET": "/x/y"}) == Path("/x/y")


def test_the_socket_is_named_by_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    inode = Path("/proc/self/ns/net").stat().st_ino
    runtime = {"XDG_RUNTIME_DIR": "/run/user/5"}
    monkeypatch.setattr(os, "getuid", lambda: 5)
    monkeypatch.setattr(os, "geteuid", lambda: 5)
    assert socket_path(runtime) == Path(f"/run/user/5/pfkey/{inode}.sock")
    assert socket_path({}) == Path(f"/run/pfkey/{inode}.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    set_id = socket_path({**runtime, "PFKEY_SOCKET": "/x/y"})
    assert set_id == Path(f"/run/pfkey/{inode}.sock")


@contextmanager
def server(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """Talk to one client at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                talk(link)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)
        assert not thread.is_alive()


def test_a_request_gets_its_replies_past_those_of_others(tmp_path: Path) -> None:
    def talk(link: socket.socket) -> None:
        link.send(record(0, type=MsgType.FLUSH, errno=errno.EPERM))  # left over: not a reply
        link.recv(100)
        link.send(record(0, type=MsgType.ACQUIRE, pid=0))
        link.send(record(0, type=MsgType.FLUSH, pid=99))
        link.send(record(0, type=MsgType.FLUSH))
        link.recv(1)

    path = tmp_path / "s"
    with server(path, talk), Connection(path) as link:
        assert link.recv(5) is not None
        exchange = link.request(FLUSH)
        assert (exchange.errno, len(exchange.records)) == (0, 1)


def test_leftovers_are_dropped_before_a_request() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Connection.over(ours) as link:
        theirs.send(record(0, type=MsgType.FLUSH, errno=errno.EPERM))
        with pytest.raises(NoAnswerError, match=r"did not answer within 0\.01 s"):
            link.request(FLUSH, timeout=0.01)


def test_a_closed_connection_is_said_to_be_closed() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Connection.over(ours) as link:
        assert link.fileno() == ours.fileno()
        theirs.close()
        with pytest.raises(ClosedError, match="pfkeyd closed the connection"):
            link.recv(1)
        with pytest.raises(ClosedError):
            link.send(b"x")


def test_the_largest_message_fits() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    size = min(
        blocking.RECORD_OCTETS_MAX, theirs.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4
    )
    with theirs, Connection.over(ours) as link:
        theirs.send(bytes(size))
        found = link.recv(1)
        assert found is not None
        assert len(found) == size


def test_nobody_there_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ShellError, match=r"no pfkeyd answers at .*; start it with: pfkeyd &"):
        Connection(tmp_path / "s")
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(str(stale))
    with pytest.raises(ShellError, match="no pfkeyd answers"):
        Connection(stale)
    with pytest.raises(ShellError, match=f"no pfkeyd answers at {tmp_path / 's'};"):
        control_call(tmp_path / "s", "version")


def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(ShellError, match="no pfkeyd answers"):
        Connection(folder / "absent" / "s")
    here = os.open(folder, os.O_PATH)
    try:
        short = Path(f"/proc/self/fd/{here}/s")
        with (
            server(short, lambda link: None),
            Connection(folder / "s") as link,
            pytest.raises(ClosedError),
        ):
            link.recv(5)
    finally:
        os.close(here)


def _answer(link: socket.socket, **answer: object) -> None:
    request = json.loads(link.recv(4096))
    assert request["jsonrpc"] == "2.0"
    link.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}).encode())


def _notify(link: socket.socket, number: int) -> None:
    message = {"jsonrpc": "2.0", "method": "message", "params": {"n": number}}
    link.send(json.dumps(message).encode())


def test_control_calls_return_results_and_keep_notifications(tmp_path: Path) -> None:
    def talk(link: socket.socket) -> None:
        _notify(link, 1)
        _answer(link, result={"x": 1})
        _notify(link, 2)
        link.recv(1)

    with server(tmp_path / "s.ctl", talk), Control(tmp_path / "s") as control:
        assert control.call("subscribe", show_keys=True) == {"x": 1}
        for number in (1, 2):
            found = control.notification(5)
            assert found is not None
            assert found["params"] == {"n": number}
        assert control.notification(0) is None


def test_a_refused_control_call_says_why(tmp_path: Path) -> None:
    error = {"code": -32601, "message": "no such method"}
    with (
        server(tmp_path / "s.ctl", lambda link: _answer(link, error=error)),
        pytest.raises(ControlError, match="bogus: no such method") as caught,
    ):
        control_call(tmp_path / "s", "bogus")
    assert caught.value.code == -32601


@pytest.mark.parametrize("answer", [b"{", b"[]"])
def test_an_answer_that_is_no_json_object_is_an_error(tmp_path: Path, answer: bytes) -> None:
    def talk(link: socket.socket) -> None:
        link.recv(4096)
        link.send(answer)

    with server(tmp_path / "s.ctl", talk), pytest.raises(ShellError, match="no JSON"):
        control_call(tmp_path / "s", "version")


@pytest.mark.parametrize(
    ("path", "said"),
    [("x" * 200, "File name too long; give a shorter --socket PATH"), ("/", "/ is no socket")],
)
def test_an_impossible_socket_is_one_line_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShellError, match=re.escape(said)):
        control_call(Path(path), "version")
