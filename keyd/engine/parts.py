"""The parts of a request that several handlers read (RFC 2367 section 3.1)."""

from errno import EINVAL, ESRCH

from keyd.engine.sad import SaKey
from pfkey.const import PROTO_OF_SATYPE, SaType
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.message import Message


def addresses(message: Message) -> tuple[Address, Address]:
    """Source and destination.

    Raises:
        SadbError: EINVAL when one is missing or their families differ.
    """
    if message.src is None or message.dst is None:
        raise SadbError(EINVAL, "ADDRESS_SRC and ADDRESS_DST must both be there", "3.1")
    if message.src.family != message.dst.family:
        raise SadbError(EINVAL, "ADDRESS_SRC and ADDRESS_DST are of two families", "3.1")
    return message.src, message.dst


def sa_key(message: Message) -> SaKey:
    """The name of the SA that GET or DELETE is about; its source plays no part, as on Linux.

    Raises:
        SadbError: EINVAL when a part of the name is missing; ESRCH for an SA type that no SA has.
    """
    if message.sa is None:
        raise SadbError(EINVAL, "extension SA must be there", "3.1.4")
    _, dst = addresses(message)
    proto = PROTO_OF_SATYPE.get(SaType(message.satype)) if message.satype in _SATYPES else None
    if proto is None:
        raise SadbError(ESRCH, f"no SA is of satype {message.satype}")
    return SaKey(dst.address, proto, message.sa.spi)


def proto_filter(message: Message) -> int | None:
    """The protocol that FLUSH or DUMP is about; None for all.

    Raises:
        SadbError: EINVAL for an SA type that no SA has.
    """
    if message.satype == SaType.UNSPEC:
        return None
    if message.satype not in PROTO_OF_SATYPE:
        raise SadbError(EINVAL, f"no SA is of satype {message.satype}", "3.1.9")
    return PROTO_OF_SATYPE[SaType(message.satype)]


_SATYPES = frozenset(PROTO_OF_SATYPE)
