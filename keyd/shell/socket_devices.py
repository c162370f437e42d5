"""The TUN devices that policies of sockets need, and the routes into those that seal.

One device for each pair that has a policy of type ipsec, and two for what was opened with AH, see
`keyd.doors`. Called by steering's thread.
"""

from collections.abc import Iterable
from contextlib import suppress

from keyd import doors
from keyd.shell import nft_sockets
from keyd.shell.marks import Marks
from keyd.shell.routes import Routes
from keyd.shell.tun import Tun
from keyd.socket_pair import SocketPair
from pfkey.errors import ShellError

_GOING_SECONDS = 1.0  # for workers to let go of one of the same name


class SocketDevices:
    """Those that are there, by door. `main` is the name of the SPD's own device."""

    def __init__(self, main: str, marks: Marks) -> None:
        self._main = main
        self._marks = marks
        self._tuns: dict[int, Tun] = {}
        self._routes: dict[int, Routes] = {}

    @property
    def fds(self) -> dict[int, int]:
        """Their descriptors, by door."""
        return {door: tun.fd for door, tun in self._tuns.items()}

    def add(self, pairs: Iterable[SocketPair], wait_seconds: float = 0.0) -> None:
        """Make what these pairs need and is not there; `wait_seconds` as in `Tun.open`.

        Raises:
            ShellError: a device or its routes cannot be made; what was made is taken back.
        """
        pairs = tuple(pairs)
        made = [door for door in nft_sockets.wanted_doors(pairs) if door not in self._tuns]
        seals = {doors.of_pair(pair.number): pair.number for pair in pairs if pair.seals}
        try:
            for door in made:
                self._make(door, seals.get(door), max(wait_seconds, _GOING_SECONDS))
        except BaseException:
            for door in made:
                self._take(door)
            raise

    def _make(self, door: int, pair: int | None, wait_seconds: float) -> None:
        name = doors.device(self._main, door)
        tun = self._tuns[door] = Tun(name)
        tun.open(wait_seconds)
        tun.start()
        if pair is not None:
            self._routes[door] = Routes(name, self._marks, pair)
            self._routes[door].ensure(tun.index)

    def keep(self, pairs: Iterable[SocketPair]) -> None:
        """Take away what none of these pairs needs."""
        for door in self._tuns.keys() - nft_sockets.wanted_doors(tuple(pairs)):
            self._take(door)

    def _take(self, door: int) -> None:
        routes, tun = self._routes.pop(door, None), self._tuns.pop(door, None)
        if routes is not None:
            with suppress(ShellError):
                routes.remove(device=False)  # it ends with the workers' last descriptor
        if tun is not None:
            tun.close()

    def ensure(self) -> list[str]:
        """Put back what others took; says what."""
        restored = [what for tun in self._tuns.values() for what in tun.ensure()]
        for door, routes in self._routes.items():
            restored += routes.ensure(self._tuns[door].index)
        return restored

    def close(self, *, hold: bool) -> None:
        """Let go of all. With `hold` the ways that lead nowhere then stay."""
        for door in tuple(self._tuns):
            if hold:
                self._routes.pop(door, None)
            self._take(door)
