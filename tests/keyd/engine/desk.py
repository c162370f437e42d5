"""An engine with clients in front of it, a clock that is set by hand, and made-up usage."""

from collections.abc import Container, Iterable

from keyd.engine import Engine, Limits
from keyd.engine.effects import ClientId, Dump, Effect, Log, Now, Send
from keyd.model import Need, Usage
from pfkey.algorithms import ROWS
from pfkey.base import error_reply
from pfkey.const import HEADER_OCTETS, ExtType, Level, Mode, MsgType, PolicyType, SaType
from pfkey.dialect import LINUX, Dialect
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from pfkey.neutral import spoken

A, B, C = ClientId(1), ClientId(2), ClientId(3)
USABLE = frozenset(
    (row.kind.value, row.number) for row in ROWS if row.is_linux and row.number in (2, 3, 5, 11, 12)
)
DES3, AES, NULL, SHA1, SHA256 = 3, 12, 11, 3, 5
KEY24 = bytes(range(1, 25))
KEY32 = bytes(range(100, 132))
WALL = 1_700_000_000.0

ESP = SaType.ESP
HERE, THERE = bytes([10, 1, 1, 1]), bytes([20, 1, 1, 1])
TRANSPORT_USE = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.USE)
TRANSPORT_REQUIRE = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE)


def address(
    exttype: int, octets: bytes, plen: int = 32, port: int = 0, proto: int = 255
) -> Address:
    return Address(exttype=exttype, address=octets, prefixlen=plen, port=port, proto=proto)


def src(octets: bytes = HERE, plen: int = 32, port: int = 0, proto: int = 255) -> Address:
    return address(ExtType.ADDRESS_SRC, octets, plen, port, proto)


def dst(octets: bytes = THERE, plen: int = 32, port: int = 0, proto: int = 255) -> Address:
    return address(ExtType.ADDRESS_DST, octets, plen, port, proto)


def cipher_key(octets: bytes = KEY24) -> Key:
    return Key(exttype=ExtType.KEY_ENCRYPT, bits=8 * len(octets), key=octets)


def auth_key(octets: bytes = KEY32) -> Key:
    return Key(exttype=ExtType.KEY_AUTH, bits=8 * len(octets), key=octets)


def hard(allocations: int = 0, octets: int = 0, addtime: int = 0, usetime: int = 0) -> Lifetime:
    return Lifetime(
        exttype=ExtType.LIFETIME_HARD, allocations=allocations, octets=octets, addtime=addtime,
        usetime=usetime,
    )  # fmt: skip


def soft(allocations: int = 0, octets: int = 0, addtime: int = 0, usetime: int = 0) -> Lifetime:
    return Lifetime(
        exttype=ExtType.LIFETIME_SOFT, allocations=allocations, octets=octets, addtime=addtime,
        usetime=usetime,
    )  # fmt: skip


def message(
    type: MsgType, *extensions: Extension, satype: int = 0, seq: int = 7, pid: int = 4711
) -> Message:
    return Message(type=type, satype=satype, seq=seq, pid=pid, extensions=extensions)


def add(
    *more: Extension, type: MsgType = MsgType.ADD, spi: int = 0x2694, encrypt: int = DES3,
    auth: int = SHA256, flags: int = 0x40, replay: int = 0, sa2: Sa2 | None = None,
    keys: Iterable[Key] | None = None, to: bytes = THERE, satype: int = ESP,
) -> Message:  # fmt: skip
    """What setkey sends for `add 10.1.1.1 20.1.1.1 esp 0x2694 -E 3des-cbc … -A hmac-sha256 …`."""
    return message(
        type,
        *((cipher_key(), auth_key()) if keys is None else keys),
        Sa(spi=spi, encrypt=encrypt, auth=auth, flags=flags, replay=replay),
        sa2 or Sa2(),
        src(),
        dst(to),
        *more,
        satype=satype,
    )


def named(type: MsgType, spi: int = 0x2694, satype: int = ESP, to: bytes = THERE) -> Message:
    """What setkey sends for `get` and `delete`."""
    return message(type, Sa(spi=spi, flags=0x40), Sa2(), src(), dst(to), satype=satype)


