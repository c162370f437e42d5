"""Programs run by somebody else than root, and directories that they can reach."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).parents[2]


def as_user(
    uid: int = NOBODY, *, rights: Sequence[str] = (), first: Sequence[str] = ()
) -> tuple[str, ...]:
    """Words before a command: this user runs it, with these options of setpriv.

    Python and the project may lie where only root can go; they are seen at the same place in a
    mount namespace of its own, in which the lines of `first` are run before.
    """
    needed = [Path(sys.base_prefix), ROOT]
    closed = {p for n in needed for p in n.parents if not p.stat().st_mode & 0o001}
    outermost = [p for p in closed if not closed & set(p.parents)]
    lines = [
        *first,
        *(f"mkdir -p /mnt/{n} && mount --bind {p} /mnt/{n}" for n, p in enumerate(needed)),
        *(f"mount -t tmpfs -o mode=755 tmpfs {p}" for p in outermost),
        *(
            f"mkdir -p {p} && mount --bind /mnt/{n} {p}"
            for n, p in enumerate(needed)
            if closed & set(p.parents)
        ),
        f'exec setpriv --reuid {uid} --regid {uid} --clear-groups {" ".join(rights)} "$@"',
    ]
    script = "set -e; mount -t tmpfs tmpfs /mnt\n" + "\n".join(lines)
    return ("unshare", "--mount", "sh", "-c", script, "sh")


@contextmanager
def open_directory(mode: int = 0o777) -> Iterator[Path]:
    """A new directory that everybody can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(mode)
        yield Path(made)
