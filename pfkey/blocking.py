"""Shell: the blocking client of a key engine, for scripts, tools and setkey.

    with Client() as engine:
        for sa in engine.dump():
            print(sa.src, sa.dst, sa.spi)

A client belongs to one thread at a time. `pfkey.aio` is the same for trio.
"""

import errno
import socket
from pathlib import Path
from typing import Self

from pfkey import requests
from pfkey.client import QUEUE_RECORDS
from pfkey.const import UNSPEC_PROTO, Mode, MsgType, SaType
from pfkey.entries import Algorithms, NatT, SadEntry, SpdEntry
from pfkey.events import Acquire
from pfkey.link import ANSWER_SECONDS, connected
from pfkey.session import Dump, Session
from pfkey.transport import Transport, attempt, choose


class Client(Session):
    """A PF_KEY socket: typed requests, dumps, events.

    Args:
        path: pfkeyd's socket; None: that of this network namespace.
        transport: `unix` for pfkeyd, `af_key` for the kernel's own PF_KEY.
        timeout: how many seconds to wait for an answer.
        queue: how many events wait at most; what does not fit is counted in `lost`.
        wait: how many seconds to wait for an engine to be there.
        dialect: whose PF_KEY to speak: `linux`, `netbsd`, `freebsd` or `openbsd`; pfkeyd has a
            socket for each beside `path`. None: Linux's; with `af_key`, this system's.

    Every request raises:
        RefusedError: the engine refuses; the subclass tells the family of errno, and its `request`
            the message. Nothing has changed then.
        ClosedError: the engine has gone. What was registered is gone too: make a new client.
        NoAnswerError: the engine is there and does not answer.
        MisuseError, WireError: a value cannot be sent, or not in this dialect. WireError also says
            that an answer is no message.

    Raises:
        AbsentError: no engine is there.
        ShellError: we may not speak to it.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        transport: Transport = "unix",
        timeout: float = ANSWER_SECONDS,
        queue: int = QUEUE_RECORDS,
        wait: float = 0.0,
        dialect: str | None = None,
    ) -> None:
        spoken = choose(dialect, transport)
        link = connected(lambda: attempt(transport, path, spoken), wait=wait, timeout=timeout)
        super().__init__(link, timeout=timeout, queue=queue, dialect=spoken)

    @classmethod
    def over(
        cls,
        link: socket.socket,
        *,
        timeout: float = ANSWER_SECONDS,
        queue: int = QUEUE_RECORDS,
        dialect: str | None = None,
    ) -> Self:
        """A client over a socket that exists: one that was passed on, or one half of a pair."""
        self = cls.__new__(cls)
        Session.__init__(self, link, timeout=timeout, queue=queue, dialect=choose(dialect, "unix"))
        return self

    # SAs.

    def register(self, satype: int) -> Algorithms:
        """REGISTER: from now on hear ACQUIRE, EXPIRE and NEW_MAPPING; returns the algorithms.

        SaType.UNSPEC only asks for the algorithms. A registration for any type hears all types, as
        on Linux, and ends with the connection.

        Raises:
            ExistsError: this client has registered for the type before.
        """
        return Algorithms.of(self._message(self._ask(requests.register(satype))))

    def getspi(
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
        """GETSPI: reserve an SPI; returns the larval SA, which UPDATE completes within 30 s.

        Args:
            satype: SaType.
            src: the peer's address.
            dst: our own, for the SPI is chosen by who receives with it.
            spis: the lowest and the highest that will do; IPComp takes 16 bits at most.
            mode: as in the SA that will come of it.
            reqid: the same.
            nat_t: the same.
            seq: that of the ACQUIRE which this answers.

        Raises:
            NotFoundError: no SPI of the range is free.
        """
        message = requests.getspi(satype, src, dst, spis=spis, mode=mode, reqid=reqid, nat_t=nat_t)
        return self._entry(self._ask(message, seq))

    def add(self, entry: SadEntry, *, seq: int | None = None) -> SadEntry:
        """ADD: a new SA; returns it as the engine took it.

        Args:
            entry: the SA; its `current` is not sent.
            seq: that of the ACQUIRE which this answers.

        Raises:
            ExistsError: destination, SPI and protocol name an SA already.
            UnsupportedError: the algorithm is unknown, or what else is asked for cannot be done.
        """
        return self._entry(self._ask(requests.sa(MsgType.ADD, entry), seq))

    def update(self, entry: SadEntry, *, seq: int | None = None) -> SadEntry:
        """UPDATE: complete a larval SA, or change what may change of a mature one.

        Raises:
            NotFoundError: there is no such SA, for instance because 30 s are over.
        """
        return self._entry(self._ask(requests.sa(MsgType.UPDATE, entry), seq))

    def delete(self, satype: int, src: str, dst: str, spi: int) -> SadEntry:
        """DELETE: end an SA, larval ones too; returns what it was.

        Raises:
            NotFoundError: there is no such SA.
        """
        message = requests.sa_name(MsgType.DELETE, satype, src, dst, spi)
        return self._entry(self._ask(message))

    def get(self, satype: int, src: str, dst: str, spi: int) -> SadEntry:
        """GET: one SA, keys included.

        Raises:
            NotFoundError: there is no such SA.
        """
        message = requests.sa_name(MsgType.GET, satype, src, dst, spi)
        return self._entry(self._ask(message))

    def flush(self, satype: int = SaType.UNSPEC) -> None:
        """FLUSH: end all SAs, or all of a type."""
        self._ask(requests.bare(MsgType.FLUSH, satype))

    def dump(self, satype: int = SaType.UNSPEC, *, src: str = "", dst: str = "") -> Dump[SadEntry]:
        """DUMP: all SAs there are now, or those of a type, from and to prefixes.

        Args:
            satype: SaType.UNSPEC for all.
            src: a prefix, at most 127 bits long; empty for any.
            dst: the same.
        """
        return self._dump(requests.dump(satype, src=src, dst=dst), SadEntry.decode)

    def acquire_failed(self, acquire: Acquire, reason: int = errno.ENOENT) -> None:
        """ACQUIRE with an errno: there will be no SA, so nothing need wait. No answer comes."""
        message = requests.acquire_failed(acquire.satype, acquire.seq, reason)
        self._tell(self._conversation.stamp(message, acquire.seq))

    # Policies.

    def spdadd(self, entry: SpdEntry) -> SpdEntry:
        """SPDADD: a new policy; returns it with its `id`.

        Raises:
            ExistsError: the direction has a policy for this selector.
        """
        return self._policy(self._ask(requests.spd(MsgType.X_SPDADD, entry)))

    def spdupdate(self, entry: SpdEntry) -> SpdEntry:
        """SPDUPDATE: a policy in the place of the one with the same selector, if there is one."""
        return self._policy(self._ask(requests.spd(MsgType.X_SPDUPDATE, entry)))

    def spdsetidx(self, entry: SpdEntry) -> SpdEntry:
        """SPDSETIDX: on Linux the same as SPDADD."""
        return self._policy(self._ask(requests.spd(MsgType.X_SPDSETIDX, entry)))

    def spddelete(
        self,
        src: str,
        dst: str,
        direction: int,
        *,
        proto: int = UNSPEC_PROTO,
        src_port: int = 0,
        dst_port: int = 0,
    ) -> SpdEntry:
        """SPDDELETE: end the policy of a direction (Dir) with exactly this selector.

        Raises:
            NotFoundError: there is none.
        """
        message = requests.spddelete(
            src, dst, direction, proto=proto, src_port=src_port, dst_port=dst_port
        )
        return self._policy(self._ask(message))

    def spddelete2(self, number: int) -> SpdEntry:
        """SPDDELETE2: end the policy with this `id`.

        Raises:
            NotFoundError: there is none.
        """
        message = requests.policy_name(MsgType.X_SPDDELETE2, number)
        return self._policy(self._ask(message))

    def spdget(self, number: int) -> SpdEntry:
        """SPDGET: the policy with this `id`, such as an ACQUIRE names.

        Raises:
            NotFoundError: there is none.
        """
        return self._policy(self._ask(requests.policy_name(MsgType.X_SPDGET, number)))

    def spdflush(self) -> None:
        """SPDFLUSH: end all policies but those of sockets."""
        self._ask(requests.bare(MsgType.X_SPDFLUSH))

    def spddump(self) -> Dump[SpdEntry]:
        """SPDDUMP: all policies there are now, in the order of the match."""
        return self._dump(requests.bare(MsgType.X_SPDDUMP), SpdEntry.decode)

    def migrate(self, entry: SpdEntry, *, local: str = "", remote: str = "") -> SpdEntry:
        """MIGRATE: move a policy and its SAs to other tunnel ends.

        Args:
            entry: the selector; the requests of its policy are pairs, as they are and shall be.
            local: where the key manager talks from afterwards; goes with `remote`.
            remote: whom it talks to.
        """
        message = requests.migrate(entry, local=local, remote=remote)
        return self._policy(self._ask(message))

    # Events come from `event` and `events`.

    def promisc(self, is_on: bool = True) -> None:
        """X_PROMISC: hear every message, as Notice events, or no longer.

        A promiscuous client sends no other requests: it could not tell their copies from replies.
        """
        self._ask(requests.promisc(is_on))
