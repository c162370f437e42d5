"""The control socket's method `sysctl`: read and write the engine's knobs."""

from collections.abc import Awaitable, Callable, Sequence

from keyd.engine.effects import Effect
from keyd.engine.sysctl import DUMPS, OPAQUE, ROWS
from keyd.shell import rpc
from keyd.shell.plane import Counters
from keyd.shell.ports import KeyEngine
from keyd.shell.rpc import RpcError
from pfkey.errors import SadbError

Value = int | dict[str, int] | None


class Knobs:
    """`counters` are the data path's, `obey` is the applier's."""

    def __init__(
        self,
        engine: KeyEngine,
        obey: Callable[[Sequence[Effect]], Awaitable[None]],
        counters: Callable[[], Awaitable[Counters]],
    ) -> None:
        self._engine = engine
        self._obey = obey
        self._counters = counters

    async def read(self, name: str) -> dict[str, Value]:
        """The values of a name, of all below it, or with "" of all; null: a dump tells.

        What is no number is only told by its whole name, as sysctl(8) does.

        Raises:
            RpcError: there is no such name.
        """
        if name in OPAQUE:
            return {name: await self._opaque(name)}
        if name in DUMPS:
            return {name: None}
        names = [row.name for row in ROWS if name in ("", row.name) or _is_below(row.name, name)]
        if not names:
            raise RpcError(rpc.INVALID_PARAMS, f"there is no {name[:80]}")
        return {one: self._engine.sysctl(one) for one in names}

    async def write(self, name: str, value: int) -> dict[str, int]:
        """Turn a knob; what it was and what it is. When this returns it has its effect.

        Raises:
            RpcError: the engine refuses the name or the value, or nft the consequence.
        """
        try:
            before = self._engine.sysctl(name)
            effects = self._engine.tune(name, value)
        except SadbError as error:
            raise RpcError(rpc.INVALID_PARAMS, str(error)) from None
        await self._obey(effects)
        if self._engine.sysctl(name) != value:
            raise RpcError(rpc.REFUSED, f"{name}: nft refused what follows from it; see the log")
        return {"before": before, "value": value}

    async def _opaque(self, name: str) -> dict[str, int]:
        if name == "net.key.stats":
            return self._engine.stats()
        return (await self._counters())["ipsec"]


def _is_below(name: str, prefix: str) -> bool:
    return name.startswith(prefix.rstrip(".") + ".")
