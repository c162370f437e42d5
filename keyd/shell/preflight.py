"""What this machine lacks for a data path, found before anything is changed."""

from collections.abc import Callable
from pathlib import Path

from keyd.shell.lock import holder
from keyd.shell.paths import beside
from pfkey import doctor
from pfkey.errors import ShellError

_CHECKS: tuple[Callable[[], doctor.Finding], ...] = (
    doctor.check_rights, doctor.check_tun, doctor.check_nftables,
)  # fmt: skip
_NOTES: tuple[Callable[[], doctor.Finding], ...] = (doctor.check_ipv6,)


def missing(*, dataplane: bool) -> list[ShellError]:
    """Everything that is missing, each with its remedy; empty when pfkeyd can work."""
    if not dataplane:
        return []
    found = [check() for check in _CHECKS]
    return [ShellError(f"{f.name}: {f.seen}", f.remedy) for f in found if not f.ok]


def notes(*, dataplane: bool) -> list[ShellError]:
    """What does not keep pfkeyd from working, but from protecting all that there is."""
    found = [check() for check in _NOTES] if dataplane else []
    return [ShellError(f"{f.name}: {f.seen}", f.remedy) for f in found if not f.ok]


def require(*, dataplane: bool) -> None:
    """Raise the first of what is missing."""
    for error in missing(dataplane=dataplane):
        raise error


def running(path: Path) -> ShellError | None:
    """What keeps us from serving this socket: somebody who does."""
    pid = holder(beside(path, "lock"))
    return None if pid is None else ShellError(f"already running as pid {pid} on {path}")
