"""pfkeyd as a process: one line for every bad day, and the right exit code."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keyd.shell import main as program
from keyd.shell import preflight
from pfkey import doctor
from pfkey.errors import ShellError
from tests.support.nobody import as_user, open_directory
from tests.support.shell import REGISTER, Process, ask, connect, control
from tests.support.system import until

PFKEYD = [sys.executable, "-m", "keyd.shell.main"]


def pfkeyd(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run pfkeyd to its end."""
    return subprocess.run([*PFKEYD, *options], capture_output=True, text=True, check=False,
                          timeout=30, env={**os.environ, **(env or {})})  # fmt: skip


def test_a_second_instance_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with Process(tmp_path) as first:
        done = pfkeyd("--no-dataplane", "--socket", str(first.socket))
        assert done.returncode == 1
        assert f"already running as pid {first.pid} on {first.socket}" in done.stderr
        assert done.stderr.count("\n") == 1
        with connect(first.socket) as client:
            assert ask(client, REGISTER)
        assert first.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_by_signal_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    with Process(tmp_path) as running:
        before = {p.name for p in tmp_path.iterdir()}
        others = {"s.netbsd", "s.freebsd", "s.openbsd"}
        assert before == {"s", "s.ctl", "s.lock", "log", *others}
        with connect(running.socket) as client:
            running.signal(number)
            assert running.wait() == 0
            assert client.recv(1) == b""
        assert [p.name for p in tmp_path.iterdir()] == ["log"]
        assert "stopped" in running.log
        assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_it_serves_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    """The signal comes when the lock is there and the daemon does not listen for signals yet."""
    script = f"""
import os, sys
from keyd.shell import main
main.privilege.drop_capabilities = lambda kept: os.kill(os.getpid(), {number.value})
sys.exit(main.main(sys.argv[1:]))
"""
    argv = [sys.executable, "-c", script, "--no-dataplane", "--socket", str(tmp_path / "s")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    assert f"stopping signal={number.name}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_sighup_without_a_file_is_ignored_with_a_line(tmp_path: Path) -> None:
    with Process(tmp_path) as running:
        running.signal(signal.SIGHUP)
        running.until(lambda: "reload-ignored reason=no-file" in running.log)
        assert running.stop() == 0


def test_what_a_killed_daemon_left_is_in_nobodys_way(tmp_path: Path) -> None:
    with Process(tmp_path) as killed:
        killed.signal(signal.SIGKILL)
        killed.wait()
    assert (tmp_path / "s").is_socket()
    assert (tmp_path / "s.lock").exists()
    (tmp_path / "log").unlink()
    with Process(tmp_path) as running, connect(running.socket) as client:
        assert ask(client, REGISTER)
        assert running.stop() == 0


def test_a_path_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "s"
    precious.write_text("kept")
    done = pfkeyd("--no-dataplane", "--socket", str(precious))
    assert done.returncode == 1
    assert done.stderr.startswith(f"pfkeyd: {precious} exists and is no socket")
    assert precious.read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--socket", "/nowhere/at/all/s"], "mkdir -p /nowhere/at/all"),
        (["--socket", "s", "--group", "no-such-group"], "groupadd"),
        (["--socket", "/" + "x" * 200], "too long"),
        (["--socket", "/"], "/ is a directory; give another --socket PATH"),
        (["--socket", ""], "--socket is empty; give --socket PATH"),
    ],
)
def test_a_bad_day_is_one_line_and_exit_1(tmp_path: Path, options: list[str], said: str) -> None:
    done = subprocess.run([*PFKEYD, "--no-dataplane", *options], capture_output=True, text=True,
                          check=False, cwd=tmp_path, timeout=30)  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_where_something_else_is_in_the_way_no_directory_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = pfkeyd("--no-dataplane", "--socket", str(tmp_path / "file/s"))
    assert done.returncode == 1
    assert done.stderr == f"pfkeyd: {tmp_path}/file is no directory; give another --socket PATH\n"


def test_too_few_descriptors_are_told_before_anything_is_changed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *PFKEYD, "--no-dataplane", "--socket",
         str(tmp_path / "s")], capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "pfkeyd: the hard limit on open files is 100, and 128 are needed; ulimit -n 1024\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("options", [["--no-dataplane"], []])
def test_without_proc_the_line_that_mounts_it_is_told(options: list[str]) -> None:
    done = subprocess.run(
        ["unshare", "-m", "/bin/sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh", *PFKEYD,
         "--check", *options],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No such file or directory; mount -t proc proc /proc\n" in done.stderr
    assert "internal error" not in done.stderr


def test_check_tells_that_its_answer_could_not_be_written(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PFKEYD, "--no-dataplane", "--check", "--socket", str(tmp_path / "s")],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "pfkeyd: standard output: No space left on device\n"


def test_check_says_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    good = pfkeyd("--no-dataplane", "-n", "--socket", path)
    assert (good.returncode, good.stdout) == (0, f"pfkeyd: ready to serve {path}\n")
    bad = pfkeyd("--no-dataplane", "-n", "--socket", path, "--group", "no-such-group")
    assert bad.returncode == 1
    assert "no-such-group" in bad.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_members_of_the_group_may_connect() -> None:
    with open_directory(0o755) as directory, Process(directory, "--group", "daemon") as running:
        found = running.socket.stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, 1)
        for groups, may in (([1], True), ([2], False)):
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups(groups)
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                    try:
                        with connect(running.socket) as sock:
                            does = bool(ask(sock, REGISTER))
                    except OSError:
                        does = False
                    os._exit(0 if does == may else 1)
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, groups
        assert running.stop() == 0


