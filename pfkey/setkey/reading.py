"""Shell: files and standard input as octets and as text, never more than a stated bound.

A pipe and a device have no size that could be asked for, so reading ends where it can come to
nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext

from pfkey.errors import ShellError

OCTETS_MAX = 64 << 20  # of a file that is read whole; pfkeyd loads no larger ones either
ENCODING = "utf-8-sig"  # some editors begin a file with a byte order mark
_PIECE_OCTETS = 1 << 16


def read_text(file: str) -> str:
    """A file's text, `-` is standard input; octets that are no UTF-8 survive as surrogates.

    Raises:
        ShellError: it cannot be read, is too large, or has an octet that no text has.
    """
    octets = bytearray()
    for piece in _pieces(file):
        octets += piece
        if b"\0" in piece:
            raise ShellError(f"{file}: not a text", f"raw messages are decoded with: setkey {file}")
    return octets.decode(ENCODING, "surrogateescape")


def read_octets(file: str) -> bytes:
    """A file's octets.

    Raises:
        ShellError: it cannot be read, or is too large.
    """
    return b"".join(_pieces(file))


def _pieces(file: str) -> Iterator[bytes]:
    left = OCTETS_MAX
    try:
        with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as source:
            while piece := source.read(_PIECE_OCTETS):
                left -= len(piece)
                if left < 0:
                    raise ShellError(
                        f"{file}: larger than {OCTETS_MAX} octets", "cut it into several files"
                    )
                yield piece
    except OSError as error:
        what = "standard input" if file == "-" else file
        raise ShellError(f"{what}: {error.strerror}") from None
