"""What a worker gives up before its first packet: user, capabilities, dumps, new rights.

It keeps the descriptors it was given, and those are all it needs.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import struct
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522
_WHOLE_MAP = ["0", "0", "4294967295"]
USERS = ("pfkeyd", "nobody")

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int = 0) -> int:
    return int(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0))


def enter(parent: int) -> None:
    """Give up everything. Ends the process when `parent` is gone already.

    In a user namespace where the other user is not mapped the user stays, powerless outside.

    Raises:
        OSError: a right could not be given up.
    """
    _drop_bounding_set()
    if os.geteuid() == 0:
        _drop_user()
    _drop_capabilities()
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) or _prctl(_PR_SET_DUMPABLE, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # a change of user clears it, so it comes last; it has missed a parent that died before
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _drop_bounding_set() -> None:
    capability = 0
    while _prctl(_PR_CAPBSET_READ, capability) >= 0:
        _prctl(_PR_CAPBSET_DROP, capability)  # refused without CAP_SETPCAP: nothing to lose then
        capability += 1


def _drop_user() -> None:
    is_whole = Path("/proc/self/uid_map").read_text().split() == _WHOLE_MAP
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
            break
        except KeyError:
            continue
    else:
        raise OSError(0, f"there is no user {' or '.join(USERS)}")
    # setgroups is denied in most user namespaces, and other users are not mapped there
    with contextlib.nullcontext() if is_whole else contextlib.suppress(OSError):
        os.setgroups([])
    with contextlib.nullcontext() if is_whole else contextlib.suppress(OSError):
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _drop_capabilities() -> None:
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    head = ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION_3, 0), 8)
    if _libc.capset(head, ctypes.create_string_buffer(24)):
        raise OSError(ctypes.get_errno(), "capset")
