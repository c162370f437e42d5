"""SADB_REGISTER (RFC 2367 section 3.1.7): who wants notices, and what this machine can do."""

from keyd.engine.effects import Effect
from keyd.engine.state import Request, State
from keyd.engine.tuning import retune
from pfkey.algorithms import Kind, offered
from pfkey.const import ExtType, MsgType
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.message import Message


def register(state: State, request: Request) -> list[Effect]:
    """Register, and send both lists to all who have registered and to the sender.

    The lists are the same for every SA type, as on Linux; SA type 0 only asks for them.

    Raises:
        SadbError: EINVAL for no SA type; EEXIST for a second registration.
    """
    message = request.message
    if state.clients.register(request.client, message.satype):
        state.acquires.renew()
    reply = Message(
        type=MsgType.REGISTER, satype=message.satype, seq=message.seq, pid=message.pid,
        extensions=(
            _supported(state, ExtType.SUPPORTED_AUTH, Kind.AUTH),
            _supported(state, ExtType.SUPPORTED_ENCRYPT, Kind.ENCRYPT),
        ),
    )  # fmt: skip
    return [*retune(state), *state.clients.registered(reply.encode(), request.client)]


def _supported(state: State, exttype: ExtType, kind: Kind) -> Supported:
    rows = tuple(
        SupportedAlgorithm(
            id=row.number, ivlen=row.ivlen, minbits=row.min_bits, maxbits=row.max_bits
        )
        for row in offered(kind, state.usable)
    )
    return Supported(exttype=exttype, algorithms=rows)
