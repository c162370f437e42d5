"""SADB_REGISTER (RFC 2367 section 3.1.7): who wants notices, and what this machine can do."""

from keyd.engine.effects import Effect
from keyd.engine.manners import Kin, Manners
from keyd.engine.state import Request, State
from keyd.engine.told import Told
from keyd.engine.tuning import retune
from pfkey.algorithms import ROWS, Algorithm, Kind, offered
from pfkey.const import ExtType, MsgType
from pfkey.dialect import Dialect
from pfkey.ext_supported import Supported, SupportedAlgorithm, registry
from pfkey.message import Message

_KINDS = {
    ExtType.SUPPORTED_AUTH: Kind.AUTH, ExtType.SUPPORTED_ENCRYPT: Kind.ENCRYPT,
    ExtType.X_SUPPORTED_COMP: Kind.COMPRESS,
}  # fmt: skip


def register(state: State, request: Request) -> list[Effect]:
    """Register, and send the lists to all who have registered and to the sender.

    The lists are the same for every SA type, as the systems have it; SA type 0 only asks for them.

    Raises:
        SadbError: EINVAL for no SA type; EEXIST for a second registration.
    """
    message = request.message
    if state.clients.register(request.client, message.satype):
        state.acquires.renew()

    def build(manners: Manners, *, keys: bool) -> bytes:
        return Message(
            type=MsgType.REGISTER, satype=message.satype, seq=message.seq, pid=message.pid,
            extensions=_lists(state, manners),
        ).encode(manners.dialect)  # fmt: skip

    told = Told(MsgType.REGISTER, message.satype, build)
    return [*retune(state), *state.clients.registered(told, request.client)]


def _lists(state: State, manners: Manners) -> tuple[Supported, ...]:
    """Authenticators and ciphers; on OpenBSD also compressions."""
    exttypes = [ExtType.SUPPORTED_AUTH, ExtType.SUPPORTED_ENCRYPT]
    if manners.kin is Kin.OPENBSD:
        exttypes.append(ExtType.X_SUPPORTED_COMP)
    return tuple(_supported(state, exttype, manners) for exttype in exttypes)


def _supported(state: State, exttype: ExtType, manners: Manners) -> Supported:
    kind = _KINDS[exttype]
    if manners.kin is Kin.LINUX:
        rows = [(row, row.ivlen) for row in offered(kind, state.usable)]
    else:
        bits = 8 if manners.kin is Kin.OPENBSD else 1
        rows = [
            (row, row.iv * bits) for row in _sayable(state, kind, exttype, manners.dialect)
        ]  # fmt: skip
    return Supported(
        exttype=exttype,
        algorithms=tuple(
            SupportedAlgorithm(
                id=row.number, ivlen=ivlen, minbits=row.min_bits, maxbits=row.max_bits
            )
            for row, ivlen in rows
        ),
    )


def _sayable(state: State, kind: Kind, exttype: ExtType, dialect: Dialect) -> list[Algorithm]:
    """What this machine does and the dialect has a number for, in the order of its numbers."""
    numbers = registry(exttype, dialect)
    rows = [
        row
        for row in ROWS
        if row.kind == kind and row.number in numbers and (kind.value, row.number) in state.usable
    ]
    return sorted(rows, key=lambda row: numbers.theirs(row.number))
