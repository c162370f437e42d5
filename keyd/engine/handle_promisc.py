"""SADB_X_PROMISC (RFC 2367 section 3.1.11): hear every message.

With a body, that is passed on to everybody, and nothing is switched. On Linux it is the message as
it is; elsewhere what stands behind the first header must be a message, and goes on without it.
"""

from errno import EINVAL

from keyd.engine.answers import bare
from keyd.engine.effects import Effect
from keyd.engine.manners import Kin
from keyd.engine.refusal import copy_of_request
from keyd.engine.state import Request, State
from pfkey.const import HEADER_OCTETS
from pfkey.errors import SadbError
from pfkey.message import Message
from pfkey.neutral import understood


def promisc(state: State, request: Request) -> list[Effect]:
    """Switch (SA type 1: on, 0: off), or pass on; everybody gets the echo.

    Raises:
        SadbError: EINVAL for another SA type, or a body that is no message.
    """
    octets, manners = request.octets, request.manners
    if len(octets) > HEADER_OCTETS:
        message = request.message
        if manners.kin is not Kin.LINUX:
            octets = octets[HEADER_OCTETS:]
            message = understood(Message.decode(octets, manners.dialect))
        told = copy_of_request(octets, message, message.type, manners)
        return [*state.clients.all(told, request.client)]
    if request.message.satype > 1:
        raise SadbError(EINVAL, f"satype {request.message.satype}: 1 is on, 0 is off", "3.1.11")
    state.clients.set_promiscuous(request.client, is_on=request.message.satype == 1)
    return [*state.clients.all(bare(request.message))]
