"""What the control process gives up, and the priority it takes (capabilities(7), sched(7))."""

import contextlib
import ctypes
import logging
import os
import resource
import struct

from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 4, 24
_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

DESCRIPTORS_MIN = 128  # about 50 in use with a data path, and what no client may have

CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH = 0, 1, 2
KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, NET_RAW, SYS_NICE = 5, 6, 7, 8, 12, 13, 23

# What runs later needs: nft, routes and TUN; raw sockets; workers that are started anew under
# another user, ended, and given their files, which may lie in a directory closed to root's rest.
KEPT = (CHOWN, DAC_READ_SEARCH, KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, NET_RAW, SYS_NICE)


def capabilities() -> set[int]:
    """The effective capabilities of this thread."""
    head = struct.pack("=Ii", _VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(head, data):
        return set()
    words = struct.unpack("=6I", data.raw)
    mask = words[0] | words[3] << 32
    return {n for n in range(_LAST_CAPABILITY + 1) if mask >> n & 1}


def drop_capabilities(keep: set[int]) -> None:
    """Give up every capability but these, for good: permitted, effective and bounding set.

    Must run before other threads exist: capabilities belong to threads.
    """
    has = capabilities()
    if not has:
        return
    if SETPCAP in has:
        for number in range(_LAST_CAPABILITY + 1):
            if number not in keep:
                _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    mask = sum(1 << n for n in keep & has)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    head = struct.pack("=Ii", _VERSION_3, 0)
    if _libc.capset(head, struct.pack("=6I", low, low, 0, high, high, 0)):
        LOG.warning("capabilities-kept errno=%s", ctypes.get_errno())


def keep_secrets() -> None:
    """No core file, no other process that reads our memory."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def raise_priority() -> str:
    """Put this thread before busy packet workers; what was done. Children do not inherit it."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        return "rr"
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        return "nice"
    return "none"


def need_descriptors() -> None:
    """Raise the limit on descriptors as far as it goes.

    Raises:
        ShellError: that is too few for what pfkeyd keeps open and still has to open.
    """
    if (most := raise_descriptor_limit()) < DESCRIPTORS_MIN:
        what = f"the hard limit on open files is {most}, and {DESCRIPTORS_MIN} are needed"
        raise ShellError(what, "ulimit -n 1024")


def raise_descriptor_limit() -> int:
    """Allow as many descriptors as the hard limit says; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    wanted = min(wanted, 1 << 20)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft if soft != resource.RLIM_INFINITY else wanted
