"""SADB_GET (RFC 2367 section 3.1.5): one SA, keys and all, for who asks."""

from keyd.engine.effects import Effect
from keyd.engine.parts import sa_key
from keyd.engine.records import sa_record
from keyd.engine.state import Request, State
from pfkey.const import MsgType


def get(state: State, request: Request) -> list[Effect]:
    """Show an SA to the sender.

    Raises:
        SadbError: EINVAL when its name is not whole; ESRCH when there is none.
    """
    message = request.message
    sa = state.sad.find(sa_key(message))
    used = state.usage_of(sa)
    type, seq, pid = MsgType.GET, message.seq, message.pid
    own = state.clients[request.client].knows_own
    private = sa_record(sa, used, type=type, seq=seq, pid=pid, own=own)
    if not state.clients.has_promiscuous:
        return [*state.clients.one(request.client, private)]
    public = sa_record(sa, used, type=type, seq=seq, pid=pid, keys=False)
    return [*state.clients.one(request.client, private, public)]
