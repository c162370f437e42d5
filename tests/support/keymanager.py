"""A key manager without IKE: it answers ACQUIREs, and knows both ends because it is one process."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pfkey.blocking import Client
from pfkey.const import ExtType, Mode, MsgType, SaType
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message

AES, HMAC_SHA1 = 12, 3
CIPHER = Key(exttype=ExtType.KEY_ENCRYPT, bits=128, key=b"sixteen-octets-0")
MAC = Key(exttype=ExtType.KEY_AUTH, bits=160, key=b"twenty-octets-012345")


def place(exttype: ExtType, octets: bytes) -> Address:
    return Address(exttype=exttype, address=octets, prefixlen=8 * len(octets))


def ends(src: bytes, dst: bytes) -> tuple[Address, Address]:
    """Both address extensions."""
    return place(ExtType.ADDRESS_SRC, src), place(ExtType.ADDRESS_DST, dst)


class KeyManager:
    """One registered connection to a pfkeyd."""

    def __init__(self, socket: Path, *, pid: int | None = None, registers: bool = True) -> None:
        self.engine = Client(socket)
        self.pid = os.getpid() if pid is None else pid
        self._heard: list[Message] = []
        if registers:
            self.ask(self.message(MsgType.REGISTER, satype=SaType.ESP))

    def close(self) -> None:
        """Die."""
        self.engine.close()

    def message(
        self, type: MsgType, *extensions: Extension, satype: int = SaType.ESP, seq: int = 0
    ) -> Message:
        """A message from this process."""
        return Message(type=type, satype=satype, seq=seq, pid=self.pid, extensions=extensions)

    def ask(self, request: Message) -> Message:
        """Send a request; the reply must be no refusal. What else comes meanwhile is kept."""
        self.engine.send(request.encode())
        while True:
            heard = self._next(5)
            assert heard is not None, "no reply"
            if (heard.type, heard.seq, heard.pid) == (request.type, request.seq, self.pid):
                assert not heard.errno, heard
                return heard
            self._heard.append(heard)

    def _next(self, seconds: float) -> Message | None:
        record = self.engine.recv(seconds)
        return None if record is None else Message.decode(record)

    def notices(self, type: MsgType, seconds: float = 5) -> Iterator[Message]:
        """Messages of a type that nobody asked for, as they come; ends when none came so long."""
        deadline = time.monotonic() + seconds
        while True:
            for heard in [m for m in self._heard if m.type == type]:
                self._heard.remove(heard)
                yield heard
            heard_now = self._next(max(0.0, deadline - time.monotonic()))
            if heard_now is None:
                return
            self._heard.append(heard_now)

    def acquire(self, seconds: float = 5) -> Message:
        """The next ACQUIRE."""
        found = next(self.notices(MsgType.ACQUIRE, seconds), None)
        assert found is not None, f"no ACQUIRE in {seconds} s"
        return found

    def getspi(self, src: bytes, dst: bytes, *, seq: int = 0, satype: int = SaType.ESP) -> int:
        """Reserve an SPI."""
        reply = self.ask(self.message(MsgType.GETSPI, *ends(src, dst), satype=satype, seq=seq))
        assert reply.sa is not None
        return reply.sa.spi

    def install(
        self,
        type: MsgType,
        src: bytes,
        dst: bytes,
        spi: int,
        *more: Lifetime,
        seq: int = 0,
        sa2: Sa2 | None = None,
        satype: int = SaType.ESP,
    ) -> None:
        """ADD or UPDATE; always with the same keys, which is for tests alone."""
        encrypt = AES if satype == SaType.ESP else 0
        keys = (CIPHER, MAC) if encrypt else (MAC,)
        sa = Sa(spi=spi, encrypt=encrypt, auth=HMAC_SHA1, replay=32)
        sa2 = sa2 or Sa2(mode=Mode.TRANSPORT)
        self.ask(self.message(type, sa, sa2, *ends(src, dst), *keys, *more, satype=satype, seq=seq))

    def refuse(self, seq: int, errno: int = 2) -> None:
        """Tell the engine that there will be no SA; nobody answers that."""
        self.engine.send(replace(self.message(MsgType.ACQUIRE, seq=seq), errno=errno).encode())


def negotiate(here: KeyManager, there: KeyManager, wanted: Message, *lives: Lifetime) -> None:
    """What IKE does after an ACQUIRE: SAs for both directions, first those for what comes in."""
    assert wanted.src is not None
    assert wanted.dst is not None
    src, dst, satype, seq = wanted.src.address, wanted.dst.address, wanted.satype, wanted.seq
    into_there = there.getspi(src, dst, satype=satype)
    into_here = here.getspi(dst, src, satype=satype, seq=seq)
    there.install(MsgType.UPDATE, src, dst, into_there, *lives, satype=satype)
    here.install(MsgType.UPDATE, dst, src, into_here, *lives, satype=satype, seq=seq)
    there.install(MsgType.ADD, dst, src, into_here, *lives, satype=satype)
    here.install(MsgType.ADD, src, dst, into_there, *lives, satype=satype, seq=seq)
