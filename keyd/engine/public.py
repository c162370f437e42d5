"""What others may see of a record: the same octets with every key set to zero.

Works on octets, for a promiscuous client also gets what is no sound message. There everything
beyond the header could be part of a key, and is set to zero.
"""

import struct

from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, ExtType, MsgType
from pfkey.dialect import LINUX, Dialect

_EXT_HEADER_OCTETS = 4  # length, type
_EXT = struct.Struct("=HH")
_KEY_HEADER_OCTETS = 8  # and bits, reserved; or what kind of credential it is
_SECRETS = frozenset((
    ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT, ExtType.X_LOCAL_CREDENTIALS,
    ExtType.X_REMOTE_CREDENTIALS, ExtType.X_LOCAL_AUTH, ExtType.X_REMOTE_AUTH,
))  # fmt: skip
_WRAPS = int(MsgType.X_PROMISC)


def without_keys(octets: bytes, *, is_sound: bool = True, dialect: Dialect = LINUX) -> bytes:
    """A record of the same length without key material.

    `is_sound` says that it was decoded as a message, so that its extensions are where they say.
    An extension type of which nothing is known is hidden too. Where the dialect puts a copy behind
    a header of its own, the copy is looked into.
    """
    shown = bytearray(octets)
    at = HEADER_OCTETS
    if dialect is not LINUX and len(octets) >= 2 * HEADER_OCTETS and octets[1] == _WRAPS:
        at = 2 * HEADER_OCTETS
    named = dialect.extensions.named
    while is_sound and len(shown) - at >= 4:
        words, number = _EXT.unpack_from(octets, at)
        length = UNIT_OCTETS * words
        if length == 0 or length > len(shown) - at:
            break
        exttype = named.get(number)
        if exttype is None:
            shown[at + _EXT_HEADER_OCTETS : at + length] = bytes(length - _EXT_HEADER_OCTETS)
        elif exttype in _SECRETS:
            shown[at + _KEY_HEADER_OCTETS : at + length] = bytes(length - _KEY_HEADER_OCTETS)
        at += length
    shown[at:] = bytes(max(0, len(shown) - at))
    return bytes(shown)
