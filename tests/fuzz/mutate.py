"""Octets near others: blind changes, and such as keep a record's structure."""

import random
import struct
from collections.abc import Callable, Sequence

_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)
_EDGES16 = (0, 1, 2, 8, 0x7FFF, 0x8000, 0xFFFF)
_HEADER = 16  # of sadb_msg
_MOST = 1 << 16  # octets that are worth a look

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _set(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    octets[dice.randrange(len(octets))] = dice.choice((*_EDGES, dice.randrange(256)))


def _flip(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    octets[dice.randrange(len(octets))] ^= 1 << dice.randrange(8)


def _set16(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    at = dice.randrange(len(octets)) // 2 * 2
    octets[at : at + 2] = struct.pack("=H", dice.choice(_EDGES16))


def _cut(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    at = dice.randrange(len(octets))
    del octets[at : at + dice.choice((1, 4, 8, 16, len(octets)))]


def _add(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    at = dice.randrange(len(octets) + 1)
    octets[at:at] = dice.randbytes(dice.choice((1, 4, 8, 32)))


def _repeat(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    at = dice.randrange(len(octets)) // 8 * 8
    piece = octets[at : at + 8 * dice.randrange(1, 6)]
    octets[at:at] = piece * dice.choice((1, 1, 2, 30))


def _splice(dice: random.Random, octets: bytearray, others: Sequence[bytes]) -> None:
    """A piece of another one, in steps of eight octets or wherever."""
    other = dice.choice(others)
    step = dice.choice((1, 8))
    start = dice.randrange(len(other) + 1) // step * step
    at = dice.randrange(len(octets) + 1) // step * step
    octets[at : at + dice.choice((0, 0, len(octets)))] = other[start:]


def _swap_extensions(dice: random.Random, octets: bytearray, _: Sequence[bytes]) -> None:
    """The extensions of a PF_KEY message in another order."""
    at, parts = _HEADER, []
    while at + 4 <= len(octets):
        size = 8 * struct.unpack_from("=H", octets, at)[0]
        if not 0 < size <= len(octets) - at:
            return
        parts.append(bytes(octets[at : at + size]))
        at += size
    dice.shuffle(parts)
    octets[_HEADER:] = b"".join(parts)


def _mend_length(_: random.Random, octets: bytearray, __: Sequence[bytes]) -> None:
    """sadb_msg_len says how long the record is."""
    del octets[len(octets) // 8 * 8 :]
    if len(octets) >= _HEADER:
        octets[4:6] = struct.pack("=H", len(octets) // 8 & 0xFFFF)


BLIND: tuple[Mutation, ...] = (_set, _set, _flip, _flip, _set16, _cut, _add, _repeat, _splice)
MESSAGE: tuple[Mutation, ...] = (*BLIND, _swap_extensions, _mend_length, _mend_length)


def mutated(
    dice: random.Random, octets: bytes, others: Sequence[bytes], ways: Sequence[Mutation]
) -> bytes:
    """A neighbour of `octets`."""
    made = bytearray(octets[:_MOST])
    for _ in range(dice.choice((1, 1, 2, 3, 5, 8))):
        if not made:
            return dice.randbytes(dice.randrange(64))
        dice.choice(ways)(dice, made, others)
    if ways is MESSAGE and dice.random() < 0.6:
        _mend_length(dice, made, others)
    return bytes(made)
