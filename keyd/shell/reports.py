"""What the workers tell the engine: handed over one by one, dropped when there is too much.

A worker is not to be trusted: it holds what strangers sent.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from keyd.engine.effects import Effect, Now
from keyd.engine.sad import SaKey
from keyd.model import Need, PolicyUse
from keyd.packet.counters import ROWS
from keyd.shell.channel import Record
from keyd.shell.log import limited
from keyd.shell.ports import KeyEngine
from pfkey.const import IPPROTO_ESP

LOG = limited("keyd.shell.reports")

_Told = Callable[[], Sequence[Effect]]
WAITING_MAX = 1024  # a need that is dropped here is told again with the flow's next packet


class Reports:
    """`take` is for the workers' channels. Run `run` in a task of its own."""

    def __init__(
        self,
        engine: KeyEngine,
        clock: Callable[[], Now],
        obey: Callable[[Sequence[Effect]], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._obey = obey
        self._inlet, self._outlet = trio.open_memory_channel[_Told](WAITING_MAX)

    def take(self, record: Record) -> None:
        """A record from a worker, other than a log line."""
        try:
            if record["op"] == "used":
                self._engine.used([_use(*one) for one in record["policies"]], self._clock())
                return
            told = self._told(record)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            LOG.error("bad-report error=%s", type(error).__name__)
            return
        try:
            self._inlet.send_nowait(told)
        except trio.WouldBlock:
            LOG.warning("report-dropped waiting=%d", WAITING_MAX)

    def _told(self, record: Record) -> _Told:
        if record["op"] == "need":
            wanted, packets = Need.from_json(record["need"]), int(record["packets"])
            return lambda: self._engine.need(wanted, packets, self._clock())
        if record["op"] == "mapping":
            key = SaKey(bytes.fromhex(record["dst"]), IPPROTO_ESP, int(record["spi"]))
            ports = int(record["old_port"]), int(record["port"])
            address = bytes.fromhex(record["address"])
            if len(address) != len(key.dst) or not 0 < ports[1] < 1 << 16:
                raise ValueError(record["op"])
            return lambda: self._engine.new_mapping(key, ports, address)
        raise ValueError(record["op"])

    async def run(self) -> None:
        """Tell the engine, and obey it, until cancelled."""
        async for told in self._outlet:
            await self._obey(told())


def _use(policy: int, packets: int, octets: int, drops: list[list[int]]) -> PolicyUse:
    """A policy's use, as a worker tells it.

    Raises:
        ValueError: TypeError: it is none.
    """
    known = tuple((ROWS[row], _number(dropped)) for row, dropped in drops if row in _ALL_ROWS)
    if len(known) != len(drops):
        raise ValueError("no such counter")
    return PolicyUse(_number(policy), _number(packets), _number(octets), known)


def _number(found: object) -> int:
    if not isinstance(found, int) or not 0 <= found < _NUMBER_MAX:
        raise ValueError("no number of packets")
    return found


_ALL_ROWS = range(len(ROWS))
_NUMBER_MAX = 1 << 48  # more passes nowhere in a second
