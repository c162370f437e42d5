"""Shell: the typed requests of the trio client."""

import errno

from pfkey import requests
from pfkey.aio.session import AsyncDump, AsyncSession
from pfkey.const import UNSPEC_PROTO, Mode, MsgType, SaType
from pfkey.entries import Algorithms, NatT, SadEntry, SpdEntry
from pfkey.events import Acquire


class AsyncClient(AsyncSession):
    """A PF_KEY socket: typed requests, dumps, events. The methods are those of `pfkey.Client`.

    Made by `pfkey.connect`. Once the engine has gone, every request raises ClosedError: connect
    anew, and register anew.
    """

    async def register(self, satype: int) -> Algorithms:
        """REGISTER: as `Client.register`."""
        return Algorithms.of(self._message(await self._ask(requests.register(satype))))

    async def getspi(
        self,
        satype: int,
        src: str,
        dst: str,
        *,
        spis: tuple[int, int] | None = None,
        mode: int = Mode.ANY,
        reqid: int = 0,
        nat_t: NatT | None = None,
        seq: int | None = None,
    ) -> SadEntry:
        """GETSPI: as `Client.getspi`."""
        message = requests.getspi(satype, src, dst, spis=spis, mode=mode, reqid=reqid, nat_t=nat_t)
        return self._entry(await self._ask(message, seq))

    async def add(self, entry: SadEntry, *, seq: int | None = None) -> SadEntry:
        """ADD: as `Client.add`."""
        return self._entry(await self._ask(requests.sa(MsgType.ADD, entry), seq))

    async def update(self, entry: SadEntry, *, seq: int | None = None) -> SadEntry:
        """UPDATE: as `Client.update`."""
        return self._entry(await self._ask(requests.sa(MsgType.UPDATE, entry), seq))

    async def delete(self, satype: int, src: str, dst: str, spi: int) -> SadEntry:
        """DELETE: as `Client.delete`."""
        message = requests.sa_name(MsgType.DELETE, satype, src, dst, spi)
        return self._entry(await self._ask(message))

    async def get(self, satype: int, src: str, dst: str, spi: int) -> SadEntry:
        """GET: as `Client.get`."""
        message = requests.sa_name(MsgType.GET, satype, src, dst, spi)
        return self._entry(await self._ask(message))

    async def flush(self, satype: int = SaType.UNSPEC) -> None:
        """FLUSH: as `Client.flush`."""
        await self._ask(requests.bare(MsgType.FLUSH, satype))

    def dump(
        self, satype: int = SaType.UNSPEC, *, src: str = "", dst: str = ""
    ) -> AsyncDump[SadEntry]:
        """DUMP: as `Client.dump`, for `async for`; it begins with the first entry taken."""
        return self._dump(requests.dump(satype, src=src, dst=dst), SadEntry.decode)

    async def acquire_failed(self, acquire: Acquire, reason: int = errno.ENOENT) -> None:
        """ACQUIRE with an errno: as `Client.acquire_failed`."""
        message = requests.acquire_failed(acquire.satype, acquire.seq, reason)
        await self._send(self._conversation.stamp(message, acquire.seq))

    async def spdadd(self, entry: SpdEntry) -> SpdEntry:
        """SPDADD: as `Client.spdadd`."""
        return self._policy(await self._ask(requests.spd(MsgType.X_SPDADD, entry)))

    async def spdupdate(self, entry: SpdEntry) -> SpdEntry:
        """SPDUPDATE: as `Client.spdupdate`."""
        return self._policy(await self._ask(requests.spd(MsgType.X_SPDUPDATE, entry)))

    async def spdsetidx(self, entry: SpdEntry) -> SpdEntry:
        """SPDSETIDX: as `Client.spdsetidx`."""
        return self._policy(await self._ask(requests.spd(MsgType.X_SPDSETIDX, entry)))

    async def spddelete(
        self,
        src: str,
        dst: str,
        direction: int,
        *,
        proto: int = UNSPEC_PROTO,
        src_port: int = 0,
        dst_port: int = 0,
    ) -> SpdEntry:
        """SPDDELETE: as `Client.spddelete`."""
        message = requests.spddelete(
            src, dst, direction, proto=proto, src_port=src_port, dst_port=dst_port
        )
        return self._policy(await self._ask(message))

    async def spddelete2(self, number: int) -> SpdEntry:
        """SPDDELETE2: as `Client.spddelete2`."""
        message = requests.policy_name(MsgType.X_SPDDELETE2, number)
        return self._policy(await self._ask(message))

    async def spdget(self, number: int) -> SpdEntry:
        """SPDGET: as `Client.spdget`."""
        return self._policy(await self._ask(requests.policy_name(MsgType.X_SPDGET, number)))

    async def spdflush(self) -> None:
        """SPDFLUSH: as `Client.spdflush`."""
        await self._ask(requests.bare(MsgType.X_SPDFLUSH))

    def spddump(self) -> AsyncDump[SpdEntry]:
        """SPDDUMP: as `Client.spddump`, for `async for`; it begins with the first entry taken."""
        return self._dump(requests.bare(MsgType.X_SPDDUMP), SpdEntry.decode)

    async def migrate(self, entry: SpdEntry, *, local: str = "", remote: str = "") -> SpdEntry:
        """MIGRATE: as `Client.migrate`."""
        message = requests.migrate(entry, local=local, remote=remote)
        return self._policy(await self._ask(message))

    async def promisc(self, is_on: bool = True) -> None:
        """X_PROMISC: as `Client.promisc`."""
        await self._ask(requests.promisc(is_on))
