"""SADB_DELETE (RFC 2367 section 3.1.4): by destination, protocol and SPI, larval or not."""

from keyd.engine.effects import Effect, RemoveSa
from keyd.engine.handle_add import echo
from keyd.engine.parts import sa_key
from keyd.engine.sad import SaRecord
from keyd.engine.state import Request, State


def delete(state: State, request: Request) -> list[Effect]:
    """End one SA and show it, dead, to everybody.

    Raises:
        SadbError: EINVAL when its name is not whole; ESRCH when there is none.
    """
    sa = state.sad.find(sa_key(request.message))
    return [*end(state, sa), *echo(state, request, sa)]


def end(state: State, sa: SaRecord) -> list[Effect]:
    """Take an SA out of the database, the schedule and the data path."""
    was_larval = sa.is_larval
    state.sad.remove(sa, state.usage_of(sa))
    state.schedule.forget(sa)
    state.schedule.compact(len(state.sad))
    return [] if was_larval else [RemoveSa(sa.spec)]