def test_it_tells_the_manager_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(10)
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.MonkeyPatch.context()).setenv("NOTIFY_SOCKET", str(address))
            (tmp_path / "run").mkdir()
            running = stack.enter_context(Process(tmp_path / "run"))
            assert manager.recv(100) == b"READY=1"
            running.signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert running.wait() == 0


def test_the_socket_is_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    done = pfkeyd("--no-dataplane", "--check", env={"PFKEY_SOCKET": str(tmp_path / "s/x")})
    assert done.stdout == f"pfkeyd: ready to serve {tmp_path}/s/x\n"


def test_a_log_reader_that_stops_reading_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [*PFKEYD, "--no-dataplane", "--log-level", "debug", "--socket", str(path)],
        stderr=write_end,
    )
    os.close(write_end)
    try:
        said = b""
        while b"ready socket" not in said:
            said += os.read(read_end, 1000)
        for _ in range(600):  # some 150 octets each, twice what a pipe takes
            with connect(path) as client:
                assert ask(client, REGISTER)
        assert control(path, "status")["result"]["pid"] == process.pid
    finally:
        process.terminate()
        assert process.wait(10) == 0
        os.close(read_end)


def test_an_unexpected_fault_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise ZeroDivisionError("key=0xdeadbeef")

    monkeypatch.setattr(program, "_serve", broken)
    assert program.main(["--no-dataplane"]) == 1
    said = capfd.readouterr().err
    assert said == "pfkeyd: internal error: ZeroDivisionError; --log-level debug says where\n"
    assert program.main(["--no-dataplane", "--log-level", "debug"]) == 1
    said = capfd.readouterr().err
    assert "frame file=" in said
    assert "deadbeef" not in said
    assert "Traceback" not in said


def test_of_several_faults_ours_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise BaseExceptionGroup(
            "", [ValueError("x"), ExceptionGroup("", [ShellError("no tun", "modprobe tun")])]
        )

    monkeypatch.setattr(program, "_serve", broken)
    assert program.main([]) == 1
    assert capfd.readouterr().err == "pfkeyd: no tun; modprobe tun\n"


def test_what_the_machine_lacks_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = doctor.Finding("tun", False, "/dev/net/tun is missing", "modprobe tun")
    monkeypatch.setattr(preflight, "_CHECKS", (lambda: lacking,))
    with pytest.raises(ShellError, match="tun: /dev/net/tun is missing; modprobe tun"):
        preflight.require(dataplane=True)
    preflight.require(dataplane=False)


@pytest.mark.root
@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ("mount -t tmpfs none /dev/net", "pfkeyd: tun: /dev/net/tun is missing; "),
        ("mount --bind /dev/null /dev/net/tun", "pfkeyd: tun: /dev/net/tun is not the device "),
        (
            "for f in $(ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p'); do"
            " mount --bind /dev/null $(readlink -f $f); done",
            "pfkeyd: nftables: libnftables.so.1 is missing; apt-get install libnftables1\n",
        ),
        ("mount -t tmpfs -o ro none /run", "pfkeyd: /run/pfkey: Read-only file system; give "),
        ("mount -t tmpfs -o nr_inodes=1 none /run", "pfkeyd: /run/pfkey: No space left on device"),
    ],
    ids=["no tun", "a false tun", "no nft", "run read-only", "run full"],
)
def test_what_is_really_missing_is_one_line_and_exit_1(hide: str, said: str) -> None:
    done = subprocess.run(
        ["unshare", "-mn", "/bin/sh", "-c", f'set -e; {hide}; exec "$@"', "sh", *PFKEYD,
         "--no-load"], capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1
    assert "; " in done.stderr, "no remedy"


@pytest.mark.root
def test_without_rights_there_is_one_line_and_exit_1(tmp_path: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *PFKEYD, "--socket",
         str(tmp_path / "s")], capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert "; " in done.stderr, "no remedy"


@pytest.mark.root
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_an_ordinary_user_hears_of_the_rights_first(check: list[str]) -> None:
    plain = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    done = subprocess.run(
        [*as_user(), *PFKEYD, *check], capture_output=True, text=True, check=False, timeout=30,
        env=plain,
    )  # fmt: skip
    assert done.returncode == 1
    assert "CAP_NET_ADMIN, CAP_NET_RAW missing; " in done.stderr.splitlines()[0]


@pytest.mark.root
def test_any_user_may_run_it_without_packets() -> None:
    with open_directory() as mine, subprocess.Popen(
        [*as_user(), *PFKEYD, "--no-dataplane"], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(mine)},
    ) as process:  # fmt: skip
        assert process.stderr
        assert "ready socket=" in (said := process.stderr.readline()), said
        path = next((mine / "pfkey").glob("*.sock"))
        with connect(path) as client:
            assert ask(client, REGISTER)
        process.terminate()
        assert process.wait(10) == 0
        assert list(mine.iterdir()) == []


def test_closed_streams_are_not_given_to_others(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    with subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PFKEYD, "--no-dataplane", "--socket",
         str(socket)],
    ) as process:  # fmt: skip
        until(socket.is_socket)
        for fd in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{fd}") == os.devnull
        process.terminate()
        assert process.wait(10) == 0
