"""Control groups whose sockets all have the same policies, for `pfkey run --policy`.

A socket belongs to the group that its maker was in, whatever made it, and nft asks for that. A
group is known by its directory's descriptor, and forgotten when nobody is in it any more. Whoever
makes one has a while to put the first process in: it is held to its policies before that.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keyd.shell.handed import is_cgroup
from keyd.socket_group import SocketGroup

LOG = logging.getLogger("keyd.shell")

GROUPS_MAX, GROUPS_EACH = 256, 16
UNUSED_SECONDS = 60.0
_ROOT_INODE = 1
# nft looks below /sys/fs/cgroup; wherever the hierarchy is mounted, this leads there from here
_FROM_CGROUPS = "../../../proc/self/fd/{}"


@dataclass(slots=True)
class _Entry:
    fd: int
    inode: int
    group: SocketGroup
    uid: int | None
    policies: list[str]
    since: float
    was_populated: bool = False


class SocketGroups:
    """All of them, by inode."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def __iter__(self) -> Iterator[SocketGroup]:
        return (entry.group for entry in self._entries.values())

    @property
    def pairs(self) -> set[int]:
        """The numbers that groups have."""
        return {entry.group.pair for entry in self._entries.values()}

    def has_room(self, fd: int, uid: int | None) -> bool:
        """Whether a user without privileges may have this one; None: the others."""
        if os.fstat(fd).st_ino in self._entries:
            return True
        owned = sum(entry.uid == uid for entry in self._entries.values())
        return len(self._entries) < GROUPS_MAX and (uid is None or owned < GROUPS_EACH)

    def add(self, fd: int, pair: int, uid: int | None, policies: list[str], now: float) -> bool:
        """Take a group, or give it another pair; `fd` stays the caller's. Whether that is new."""
        inode = os.fstat(fd).st_ino
        old = self._entries.get(inode)
        if old is not None and (old.group.pair, old.uid, old.policies) == (pair, uid, policies):
            return False
        self.remove(inode)
        ours = os.dup(fd)
        group = SocketGroup(pair, _level(ours), _FROM_CGROUPS.format(ours))
        self._entries[inode] = _Entry(ours, inode, group, uid, policies, now)
        LOG.info("socket-group-made pair=%d path=%s", pair, os.readlink(f"/proc/self/fd/{ours}"))
        return True

    def remove(self, inode: int) -> None:
        """Forget one."""
        entry = self._entries.pop(inode, None)
        if entry is not None:
            os.close(entry.fd)
            LOG.info("socket-group-gone pair=%d", entry.group.pair)

    def empty(self, now: float) -> list[int]:
        """The inodes of those that nobody is in any more, or that are gone."""
        gone = []
        for inode, entry in self._entries.items():
            populated = _is_populated(entry.fd)
            if populated:
                entry.was_populated = True
            elif populated is None or entry.was_populated or now - entry.since > UNUSED_SECONDS:
                gone.append(inode)
        return gone

    def close(self) -> None:
        """Let go of all."""
        for entry in self._entries.values():
            os.close(entry.fd)
        self._entries.clear()

    def to_json(self) -> list[dict[str, Any]]:
        """For a successor; see `reopened`."""
        return [
            {
                "path": os.readlink(f"/proc/self/fd/{entry.fd}"),
                "inode": inode,
                "uid": entry.uid,
                "policies": entry.policies,
            }
            for inode, entry in self._entries.items()
        ]


@contextlib.contextmanager
def reopened(one: dict[str, Any]) -> Iterator[int | None]:
    """The descriptor of a predecessor's group, if that is still there."""
    try:
        fd = os.open(one["path"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield fd if is_cgroup(fd) and os.fstat(fd).st_ino == one["inode"] else None
    finally:
        os.close(fd)


def _level(fd: int) -> int:
    """How many steps it is up to the root, as far as this mount shows."""
    level, at = 0, os.dup(fd)
    while True:
        here = os.fstat(at)
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        is_top = os.fstat(above).st_dev != here.st_dev or here.st_ino == _ROOT_INODE
        os.close(at)
        if is_top:
            os.close(above)
            return level
        level, at = level + 1, above


def _is_populated(fd: int) -> bool | None:
    """Whether somebody is in it; None: it has been taken away."""
    try:
        events = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        return None
    try:
        return b"populated 1" in os.read(events, 4096)
    except OSError:
        return None
    finally:
        os.close(events)
