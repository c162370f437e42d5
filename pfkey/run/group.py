"""Shell: `pfkey run --policy`: a control group whose sockets all have the same policies.

The group is made below our own, and the program is put into it before it begins. Whatever makes
its sockets, the kernel knows the group they were made in, and nft asks for that. Sockets that the
program inherits were made elsewhere; they are given the policies one by one.
"""

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pfkey.errors import ShellError
from pfkey.run.daemons import Daemon
from pfkey.run.filter import AF_PACKET, AF_XDP
from pfkey.sockets import hand_over, is_privileged, set_policy

_REMEDY = (
    "a writable cgroup2 is needed: as root, or in a group that was delegated; in a container with"
    " --cgroupns private and /sys/fs/cgroup mounted rw"
)
_PAUSES = (0.001, 0.01, *[0.1] * 50)
_INET = (socket.AF_INET, socket.AF_INET6)
_SO_DOMAIN = 39


@dataclass(frozen=True, slots=True)
class Group:
    """One group, known by its directory. `policies` are octets, `uid` whose without privileges."""

    path: Path
    policies: tuple[bytes, ...]
    uid: int | None

    @classmethod
    def make(cls, policies: Sequence[bytes]) -> Self:
        """Make a group that nobody is in yet.

        Raises:
            ShellError: there is no place for it.
        """
        home = _own_directory()
        try:
            path = Path(tempfile.mkdtemp("", "pfkey-run-", home))
        except OSError as error:
            raise ShellError(f"{home}: no group below it: {error.strerror}", _REMEDY) from None
        return cls(path, tuple(policies), None if is_privileged() else os.geteuid())

    @property
    def params(self) -> dict[str, Any]:
        """As pfkeyd's methods take them."""
        return {"policies": [octets.hex() for octets in self.policies], "uid": self.uid}

    def may_change(self, *, is_privileged: bool) -> bool:
        """Whether a program in it may give its sockets other policies."""
        return is_privileged or self.uid is not None

    def enter(self) -> None:
        """Put this process into it.

        Raises:
            ShellError: that is not allowed.
        """
        try:
            (self.path / "cgroup.procs").write_text("0")
        except OSError as error:
            raise ShellError(f"{self.path}: {error.strerror}", _REMEDY) from None

    def leave(self) -> None:
        """Put this process back where it was, if it has entered."""
        with contextlib.suppress(OSError):
            (self.path.parent / "cgroup.procs").write_text("0")

    def take_inherited(self, texts: Sequence[str], path: Path) -> None:
        """Give the sockets that this process will hand on the policies, too."""
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.get_inheritable(int(name)):
                    _take(int(name), texts, path)

    def open(self) -> "Directory":
        """Its directory, to be handed over."""
        return Directory(self.path)

    def register(self, path: Path) -> None:
        """Have pfkeyd hold the sockets of the group to its policies.

        Raises:
            OSError: it refuses.
            ShellError: it is not there.
        """
        with self.open() as directory:
            hand_over(path, directory, "set_group", **self.params)

    def remove(self) -> None:
        """Take it away. The last program in it may still be on its way out."""
        for pause in _PAUSES:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(pause)
            else:
                return


class Directory:
    """An open directory."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Keeper:
    """Tells each pfkeyd that comes of the group: its predecessor may have been stopped."""

    def __init__(self, group: Group, daemon: Daemon) -> None:
        self._group = group
        self._daemon = daemon
        daemon.wants_successor.append(lambda: True)
        daemon.on_change.append(self._tell)
        self._tell(0.0)

    def _tell(self, now: float) -> None:
        if now and not self._daemon.is_here:
            return
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            directory = stack.enter_context(self._group.open())
            self._daemon.call(
                "set_group", self._group.params, directory, lambda record: directory.close()
            )
            stack.pop_all()  # it is handed over, perhaps only when there is room


def _take(fd: int, texts: Sequence[str], path: Path) -> None:
    """OSError: it is no socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, fileno=os.dup(fd)) as sock:
        domain = sock.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN)
        if domain in (AF_PACKET, AF_XDP):
            raise ShellError(f"descriptor {fd}: a packet socket obeys no policy", "close it")
        if domain not in _INET:
            return
        for text in texts:
            try:
                set_policy(sock, text, path=path)
            except OSError as error:
                raise ShellError(f"descriptor {fd}: {error.strerror}", "close it") from None


def _own_directory() -> Path:
    """The directory of the group that we are in, in the unified hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            for mount in Path("/proc/self/mountinfo").read_text().splitlines():
                before, _, after = mount.partition(" - ")
                if after.split()[0] == "cgroup2":
                    root, point = before.split()[3:5]
                    return Path(point) / os.path.relpath(path, root)
    raise ShellError("no cgroup2 is mounted here", _REMEDY)
