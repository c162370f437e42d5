"""Shell: a caller's memory and descriptors, which it can change while we look.

What is read is used as it was read, once. A memory that is open stays the memory of the process it
was opened for, so writing is safe once the notification was valid after the opening.
"""

import ctypes
import errno
import os
import platform
import socket
from types import TracebackType
from typing import Self

from pfkey.run.caller import socket_inode
from pfkey.run.filter import native

_PIDFD_THREAD = os.O_EXCL  # Linux 6.9
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Memory:
    """The memory of a thread's process.

    Raises:
        OSError: EPERM: we may not look.
    """

    def __init__(self, tid: int) -> None:
        try:
            self._fd = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            raise OSError(errno.EPERM, "memory that we may not look at") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, address: int, octets: int) -> bytes:
        """What is there.

        Raises:
            OSError: EFAULT: nothing is, or not all of it.
        """
        try:
            found = os.pread(self._fd, octets, address) if _is_user(address) else b""
        except OSError:
            found = b""
        if len(found) != octets:
            raise OSError(errno.EFAULT, "bad address")
        return found

    def write(self, address: int, octets: bytes) -> None:
        """Put it there.

        Raises:
            OSError: EFAULT: there is no room.
        """
        try:
            written = os.pwrite(self._fd, octets, address) if _is_user(address) else 0
        except OSError:
            written = 0
        if written != len(octets):
            raise OSError(errno.EFAULT, "bad address")


def _is_user(address: int) -> bool:
    return address < 1 << 63  # what a file offset can say; the kernel's own half is beyond


def take_socket(tid: int, fd: int) -> socket.socket:
    """A copy of a thread's socket.

    Raises:
        OSError: EBADF, ENOTSOCK; EPERM: we may not take it.
    """
    inode = socket_inode(tid, fd)
    if inode is None:
        raise OSError(errno.EPERM, "descriptors that we may not look at")
    copy = _take(tid, fd)
    found = os.fstat(copy)
    if not inode or found.st_ino != inode:
        os.close(copy)
        raise OSError(errno.ENOTSOCK, "not a socket, or not the one that was there")
    # the true family is asked for by whoever needs it
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=copy)


def _take(tid: int, fd: int) -> int:
    abi = native(platform.machine())
    pidfd = int(_libc.syscall(abi.pidfd_open, tid, _PIDFD_THREAD))
    if pidfd < 0:  # older kernels know whole processes only, whose threads share descriptors
        pidfd = int(_libc.syscall(abi.pidfd_open, _process(tid), 0))
    if pidfd < 0:
        raise OSError(errno.EPERM, "the caller is gone")
    try:
        copy = int(_libc.syscall(abi.pidfd_getfd, pidfd, fd, 0))
        error = ctypes.get_errno()
    finally:
        os.close(pidfd)
    if copy < 0:
        raise OSError(errno.EBADF if error == errno.EBADF else errno.EPERM, os.strerror(error))
    return copy


def _process(tid: int) -> int:
    """The process of a thread."""
    with open(f"/proc/{tid}/status") as status:
        for line in status:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return tid