def policy(
    type: MsgType = MsgType.X_SPDADD, way: int = 2, *,
    requests: tuple[IpsecRequest, ...] | None = None,
    kind: int = PolicyType.IPSEC, priority: int = 0x80000000, source: Address | None = None,
    to: Address | None = None, id: int = 0, seq: int = 7,
) -> Message:  # fmt: skip
    steps = requests if requests is not None else (TRANSPORT_USE,)
    ext = Policy(type=kind, dir=way, id=id, priority=priority, requests=steps)
    return message(type, ext, source or src(), to or dst(), seq=seq)


def encoded(request: Message, dialect: Dialect) -> bytes:
    """The request as a client of this dialect sends it."""
    return spoken(request, dialect).encode(dialect)


def decoded(record: bytes, dialect: Dialect) -> Message:
    """What a client of this dialect reads; the copy itself where one is wrapped."""
    is_wrapped = record[1] == MsgType.X_PROMISC and len(record) > HEADER_OCTETS
    if dialect is not LINUX and is_wrapped:
        record = record[HEADER_OCTETS:]
    return Message.decode(record, dialect)


class Desk:
    """The engine, its clock, and what each client has read."""

    def __init__(
        self,
        *clients: ClientId,
        limits: Limits | None = None,
        usable: Container[tuple[str, int]] = USABLE,
    ) -> None:
        self.mono = 1000.0
        self.dialects: dict[ClientId, Dialect] = {}
        self.used: dict[int, Usage] = {}
        self.own: set[bytes] = {HERE}
        self.engine = Engine(
            supported=usable,
            usage=lambda slot: self.used.get(slot, Usage()),
            pick=lambda low, high: low,
            is_own=lambda address: address in self.own,
            limits=limits,
        )
        for client in clients or (A, B):
            self.engine.connect(client)

    @property
    def now(self) -> Now:
        return Now(self.mono, WALL + self.mono - 1000.0)

    def effects(self, request: Message | bytes, client: ClientId = A) -> list[Effect]:
        dialect = self.dialects.get(client, LINUX)
        octets = request if isinstance(request, bytes) else encoded(request, dialect)
        return self.engine.receive(client, octets, self.now)

    def join(self, client: ClientId, dialect: Dialect) -> None:
        """Connect one more client, which speaks like this system."""
        self.engine.connect(client, dialect.name)
        self.dialects[client] = dialect

    def ask(self, request: Message | bytes, client: ClientId = A) -> dict[ClientId, list[Message]]:
        """What each client hears when `client` sends the request; dumps are read whole."""
        return self.heard(self.effects(request, client))

    def reply(self, request: Message | bytes, client: ClientId = A) -> Message:
        """The only message that the sender hears."""
        (only,) = self.ask(request, client)[client]
        return only

    def errno(self, request: Message | bytes, client: ClientId = A) -> int:
        """The errno of a reply that only the sender hears, and that is 16 octets when not 0."""
        heard = self.ask(request, client)
        (only,) = heard[client]
        if only.errno:
            assert set(heard) == {client}
            octets = request if isinstance(request, bytes) else request.encode()
            assert only.octets == error_reply(octets, only.errno)
        return only.errno

    def heard(self, effects: Iterable[Effect]) -> dict[ClientId, list[Message]]:
        heard: dict[ClientId, list[Message]] = {}
        for effect in effects:
            if isinstance(effect, Send):
                dialect = self.dialects.get(effect.client, LINUX)
                heard.setdefault(effect.client, []).append(decoded(effect.record, dialect))
            elif isinstance(effect, Dump):
                dialect = self.dialects.get(effect.client, LINUX)
                for record in effect.records:
                    heard.setdefault(effect.client, []).append(Message.decode(record, dialect))
                self.engine.dump_done(effect.client)
        return heard

    def need(self, wanted: Need, packets: int = 1) -> list[Effect]:
        return self.engine.need(wanted, packets, self.now)

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        self.mono += seconds
        return self.engine.tick(self.now)

    def logs(self, request: Message | bytes, client: ClientId = A) -> list[Log]:
        return [e for e in self.effects(request, client) if isinstance(e, Log)]
