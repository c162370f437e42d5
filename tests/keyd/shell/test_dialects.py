"""The sockets beside pfkeyd's, one a system: who may come, what is spoken there, what is left."""

import contextlib
import json
import os
import socket
import stat
import struct
import subprocess
import sys
from errno import ECONNREFUSED
from pathlib import Path

import pytest

from keyd.shell.paths import OTHER_DIALECTS, beside, socket_path
from pfkey import libipsec
from pfkey.blocking import Client
from pfkey.const import MsgType, SaType
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import ShellError
from pfkey.neutral import spoken
from tests.keyd.engine.desk import KEY24, add, message, named
from tests.support.nobody import open_directory
from tests.support.shell import Process, ask, connect, control, drain, sent
from tests.support.system import BIN

SATYPE_OF_ESP = {"linux": 3, "netbsd": 3, "freebsd": 3, "openbsd": 2}


def socket_of(path: Path, dialect: Dialect) -> Path:
    return path if dialect is LINUX else beside(path, dialect.name)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
def test_each_socket_speaks_its_dialect(daemon: Process, dialect: Dialect) -> None:
    with connect(socket_of(daemon.socket, dialect)) as sock:
        reply = ask(sock, message(MsgType.REGISTER, satype=3).encode(dialect))
        assert reply[:4] == bytes((2, 7, 0, SATYPE_OF_ESP[dialect.name]))
        empty = ask(sock, message(MsgType.DUMP).encode(dialect))
        assert empty[:3] == bytes((2, 10, 2))


def test_an_add_over_one_socket_is_heard_over_all(daemon: Process) -> None:
    with contextlib.ExitStack() as stack:
        socks = {
            dialect.name: stack.enter_context(connect(socket_of(daemon.socket, dialect)))
            for dialect in DIALECTS.values()
        }
        for name, sock in socks.items():
            sent(sock, message(MsgType.REGISTER, satype=3).encode(DIALECTS[name]))
        for sock in socks.values():
            drain(sock)
        ask(socks["linux"], add().encode())
        heard = {name: drain(sock) for name, sock in socks.items() if name != "linux"}
        for name, (record,) in heard.items():
            assert record[:4] == bytes((2, 3, 0, SATYPE_OF_ESP[name]))
            assert KEY24 not in record
            family = record.index(bytes((10, 1, 1, 1))) - 4
            assert record[family : family + 2] == bytes((16, 2)), "sa_len and family"
        gone = spoken(named(MsgType.DELETE), FREEBSD).encode(FREEBSD)
        assert ask(socks["freebsd"], gone)[:3] == bytes((2, 4, 0))
        assert [record[1] for record in drain(socks["linux"])] == [4]
        status = control(daemon.socket, "status")["result"]
        assert (status["clients"], status["registered"], status["sas"]) == (4, 4, 0)


def test_who_looks_on_is_told_the_dialect(daemon: Process) -> None:
    with (
        connect(beside(daemon.socket, "ctl")) as watcher,
        connect(beside(daemon.socket, "openbsd")) as sock,
    ):
        call = {"jsonrpc": "2.0", "id": 1, "method": "subscribe"}
        watcher.send(json.dumps(call).encode())
        watcher.recv(65536)
        request = message(MsgType.REGISTER, satype=3).encode(OPENBSD)
        reply = ask(sock, request)
        told = [json.loads(watcher.recv(65536))["params"] for _ in range(2)]
        assert [one["dialect"] for one in told] == ["openbsd", "openbsd"]
        assert [bytes.fromhex(one["hex"]) for one in told] == [request, reply]


