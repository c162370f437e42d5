"""`pfkey lab` without the rights of root: the same again, in a user namespace of its own.

1. say what is missing, if anything
2. a new user, network and mount namespace, where we are root
3. an empty /run there, so that `ip netns` and pfkeyd have a place
4. the same command
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pfkey.errors import ShellError
from pfkey.lab.kept import INSIDE_VARIABLE, STATE_VARIABLE, state_directory

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private")
_SWITCHES = {  # what refuses user namespaces, the value that refuses, the one that allows
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user.max_user_namespaces": ("0", "10000"),
}
_TUN = Path("/dev/net/tun")


def refuse_reason() -> ShellError | None:
    """Why a user namespace of our own would not do; None if it would."""
    if not _TUN.exists():
        return ShellError(
            f"no rights of root, and {_TUN} is missing",
            f"as root: mkdir -p {_TUN.parent} && mknod -m 666 {_TUN} c 10 200",
        )
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return ShellError(
            f"no rights of root, and {_TUN} has mode {_TUN.stat().st_mode & 0o777:04o}",
            f"run as root, or let everybody use it, as root: chmod 666 {_TUN}",
        )
    try:
        tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ShellError("the command unshare is missing", "apt-get install util-linux")
    if tried.returncode == 0:
        return None
    for switch, (refuses, allows) in _SWITCHES.items():
        path = Path("/proc/sys") / switch.replace(".", "/")
        if path.exists() and path.read_text().strip() == refuses:
            return ShellError(
                f"no rights of root, and {switch}={refuses} forbids user namespaces",
                f"run as root, or, as root: sysctl -w {switch}={allows}",
            )
    return ShellError(
        f"no rights of root, and no user namespace: {tried.stderr.strip()}",
        "run as root (a container may need --security-opt seccomp=unconfined)",
    )


def again(argv: Sequence[str]) -> NoReturn:
    """Become `pfkey` with these arguments, in namespaces of its own.

    Raises:
        ShellError: the system does not allow it; the remedy is the line that does.
    """
    if reason := refuse_reason():
        raise reason
    prepare = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
    command = [*_UNSHARE, "sh", "-c", prepare, "sh", sys.executable, "-m", "pfkey.cli", *argv]
    inside = {STATE_VARIABLE: str(state_directory()), INSIDE_VARIABLE: "1"}
    os.execvpe(command[0], command, {**os.environ, **inside})
