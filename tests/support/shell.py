"""pfkeyd without packets: started as a process, and spoken to octet by octet."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pfkey.const import MsgType

HEADER = struct.Struct("=BBBBHHII")


def header(
    kind: int, *, satype: int = 0, words: int = 2, seq: int = 0, pid: int = 0, errno: int = 0
) -> bytes:
    """A base header (RFC 2367 section 2.3)."""
    return HEADER.pack(2, kind, errno, satype, words, 0, seq, pid)


REGISTER = header(MsgType.REGISTER, satype=3, seq=1, pid=7)


def connect(path: Path) -> socket.socket:
    """A client's socket; two seconds of patience."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(2)
    sock.connect(str(path))
    return sock


def outq(sock: socket.socket) -> int:
    """SIOCOUTQ: 0 when all that was sent has been consumed."""
    number: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return number


def sent(sock: socket.socket, record: bytes) -> None:
    """Send and wait until the daemon has consumed it, as `pfkey run` does."""
    sock.send(record)
    deadline = time.monotonic() + 5
    while outq(sock):
        assert time.monotonic() < deadline, "the record is not consumed"


def ask(sock: socket.socket, record: bytes) -> bytes:
    """Send, and what is there at once when the daemon has consumed it."""
    sent(sock, record)
    with at_once(sock):
        return sock.recv(65536)


@contextlib.contextmanager
def at_once(sock: socket.socket) -> Iterator[None]:
    """No patience: Python waits for a socket with a timeout in spite of MSG_DONTWAIT."""
    patience = sock.gettimeout()
    sock.setblocking(False)
    try:
        yield
    finally:
        sock.settimeout(patience)


def drain(sock: socket.socket) -> list[bytes]:
    """Everything that is there now."""
    got = []
    with contextlib.suppress(BlockingIOError), at_once(sock):
        while record := sock.recv(65536):
            got.append(record)
    return got


def control(path: Path, method: str, **params: Any) -> Any:
    """One call to the control socket; the whole answer."""
    with connect(path.with_name(path.name + ".ctl")) as sock:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        sock.send(json.dumps(call).encode())
        return json.loads(sock.recv(1 << 20))


class Process:
    """`pfkeyd --no-dataplane` on a socket of its own."""

    def __init__(self, directory: Path, *options: str, dataplane: bool = False) -> None:
        self.socket = directory / "s"
        self.log_path = directory / "log"
        argv = [sys.executable, "-m", "keyd.shell.main", "--socket", str(self.socket), *options]
        if not dataplane:
            argv.append("--no-dataplane")
        with self.log_path.open("a") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ})
        self.until(lambda: "ready socket=" in self.log)

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_path.read_text()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def until(self, claim: Callable[[], object], seconds: float = 10) -> None:
        """Wait for something that the daemon brings about."""
        deadline = time.monotonic() + seconds
        while not claim():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 10) -> int:
        """Its exit status."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def resident_octets(self) -> int:
        """Its resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self.wait()
