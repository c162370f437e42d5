"""The file beside the socket that tells a successor of the policies of sockets and groups.

Sockets still bear the numbers of their pairs when pfkeyd has died, and groups of processes go on,
so they must mean the same again. It holds no key. A file of another network namespace, whose
inode has been used again, says nothing.
"""

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")
_KINDS = ("pairs", "groups")

Things = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Left:
    """That file. `cookie` is our network namespace's."""

    path: Path
    cookie: int

    def read(self) -> tuple[Things, Things]:
        """Pairs and groups; none if there is no file, or it is not ours."""
        try:
            found = json.loads(self.path.read_bytes())
            if found["cookie"] == self.cookie:
                pairs, groups = (list(found[kind]) for kind in _KINDS)
                return pairs, groups
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.error("socket-policies-lost path=%s reason=%s", self.path, error)
        return [], []

    def write(self, pairs: Things, groups: Things) -> None:
        """Replace the file at once, or leave the old one.

        Raises:
            ShellError: it cannot be written.
        """
        made = self.path.with_name(self.path.name + ".new")
        told = {"cookie": self.cookie, **dict(zip(_KINDS, (pairs, groups), strict=True))}
        try:
            made.write_bytes(json.dumps(told).encode())
            made.chmod(0o600)
            made.rename(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                made.unlink()
            raise ShellError(f"{self.path}: {error.strerror}") from None
