"""One daemon per socket, and one data path per network namespace.

`<socket>.lock` is held by flock, with the holder's pid inside. The namespace is held by a name in
its own abstract socket address space, which ends with its holder.
"""

import fcntl
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from keyd.shell.wire import credentials
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")


class Lock:
    """Held from construction until `release`; the kernel releases it for a killed process.

    The file is removed on release. Who opened it just before finds by its inode that the file is
    no longer the one at the path, and begins anew.

    Raises:
        ShellError: another process holds it (its pid is in the text), or no file can be made.
    """

    def __init__(self, path: Path, cookie: int = 0) -> None:
        self.path = path
        self.predecessor_cookie: int | None = None
        while True:
            self._fd = self._open()
            if self._is_current():
                break
            os.close(self._fd)
        words = os.pread(self._fd, 100, 0).split()
        if len(words) == 2 and words[1].isdigit():
            self.predecessor_cookie = int(words[1])  # a killed one's; a stop removes the file
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()} {cookie}\n".encode(), 0)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise ShellError(f"{self.path}: {error.strerror}", "give --socket PATH") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 100, 0).split()
            os.close(fd)
            who = f" as pid {pid[0].decode(errors='replace')}" if pid else ""
            served = self.path.with_suffix("")
            raise ShellError(
                f"already running{who} on {served}", "stop it first, or give --socket PATH"
            ) from None
        return fd

    def _is_current(self) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file, then let go."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


class NamespaceLock:
    """This network namespace's data path is ours, until `release`.

    Anyone can take the name; another user who does is reported, and changes nothing: the nft
    table and the device still refuse a second one.

    Raises:
        ShellError: another pfkeyd has it; its pid is in the text.
    """

    def __init__(self, name: str = "pfkeyd") -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.bind(f"\0{name}")
            self._socket.listen(128)  # nobody ever accepts: room for those who ask
        except OSError:
            self._socket.close()
            pid, uid = _name_holder(name)
            if uid not in (0, os.geteuid()):
                LOG.warning("namespace-name-taken pid=%d uid=%d", pid, uid)
                return
            raise ShellError(
                f"already running as pid {pid} in this network namespace",
                "stop it first, or use --no-dataplane",
            ) from None

    def release(self) -> None:
        """Let go."""
        self._socket.close()


def _name_holder(name: str) -> tuple[int, int]:
    """(pid, uid) of who listens on the abstract name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.setblocking(False)
        try:
            asking.connect(f"\0{name}")
        except OSError:
            return 0, -1  # gone meanwhile, or asked too often to tell
        pid, uid, _ = credentials(asking)
        return pid, uid


def holder(path: Path) -> int | None:
    """The pid of the living holder, or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 100, 0).split()
        return int(words[0]) if words and words[0].isdigit() else 0
    finally:
        os.close(fd)
    return None
