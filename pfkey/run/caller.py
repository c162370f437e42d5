"""Shell: who makes a notified system call, by what /proc says of its thread.

Nothing is believed that the program could say of itself. What is learned counts only while the
notification is valid (`pfkey.run.notify`). A caller that we may not look at, being of another user
or having changed its own, has more rights than we have or none that we could know of: EPERM.
"""

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13
_NS_GET_USERNS, _NS_GET_PARENT = 0xB701, 0xB702

Namespace = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Caller:
    """One thread: its network namespace, and its privileges there."""

    netns: Namespace
    euid: int
    is_net_admin: bool
    is_net_raw: bool

    @classmethod
    def of(cls, tid: int) -> Self:
        """Look at a thread.

        Raises:
            OSError: it is gone, or we may not look.
        """
        proc = Path(f"/proc/{tid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        netns = os.open(proc / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            counts = _identity(os.stat(proc / "ns/user")) in _owners(netns)
            has = int(status["CapEff"], 16) if counts else 0
            return cls(
                netns=_identity(os.fstat(netns)),
                euid=int(status["Uid"].split()[1]),
                is_net_admin=bool(has >> CAP_NET_ADMIN & 1),
                is_net_raw=bool(has >> CAP_NET_RAW & 1),
            )
        finally:
            os.close(netns)

    @classmethod
    def myself(cls) -> Self:
        """This process."""
        return cls.of(os.getpid())


def _identity(found: os.stat_result) -> Namespace:
    return found.st_dev, found.st_ino


def _owners(netns: int) -> list[Namespace]:
    """The user namespaces whose privileges count in a network namespace: its owner and up.

    As far as we can see: what lies above our own cannot be asked for, and no caller is there.
    """
    found: list[Namespace] = []
    at, request = os.dup(netns), _NS_GET_USERNS
    while True:
        try:
            above = fcntl.ioctl(at, request)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTTY):
                raise
            return found
        finally:
            os.close(at)
        found.append(_identity(os.fstat(above)))
        at, request = above, _NS_GET_PARENT


def socket_inode(tid: int, fd: int) -> int | None:
    """The inode of a thread's socket; 0: it is none; None: we may not look."""
    try:
        name = os.readlink(f"/proc/{tid}/fd/{fd}")
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    return int(name[8:-1]) if name.startswith("socket:[") else 0
