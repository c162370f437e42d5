"""SADB_GET (RFC 2367 section 3.1.5): one SA, keys and all, for who asks."""

from keyd.engine.effects import Effect
from keyd.engine.parts import sa_key
from keyd.engine.records import sa_told
from keyd.engine.state import Request, State
from pfkey.const import MsgType


def get(state: State, request: Request) -> list[Effect]:
    """Show an SA to the sender.

    Raises:
        SadbError: EINVAL when its name is not whole; ESRCH when there is none.
    """
    message = request.message
    sa = state.sad.find(sa_key(message))
    told = sa_told(state, sa, type=MsgType.GET, seq=message.seq, pid=message.pid)
    return [*state.clients.one(request.client, told)]
