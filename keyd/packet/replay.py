"""The anti-replay window: RFC 4303 section 3.4.3 and, for extended numbers, appendix A.

1. `infer` of an extended number: which one has this lower half?
2. `check` before the ICV is computed: is this number new and not behind the window?
3. `mark` once the ICV holds: only a packet that is authentic moves the window.
"""

_HALF = 0xFFFF_FFFF
_MAX = 0xFFFF_FFFF_FFFF_FFFF


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

    def infer(self, low: int) -> int:
        """The extended number with this lower half; -1 for none that can be accepted.

        Appendix A2.2 in one line: what arrives lies at the window's lower end or within 2^32
        behind that, so its upper half is the window's, the next or the one before.
        """
        bottom = self.edge - self.size + 1
        seq = bottom + (low - bottom & _HALF)
        return seq if 0 < seq <= _MAX else -1

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
