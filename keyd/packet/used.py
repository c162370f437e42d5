"""Which policies had packets: told about once a second, for the time of their last use."""

TELL_SECONDS = 1.0


class Used:
    """A worker's policies in use.

    Attributes:
        ids: add to it what a packet fell under; 0 stands for no policy.
    """

    __slots__ = ("_told", "ids")

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._told = 0.0

    def take(self, now: float) -> list[int]:
        """What is to be told now."""
        if not self.ids or 0 <= now - self._told < TELL_SECONDS:
            return []
        ids = [number for number in self.ids if number]
        self.ids.clear()
        self._told = now
        return ids

    def patience(self, now: float) -> float | None:
        """In how many seconds there is something to tell; None: not before another packet."""
        return max(0.0, self._told + TELL_SECONDS - now) if self.ids else None
