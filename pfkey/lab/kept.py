"""Hosts that outlive `pfkey lab --keep`: what is standing, how to enter it, how to end it.

One JSON file per example names processes (with their start times, because pids are used again)
and namespaces.
"""

import contextlib
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pfkey.errors import ShellError
from pfkey.lab.hosts import Net, delete

STATE_VARIABLE = "PFKEY_LAB_STATE"  # where the files are, if not at the usual place
INSIDE_VARIABLE = "PFKEY_LAB_INSIDE"  # set in a user namespace of our own
_RIGHTS = 1 << 12 | 1 << 13 | 1 << 21  # CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
_PATIENCE_SECONDS = 10


def is_privileged() -> bool:
    """Whether we may make namespaces here; root of many containers may not."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & _RIGHTS == _RIGHTS
    return False


def state_directory() -> Path:
    """Where the files are: under /run for root, under /tmp for others."""
    if given := os.environ.get(STATE_VARIABLE):
        return Path(given)
    if is_privileged():
        return Path("/run/pfkey-lab")
    return Path(f"/tmp/pfkey-lab-{os.getuid()}")  # noqa: S108 - checked in _own_directory


def _own_directory() -> Path:
    directory = state_directory()
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ShellError(f"{directory} belongs to somebody else", f"rm -r {directory}")
    return directory


def start_time(pid: int) -> str:
    """When a process started, in ticks since boot; empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = text.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


def is_inside() -> bool:
    """Whether this is a user namespace that the lab made for itself."""
    return INSIDE_VARIABLE in os.environ


def is_up(name: str) -> bool:
    """Whether an example's hosts are standing."""
    return (state_directory() / f"{name}.json").exists()


def record(name: str, net: Net, pids: Iterable[int], logs: Path) -> None:
    """Remember what `down` has to end and to remove."""
    state = {
        "schema_version": 1,
        "example": name,
        "pids": [[pid, start_time(pid)] for pid in pids],
        "netns": [host.netns for host in net.hosts.values()],
        "logs": str(logs),
        "own_user_namespace": is_inside(),
    }
    (_own_directory() / f"{name}.json").write_text(json.dumps(state))


def down() -> list[str]:
    """End all kept hosts; the names of the examples they came from."""
    directory = state_directory()
    if not directory.is_dir():
        return []
    ended = []
    for path in sorted(_own_directory().glob("*.json")):
        state = json.loads(path.read_text())
        _end([(pid, began) for pid, began in state["pids"]])
        if not state["own_user_namespace"]:  # otherwise they went with their last process
            for name in state["netns"]:
                delete(name)
        shutil.rmtree(state["logs"], ignore_errors=True)
        path.unlink()
        ended.append(state["example"])
    return ended


def _end(processes: list[tuple[int, str]]) -> None:
    """TERM, then KILL, for those that are still who they were."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid, began in processes:
            if began and start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while any(began and start_time(pid) == began for pid, began in processes):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
