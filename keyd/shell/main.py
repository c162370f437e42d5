"""The command pfkeyd: from the command line to the exit code."""

import grp
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from keyd.model import Usage
from keyd.shell import load, log, paths, preflight, privilege
from keyd.shell.daemon import STOPPING, Daemon, clock, make_engine
from keyd.shell.lock import Lock
from keyd.shell.options import Options, parse
from keyd.shell.plane import NoPlane, Plane
from pfkey import streams
from pfkey.errors import PfkeyError, ShellError

LOG = logging.getLogger("keyd.shell")

# The thread that steers must not keep a client waiting; Python's 5 ms is more than some wait.
_SWITCH_SECONDS = 0.0002


def main(argv: Sequence[str] | None = None) -> int:
    """Run pfkeyd; the exit code: 0 done, 1 refused or failed, 2 wrong usage."""
    streams.stand_in()  # or the lock, or a worker's state file, becomes its standard error
    options = parse(sys.argv[1:] if argv is None else argv)
    log.set_up(options.log_level)
    try:
        return _check(options) if options.check else _serve(options)
    except KeyboardInterrupt:
        return 1
    except PfkeyError as error:
        return _refused(error)
    except BaseExceptionGroup as group:
        return _refused(_first(group))
    except Exception as error:
        return _refused(error)


def _first(error: BaseException) -> BaseException:
    """What there is to say about a fault: our own words before others'."""
    leaves = list(_leaves(error))
    return next((e for e in leaves if isinstance(e, PfkeyError)), leaves[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _refused(error: BaseException) -> int:
    """One line for the user, whatever went wrong; where it came from only at level debug."""
    if isinstance(error, PfkeyError):
        text = str(error)
    else:
        text = f"internal error: {type(error).__name__}; --log-level debug says where"
        for frame in log.frames_of(error):
            LOG.debug("frame file=%(file)s line=%(line)d in=%(in)s", frame)
    sys.stderr.write(f"pfkeyd: {text}\n")
    return 1


def _check(options: Options) -> int:
    """Say what is missing, and change nothing."""
    faults = preflight.missing(dataplane=options.dataplane)
    path = None
    try:
        path = paths.socket_path(options.socket, os.environ, is_root=os.geteuid() == 0)
        _group(options.group)
    except ShellError as error:
        faults.append(error)
    if path and (in_use := preflight.running(path)):
        faults.append(in_use)
    said = [*map(str, faults), *_faults_of_file(options)]
    for fault in (*said, *preflight.notes(dataplane=options.dataplane)):
        sys.stderr.write(f"pfkeyd: {fault}\n")
    if said:
        return 1
    try:
        sys.stdout.write(f"pfkeyd: ready to serve {path}\n")
        sys.stdout.flush()
    except OSError as error:
        streams.give_up_output()
        raise ShellError(f"standard output: {error.strerror}") from None
    return 0


def _faults_of_file(options: Options) -> Sequence[str]:
    path = load.choose(options.load, options.default_file)
    if path is None:
        return ()
    try:
        load.carry_out(path, load.parse(path), make_engine(lambda _: Usage()).draft(clock()))
    except load.FaultsError as error:
        return error.faults
    return ()


def _serve(options: Options) -> int:
    privilege.need_descriptors()
    preflight.require(dataplane=options.dataplane)
    for note in preflight.notes(dataplane=options.dataplane):
        LOG.warning("%s", note)
    path = paths.socket_path(options.socket, os.environ, is_root=os.geteuid() == 0)
    gid = _group(options.group)
    is_default = path.parent == paths.RUN or not (options.socket or os.environ.get("PFKEY_SOCKET"))
    is_ours = paths.make_parent(path, is_default=is_default)
    sys.setswitchinterval(_SWITCH_SECONDS)
    cookie = paths.netns_cookie()
    # a stop that comes now waits until the daemon listens for it, and the lock goes as at any stop
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with Lock(paths.beside(path, "lock"), cookie):
            privilege.keep_secrets()
            privilege.drop_capabilities(_kept(path))
            plane = _plane(options, path)
            LOG.debug("priority taken=%s", privilege.raise_priority())
            trio.run(Daemon(options, path, gid, plane).run)
    finally:
        if is_ours:
            paths.remove_parent(path)
    LOG.info("stopped")
    return 0


def _plane(options: Options, path: Path) -> Plane:
    if not options.dataplane:
        return NoPlane()
    # libnftables and the packet code cost 0.1 s to load: not for --no-dataplane
    from keyd.shell.plane_real import real_plane

    return real_plane(options, path)


def _kept(path: Path) -> set[int]:
    kept = set(privilege.KEPT)
    if path.parent.stat().st_uid != os.geteuid():  # or the socket could not be removed
        kept.add(privilege.DAC_OVERRIDE)
    return kept


def _group(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ShellError(f"there is no group {name}", f"groupadd --system {name}") from None


if __name__ == "__main__":
    sys.exit(main())
