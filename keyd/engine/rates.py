"""How often somebody may cause something: so many at once, then one each so many seconds."""

USERS_MAX = 1024


class Rates:
    """One bucket for each name; those that are full are forgotten."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._full_at: dict[int, float] = {}  # when all is given back

    def may(self, name: int, now: float) -> bool:
        """Whether one more is within bounds, which then counts."""
        if len(self._full_at) >= USERS_MAX:
            self._full_at = {n: at for n, at in self._full_at.items() if at > now}
        full_at = max(now, self._full_at.get(name, now)) + self._seconds
        if full_at - now > self._most * self._seconds or len(self._full_at) >= USERS_MAX:
            return False
        self._full_at[name] = full_at
        return True
