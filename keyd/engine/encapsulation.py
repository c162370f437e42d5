"""What an ADD or UPDATE says about ESP in UDP (RFC 3948), and how records say it.

The extensions are KAME's: X_NAT_T_TYPE, two ports, and the addresses before a NAT changed them:
Linux's one, which does not say what it is of, or the BSDs' two, of source and destination.
OpenBSD has a flag, UDPENCAP, and an extension of that name with the peer's port alone: which end
that is depends on where the SA leads, and the other end's is 4500.
"""

from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP

from keyd.model import SaSpec
from pfkey.const import (
    IPPROTO_ESP,
    NATT_PORT,
    UDP_ENCAP_ESPINUDP,
    UDP_ENCAP_ESPINUDP_NON_IKE,
    ExtType,
    OpenbsdFlag,
)
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.message import Extension, Message
from pfkey.neutral import peers_port

_OTHERS = (
    ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA, ExtType.X_NAT_T_OAI,
    ExtType.X_NAT_T_OAR,
)  # fmt: skip
UDPENCAP = int(OpenbsdFlag.UDPENCAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encapsulation:
    """The fields of `keyd.model.SaSpec` about it."""

    encap: int = 0
    sport: int = 0
    dport: int = 0
    oa_src: bytes = b""
    oa_dst: bytes = b""


def encapsulation(
    message: Message, proto: int, octets: int, *, is_inbound: bool = False
) -> Encapsulation:
    """What the message says. `octets`: of an address of the SA's family.

    `is_inbound`: the SA ends here, so that the peer's port is that of its source.

    Raises:
        SadbError: EINVAL for what is not whole or goes with no such SA; EOPNOTSUPP for the form
            without a marker before IKE, which the drafts before RFC 3948 had.
    """
    if asks_openbsd(message):
        return _openbsd(message, proto, is_inbound=is_inbound)
    kind = message.nat_t_type
    if kind is None or kind.type == 0:
        for exttype in _OTHERS:
            found = message.ext(exttype)
            if found is not None and not (isinstance(found, NatTPort) and found.port == 0):
                raise SadbError(EINVAL, f"{exttype.name} without X_NAT_T_TYPE 2")
        return Encapsulation()
    if kind.type == UDP_ENCAP_ESPINUDP_NON_IKE:
        why = "ESP in UDP of type 1, from the drafts before RFC 3948, is not done; type 2 is"
        raise SadbError(EOPNOTSUPP, why)
    if kind.type != UDP_ENCAP_ESPINUDP:
        raise SadbError(EINVAL, f"X_NAT_T_TYPE {kind.type} is none; ESP in UDP is 2")
    _check_proto(proto)
    sport, dport = (
        0 if port is None else port.port for port in (message.nat_t_sport, message.nat_t_dport)
    )
    if not sport or not dport:
        raise SadbError(EINVAL, "ESP in UDP needs X_NAT_T_SPORT and X_NAT_T_DPORT")
    return Encapsulation(
        encap=UDP_ENCAP_ESPINUDP, sport=sport, dport=dport,
        oa_src=_original(message, (ExtType.X_NAT_T_OA, ExtType.X_NAT_T_OAI), octets),
        oa_dst=_original(message, (ExtType.X_NAT_T_OAR,), octets),
    )  # fmt: skip


def asks_openbsd(message: Message) -> bool:
    """Whether the message says it in OpenBSD's way."""
    has_flag = message.sa is not None and bool(message.sa.flags & UDPENCAP)
    return has_flag or message.ext(ExtType.X_UDPENCAP) is not None


def _openbsd(message: Message, proto: int, *, is_inbound: bool) -> Encapsulation:
    """The flag decides, the extension may say another port of the peer than 4500.

    DEVIATION from OpenBSD, which takes the extension without the flag and sends plain ESP: refused
    (test_udpencap_without_its_flag_is_refused).
    """
    _check_proto(proto)
    if message.sa is None or not message.sa.flags & UDPENCAP:
        raise SadbError(EINVAL, "extension X_UDPENCAP without the flag UDPENCAP (0x200) of the SA")
    given = message.ext(ExtType.X_UDPENCAP)
    peer = (given.port if isinstance(given, NatTPort) else 0) or NATT_PORT
    sport, dport = (peer, NATT_PORT) if is_inbound else (NATT_PORT, peer)
    return Encapsulation(encap=UDP_ENCAP_ESPINUDP, sport=sport, dport=dport)


def _check_proto(proto: int) -> None:
    if proto != IPPROTO_ESP:
        raise SadbError(EINVAL, "in UDP goes ESP alone (RFC 3948 section 2): a NAT spoils AH")


def _original(message: Message, exttypes: tuple[ExtType, ...], octets: int) -> bytes:
    for exttype in exttypes:
        found = message.ext(exttype)
        if isinstance(found, Address):
            if len(found.address) != octets:
                raise SadbError(EINVAL, f"{exttype.name} is of another family than the SA")
            return found.address
    return b""


def extensions(spec: SaSpec) -> tuple[Extension, ...]:
    """What records of an SA say about it, as far as a system has words for it, in its order."""
    if not spec.encap:
        return ()
    found: tuple[Extension, ...] = (
        NatTType(type=spec.encap),
        NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=spec.sport),
        NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=spec.dport),
        NatTPort(exttype=ExtType.X_UDPENCAP, port=peers_port(spec.sport, spec.dport)),
    )
    bits = 8 * len(spec.src)
    known = (
        (ExtType.X_NAT_T_OA, spec.oa_src),
        (ExtType.X_NAT_T_OAI, spec.oa_src),
        (ExtType.X_NAT_T_OAR, spec.oa_dst),
    )
    originals = (
        Address(exttype=exttype, address=address, prefixlen=bits)
        for exttype, address in known
        if address
    )
    return (*found, *originals)
