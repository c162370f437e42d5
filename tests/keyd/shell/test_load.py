"""The file that pfkeyd loads: read, tried, put in force; and every way in which it can be bad."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd.engine import Engine
from keyd.engine.effects import Effect
from keyd.model import Usage
from keyd.shell import load
from keyd.shell.daemon import clock, make_engine
from keyd.shell.load import FaultsError, Loader, carry_out, choose, parse
from pfkey.blocking import Client
from pfkey.const import MsgType
from pfkey.errors import ShellError
from pfkey.message import Message
from pfkey.setkey.names import NumbersOnly
from tests.keyd.shell.test_main import pfkeyd
from tests.support.shell import Process

KEY = "hogehogehogehogehogehoge"
GOOD = f"""\
# by hand
flush; spdflush;
add 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc "{KEY}";
spdadd 10.1.1.1 20.1.1.1[pop3] tcp -P out ipsec
    esp/transport//require;
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "conf"
    path.write_text(GOOD)
    path.chmod(0o600)
    return path


def engine() -> Engine:
    return make_engine(lambda _: Usage())


def faults(path: Path) -> Sequence[str]:
    try:
        carry_out(path, parse(path), engine().draft(clock()))
    except FaultsError as error:
        return error.faults
    return ()


def test_a_good_file_has_no_fault(conf: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert faults(conf) == ()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("spdad;", "6:1: syntax error: none of add,"),
        ("add 10.1.1.1 20.1.1.1 esp 1 -E 3des-cbc 0x00;", "6:41: Invalid key length: 3des-cbc "),
        ("spdadd 10.1.1.1 20.1.1.1 any -P out ipsec ah/transport//use", "6:60: syntax error: ;"),
        (f'add 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc "{KEY}";', "6: EEXIST: SA esp spi 0x2694"),
        ("dump;", "6: EOPNOTSUPP: dump prints"),
        ("spddump;", "6: EOPNOTSUPP: spddump prints"),
        ("get 10.1.1.1 20.1.1.1 esp 9876;", "6: EOPNOTSUPP: get prints"),
        ("getspi 10.1.1.1 20.1.1.1 esp 0;", "6: EOPNOTSUPP: getspi prints"),
        (f'add fe80::1 fe80::2 esp 77 -E 3des-cbc "{KEY}";', "6: EOPNOTSUPP: link-local"),
        ("setkey -c <<EOF", "6:1: this is a shell script"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_file_and_line_and_without_a_key(
    conf: Path, more: str, said: str
) -> None:
    conf.write_text(GOOD + more)
    (fault,) = faults(conf)
    assert fault.startswith(f"{conf}:{said}")
    assert KEY not in fault


@pytest.mark.parametrize(
    "line",
    [
        "delete 10.1.1.1 20.1.1.1 esp 1;", "deleteall 10.1.1.1 20.1.1.1 ah;",
        "spddelete 10.1.1.1 20.1.1.1 udp -P out;", "exit; and whatever follows",
    ],
)  # fmt: skip
def test_what_finds_nothing_to_delete_is_no_fault(conf: Path, line: str) -> None:
    conf.write_text(GOOD + line)
    assert faults(conf) == ()


def test_what_is_no_file_of_commands_is_a_fault(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(b"flush;\0")
    os.mkfifo(tmp_path / "fifo")
    for path, said in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "zero", "not a text"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path / "fifo", "no regular file"),
    ):
        (fault,) = faults(path)
        assert fault == f"{path}: {said}"


def test_a_file_that_others_may_read_is_told(conf: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf.chmod(0o640)
    with caplog.at_level(logging.WARNING, "keyd.shell"):
        assert faults(conf) == ()
    (record,) = caplog.records
    assert record.getMessage() == f"load-mode file={conf} mode=0640 remedy=chmod 600"


@pytest.mark.root
def test_a_file_that_another_user_may_change_is_told(
    conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.chown(conf, 65534, -1)
    with caplog.at_level(logging.WARNING, "keyd.shell"):
        assert faults(conf) == ()
    (record,) = caplog.records
    assert record.getMessage() == f"load-owner file={conf} uid=65534 remedy=chown root"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.binary(max_size=6)), max_size=4))
