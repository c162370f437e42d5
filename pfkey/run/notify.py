"""Shell: seccomp user notification (seccomp_unotify(2)) through ctypes and ioctl.

The thread that installs the filter gets a listener, which the supervisor reads: each notified
system call waits there until it is answered with an errno, let go on, or given a descriptor as its
result. Between any two steps the caller may die and its thread id be used by another: what was
learned of it counts only if `is_valid` says so afterwards.
"""

import ctypes
import errno
import fcntl
import os
import platform
import struct
from dataclasses import dataclass

from pfkey.errors import ShellError
from pfkey.run.filter import MACHINES, native, program

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_SET_MODE_FILTER, _GET_NOTIF_SIZES = 1, 3
_SPEC_ALLOW, _NEW_LISTENER = 1 << 2, 1 << 3
_PR_SET_NO_NEW_PRIVS = 38
# ioctls of the type '!': RECV, SEND, ID_VALID, ADDFD
_RECV, _SEND, _ID_VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE = 1
_ADDFD_SEND = 2
_NOTIF = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; nr, arch, instruction pointer, arguments
_RESPONSE = struct.Struct("=QqiI")
_PLACE = struct.Struct("=Q4I")
_GONE = frozenset((errno.ENOENT, errno.EINPROGRESS))


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that waits for its answer. `tid` is 0 where the caller cannot be seen."""

    id: int
    tid: int
    arch: int
    number: int
    arguments: tuple[int, ...]

    def argument(self, index: int) -> int:
        """An argument that the kernel takes as an `int`."""
        value = self.arguments[index] & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value


class Listener:
    """The supervisor's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray(_notif_octets())

    def fileno(self) -> int:
        """Readable: a call waits. Hung up: the last program under the filter has ended."""
        return self._fd

    def close(self) -> None:
        """Every call that waits, or is notified from now on, ends with ENOSYS."""
        os.close(self._fd)

    def receive(self) -> Call | None:
        """The next call; None if the one that was there has gone."""
        self._buffer[:] = bytes(len(self._buffer))
        try:
            fcntl.ioctl(self._fd, _RECV, self._buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, tid, _, call, arch, _, *arguments = _NOTIF.unpack_from(self._buffer)
        return Call(number, tid, arch, call, tuple(arguments))

    def is_valid(self, call: Call) -> bool:
        """Whether the caller still waits, so that its thread id is still its own."""
        try:
            fcntl.ioctl(self._fd, _ID_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def refuse(self, call: Call, number: int) -> None:
        """The call ends with this errno."""
        self._answer(_RESPONSE.pack(call.id, 0, -number, 0))

    def let_go(self, call: Call) -> None:
        """The call goes on into the kernel, which reads all its arguments anew."""
        self._answer(_RESPONSE.pack(call.id, 0, 0, _CONTINUE))

    def finish(self, call: Call) -> None:
        """The call ends with 0: it has been done."""
        self._answer(_RESPONSE.pack(call.id, 0, 0, 0))

    def place(self, call: Call, fd: int, *, close_on_exec: bool) -> int:
        """The call ends with a copy of our descriptor, at the caller's lowest free number.

        Returns 0, or why the caller could not get it; ENOENT: it no longer waits.
        """
        flags = os.O_CLOEXEC if close_on_exec else 0
        try:
            fcntl.ioctl(self._fd, _ADDFD, _PLACE.pack(call.id, _ADDFD_SEND, fd, 0, flags))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _answer(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self._fd, _SEND, response)
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _notif_octets() -> int:
    """The kernel's size of a notification, which may grow."""
    sizes = ctypes.create_string_buffer(6)
    number = native(platform.machine()).seccomp
    known = _NOTIF.size
    if _libc.syscall(number, _GET_NOTIF_SIZES, 0, sizes):
        return known
    return max(known, int(struct.unpack("=3H", sizes.raw)[0]))


def install(machine: str, *, joins: bool = False) -> int:
    """Put this process and all that it will become under the filter, for ever; the listener.

    Without CAP_SYS_ADMIN the kernel allows a filter only to programs that cannot gain rights by
    set-user-id files: NO_NEW_PRIVS is taken then, as for ever.

    Raises:
        ShellError: this machine or its confinement does not allow it, with the remedy.
    """
    if machine not in MACHINES:
        raise ShellError(
            f"pfkey run does not know the system calls of {machine}",
            f"it knows {', '.join(MACHINES)}",
        )
    octets = program(machine, joins=joins)
    code = ctypes.create_string_buffer(octets, len(octets))
    head = struct.pack("@HP", len(octets) // 8, ctypes.addressof(code))
    fd = _set_filter(machine, head)
    if fd < 0 and ctypes.get_errno() == errno.EACCES:
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        fd = _set_filter(machine, head)
    if fd < 0:
        raise _refusal(ctypes.get_errno())
    return fd


def _set_filter(machine: str, head: bytes) -> int:
    # without SPEC_ALLOW, older kernels slow a program down, which a sandbox may want and we do not
    flags = _SPEC_ALLOW | _NEW_LISTENER
    return int(_libc.syscall(native(machine).seccomp, _SET_MODE_FILTER, flags, head))


def _refusal(number: int) -> ShellError:
    if number == errno.EBUSY:
        return ShellError(
            "a program here is supervised already, by another pfkey run or by the container's"
            " runtime", "a process can have one such supervisor",
        )  # fmt: skip
    if number in (errno.EPERM, errno.EACCES):
        return ShellError(
            "the seccomp profile here forbids user notification",
            "in a container: --security-opt seccomp=unconfined, or allow seccomp(2)",
        )
    return ShellError(
        f"this kernel has no seccomp user notification ({os.strerror(number)})",
        "it takes Linux 5.14 or later with CONFIG_SECCOMP_FILTER",
    )
