"""Where a client connects, and what it says when nobody is there."""

import errno
import os
import re
import socket
import time
from pathlib import Path

import pytest

from pfkey import transport
from pfkey.blocking import Client
from pfkey.control import control_call
from pfkey.errors import AbsentError, ClosedError, MisuseError, ShellError
from pfkey.transport import attempt, socket_path
from tests.pfkey.peer import server


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


def test_nobody_there_is_one_line_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedy = f"start it with: pfkeyd --socket {tmp_path}/s &"
    with pytest.raises(ShellError, match=re.escape(f"no pfkeyd answers at {tmp_path}/s; {remedy}")):
        Client(tmp_path / "s")
    with pytest.raises(ShellError, match=re.escape(f"no pfkeyd answers at {tmp_path}/s; {remedy}")):
        control_call(tmp_path / "s", "version")
    monkeypatch.setenv("PFKEY_SOCKET", str(tmp_path / "s"))  # pfkeyd will look there as well
    for call in (Client, lambda: control_call(None, "version")):
        with pytest.raises(ShellError, match=r"start it with: pfkeyd &$"):
            call()
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(str(stale))
    with pytest.raises(ShellError, match="no pfkeyd answers"):
        Client(stale)


def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(ShellError, match="no pfkeyd answers"):
        Client(folder / "absent" / "s")
    here = os.open(folder, os.O_PATH)
    try:
        short = Path(f"/proc/self/fd/{here}/s")
        with (
            server(short, lambda link: None),
            Client(folder / "s") as link,
            pytest.raises(ClosedError),
        ):
            link.recv(5)
    finally:
        os.close(here)


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


def test_a_full_queue_of_newcomers_is_no_connection_yet(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        while (link := attempt("unix", path)) is not None:
            waiting.append(link)
            assert len(waiting) < 100
        with pytest.raises(ShellError, match=r"takes no connection within 0\.05 s"):
            Client(path, timeout=0.05)
        for link in waiting:
            link.close()


def test_a_client_may_wait_for_the_engine_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    listeners: list[socket.socket] = []

    def appear(seconds: float) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)

    monkeypatch.setattr(time, "sleep", appear)
    with Client(path, wait=10):
        assert len(listeners) == 1
    listeners[0].close()
    path.unlink()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(AbsentError):
        Client(path, wait=0.01)


def test_a_kernel_without_af_key_is_one_line_with_the_remedy() -> None:
    """This kernel has none: what the targets of this project say."""
    with pytest.raises(AbsentError, match=r"this kernel has no AF_KEY \(.*\); use pfkeyd: start"):
        Client(transport="af_key")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "Operation not permitted; be root, or have CAP_NET_ADMIN"),
        (errno.EMFILE, "AF_KEY: Too many open files"),
    ],
)
def test_a_refused_af_key_socket_says_why(
    monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(family: int, kind: int, protocol: int) -> socket.socket:
        assert (family, kind, protocol) == (transport.AF_KEY, socket.SOCK_RAW, 2)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(ShellError, match=said):
        attempt("af_key", None)


def test_af_key_is_family_15_and_its_queues_are_those_of_libipsec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    monkeypatch.setattr(socket, "socket", lambda family, kind, protocol: ours)
    before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with theirs, ours:
        assert attempt("af_key", None) is ours
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= transport.SEND_OCTETS
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > before
    assert transport.AF_KEY == 15


def test_what_would_be_ignored_is_refused() -> None:
    with pytest.raises(MisuseError, match="AF_KEY has no path"):
        Client(Path("/x"), transport="af_key")
    with pytest.raises(MisuseError, match="no transport 'tcp'"):
        Client(transport="tcp")  # type: ignore[arg-type]  # what a script may say
