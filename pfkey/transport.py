"""Shell: where the key engine is, and a socket to it.

`unix` is pfkeyd's SOCK_SEQPACKET socket, one PF_KEY message a record; `af_key` a kernel's own
AF_KEY (RFC 2367 section 1.1). Both keep the bounds of records.
"""

import contextlib
import errno
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pfkey.const import PF_KEY_V2
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.errors import AbsentError, MisuseError, ShellError

Transport = Literal["unix", "af_key"]

RUN = Path("/run/pfkey")
NETNS = Path("/proc/self/ns/net")
MOUNT_PROC = "mount -t proc proc /proc"
RECORD_OCTETS_MAX = 65535 * 8  # sadb_msg_len is 16 bits of 64-bit words
# Python names AF_KEY where the system's headers do.
AF_KEY = getattr(socket, "AF_KEY", 15)
SEND_OCTETS = 128 << 10
RECEIVE_OCTETS = 2 << 20
_SUN_PATH_OCTETS = 108


def socket_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where this network namespace's pfkeyd listens.

    $PFKEY_SOCKET, unless this is a set-id program, else a path made of the namespace's inode: under
    /run/pfkey for root, under $XDG_RUNTIME_DIR/pfkey for others.
    """
    is_set_id = os.getuid() != os.geteuid() or os.getgid() != os.getegid()
    named = environ.get("PFKEY_SOCKET")
    if named and not is_set_id:
        return Path(named)
    name = f"{netns_inode()}.sock"
    runtime = environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() != 0 and runtime and not is_set_id:
        return Path(runtime) / "pfkey" / name
    return RUN / name


def netns_inode() -> int:
    """The inode of this process's network namespace.

    Raises:
        ShellError: /proc is not mounted.
    """
    try:
        return NETNS.stat().st_ino
    except OSError as error:
        raise ShellError(f"{NETNS}: {error.strerror}", MOUNT_PROC) from None


def control_path(path: Path) -> Path:
    """The control socket beside a PF_KEY socket.

    Raises:
        ShellError: a path such as / names no file that something could be beside.
    """
    if not path.name:
        raise ShellError(f"{path} is no socket", "give another --socket PATH")
    return path.with_name(path.name + ".ctl")


def choose(dialect: str | None, transport: Transport) -> Dialect:
    """The dialect of a name; where none is given, Linux's, or of a kernel's AF_KEY its own.

    Raises:
        MisuseError: no dialect has that name.
    """
    if dialect is None:
        own = (name for name in DIALECTS if sys.platform.startswith(name))
        dialect = next(own, LINUX.name) if transport == "af_key" else LINUX.name
    if dialect not in DIALECTS:
        raise MisuseError(f"no dialect {dialect!r}: it is one of {', '.join(DIALECTS)}")
    return DIALECTS[dialect]


def dialect_path(path: Path, dialect: Dialect) -> Path:
    """pfkeyd's socket for a dialect: beside `path`, which is Linux's unless `--dialect` was given.

    Raises:
        ShellError: a path such as / names no file that something could be beside.
    """
    if dialect is LINUX:
        return path
    if not path.name:
        raise ShellError(f"{path} is no socket", "give another --socket PATH")
    return path.with_name(f"{path.name}.{dialect.name}")


def attempt(
    transport: Transport, path: Path | None, dialect: Dialect = LINUX
) -> socket.socket | None:
    """One attempt to connect, without waiting; None: the engine has no time for us yet.

    `path` None is `socket_path()`; `dialect` chooses among pfkeyd's sockets. The socket does not
    block.

    Raises:
        AbsentError: nobody is there, or the kernel has no AF_KEY.
        ShellError: we may not, or the path cannot be one.
        MisuseError: no such transport, or a path with af_key.
    """
    if transport == "af_key":
        if path is not None:
            raise MisuseError(f"AF_KEY has no path, so {path} would be ignored; leave it away")
        return open_af_key()
    if transport != "unix":
        raise MisuseError(f"no transport {transport!r}: it is unix or af_key")
    plain = socket_path() if path is None else path
    return _open_linux(plain) if dialect is LINUX else open_unix(dialect_path(plain, dialect))


def _open_linux(path: Path) -> socket.socket | None:
    """Linux's PF_KEY: pfkeyd's first socket, unless that speaks another system's (`--dialect`).

    Then Linux's stands beside it, and was there before it.
    """
    beside = path.with_name(f"{path.name}.{LINUX.name}") if path.name else path
    if beside.is_socket():
        with contextlib.suppress(AbsentError):  # what a killed one has left
            return open_unix(beside)
        return open_unix(path)
    link = open_unix(path)
    if link is not None and path != beside and beside.is_socket():  # it has come meanwhile
        link.close()
        link = open_unix(beside)
    return link


def open_unix(path: Path) -> socket.socket | None:
    """Connect to a SEQPACKET socket; None when its queue of newcomers is full.

    Raises:
        AbsentError: nobody listens there.
        ShellError: we may not, or the path cannot be one.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.setblocking(False)
    try:
        with _through(path) as address:
            link.connect(address)
    except OSError as error:
        link.close()
        if error.errno == errno.EAGAIN:
            return None
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            what = f"no pfkeyd answers at {path}"
            raise AbsentError(what, f"start it with: {_start(path)}") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ShellError(f"{path}: {error.strerror}", "be root or in its group") from None
        if error.errno is None:  # Python's own: the last part alone is longer than an address
            raise ShellError(
                f"{path}: File name too long", "give a shorter --socket PATH"
            ) from None
        raise ShellError(f"{path}: {error.strerror}") from None
    return link


def _start(path: Path) -> str:
    """The command that starts a pfkeyd on this path, or beside this control socket."""
    with contextlib.suppress(ShellError):
        usual = socket_path()
        if path in (usual, control_path(usual)):
            return "pfkeyd &"
    return f"pfkeyd --socket {shlex.quote(str(path))} &"


@contextlib.contextmanager
def _through(path: Path) -> Iterator[str]:
    """A name for `path` that fits sockaddr_un, whose paths end at 107 octets."""
    if len(os.fsencode(path)) < _SUN_PATH_OCTETS:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield str(path)[: _SUN_PATH_OCTETS - 1]  # not there, and refused with that reason
        return
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def open_af_key() -> socket.socket:
    """A PF_KEY socket of this kernel, with the queues that libipsec gives it.

    Raises:
        AbsentError: this kernel has no AF_KEY.
        ShellError: we may not have one.
    """
    try:
        link = socket.socket(AF_KEY, socket.SOCK_RAW, PF_KEY_V2)
    except OSError as error:
        what = f"AF_KEY: {error.strerror}"
        if error.errno in (errno.EPERM, errno.EACCES):
            raise ShellError(what, "be root, or have CAP_NET_ADMIN") from None
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
            raise AbsentError(
                f"this kernel has no AF_KEY ({error.strerror})",
                "use pfkeyd: start it with `pfkeyd &` and connect without transport af_key",
            ) from None
        raise ShellError(what) from None
    link.setblocking(False)
    set_queues(link)
    return link


def set_queues(link: socket.socket) -> None:
    """Ask for the queues of libipsec's pfkey_open: never less than there is, and no fault if not.

    128 KiB to send; to receive 2 MiB, or half of that, or a quarter and so on.
    """
    if link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < SEND_OCTETS:
        with contextlib.suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_OCTETS)
    wanted, there = RECEIVE_OCTETS, link.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    while wanted > there:
        with contextlib.suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
            return
        wanted //= 2
