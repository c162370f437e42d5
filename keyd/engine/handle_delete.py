"""SADB_DELETE (RFC 2367 section 3.1.4): by destination, protocol and SPI, larval or not.

On NetBSD and FreeBSD, without an SPI: all that have keys, from one address to another.
"""

from errno import EINVAL

from keyd.engine.answers import all_gone, one_of_all_gone, sa_gone
from keyd.engine.effects import Effect
from keyd.engine.life import end
from keyd.engine.parts import addresses, proto_filter, sa_key
from keyd.engine.state import Request, State
from pfkey.errors import SadbError


def delete(state: State, request: Request) -> list[Effect]:
    """End one SA and show it, dead, to everybody.

    Raises:
        SadbError: EINVAL when its name is not whole; ESRCH when there is none.
    """
    if request.message.sa is None and request.manners.deletes_all:
        return _delete_all(state, request)
    sa = state.sad.find(sa_key(request.message))
    return [*end(state, sa), *state.clients.all(sa_gone(state, request, sa), request.client)]


def _delete_all(state: State, request: Request) -> list[Effect]:
    """INITIAL-CONTACT's way; to end none is no mistake."""
    message = request.message
    src, dst = addresses(message)
    proto = proto_filter(message)
    if proto is None:
        raise SadbError(EINVAL, "DELETE needs an SA type", "3.1.4")
    ended = [
        sa
        for sa in state.sad
        if not sa.is_larval
        and (sa.spec.proto, sa.spec.src, sa.spec.dst) == (proto, src.address, dst.address)
    ]
    changes = [effect for sa in ended for effect in end(state, sa)]
    sends = [
        send for sa in ended for send in state.clients.all(one_of_all_gone(state, request, sa))
    ]
    return [*changes, *sends, *state.clients.all(all_gone(message), request.client)]
