"""The anti-replay window: RFC 4303 section 3.4.3, 32-bit sequence numbers.

1. `check` before the ICV is computed: is this number new and not behind the window?
2. `mark` once the ICV holds: only a packet that is authentic moves the window.
"""


class Window:
    """One inbound SA's window of `size` packets; 0 does no check but still follows the edge.

    Attributes:
        edge: the highest sequence number marked, 0 before the first.

    A window made with an `edge` treats every number up to it as seen: after a restart nobody
    knows which of them arrived, and taking one twice is worse than losing some.
    """

    __slots__ = ("_full", "_seen", "edge", "size")

    def __init__(self, size: int, edge: int = 0) -> None:
        self.size = size
        self.edge = edge
        # Bit n stands for the number edge - n. All ones also covers number 0, which no sender
        # uses (RFC 4303 2.2), and what would be below it.
        self._full = (1 << size) - 1
        self._seen = self._full

    def check(self, seq: int) -> bool:
        """Whether a packet with this number would be accepted, if authentic."""
        behind = self.edge - seq
        if behind < 0 or self.size == 0:
            return True
        return behind < self.size and not self._seen >> behind & 1

    def mark(self, seq: int) -> None:
        """Note that this number arrived in an authentic packet. Call `check` first."""
        ahead = seq - self.edge
        if ahead > 0:
            self.edge = seq
            # a jump past the window leaves only the newest: shifting by it could be 512 MiB
            self._seen = (self._seen << ahead | 1) & self._full if ahead < self.size else 1
        elif -ahead < self.size:
            self._seen |= 1 << -ahead

    def __repr__(self) -> str:
        return f"Window(size={self.size}, edge={self.edge})"
