"""SADB_ACQUIRE from a client (RFC 2367 section 3.1.6): an IKE daemon says that it failed."""

from errno import EOPNOTSUPP

from keyd.engine.effects import Effect
from keyd.engine.state import Request, State
from pfkey.const import HEADER_OCTETS
from pfkey.errors import SadbError


def acquire(state: State, request: Request) -> list[Effect]:
    """End the larval SA of this sequence number. There are none yet; nobody gets a reply.

    Raises:
        SadbError: EOPNOTSUPP for more than a header.
    """
    if len(request.octets) > HEADER_OCTETS:
        raise SadbError(EOPNOTSUPP, "an ACQUIRE from a client is a header alone", "3.1.6")
    return []
