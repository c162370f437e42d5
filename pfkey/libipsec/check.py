"""pfkey_align and pfkey_check: what libipsec's users do with a message before they believe it."""

from collections.abc import Mapping

from pfkey.base import SADB_MSG, walk
from pfkey.const import (
    AF_INET,
    AF_INET6,
    HEADER_OCTETS,
    PF_KEY_V2,
    UNIT_OCTETS,
    ExtType,
    MsgType,
    SaType,
)
from pfkey.dialect import LINUX, is_own
from pfkey.errors import WireError
from pfkey.libipsec.errors import (
    EIPSEC_FAMILY_MISMATCH,
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_INVAL_EXTTYPE,
    EIPSEC_INVAL_FAMILY,
    EIPSEC_INVAL_MSGTYPE,
    EIPSEC_INVAL_SADBMSG,
    EIPSEC_INVAL_SATYPE,
    EIPSEC_INVAL_VERSION,
    EIPSEC_NOT_SUPPORTED,
    EIPSEC_PROTO_MISMATCH,
    IpsecError,
    reports,
)
from pfkey.libipsec.sockets import Octets
from pfkey.message import Message
from pfkey.sockaddr import family_in

# A Linux build of libipsec knows no KMPRIVATE and no FILTER.
_KNOWN = {kind for kind in LINUX.extensions.named.values() if not is_own(kind)} - {
    ExtType.X_KMPRIVATE, ExtType.X_FILTER,
}  # fmt: skip
_OF_SAS = frozenset(
    {
        MsgType.GETSPI, MsgType.UPDATE, MsgType.ADD, MsgType.DELETE, MsgType.GET,
        MsgType.ACQUIRE, MsgType.EXPIRE, MsgType.X_NAT_T_NEW_MAPPING,
    }
)  # fmt: skip
_OF_POLICIES = frozenset(
    {
        MsgType.X_SPDADD, MsgType.X_SPDDELETE, MsgType.X_SPDGET, MsgType.X_SPDDUMP,
        MsgType.X_SPDFLUSH,
    }
)  # fmt: skip
_ADDRESS_HEADER_OCTETS = 8


@reports
def pfkey_align(msg: Octets) -> dict[int, bytes]:
    """A message's extensions by their type; under 0 the whole message. Sends nothing.

    EIPSEC_INVAL_EXTTYPE for a type that stands twice or that libipsec does not know,
    EIPSEC_INVAL_SADBMSG for lengths that do not add up.
    """
    octets = msg.encode() if isinstance(msg, Message) else msg
    if len(octets) < HEADER_OCTETS:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"{len(octets)} octets have no header")
    length = SADB_MSG.parse(octets[:HEADER_OCTETS])["len"] * UNIT_OCTETS
    if not HEADER_OCTETS <= length <= len(octets):
        raise IpsecError(EIPSEC_INVAL_SADBMSG, f"length {length} of {len(octets)} octets")
    found: dict[int, bytes] = {0: octets[:length]}
    try:
        for exttype, start, end in walk(octets[:length]):
            if exttype not in _KNOWN:
                raise IpsecError(EIPSEC_INVAL_EXTTYPE, str(exttype))
            found[exttype] = octets[start:end]
    except WireError as error:
        code = EIPSEC_INVAL_EXTTYPE if _is_about_type(error) else EIPSEC_INVAL_SADBMSG
        raise IpsecError(code, f"{error.part}: {error.rule}") from error
    return found


def _is_about_type(error: WireError) -> bool:
    return error.rule in ("stands twice", "type 0 is no extension")


@reports
def pfkey_check(mhp: Mapping[int, bytes]) -> None:
    """Hold what `pfkey_align` has made to libipsec's rules. Sends nothing.

    Version, message type, the SA type for the message type; of source and destination, that upper
    protocol and family are the same and the family is IPv4 or IPv6.
    """
    if 0 not in mhp:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, "no message")
    base = SADB_MSG.parse(mhp[0][:HEADER_OCTETS])
    if base["version"] != PF_KEY_V2:
        raise IpsecError(EIPSEC_INVAL_VERSION, str(base["version"]))
    if base["type"] > LINUX.messages.highest:
        raise IpsecError(EIPSEC_INVAL_MSGTYPE, str(base["type"]))
    _check_satype(base["type"], base["satype"])
    src, dst = mhp.get(ExtType.ADDRESS_SRC), mhp.get(ExtType.ADDRESS_DST)
    if src is not None and dst is not None:
        _check_pair(src, dst)


def _check_satype(type: int, satype: int) -> None:
    match satype:
        case SaType.UNSPEC:
            is_right = type not in _OF_SAS
        case SaType.ESP | SaType.AH | SaType.X_IPCOMP:
            is_right = type not in _OF_POLICIES
            if type == MsgType.X_NAT_T_NEW_MAPPING:
                is_right = satype == SaType.ESP
        case SaType.RSVP | SaType.OSPFV2 | SaType.RIPV2 | SaType.MIP:
            raise IpsecError(EIPSEC_NOT_SUPPORTED, f"SA type {satype}")
        case 1:
            is_right = type in (MsgType.X_PROMISC, MsgType.X_SPDFLUSH)
        case _:
            is_right = type == MsgType.X_SPDFLUSH  # in which Linux leaves what was there
    if not is_right:
        raise IpsecError(EIPSEC_INVAL_SATYPE, f"{satype} in a message of type {type}")


def _check_pair(src: bytes, dst: bytes) -> None:
    if min(len(src), len(dst)) <= _ADDRESS_HEADER_OCTETS:
        raise IpsecError(EIPSEC_INVAL_FAMILY, "an address extension without an address")
    if src[4] != dst[4]:
        raise IpsecError(EIPSEC_PROTO_MISMATCH, f"{src[4]}, {dst[4]}")
    families = [family_in(one, _ADDRESS_HEADER_OCTETS) for one in (src, dst)]
    if families[0] != families[1]:
        raise IpsecError(EIPSEC_FAMILY_MISMATCH, f"{families[0]}, {families[1]}")
    if families[0] not in (AF_INET, AF_INET6):
        raise IpsecError(EIPSEC_INVAL_FAMILY, str(families[0]))
