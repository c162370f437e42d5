"""Programs under `pfkey run`: compiled, started, and their supervisor found."""

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pfkey.run.filter import native
from tests.support.system import until

BIN = Path(sys.executable).parent
SOURCE = Path(__file__).parent.parent / "pfkey" / "run" / "client.c"


def compile_client(
    directory: Path, *options: str, name: str = "client", source: Path = SOURCE
) -> Path:
    """The PF_KEY program of `client.c`, or of another source."""
    cc = shutil.which("cc") or shutil.which("gcc")
    assert cc, "no C compiler: apt-get install gcc libc6-dev"
    made = directory / name
    words = [cc, "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *options]
    subprocess.run([*words, "-o", made, source], check=True)
    return made


def words(socket: Path, *program: str | Path) -> list[str]:
    """The command line of a program under `pfkey run`."""
    return [str(BIN / "pfkey"), "run", "--socket", str(socket), "--", *map(str, program)]


def run(
    socket: Path,
    *program: str | Path,
    prefix: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; with `check` its status must be 0."""
    done = subprocess.run(
        [*prefix, *words(socket, *program)], input=stdin, capture_output=True, text=True,
        check=False, timeout=60, env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL if stdin is None else None,
    )  # fmt: skip
    assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done


class Program(subprocess.Popen[bytes]):
    """A program under `pfkey run`, told and heard by the line; it is killed if it is left."""

    def __init__(
        self, socket: Path, *program: str | Path, stderr: int | None = None,
        group: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            words(socket, *program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            bufsize=0, process_group=group,
        )  # fmt: skip

    def __exit__(self, *exit: object) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(None, None, None)

    def tell(self, text: str = "") -> None:
        """Give it a line."""
        assert self.stdin is not None
        self.stdin.write(f"{text}\n".encode())

    def line(self, seconds: float = 10) -> str:
        """The next line that it prints; "" at the end."""
        assert self.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            assert select.select([self.stdout], [], [], seconds)[0], f"nothing after {said!r}"
            octet = os.read(self.stdout.fileno(), 1)
            if not octet:
                break
            said += octet
        return said.decode().rstrip("\n")

    def finish(self) -> int:
        """No more lines for it; its exit status."""
        assert self.stdin is not None
        self.stdin.close()
        return self.wait(10)


def supervisors(socket: Path) -> list[int]:
    """Those of programs that were started with this socket."""
    return list(_supervisors(str(socket).encode()))


def _supervisors(socket: bytes) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            name = (process / "comm").read_bytes()
            given = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if name == b"pfkey-run\n" and socket in given:
            yield int(process.name)


def ended(socket: Path) -> None:
    """Wait until no supervisor is left."""
    until(lambda: not supervisors(socket), what="the supervisor ends")


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_looking(pid: int) -> bool:
    """Whether the process is in recv(2) or poll(2), where only its supervisor can hold it up."""
    abi = native(os.uname().machine)
    number = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return number in (str(abi.recvfrom), str(abi.poll), str(abi.ppoll))
