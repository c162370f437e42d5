"""The parts of a request that several handlers read (RFC 2367 section 3.1)."""

from errno import EINVAL, EOPNOTSUPP, ESRCH

from keyd.engine import unsupported
from keyd.engine.lifetimes import NO_LIMIT, Limit
from keyd.engine.sad import SaKey
from pfkey.const import PROTO_OF_SATYPE, WINDOW_MAX, ExtType, Mode, SaType
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_word import Word
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


def policy_of(message: Message) -> Policy:
    """The policy extension.

    Raises:
        SadbError: EINVAL when it is missing.
    """
    if message.policy is None:
        raise SadbError(EINVAL, "extension X_POLICY must be there")
    return message.policy


def limit(lifetime: Lifetime | None) -> Limit:
    """The limits that a lifetime extension sets."""
    if lifetime is None:
        return NO_LIMIT
    return Limit(lifetime.allocations, lifetime.octets, lifetime.addtime, lifetime.usetime)


def identities(message: Message) -> tuple[Ident, ...]:
    """Source and destination identity, or none."""
    return tuple(one for one in message.extensions if isinstance(one, Ident))


def check_identities(message: Message, *, may_differ: bool) -> None:
    """They mean nothing to us, and are told to whoever listens; NetBSD's rules for them hold.

    Raises:
        SadbError: EINVAL for one without the other, and for two types unless they may differ.
    """
    found = identities(message)
    if len(found) == 1:
        raise SadbError(EINVAL, "give IDENTITY_SRC and IDENTITY_DST both, or none", "3.1.3")
    if len({ident.kind for ident in found}) > 1 and not may_differ:
        kinds = " and ".join(str(ident.kind) for ident in found)
        why = f"identities of types {kinds}; net.key.allow_different_idtype is 0"
        raise SadbError(EINVAL, why)


def sa_proto(message: Message) -> int:
    """The protocol of the SA that a request is to make.

    Raises:
        SadbError: EINVAL for an SA type that no SA has.
    """
    if message.satype not in _SATYPES:
        raise SadbError(EINVAL, f"no SA is of satype {message.satype}", "3.1.3")
    return PROTO_OF_SATYPE[SaType(message.satype)]


def sa_mode(message: Message) -> Mode:
    """Its mode; ANY, which matches transport and tunnel, where nothing is said.

    Raises:
        SadbError: EINVAL for a number that is none; EOPNOTSUPP for a mode not done.
    """
    number = 0 if message.sa2 is None else message.sa2.mode
    try:
        mode = Mode(number)
    except ValueError:
        raise SadbError(EINVAL, f"mode {number} is none") from None
    unsupported.refuse(unsupported.SA_MODES, mode)
    return mode


def window(message: Message, sa: Sa) -> int:
    """The replay window in packets: X_REPLAY_WINDOW says it where sadb_sa_replay cannot.

    Raises:
        SadbError: EOPNOTSUPP for more than `WINDOW_MAX` packets.
    """
    given = message.ext(ExtType.X_REPLAY_WINDOW)
    packets = given.value if isinstance(given, Word) else sa.replay
    if packets > WINDOW_MAX:
        why = f"a window of {packets} packets: {WINDOW_MAX} are the most"
        raise SadbError(EOPNOTSUPP, why)
    return packets


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
