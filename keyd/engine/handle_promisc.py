"""SADB_X_PROMISC (RFC 2367 section 3.1.11): hear every message.

With a body, the message is passed on to everybody, and nothing is switched.
"""

from errno import EINVAL

from keyd.engine.effects import Effect
from keyd.engine.public import without_keys
from keyd.engine.records import bare
from keyd.engine.state import Request, State
from pfkey.const import HEADER_OCTETS
from pfkey.errors import SadbError


def promisc(state: State, request: Request) -> list[Effect]:
    """Switch (SA type 1: on, 0: off), or pass on; everybody gets the echo.

    Raises:
        SadbError: EINVAL for another SA type.
    """
    if len(request.octets) > HEADER_OCTETS:
        public = without_keys(request.octets)
        return [*state.clients.all(request.octets, public, request.client)]
    if request.message.satype > 1:
        raise SadbError(EINVAL, f"satype {request.message.satype}: 1 is on, 0 is off", "3.1.11")
    state.clients[request.client].is_promiscuous = request.message.satype == 1
    return [*state.clients.all(bare(request.message))]
