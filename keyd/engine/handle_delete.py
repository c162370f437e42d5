"""SADB_DELETE (RFC 2367 section 3.1.4): by destination, protocol and SPI, larval or not."""

from keyd.engine.effects import Effect
from keyd.engine.life import echo, end
from keyd.engine.parts import sa_key
from keyd.engine.state import Request, State


def delete(state: State, request: Request) -> list[Effect]:
    """End one SA and show it, dead, to everybody.

    Raises:
        SadbError: EINVAL when its name is not whole; ESRCH when there is none.
    """
    sa = state.sad.find(sa_key(request.message))
    return [*end(state, sa), *echo(state, request, sa)]
