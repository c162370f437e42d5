"""What goes wrong on the way, and is known only by signs: RFC 4301 section 8, RFC 2923, RFC 4821.

*Errors about our packets* cannot be turned into errors about what was inside: that is sealed, and
what was sent is not kept. But the next packet of a flow that goes the same way can be answered, for
a few seconds, and is sent as well: who claims such errors falsely only annoys. So what is kept is a
time per SA and nothing per packet (`Troubles`).

*Black holes*: routers that drop what is too large without a word. TCP sends the same octets again
and again; when they were large, smaller segments are tried (`Progress`, `next_rung`), which nobody
needs to be told of, because super-packets are cut here anyhow.
"""

from keyd.packet.segment import Frame, tcp_sequence

ERROR_SECONDS = 10.0
ERROR_PAUSE = 1.0  # between two answers to one flow
REPEATS = 3  # how often the same octets come again before the path is suspected
RUNGS = {4: (1280, 576), 6: (1280,)}
_HALF = 1 << 31


class Troubles:
    """Which SAs' packets are said not to arrive."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def learn(self, slot: int, now: float) -> None:
        """An error was believed. Its age counts from the first of those within a second."""
        since = self._since.get(slot)
        if since is None or not 0 <= now - since < ERROR_PAUSE:
            self._since[slot] = now

    def forget(self, slot: int) -> None:
        """The SA is gone."""
        self._since.pop(slot, None)

    def since(self, slot: int, now: float) -> float:
        """When the last error came; 0 when none did lately."""
        since = self._since.get(slot)
        if since is None:
            return 0.0
        if not 0 <= now - since < ERROR_SECONDS:
            del self._since[slot]
            return 0.0
        return since


class Progress:
    """Whether a flow of TCP gets on, as far as a sender's packets show it.

    Octets that were sent before count as repeated; new ones end the count. A sender whose octets
    arrive repeats a few at most before it goes on.
    """

    __slots__ = ("_repeats", "_seq")

    def __init__(self) -> None:
        self._seq = -1
        self._repeats = 0

    def is_stuck(self, frame: Frame) -> bool:
        """Look at one more frame, which is longer than any header."""
        seq = tcp_sequence(frame.transport)
        if seq == self._seq:
            self._repeats += 1
        else:
            is_back = self._seq >= 0 and self._seq - seq & 0xFFFFFFFF < _HALF
            self._repeats = 1 if is_back else 0
            self._seq = seq
        return self._repeats >= REPEATS


def next_rung(version: int, mtu: int) -> int:
    """The next smaller MTU to try on a path that loses packets of this one; 0 for none."""
    return next((rung for rung in RUNGS[version] if rung < mtu), 0)
