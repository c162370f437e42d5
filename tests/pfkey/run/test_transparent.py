"""Nothing else changes: process, signals, terminal, environment, descriptors, rights."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nobody import as_user, open_directory
from tests.support.shell import Process
from tests.support.supervised import BIN, Program, ended, run, supervisors, words

pytestmark = pytest.mark.root

IDS = "import os; print(os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", code)


def test_the_program_is_the_process_that_was_started(daemon: Process) -> None:
    with Program(daemon.socket, *python(IDS)) as program:
        ids = [int(word) for word in program.line().split()]
    assert ids == [program.pid, os.getpid(), os.getpgrp(), os.getsid(0)]


@pytest.mark.parametrize(
    ("code", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15)],
)
def test_the_exit_status_is_the_programs(daemon: Process, code: str, status: int) -> None:
    assert run(daemon.socket, "/bin/sh", "-c", code, check=False).returncode == status


def test_signals_reach_the_program_and_nobody_else(daemon: Process) -> None:
    code = (
        "import signal; signal.pthread_sigmask(0, {1, 2, 15}); print('ready', flush=True)\n"
        "for _ in range(3): print(signal.sigwait({1, 2, 15}).name, flush=True)"
    )
    with Program(daemon.socket, *python(code)) as program:
        assert program.line() == "ready"
        (supervisor,) = supervisors(daemon.socket)
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            os.kill(supervisor, signal.Signals[name])  # as systemd does to the whole group
            program.send_signal(signal.Signals[name])
            assert program.line() == name
        assert program.wait(10) == 0


def test_a_program_is_stopped_and_goes_on(daemon: Process) -> None:
    # in a group of its own: the kernel stops none that nobody watches, as these tests' may be
    with Program(daemon.socket, "/bin/cat", group=0) as program:
        program.tell("before")
        assert program.line() == "before"
        program.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(program.pid, os.WUNTRACED)[1])
        program.send_signal(signal.SIGCONT)
        program.tell("after")
        assert program.line() == "after"
        assert program.finish() == 0


def test_the_terminal_is_the_programs(daemon: Process) -> None:
    """In a session with a terminal it has the foreground, and an interrupt ends it."""
    code = "import os; print(os.getpgrp() == os.tcgetpgrp(0), os.ttyname(0), flush=True); input()"
    child, terminal = pty.fork()
    if not child:
        try:
            os.execv(BIN / "pfkey", words(daemon.socket, *python(code)))
        finally:
            os._exit(1)
    said = b""
    while b"/dev/pts" not in said:
        said += os.read(terminal, 1000)
    assert said.startswith(b"True /dev/pts/")
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_environment_directory_and_masks_are_the_programs(daemon: Process, tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; s = Path('/proc/self/status').read_text()\n"
        "print(os.getcwd(), sorted(Path('/proc/self/environ').read_bytes().split(b'\\0')))\n"
        "names = 'SigB', 'SigI', 'SigC', 'Umask', 'NoNew', 'Cap'\n"
        "print([line for line in s.splitlines() if line.startswith(names)])"
    )
    env = {"ODD": "a=b\udcff", "EMPTY": ""}  # and no locale: Python would set one
    plain = subprocess.run(
        python(code), capture_output=True, env=env, cwd=tmp_path, check=True
    ).stdout
    supervised = subprocess.run(
        words(daemon.socket, *python(code)), capture_output=True, env=env, cwd=tmp_path, check=True
    ).stdout
    assert supervised == plain


def test_descriptors_are_those_that_were_given(daemon: Process) -> None:
    """Also where standard input is closed, and with one beyond the standard ones."""
    given = os.open(os.devnull, os.O_RDONLY)
    code = (
        "import os; names = [f'/proc/self/fd/{fd}' for fd in range(FDS)];"
        " print(*[name.split('/')[-1] for name in names if os.path.exists(name)])"
    ).replace("FDS", str(given + 50))
    try:
        outputs = [
            subprocess.run(
                ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *command], pass_fds=(given,), check=True,
                capture_output=True,
            ).stdout
            for command in (python(code), words(daemon.socket, *python(code)))
        ]  # fmt: skip
    finally:
        os.close(given)
    assert outputs[0] == outputs[1]
    assert str(given) in outputs[0].decode().split()


def test_the_supervisor_holds_no_stream_and_lives_to_the_last(daemon: Process) -> None:
    """Standard output ends with the program, though a child without it lives on."""
    code = "exec >/dev/null 2>&1 </dev/null; sleep 1000 & echo $! > $0"
    pid_file = daemon.log_path.with_name("child")
    done = run(daemon.socket, "/bin/sh", "-c", code, str(pid_file))
    assert done.stdout == ""
    child = int(pid_file.read_text())
    assert len(supervisors(daemon.socket)) == 1
    os.kill(child, signal.SIGKILL)
    ended(daemon.socket)


def test_the_supervisor_is_nobodys_child(daemon: Process) -> None:
    code = "import os\ntry: os.wait()\nexcept ChildProcessError: print('no child')"
    assert run(daemon.socket, *python(code)).stdout == "no child\n"


def test_a_pipe_that_breaks_ends_the_program_as_usual(daemon: Process) -> None:
    with Program(daemon.socket, "/usr/bin/yes") as program:
        assert program.line() == "y"
        assert program.stdout is not None
        program.stdout.close()
        assert program.wait(10) == -signal.SIGPIPE


def test_a_program_that_cannot_be_run_is_named(daemon: Process, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for name, status, why in (
        ("nonsense-program", 127, "No such file or directory"),
        (str(plain), 126, "Permission denied"),
    ):
        done = run(daemon.socket, name, check=False)
        assert (done.returncode, done.stderr) == (status, f"pfkey run: {name}: {why}\n")
    ended(daemon.socket)


def test_a_script_that_does_not_say_by_what_is_run_by_the_shell(
    daemon: Process, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1"\n')
    script.chmod(0o755)
    assert run(daemon.socket, script, "as ever").stdout == "as ever\n"


def test_without_pfkeyd_nothing_is_run(tmp_path: Path) -> None:
    done = run(tmp_path / "s", "/bin/echo", "run", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"pfkey run: no pfkeyd answers at {tmp_path}/s;"
        f" start it with: pfkeyd --socket {tmp_path}/s &\n"
    )


def test_a_program_has_one_supervisor(daemon: Process) -> None:
    done = run(daemon.socket, *words(daemon.socket, "/bin/true"), check=False)
    assert done.returncode == 1
    assert "supervised already" in done.stderr
    assert "Traceback" not in done.stderr
    ended(daemon.socket)


def test_options_of_the_program_are_its_own(daemon: Process) -> None:
    bare = [str(BIN / "pfkey"), "run", "--socket", str(daemon.socket)]
    for command in ([*bare, "echo", "--socket", "-x"], [*bare, "--", "echo", "--socket", "-x"]):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "--socket -x\n"
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


# ---------------------------------------------------------------- rights


def test_a_caller_without_rights_gets_what_a_kernel_gives(daemon: Process, client: Path) -> None:
    """It gains nothing from a supervisor that is root."""
    assert run(daemon.socket, *NOBODY, client, "open").stdout == "EPERM\n"
    user_namespace = ("unshare", "--user", "--map-root-user")
    assert run(daemon.socket, *user_namespace, client, "open").stdout == "EPERM\n"
    kept = ("setpriv", "--reuid=65534", "--inh-caps=+net_admin", "--ambient-caps=+net_admin")
    assert run(daemon.socket, *kept, client, "open").stdout == "3\n"
    dropped = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert run(daemon.socket, *dropped, client, "open").stdout == "EPERM\n"


def test_root_keeps_set_user_id_programs(daemon: Process, client: Path) -> None:
    """With CAP_SYS_ADMIN a filter needs no NO_NEW_PRIVS."""
    with open_directory(0o755) as directory:
        program = Path(shutil.copy(client, directory))
        assert run(daemon.socket, *NOBODY, program, "open").stdout == "EPERM\n"
        program.chmod(0o4755)
        assert run(daemon.socket, *NOBODY, program, "open").stdout == "3\n"


def test_an_ordinary_user_who_may_speak_to_pfkeyd_may_run_programs(client: Path) -> None:
    """NO_NEW_PRIVS is taken then: a set-user-id program runs without its rights."""
    user = as_user()
    with open_directory() as directory:
        program = Path(shutil.copy(client, directory))
        program.chmod(0o4755)
        with Process(directory, "--group", "nogroup") as running:
            done = run(running.socket, program, "peek", prefix=user)
            assert done.stdout.startswith("peek 16")
            code = "import os; print(os.geteuid(), open('/proc/self/status').read())"
            done = run(running.socket, *python(code), prefix=user)
            assert done.stdout.startswith("65534 ")
            assert "NoNewPrivs:\t1\n" in done.stdout
            assert run(running.socket, program, "id", prefix=user).stdout == "65534\n"
            ended(running.socket)
            assert running.stop() == 0


def test_another_namespace_is_not_that_of_the_given_socket(daemon: Process, client: Path) -> None:
    assert run(daemon.socket, "unshare", "--net", client, "open").stdout == "EAFNOSUPPORT\n"
