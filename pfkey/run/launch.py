"""Shell: how a program comes under the filter and the supervisor behind it.

The process that was started becomes the program, so that its pid, parent, terminal, signals and
exit status are the program's own. Beforehand it splits off the supervisor, which is nobody's child:

    pfkey run ─┬─ filter ── exec ─► the program and all its children
               └─ fork ─ fork ────► supervisor, in a session of its own, with no descriptor of the
                                    program's; it ends when the last of them has
"""

import ctypes
import errno
import os
import platform
import resource
import shutil
import signal
import socket
import sys
import syslog
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Never

from pfkey import policy as language
from pfkey.control import Control
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import ShellError
from pfkey.run.group import Group
from pfkey.run.notify import Listener, install
from pfkey.run.supervisor import Supervisor

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # exit status, as of every shell
_PR_SET_NAME = 15
_DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE)
_PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored since Python has begun
_HIGHEST = 2**31 - 1
_SHELL = "/bin/sh"
_Begin = partial[Supervisor]  # with all but the listener and the machine


def run(
    words: Sequence[str],
    path: Path,
    *,
    is_default: bool,
    policies: Sequence[str] = (),
    dialect: Dialect = LINUX,
) -> Never:
    """Become the program of these words, supervised; see `Daemons` for the rest.

    Its PF_KEY sockets speak this dialect. With `policies` all its sockets have these, see
    `pfkey.run.group`.

    Raises:
        PolicyError: one of them is none.
        ShellError: there is no pfkeyd at this path, or no seccomp notification here.
    """
    octets = [language.parse(policy).encode() for policy in policies]
    path = path.absolute()
    Control(path).close()
    group = Group.make(octets) if octets else None
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        begin = partial(Supervisor, path=path, is_default=is_default, group=group, dialect=dialect)
        _split_off(theirs, begin, group)
        theirs.close()
        if group is not None:
            _join(group, path, policies)
        listener = install(platform.machine(), joins=group is not None)
        socket.send_fds(ours, [b"listener"], [listener])
        os.close(listener)
        if not ours.recv(1):
            raise ShellError("the supervisor did not start", "the system's log says why")
        ours.close()
    except BaseException:
        if group is not None:
            group.leave()
            group.remove()
        raise
    _become(words)


def _join(group: Group, path: Path, policies: Sequence[str]) -> None:
    """Have the policies in force, and only then be in the group."""
    try:
        group.register(path)
    except OSError as error:
        raise ShellError(f"--policy: {error.strerror}") from None
    group.take_inherited(policies, path)
    group.enter()


def _become(words: Sequence[str]) -> Never:
    for number in _PYTHONS:
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    environment = _environment()
    try:
        try:
            os.execvpe(words[0], list(words), environment)
        except OSError as error:
            script = shutil.which(words[0])
            if error.errno != errno.ENOEXEC or script is None:
                raise
            # as execvp(3) runs a script that does not say by what
            os.execve(_SHELL, [_SHELL, script, *words[1:]], environment)
    except OSError as error:
        print(f"pfkey run: {words[0]}: {error.strerror}", file=sys.stderr)
        raise SystemExit(
            NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        ) from None


def _environment() -> dict[bytes, bytes]:
    """As we were given it: Python adds to its own where the locale is C (PEP 538)."""
    try:
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environb)
    return dict(line.split(b"=", 1) for line in lines if b"=" in line)


def _split_off(end: socket.socket, begin: _Begin, group: Group | None) -> None:
    """Fork the supervisor. It is nobody's child, so that no program waits for it."""
    child = os.fork()
    if child:
        with suppress(ChildProcessError):  # SIGCHLD is ignored here: nobody needs to wait
            os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        if not os.fork():
            _supervise(end, begin, group)
        status = 0
    except BaseException:  # of a fork of ours nothing may come back into the caller
        syslog.syslog(syslog.LOG_ERR, f"pfkey run: {traceback.format_exc()}")
    finally:
        os._exit(status)


def _supervise(end: socket.socket, begin: _Begin, group: Group | None) -> None:
    _let_go_of_the_world(end)
    _, fds, _, _ = socket.recv_fds(end, 64, 1)
    if not fds:
        return  # the filter was refused, and who asked for it has been told
    supervisor = begin(Listener(fds[0]), machine=platform.machine())
    end.send(b"s")
    end.close()
    try:
        supervisor.run()
    finally:
        if group is not None:
            group.remove()


def _let_go_of_the_world(end: socket.socket) -> None:
    """Keep nothing that is the program's: descriptors, directory, terminal, signals."""
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(3, end.fileno())
    os.closerange(end.fileno() + 1, _HIGHEST)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"pfkey-run", 0, 0, 0)
