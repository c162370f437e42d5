"""Where the daemon's files are: the socket's path, and which network namespace it serves.

One key engine per network namespace, as with AF_KEY: the default name holds the inode of
`/proc/self/ns/net`. Inodes are used again after a namespace has died; its cookie never is.
"""

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from pfkey.dialect import DIALECTS, LINUX
from pfkey.errors import ShellError
from pfkey.transport import netns_inode

RUN = Path("/run/pfkey")
_SO_NETNS_COOKIE = 71
# Dialects whose socket is always beside the first one, which speaks Linux's unless told otherwise.
OTHER_DIALECTS = tuple(name for name in DIALECTS if name != LINUX.name)
BESIDE = ("ctl", "lock", "state", *DIALECTS)
_PATH_OCTETS = 107  # sun_path without its final zero


def netns_cookie() -> int:
    """The cookie of this process's network namespace; 0 before Linux 5.14."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        try:
            octets = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(octets, sys.byteorder)


def socket_path(given: str | None, environ: Mapping[str, str], *, is_root: bool) -> Path:
    """The PF_KEY socket: `--socket`, else $PFKEY_SOCKET, else by namespace.

    Raises:
        ShellError: the path does not fit a socket address, or there is no place for it.
    """
    if given == "":
        raise ShellError("--socket is empty", "give --socket PATH")
    if given:
        path = Path(given)
    elif environ.get("PFKEY_SOCKET") and os.getuid() == os.geteuid():
        path = Path(environ["PFKEY_SOCKET"])
    elif is_root:
        path = RUN / f"{netns_inode()}.sock"
    elif environ.get("XDG_RUNTIME_DIR"):
        path = Path(environ["XDG_RUNTIME_DIR"]) / "pfkey" / f"{netns_inode()}.sock"
    else:
        raise ShellError(
            "no place for the socket: XDG_RUNTIME_DIR is not set", "give --socket PATH"
        )
    path = path.absolute()
    if not path.name:
        raise ShellError(f"{path} is a directory", "give another --socket PATH")
    if max(len(os.fsencode(beside(path, what))) for what in BESIDE) > _PATH_OCTETS:
        raise ShellError(f"the socket's path is too long: {path}", "give a shorter --socket PATH")
    return path


def beside(path: Path, what: str) -> Path:
    """A file that belongs to the socket: `ctl`, `lock`, `state`, or a dialect's socket."""
    return path.with_name(f"{path.name}.{what}")


def make_parent(path: Path, *, is_default: bool) -> bool:
    """Make the default run directory; whether it was made now.

    Raises:
        ShellError: it is missing and not ours to make, or it is no directory.
    """
    parent = path.parent
    if is_default:
        try:
            parent.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise ShellError(f"{parent}: {error.strerror}", "give --socket PATH") from None
        else:
            return True
    if parent.is_symlink() or parent.exists():
        if not parent.is_dir():
            raise ShellError(f"{parent} is no directory", "give another --socket PATH")
    else:
        raise ShellError(f"there is no directory {parent}", f"mkdir -p {parent}")
    return False


def remove_socket(path: Path) -> None:
    """Remove a socket file, ours or of a dead daemon; the lock must be held.

    Raises:
        ShellError: the path is something else than a socket.
    """
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            raise ShellError(f"{path} exists and is no socket", "give another --socket PATH")
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ShellError(f"{path}: {error.strerror}", "give another --socket PATH") from None


def remove_parent(path: Path) -> None:
    """Remove the run directory that we made, unless somebody uses it."""
    with contextlib.suppress(OSError):
        path.parent.rmdir()
