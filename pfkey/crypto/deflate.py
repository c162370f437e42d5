"""DEFLATE without zlib's header, as IPComp carries it (RFC 2394, RFC 1951).

The sender looks back 2 KiB at most: Linux receives with a window of that size. What is received
may have looked back as far as the format allows.
"""

import zlib
from typing import Protocol

Octets = bytes | bytearray | memoryview

_LEVEL = 4  # of 9: the first that looks twice; on packets of this size as fast as 1
_SEND_WINDOW = -11  # negative: no header, no checksum
_RECEIVE_WINDOW = -15


class Compression(Protocol):
    """What IPComp asks of an algorithm. Each packet stands alone."""

    def compress(self, octets: Octets) -> bytes:
        """The octets, perhaps fewer of them."""

    def decompress(self, octets: Octets, limit: int) -> bytes | None:
        """What they were; None when they are no compressed octets, or were more than `limit`."""


class Deflate:
    """DEFLATE of RFC 2394."""

    __slots__ = ("_fresh",)

    def __init__(self) -> None:
        self._fresh = zlib.compressobj(_LEVEL, zlib.DEFLATED, _SEND_WINDOW)

    def compress(self, octets: Octets) -> bytes:
        """See `Compression`."""
        context = self._fresh.copy()
        return context.compress(octets) + context.flush()

    def decompress(self, octets: Octets, limit: int) -> bytes | None:
        """See `Compression`. Never makes more than `limit` and one octet, whatever comes in."""
        context = zlib.decompressobj(_RECEIVE_WINDOW)
        try:
            plain = context.decompress(octets, limit + 1)
        except zlib.error:
            return None
        return plain if context.eof and len(plain) <= limit else None
