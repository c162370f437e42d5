"""One way to say it for all systems: messages with KAME's extensions, and back into a dialect.

What the systems say by different extensions though they mean the same is said here in one way:
the mode of an SA by SA2 (OpenBSD has a flag), a window by sadb_sa_replay whatever its size (FreeBSD
has SA_REPLAY), lifetimes in pairs (OpenBSD has each alone), no ESP in UDP by no extension (NetBSD
has a type 0), no priority of a policy by the one in the middle (NetBSD has none). What OpenBSD says
of ESP in UDP stays as it is: which end the peer's port is of, only who knows the addresses can say.
`understood` is for who reads messages of any system, `spoken` for who writes them.
"""

from dataclasses import replace

from pfkey.const import (
    HEADER_OCTETS,
    NATT_PORT,
    UDP_ENCAP_ESPINUDP,
    ExtType,
    Mode,
    MsgType,
    OpenbsdFlag,
)
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.ext_address import Address
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.policy import PRIORITY_DEF

_TUNNEL, _UDPENCAP = int(OpenbsdFlag.TUNNEL), int(OpenbsdFlag.UDPENCAP)
_PROMISC = bytes((MsgType.X_PROMISC,))  # the same number in every dialect
_NAT_T = (ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT)
_OTHER_LIMIT = {
    int(ExtType.LIFETIME_HARD): ExtType.LIFETIME_SOFT,
    int(ExtType.LIFETIME_SOFT): ExtType.LIFETIME_HARD,
}


def understood(message: Message) -> Message:
    """A message that was read, said in the one way; the same object if it is so already."""
    dialect = message.dialect
    if dialect is LINUX:
        return message
    found: list[Extension] = []
    types = {extension.exttype for extension in message.extensions}
    no_natt = message.nat_t_type is not None and not message.nat_t_type.type
    window = _window(message)
    for extension in message.extensions:
        if isinstance(extension, Sa) and window is not None:
            found.append(replace(extension, replay=window))
        elif isinstance(extension, Sa) and not dialect.has_policies:
            found.append(replace(extension, flags=extension.flags & ~_TUNNEL))
            if extension.flags & _TUNNEL:
                found.append(Sa2(mode=Mode.TUNNEL))
        elif extension.exttype == ExtType.X_SA_REPLAY or (no_natt and extension.exttype in _NAT_T):
            continue
        elif isinstance(extension, Lifetime) and not dialect.has_policies:
            found.append(extension)
            other = _OTHER_LIMIT.get(extension.exttype)
            if other is not None and other not in types:
                found.append(Lifetime(exttype=other))
        else:
            found.append(extension)
    return replace(message, extensions=tuple(found))


def unwrapped(octets: bytes, dialect: Dialect) -> bytes:
    """The copy itself, of a message that a promiscuous client gets behind a header of its own."""
    has_body = octets[1:2] == _PROMISC and len(octets) >= 2 * HEADER_OCTETS
    return octets[HEADER_OCTETS:] if has_body and dialect is not LINUX else octets


def _window(message: Message) -> int | None:
    """The packets of FreeBSD's SA_REPLAY, wherever it stands."""
    words = (one for one in message.extensions if isinstance(one, Word))
    return next((one.value for one in words if one.exttype == ExtType.X_SA_REPLAY), None)


def peers_port(sport: int, dport: int) -> int:
    """Which of the ports of ESP in UDP is the peer's: ours is 4500, as a rule."""
    return sport if dport == NATT_PORT else dport


def spoken(message: Message, dialect: Dialect, *, is_nearest: bool = False) -> Message:
    """The message as a program of this system says it, to be encoded in that dialect.

    `is_nearest` leaves out or rounds what the dialect cannot say, for telling others of a message;
    otherwise encoding what cannot be said raises.

    Raises:
        WireError: OpenBSD has no request ids; `is_nearest`: the dialect has no such message or SA
            type, or no extension of a policy says the same.
    """
    extensions = message.extensions
    if dialect is not LINUX:
        extensions = _in_own_words(message, dialect, is_nearest=is_nearest)
    if is_nearest:
        inside = dialect.of_satype(message.satype)
        near = (_nearest(extension, inside) for extension in extensions)
        extensions = tuple(extension for extension in near if extension is not None)
        dialect.messages.theirs(message.type)
        if message.type not in dialect.not_satypes:
            dialect.satypes.theirs(message.satype)
    if not dialect.has_policies:
        extensions = tuple(sorted(extensions, key=lambda one: dialect.exttype(one.exttype)))
    return replace(message, extensions=extensions)


def _in_own_words(
    message: Message, dialect: Dialect, *, is_nearest: bool
) -> tuple[Extension, ...]:  # fmt: skip
    sa2 = message.sa2
    udp = () if dialect.has_policies else _udpencap(message)
    found: list[Extension] = []
    for extension in message.extensions:
        if isinstance(extension, Sa2) and not dialect.has_policies:
            if extension.reqid and not is_nearest:
                raise WireError("sadb_x_sa2", f"a request id, {extension.reqid}, cannot be said")
        elif isinstance(extension, Sa) and not dialect.has_policies:
            is_tunnel = sa2 is not None and sa2.mode == Mode.TUNNEL
            more = _TUNNEL * is_tunnel | _UDPENCAP * bool(udp)
            found.append(replace(extension, flags=extension.flags | more))
        elif extension.exttype in _NAT_T and udp:
            continue
        elif (
            isinstance(extension, Sa)
            and extension.replay > dialect.window_max
            and ExtType.X_SA_REPLAY in dialect.extensions
        ):
            found.append(replace(extension, replay=dialect.window_max))
            found.append(Word(exttype=ExtType.X_SA_REPLAY, value=extension.replay))
        elif isinstance(extension, Policy) and extension.priority == PRIORITY_DEF:
            given = extension.priority if dialect.has_priority else 0
            found.append(replace(extension, priority=given))
        else:
            found.append(extension)
    return (*found, *udp)


def _udpencap(message: Message) -> tuple[NatTPort, ...]:
    """What OpenBSD says of the ports of ESP in UDP."""
    kind, sport, dport = message.nat_t_type, message.nat_t_sport, message.nat_t_dport
    is_in_udp = kind is not None and kind.type == UDP_ENCAP_ESPINUDP
    if message.sa is None or not is_in_udp or sport is None or dport is None:
        return ()
    return (NatTPort(exttype=ExtType.X_UDPENCAP, port=peers_port(sport.port, dport.port)),)


def _nearest(extension: Extension, dialect: Dialect) -> Extension | None:
    """The extension as far as this dialect can say it; None where it cannot."""
    if extension.exttype not in dialect.extensions:
        return None
    if isinstance(extension, Sa):
        extension = replace(
            extension, flags=dialect.flags_sayable(extension.flags),
            auth=extension.auth if dialect.auth.says(extension.auth) else 0,
            encrypt=extension.encrypt if dialect.encrypt.says(extension.encrypt) else 0,
            replay=min(extension.replay, dialect.window_max),
        )  # fmt: skip
    elif isinstance(extension, Address) and dialect.address:
        extension = replace(extension, prefixlen=8 * len(extension.address), proto=0)
    elif isinstance(extension, Policy):
        dialect.dirs.theirs(extension.dir)
        extension = replace(
            extension, priority=extension.priority if dialect.has_priority else 0,
            scope=extension.scope if dialect.has_scope else 0,
            requests=tuple(
                replace(one, reqid=one.reqid if one.reqid <= dialect.reqid_max else 0)
                for one in extension.requests
            ),
        )  # fmt: skip
    try:
        extension.encode(dialect)
    except WireError:
        return None
    return extension
