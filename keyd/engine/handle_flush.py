"""SADB_FLUSH (RFC 2367 section 3.1.9): end all SAs, or all of one type."""

from keyd.engine.answers import bare
from keyd.engine.effects import Effect
from keyd.engine.handle_x_spd import end_all_policies, notice
from keyd.engine.life import end
from keyd.engine.parts import proto_filter
from keyd.engine.state import Request, State


def flush(state: State, request: Request) -> list[Effect]:
    """End the SAs, on OpenBSD the flows too if it is about all; tell the sender and the others.

    Raises:
        SadbError: EINVAL for an SA type that no SA has.
    """
    proto = proto_filter(request.message)
    changes, was_empty = list[Effect](), True
    if proto is None and request.manners.flush_ends_flows:
        changes, was_empty = end_all_policies(state, request)
    ended = [sa for sa in state.sad if proto in (None, sa.spec.proto)]
    state.acquires.forget_protocol(proto)
    removals = [effect for sa in ended for effect in end(state, sa)]
    echo = notice(request, bare(request.message), was_empty=was_empty and not ended)
    return [*removals, *changes, *echo]