def test_secrets_of_openbsd_are_hidden_from_who_looks_on(daemon: Process) -> None:
    """LOCAL_AUTH (28) is a passphrase; a request with one is refused, and shown without it."""
    with (
        connect(beside(daemon.socket, "ctl")) as watcher,
        connect(beside(daemon.socket, "openbsd")) as sock,
    ):
        call = {"jsonrpc": "2.0", "id": 1, "method": "subscribe"}
        watcher.send(json.dumps(call).encode())
        watcher.recv(65536)
        body = struct.pack("=HHHH", 2, 28, 1, 0) + b"mekmitas"
        head = struct.pack("=BBBBHHII", 2, 3, 0, 2, 2 + len(body) // 8, 0, 1, 2)
        assert ask(sock, head + body)[2] == 22
        shown = bytes.fromhex(json.loads(watcher.recv(65536))["params"]["hex"])
        assert len(shown) == len(head + body)
        assert b"mekmitas" not in shown


def test_all_sockets_have_the_mode_of_the_first(daemon: Process) -> None:
    for name in ("", *OTHER_DIALECTS):
        path = beside(daemon.socket, name) if name else daemon.socket
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


@pytest.mark.root
def test_strangers_are_sent_away_at_each() -> None:
    with open_directory(0o755) as directory, Process(directory) as daemon:
        paths = [beside(daemon.socket, name) for name in OTHER_DIALECTS]
        for path in paths:
            path.chmod(0o666)  # what the file's mode would refuse, the credentials do
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                os._exit(0 if all(connect(path).recv(1) == b"" for path in paths) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert daemon.stop() == 0


def test_nothing_is_left_after_a_stop(tmp_path: Path) -> None:
    with Process(tmp_path) as running:
        there = set(os.listdir(tmp_path)) - {"log"}
        assert there >= {"s", "s.ctl", "s.netbsd", "s.freebsd", "s.openbsd"}
        assert running.stop() == 0
    assert os.listdir(tmp_path) == ["log"]


def test_sockets_of_one_that_was_killed_are_taken_over(tmp_path: Path) -> None:
    with Process(tmp_path) as running:
        running.signal(9)
        running.wait()
    assert (tmp_path / "s.openbsd").exists()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        assert sock.connect_ex(str(tmp_path / "s.openbsd")) == ECONNREFUSED
    (tmp_path / "log").unlink()
    with Process(tmp_path) as running, connect(tmp_path / "s.openbsd") as sock:
        assert ask(sock, message(MsgType.DUMP).encode(OPENBSD))[2] == 2
        assert running.stop() == 0


def shown(socket: Path, *argv: str) -> str:
    """What a command of ours says that finds pfkeyd there."""
    done = subprocess.run(
        [BIN / argv[0], *argv[1:]], capture_output=True, text=True, check=False, timeout=30,
        env={**os.environ, "PFKEY_SOCKET": str(socket)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_socket_may_speak_another_systems_pf_key(tmp_path: Path) -> None:
    """Programs of that system find it, the others have theirs beside it, and so have ours."""
    with Process(tmp_path, "--dialect", "openbsd") as running:
        names = {"s", "s.linux", "s.netbsd", "s.freebsd", "s.openbsd", "s.ctl", "s.lock", "log"}
        assert set(os.listdir(tmp_path)) == names
        sockets = {beside(running.socket, d.name): d for d in DIALECTS.values()}
        for path, dialect in {running.socket: OPENBSD, **sockets}.items():
            with connect(path) as sock:
                reply = ask(sock, message(MsgType.REGISTER, satype=3).encode(dialect))
                assert reply[:4] == bytes((2, 7, 0, SATYPE_OF_ESP[dialect.name]))
        shown(running.socket, "setkey", "-F")
        for name in DIALECTS:
            with Client(running.socket, dialect=name) as client:
                client.flush()
                client.register(SaType.ESP)
        with libipsec.pfkey_open(running.socket) as so:
            assert libipsec.pfkey_send_flush(so, SaType.ESP) > 0
        assert running.stop() == 0
    assert os.listdir(tmp_path) == ["log"]


def test_what_a_killed_one_has_left_for_linux_misleads_nobody(tmp_path: Path) -> None:
    with Process(tmp_path, "--dialect", "netbsd") as running:
        running.signal(9)
        running.wait()
    stale = tmp_path / "s.linux"
    assert stale.is_socket()
    (tmp_path / "log").unlink()
    with Process(tmp_path) as running:
        assert not stale.exists()
        shown(running.socket, "setkey", "-F")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
            left.bind(str(stale))  # nobody listens
        shown(running.socket, "setkey", "-F")
        stale.unlink()


def test_a_second_one_leaves_the_sockets_of_the_first_alone(daemon: Process) -> None:
    argv = [sys.executable, "-m", "keyd.shell.main", "--socket", str(daemon.socket)]
    done = subprocess.run(
        [*argv, "--no-dataplane"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert "already running" in done.stderr
    with connect(beside(daemon.socket, "netbsd")) as sock:
        assert ask(sock, message(MsgType.DUMP).encode(NETBSD))[1] == 10


def test_a_file_in_the_place_of_a_socket_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "s.freebsd").write_text("mine")
    argv = [sys.executable, "-m", "keyd.shell.main", "--socket", str(tmp_path / "s")]
    done = subprocess.run(
        [*argv, "--no-dataplane"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith("s.freebsd exists and is no socket; give another --socket PATH\n")
    assert os.listdir(tmp_path) == ["s.freebsd"]
    assert (tmp_path / "s.freebsd").read_text() == "mine"


def test_a_path_must_leave_room_for_all_names_beside_it() -> None:
    longest = max(map(len, OTHER_DIALECTS))
    fits = "/" + "x" * (107 - 2 - longest)
    assert socket_path(fits, {}, is_root=True) == Path(fits)
    with pytest.raises(ShellError, match="too long"):
        socket_path(fits + "x", {}, is_root=True)


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD, OPENBSD], ids=repr)
def test_a_long_dump_over_each_socket_is_whole(daemon: Process, dialect: Dialect) -> None:
    """Thousands of records, paced by their reader, the last one numbered 0."""
    count = 1000
    with connect(daemon.socket) as linux, connect(socket_of(daemon.socket, dialect)) as sock:
        for number in range(count):
            sent(linux, add(spi=0x1000 + number).encode())
            drain(linux)
            drain(sock)
        sock.send(message(MsgType.DUMP, seq=5).encode(dialect))
        seqs: list[int] = []
        while not seqs or seqs[-1]:
            record = sock.recv(65536)
            assert record[1] == MsgType.DUMP
            seqs.append(struct.unpack_from("=I", record, 8)[0])
        down = list(range(count - 1, -1, -1))
        assert seqs == (down if dialect is not OPENBSD else [5] * (count - 1) + [0])
        sent(linux, message(MsgType.FLUSH).encode())
