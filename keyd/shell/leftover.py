"""A state file that another network namespace left under our name: inodes are used again.

Its sequence numbers and windows are those of other SAs, however alike their keys are. The last
8 octets of the file's first page, which the state file itself does not use, hold the cookie of
the namespace it belongs to, in host order; a cookie is never used again.
"""

import contextlib
import os
import sys
from pathlib import Path

_COOKIE_AT, _COOKIE_OCTETS = 4088, 8


def forget_foreign(path: Path, cookie: int) -> bool:
    """Remove the file if it is not of this namespace; whether it was. Cookie 0 says nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        found = int.from_bytes(os.pread(fd, _COOKIE_OCTETS, _COOKIE_AT), sys.byteorder)
    finally:
        os.close(fd)
    if not cookie or found == cookie:
        return False
    with contextlib.suppress(OSError):
        path.unlink()
    return True


def mark(fd: int, cookie: int) -> None:
    """Note whose file it is."""
    os.pwrite(fd, cookie.to_bytes(_COOKIE_OCTETS, sys.byteorder), _COOKIE_AT)
