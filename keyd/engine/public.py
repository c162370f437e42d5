"""What others may see of a record: the same octets with every key set to zero.

Works on octets, for a promiscuous client also gets what is no sound message. There everything
beyond the header could be part of a key, and is set to zero.
"""

import struct

from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, ExtType
from pfkey.dialect import LINUX

_EXT_HEADER_OCTETS = 4  # length, type
_EXT = struct.Struct("=HH")
_KEY_HEADER_OCTETS = 8  # and bits, reserved
_KEYS = (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT)
_KNOWN = LINUX.extensions.named


def without_keys(octets: bytes, *, is_sound: bool = True) -> bytes:
    """A record of the same length without key material.

    `is_sound` says that it was decoded as a message, so that its extensions are where they say.
    An extension type of which nothing is known is hidden too.
    """
    shown = bytearray(octets)
    at = HEADER_OCTETS
    while is_sound and len(shown) - at >= 4:
        words, exttype = _EXT.unpack_from(octets, at)
        length = UNIT_OCTETS * words
        if length == 0 or length > len(shown) - at:
            break
        if exttype in _KEYS:
            shown[at + _KEY_HEADER_OCTETS : at + length] = bytes(length - _KEY_HEADER_OCTETS)
        elif exttype not in _KNOWN:
            shown[at + _EXT_HEADER_OCTETS : at + length] = bytes(length - _EXT_HEADER_OCTETS)
        at += length
    shown[at:] = bytes(max(0, len(shown) - at))
    return bytes(shown)
