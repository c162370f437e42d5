"""AF_KEY for unmodified programs: real ones, compiled here, each doing what such programs do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import REGISTER, Process, connect, control
from tests.support.supervised import Program, descriptors, is_looking, run, supervisors
from tests.support.system import until

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.root


def does(daemon: Process, client: Path, deed: str, *more: str) -> list[str]:
    """What the deed prints."""
    return run(daemon.socket, client, deed, *more).stdout.splitlines()


def test_socket_refuses_as_a_kernel_does(daemon: Process, client: Path) -> None:
    assert does(daemon, client, "errors") == [
        "stream ESOCKTNOSUPPORT", "protocol EPROTONOSUPPORT", "both ESOCKTNOSUPPORT",
        "type EINVAL", "flags EINVAL", "pair EOPNOTSUPP", "other 3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("ways", "6 ways"),
        ("peek", "peek 16 of type 7, then all of it"),
        ("poll", "poll 1"),
        ("waits", "poll 1, select 1, epoll 1, then writable and no more"),
        ("zero", "descriptor 0"),
        ("fork", "child 0"),
        ("exec", "kept, and EBADF"),
        ("threads", "4 threads"),
        ("raw", "raw"),
        ("descriptors", "0 1 2 and no others"),
        ("signals", "100 sockets"),
        ("full", "EMFILE after many"),
        ("killed", "50 killed"),
    ],
)
def test_a_program_does_what_it_does_on_a_kernel(
    daemon: Process, client: Path, static_client: Path, deed: str, said: str
) -> None:
    for program in (client, static_client):
        assert does(daemon, program, deed) == [said]


def test_flags_of_the_socket_are_kept(daemon: Process, client: Path) -> None:
    assert does(daemon, client, "flags") == [
        "plain 0 0", "both 1 1", "empty EAGAIN", "timeout EAGAIN", "urgent EOPNOTSUPP",
    ]  # fmt: skip


def test_a_short_buffer_takes_the_whole_message(daemon: Process, client: Path) -> None:
    with connect(daemon.socket) as sock:
        sock.send(REGISTER)
        whole = len(sock.recv(65536))
    assert does(daemon, client, "peek-msg") == [
        "peek 16", "truncated 1", f"whole {whole}", "short 16", "rest EAGAIN",
    ]  # fmt: skip


def test_a_socket_serves_whoever_it_is_passed_to(daemon: Process, client: Path) -> None:
    """Chrooted and without rights, as iked's child: it may use that socket and open none."""
    assert does(daemon, client, "pass") == ["peek 16", "second socket EPERM", "child 0"]


def test_what_af_key_has_not_is_refused_and_harms_nothing(daemon: Process, client: Path) -> None:
    assert does(daemon, client, "shutdown") == [
        "bind 1, connect 1, listen 1, accept 1", "still there"
    ]  # fmt: skip


def test_other_kinds_of_system_calls_are_served_or_refused(daemon: Process, client: Path) -> None:
    kinds = ["i386 open", "x32 ENOSYS"] if os.uname().machine == "x86_64" else []
    assert does(daemon, client, "foreign") == kinds


def test_two_hundred_programs_at_once_are_served(daemon: Process, client: Path) -> None:
    script = f"for n in $(seq 200); do {client} peek & {client} encap >/dev/null & done; wait"
    done = run(daemon.socket, "/bin/sh", "-c", script)
    assert done.stdout.splitlines() == ["peek 16 of type 7, then all of it"] * 200
    assert done.stderr == ""


def test_too_many_sockets_are_refused_and_given_back(daemon: Process, client: Path) -> None:
    assert does(daemon, client, "many") == ["ENOBUFS after many"]
    until(lambda: control(daemon.socket, "status")["result"]["clients"] == 0)


def test_requests_are_answered_while_a_dump_is_pending(daemon: Process, client: Path) -> None:
    sas = "".join(
        f"add 10.0.{n >> 8}.{n & 255} 20.1.1.1 esp {0x1000 + n} -E null -A hmac-md5 "
        '"0123456789abcdef";'
        for n in range(8000)
    )
    subprocess.run(
        [BIN / "setkey", "-c"], input=sas, text=True, check=True, timeout=60,
        env={**os.environ, "PFKEY_SOCKET": str(daemon.socket)},
    )  # fmt: skip
    try:
        assert does(daemon, client, "dump") == [
            "second EBUSY", "answered before the end", "8000 records"
        ]  # fmt: skip
    finally:
        subprocess.run(
            [BIN / "setkey", "-F"], check=True, timeout=60,
            env={**os.environ, "PFKEY_SOCKET": str(daemon.socket)},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("deed", "said"), [("peek", "peek 16 of type 7, then all of it"), ("poll", "poll 1")]
)
def test_a_reply_is_there_however_slow_pfkeyd_is(
    tmp_path: Path, client: Path, deed: str, said: str
) -> None:
    """The program has its socket; then pfkeyd stands still for as long as it takes."""
    with Process(tmp_path) as slow:
        with Program(slow.socket, client, "when-told", deed) as program:
            assert program.line() == "ready"
            slow.signal(signal.SIGSTOP)
            program.tell()
            until(lambda: is_looking(program.pid))
            slow.signal(signal.SIGCONT)
            assert program.line() == said
            assert program.wait(10) == 0
        assert slow.stop() == 0


def test_a_look_at_another_socket_does_not_wait_for_pfkeyd(tmp_path: Path, client: Path) -> None:
    with Process(tmp_path) as slow:
        with Program(slow.socket, client, "when-told", "elsewhere") as program:
            assert program.line() == "ready"
            slow.signal(signal.SIGSTOP)
            program.tell()
            assert program.line() == "peek 1"
            assert program.poll() is None
            slow.signal(signal.SIGCONT)
            assert program.wait(10) == 0
        assert slow.stop() == 0


def test_the_supervisor_keeps_nothing_of_what_has_ended(daemon: Process, client: Path) -> None:
    with Program(daemon.socket, "/bin/sh") as shell:
        shell.tell(f"{client} killed")
        assert shell.line() == "50 killed"
        (pid,) = supervisors(daemon.socket)
        before = descriptors(pid)
        shell.tell(f"{client} killed")
        assert shell.line() == "50 killed"
        until(lambda: descriptors(pid) <= before)
        assert shell.finish() == 0
