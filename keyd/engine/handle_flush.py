"""SADB_FLUSH (RFC 2367 section 3.1.9): end all SAs, or all of one type."""

from keyd.engine.effects import Effect, Send
from keyd.engine.life import end
from keyd.engine.parts import proto_filter
from keyd.engine.records import bare
from keyd.engine.state import Request, State


def flush(state: State, request: Request) -> list[Effect]:
    """End the SAs; tell the sender, and the others if there was one.

    Raises:
        SadbError: EINVAL for an SA type that no SA has.
    """
    proto = proto_filter(request.message)
    ended = [sa for sa in state.sad if proto in (None, sa.spec.proto)]
    state.acquires.forget_protocol(proto)
    removals = [effect for sa in ended for effect in end(state, sa)]
    return [*removals, *notice(request, bare(request.message), was_empty=not ended)]


def notice(request: Request, record: bytes, *, was_empty: bool) -> list[Send]:
    """The echo of a flush, silent to others when nothing was there.

    DEVIATION from Linux, which sends it twice to the sender when something was flushed: the second
    copy is taken for the reply to the next command (test_flush_is_echoed_once).
    """
    clients = request.clients
    if was_empty:
        return clients.one(request.client, record)
    return clients.all(record)
