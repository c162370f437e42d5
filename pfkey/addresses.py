"""Addresses as text and as extensions: `10.1.1.1`, `10.0.1.0/24`, `fe80::1%2`.

Octets are in network order. A scope is the number of an interface; a name would need the system.
"""

from ipaddress import ip_address

from pfkey.const import UNSPEC_PROTO, ExtType
from pfkey.errors import MisuseError
from pfkey.ext_address import Address


def parse_address(text: str) -> tuple[bytes, int]:
    """Octets and scope id of a numeric address; a scope is a number: `fe80::1%2`.

    Raises:
        MisuseError: that is none.
    """
    address, percent, scope = text.partition("%")
    try:
        found = ip_address(address)
    except ValueError:
        raise MisuseError(f"{text!r} is no numeric IPv4 or IPv6 address") from None
    if not percent:
        return found.packed, 0
    if found.version != 6 or not scope.isdecimal() or int(scope) > 0xFFFFFFFF:
        raise MisuseError(f"{text!r}: a scope is the number of an interface, on IPv6 only")
    return found.packed, int(scope)


def render_address(address: bytes, scope_id: int = 0) -> str:
    """The inverse of `parse_address`."""
    if len(address) == 4:  # by the thousand in dumps
        return "{}.{}.{}.{}".format(*address)
    text = str(ip_address(address))
    return f"{text}%{scope_id}" if scope_id else text


def address_extension(
    exttype: int, text: str, *, proto: int = UNSPEC_PROTO, port: int = 0
) -> Address:
    """An address extension from `10.1.1.1`, or from a prefix such as `10.0.1.0/24`.

    Raises:
        MisuseError: the text is no address, or has too long a prefix.
    """
    host, slash, bits = text.partition("/")
    address, scope_id = parse_address(host)
    prefixlen = 8 * len(address)
    if slash:
        if not bits.isdecimal() or int(bits) > prefixlen:
            raise MisuseError(f"{text!r}: a prefix has 0 to {prefixlen} bits")
        prefixlen = int(bits)
    return Address(
        exttype=exttype, address=address, prefixlen=prefixlen, proto=proto, port=port,
        scope_id=scope_id,
    )  # fmt: skip


def pair(
    src: str, dst: str, *, proto: int = UNSPEC_PROTO, src_port: int = 0, dst_port: int = 0
) -> tuple[Address, Address]:
    """Source and destination extensions.

    Raises:
        MisuseError: one is IPv4 and the other IPv6, or one is no address.
    """
    found = (
        address_extension(ExtType.ADDRESS_SRC, src, proto=proto, port=src_port),
        address_extension(ExtType.ADDRESS_DST, dst, proto=proto, port=dst_port),
    )
    if found[0].family != found[1].family:
        raise MisuseError(f"{src} and {dst}: one is IPv4, the other IPv6")
    return found


def prefix(found: Address | None) -> str:
    """A prefix as text, without its length where that is the whole address; '' for None."""
    if found is None:
        return ""
    text = render_address(found.address, found.scope_id)
    return text if found.prefixlen == 8 * len(found.address) else f"{text}/{found.prefixlen}"
