"""A key engine of a few lines on a real socket: enough SAD and SPD to see what setkey does."""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfkey.base import error_reply
from pfkey.const import ExtType, MsgType
from pfkey.ext_sa import Sa
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.message import Message


class FakeEngine:
    """Answers one client after the other; `seen` is what arrived, `noise` goes before a reply.

    Who registers hears the ACQUIREs of `wanted`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Message] = []
        self.noise: list[bytes] = []
        self.wanted: list[bytes] = []
        self.refuse: dict[int, int] = {}
        self.is_silent = False
        self.hangs_up_at: int | None = None
        self.sad: dict[tuple[int, int, bytes], Message] = {}
        self.spd: dict[tuple[object, ...], Message] = {}

    def types(self) -> list[int]:
        return [message.type for message in self.seen]

    def answer(self, record: bytes) -> list[bytes]:
        m = Message.decode(record, is_request=True)
        self.seen.append(m)
        if m.type in self.refuse:
            return [error_reply(record, self.refuse[m.type])]
        if self.is_silent:
            return []
        return [*self.noise, *self._replies(m, record)]

    def _replies(self, m: Message, record: bytes) -> list[bytes]:
        def again(m: Message) -> bytes:
            return Message(
                type=m.type, satype=m.satype, seq=m.seq, pid=m.pid, extensions=m.extensions
            ).encode()

        match m.type:
            case MsgType.REGISTER:
                auth = [
                    SupportedAlgorithm(id=n, minbits=b, maxbits=b) for n, b in ((2, 128), (3, 160))
                ]
                encrypt = [
                    SupportedAlgorithm(id=11),
                    SupportedAlgorithm(id=3, ivlen=8, minbits=192, maxbits=192),
                    SupportedAlgorithm(id=12, ivlen=8, minbits=128, maxbits=256),
                ]
                return [
                    Message(
                        type=m.type,
                        seq=m.seq,
                        pid=m.pid,
                        extensions=(
                            Supported(exttype=ExtType.SUPPORTED_AUTH, algorithms=tuple(auth)),
                            Supported(exttype=ExtType.SUPPORTED_ENCRYPT, algorithms=tuple(encrypt)),
                        ),
                    ).encode(),
                    *(self.wanted if m.satype else ()),
                ]
            case MsgType.GETSPI:
                return self._larval(m)
            case MsgType.ADD | MsgType.UPDATE | MsgType.GET | MsgType.DELETE:
                return self._sa(m, record, again)
            case MsgType.FLUSH:
                self.sad.clear()
            case MsgType.X_SPDFLUSH:
                self.spd.clear()
            case MsgType.DUMP:
                return self._dump(m, record, list(self.sad.values()))
            case MsgType.X_SPDDUMP:
                return self._dump(m, record, list(self.spd.values()))
            case MsgType.X_SPDADD:
                assert m.policy is not None
                key = (m.src, m.dst, m.policy.dir)
                if key in self.spd:
                    return [error_reply(record, errno.EEXIST)]
                self.spd[key] = m
            case MsgType.X_SPDDELETE:
                assert m.policy is not None
                if self.spd.pop((m.src, m.dst, m.policy.dir), None) is None:
                    return [error_reply(record, errno.ENOENT)]
        return [again(m)]

    def _larval(self, m: Message) -> list[bytes]:
        """The lowest SPI that will do."""
        assert m.src is not None
        assert m.dst is not None
        spi = m.spirange.min if m.spirange else 0x100
        found = Message(
            type=m.type, satype=m.satype, seq=m.seq, pid=m.pid,
            extensions=(Sa(spi=spi), m.src, m.dst),
        )  # fmt: skip
        self.sad[m.satype, spi, m.dst.address] = found
        return [found.encode()]

    def _sa(self, m: Message, record: bytes, again: object) -> list[bytes]:
        assert m.sa is not None
        assert m.dst is not None
        assert callable(again)
        key = (m.satype, m.sa.spi, m.dst.address)
        if m.type == MsgType.ADD:
            if key in self.sad:
                return [error_reply(record, errno.EEXIST)]
            self.sad[key] = m
            return [again(m)]
        if key not in self.sad:
            return [error_reply(record, errno.ESRCH)]
        if m.type == MsgType.DELETE:
            del self.sad[key]
            return [again(m)]
        if m.type == MsgType.UPDATE:
            self.sad[key] = m
            return [again(m)]
        found = self.sad[key]
        return [
            Message(type=m.type, satype=m.satype, pid=m.pid, extensions=found.extensions).encode()
        ]

    def _dump(self, m: Message, record: bytes, found: list[Message]) -> list[bytes]:
        found = [entry for entry in found if m.satype in (0, entry.satype)]
        if not found:
            return [error_reply(record, errno.ENOENT)]
        return [
            Message(
                type=m.type, satype=entry.satype, pid=m.pid,
                seq=(at + 1) % len(found), extensions=entry.extensions,
            ).encode()
            for at, entry in enumerate(found)
        ]  # fmt: skip

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                self._talk(link)

    def _talk(self, link: socket.socket) -> None:
        while record := link.recv(1 << 16):
            if self.hangs_up_at is not None and len(self.seen) >= self.hangs_up_at:
                return
            for reply in self.answer(record):
                try:
                    link.send(reply, socket.MSG_NOSIGNAL)
                except OSError:
                    return


@contextmanager
def fake_engine(path: Path) -> Iterator[FakeEngine]:
    """The engine, listening at `path` until the block ends."""
    engine = FakeEngine(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=engine.serve, args=(listener,), daemon=True)
        thread.start()
        yield engine
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        assert not thread.is_alive()
