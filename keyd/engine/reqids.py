"""Request ids: what ties a policy of level `unique` to its own SAs (KAME).

Users choose 1 to 0x3fff; the numbers above are given to policies that ask for `unique` without one
(IPSEC_MANUAL_REQID_MAX on Linux).
"""

from errno import ENOBUFS

from pfkey.const import MANUAL_REQID_MAX
from pfkey.errors import SadbError

LAST = 2**32 - 1


class Reqids:
    """The numbers above the users' that policies and SAs of both databases have."""

    __slots__ = ("_last", "_used")

    def __init__(self) -> None:
        self._last = MANUAL_REQID_MAX
        self._used: dict[int, int] = {}  # how often

    def hold(self, reqid: int) -> None:
        """One more has it."""
        if reqid > MANUAL_REQID_MAX:
            self._used[reqid] = self._used.get(reqid, 0) + 1

    def release(self, reqid: int) -> None:
        """One less."""
        if reqid > MANUAL_REQID_MAX:
            self._used[reqid] -= 1
            if not self._used[reqid]:
                del self._used[reqid]

    def new(self, most: int = LAST) -> int:
        """A number that neither a policy nor an SA has, and not the last one that was given.

        At most `most`: NetBSD and FreeBSD have 16 bits for it.

        Raises:
            SadbError: ENOBUFS when all have been given.
        """
        for _ in range(len(self._used) + 1):
            self._last = self._last + 1 if self._last < most else MANUAL_REQID_MAX + 1
            if self._last not in self._used:
                return self._last
        raise SadbError(ENOBUFS, f"all request ids up to {most:#x} are in use")
