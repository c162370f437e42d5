"""One daemon per socket: `<socket>.lock`, held by flock, with the holder's pid inside."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from pfkey.errors import ShellError


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