def test_any_octets_are_good_or_told_without_the_key(
    tmp_path: Path, changes: list[tuple[int, bytes]]
) -> None:
    octets = GOOD.encode()
    for at, new in changes:
        octets = octets[:at] + new + octets[at + len(new) :]
    path = tmp_path / "fuzz"
    path.write_bytes(octets)
    with pytest.MonkeyPatch.context() as patched:  # no name of chance's making is looked up
        patched.setattr(load, "SystemNames", NumbersOnly)
        told = faults(path)
    for fault in told:
        assert fault.startswith(str(path))
        assert "hogehogehoge" not in fault


def test_the_given_file_comes_before_the_default(conf: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert choose(absent, conf) == absent
    assert choose(None, conf) == conf
    assert choose(None, absent) is None
    assert choose(None, None) is None


async def obey(effects: Sequence[Effect]) -> None:
    """Nothing has to be done."""


def test_a_default_that_was_there_once_must_stay_there(conf: Path) -> None:
    first, other = (
        Loader(None, engine(), obey=obey, clock=clock, called=lambda: None, default=conf)
        for _ in range(2)
    )
    assert trio.run(first.load)
    conf.unlink()
    with pytest.raises(ShellError, match="No such file"):
        trio.run(first.load)
    assert not trio.run(other.load)


def test_a_slow_name_keeps_nobody_from_stopping(
    conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(*_: object) -> list[object]:
        asked.set()
        answer.wait(30)
        return []

    async def stopped() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loader.load)
            await trio.to_thread.run_sync(asked.wait)
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    conf.write_text("spdadd slow.example 10.1.1.1 any -P out none;")
    loader = Loader(conf, engine(), obey=obey, clock=clock, called=lambda: None)
    trio.run(stopped)
    assert not answer.is_set()
    answer.set()


def policies(running: Process) -> int:
    with Client(running.socket) as link:
        dump = link.request(Message(type=MsgType.X_SPDDUMP, pid=os.getpid()))
        return len(dump.replies())


def lines(running: Process, event: str) -> list[str]:
    return re.findall(rf"^\S+ \w+ ({event} .*)$", running.log, re.M)


def test_a_reload_follows_the_file_and_a_bad_one_changes_nothing(
    conf: Path, tmp_path: Path
) -> None:
    with Process(tmp_path, "--load", str(conf)) as running:
        assert lines(running, "loaded") == [f"loaded file={conf} sas=1 policies=1"]
        assert policies(running) == 1
        conf.write_text(GOOD + "spdadd 1.1.1.1 1.1.1.2 any -P in discard;")
        running.signal(signal.SIGHUP)
        running.until(lambda: len(lines(running, "loaded")) == 2)
        assert policies(running) == 2
        conf.write_text("spdflush; spdad;\n\nadd;")
        running.signal(signal.SIGHUP)
        running.until(lambda: "reload-refused" in running.log)
        assert [line.partition(": ")[0] for line in lines(running, "load-fault")] == [
            f"load-fault at={conf}:1:11", f"load-fault at={conf}:3:4",
        ]  # fmt: skip
        assert policies(running) == 2
        assert KEY not in running.log
        assert running.stop() == 0


def test_a_bad_file_is_one_line_and_exit_1(conf: Path, tmp_path: Path) -> None:
    conf.write_text(GOOD + "spdad;\nadd;")
    options = ("--no-dataplane", "--socket", str(tmp_path / "s"), "--load", str(conf))
    done = pfkeyd(*options)
    assert done.returncode == 1
    *faults, last = done.stderr.splitlines()
    assert len(faults) == 2
    assert all(" error load-fault at=" in line for line in faults)
    assert last.startswith(f"pfkeyd: {conf}: 2 faults, so it is not loaded: {conf}:6:1: ")
    assert last.endswith(f"pfkeyd --check --load {conf} shows all")
    checked = pfkeyd(*options, "--check")
    assert checked.returncode == 1
    assert [line.split(": ")[1] for line in checked.stderr.splitlines()] == [
        f"{conf}:6:1", f"{conf}:7:4",
    ]  # fmt: skip
    conf.write_text(GOOD)
    assert pfkeyd(*options, "--check").returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["conf"]


def test_a_reload_is_told_to_the_manager(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Process(tmp_path, "--load", str(conf)) as running:
            assert manager.recv(100) == b"READY=1"
            for text in (GOOD, "bad"):
                conf.write_text(text)
                running.signal(signal.SIGHUP)
                assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
                assert manager.recv(100) == b"READY=1"
            assert running.stop() == 0
