"""What passes on the PF_KEY socket, for those who asked to see it (`subscribe`)."""

import struct
from collections.abc import Callable

from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, ExtType

_EXTENSION = struct.Struct("=HH")  # length in 64-bit words, type
_KEYS = (ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT)
_KEY_HEAD = 8

# direction, client, pid, the record
Watcher = Callable[[str, int, int, bytes], None]


def without_keys(record: bytes) -> bytes:
    """The record with the octets of all keys zero; from a fault on, everything is."""
    out = bytearray(record)
    offset = HEADER_OCTETS
    while offset < len(out):
        if offset + _EXTENSION.size > len(out):
            end, kind = 0, 0
        else:
            words, kind = _EXTENSION.unpack_from(out, offset)
            end = offset + words * UNIT_OCTETS
        if end <= offset or end > len(out):
            out[offset:] = bytes(len(out) - offset)
            break
        if kind in _KEYS:
            out[offset + _KEY_HEAD : end] = bytes(end - offset - _KEY_HEAD)
        offset = end
    return bytes(out)


class Tap:
    """Copies of all records to all watchers; costs nothing while there is none."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def add(self, watcher: Watcher) -> None:
        """Begin to tell."""
        self._watchers.add(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Tell no more."""
        self._watchers.discard(watcher)

    def passed(self, direction: str, client: int, pid: int, record: bytes) -> None:
        """A record came `in` from the client or went `out` to it."""
        for watcher in tuple(self._watchers):
            watcher(direction, client, pid, record)
