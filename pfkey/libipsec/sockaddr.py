"""Addresses as libipsec's functions take them, in place of struct sockaddr.

A numeric address as text or as an object of `ipaddress`, or Python's own socket address: a tuple of
address and port, for IPv6 with flow label and scope id, as `socket.getaddrinfo` gives it.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from pfkey.addresses import parse_address
from pfkey.const import UNSPEC_PROTO, ExtType
from pfkey.errors import MisuseError
from pfkey.ext_address import Address
from pfkey.libipsec.errors import (
    EIPSEC_FAMILY_MISMATCH,
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_INVAL_FAMILY,
    EIPSEC_INVAL_PREFIXLEN,
    IpsecError,
)

SockAddr: TypeAlias = str | IPv4Address | IPv6Address | tuple[str, int] | tuple[str, int, int, int]


def extension(
    exttype: int, given: SockAddr | None, prefixlen: int | None = None, proto: int = UNSPEC_PROTO
) -> Address:
    """An address extension; without `prefixlen` the prefix is the whole address.

    Raises:
        IpsecError: EIPSEC_INVAL_ARGUMENT without an address, EIPSEC_INVAL_FAMILY for what is none,
            EIPSEC_INVAL_PREFIXLEN for more bits than it has.
    """
    if given is None:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, "an address is missing")
    flowinfo = port = scope = 0
    match given:
        case (text, port, flowinfo, scope):
            pass
        case (text, port):
            pass
        case _:
            text = str(given)
    try:
        address, written = parse_address(text)
    except MisuseError as error:
        raise IpsecError(EIPSEC_INVAL_FAMILY, str(error)) from error
    bits = 8 * len(address)
    if prefixlen is not None and not 0 <= prefixlen <= bits:
        raise IpsecError(EIPSEC_INVAL_PREFIXLEN, f"{prefixlen} of {bits} bits")
    return Address(
        exttype=exttype, address=address, prefixlen=bits if prefixlen is None else prefixlen,
        proto=proto, port=port, flowinfo=flowinfo, scope_id=scope or written,
    )  # fmt: skip


def pair(
    src: SockAddr | None,
    dst: SockAddr | None,
    prefs: int | None = None,
    prefd: int | None = None,
    proto: int = UNSPEC_PROTO,
) -> tuple[Address, Address]:
    """Source and destination extensions.

    Raises:
        IpsecError: as `extension`; EIPSEC_FAMILY_MISMATCH when only one is IPv4.
    """
    found = (
        extension(ExtType.ADDRESS_SRC, src, prefs, proto),
        extension(ExtType.ADDRESS_DST, dst, prefd, proto),
    )
    if found[0].family != found[1].family:
        raise IpsecError(EIPSEC_FAMILY_MISMATCH, f"{found[0].text}, {found[1].text}")
    return found
