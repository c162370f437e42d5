"""DEFLATE as RFC 2394 wants it, with zlib itself as the other side."""

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import crypto
from pfkey.crypto.deflate import Deflate
from pfkey.errors import UnsupportedAlgorithmError

texts = st.one_of(
    st.binary(max_size=400),
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 2000)).map(
        lambda pair: (pair[0] * pair[1])[:65535]
    ),
)


@given(texts)
def test_zlib_reads_what_we_write_without_a_header(text: bytes) -> None:
    """With Linux's window of 2 KiB, too."""
    packed = Deflate().compress(text)
    for window in (-15, -11):
        context = zlib.decompressobj(window)
        assert context.decompress(packed) == text
        assert context.eof


@given(texts, st.integers(0, 9), st.sampled_from([-15, -12, -9]))
def test_we_read_what_zlib_writes_with_any_effort_and_window(
    text: bytes, level: int, window: int
) -> None:
    context = zlib.compressobj(level, zlib.DEFLATED, window)
    packed = context.compress(text) + context.flush()
    assert Deflate().decompress(memoryview(packed), len(text)) == text


@given(texts.filter(bool))
def test_more_than_the_limit_is_none(text: bytes) -> None:
    packed = Deflate().compress(text)
    assert Deflate().decompress(packed, len(text)) == text
    assert Deflate().decompress(packed, len(text) - 1) is None


def test_a_bomb_makes_no_more_than_the_limit() -> None:
    context = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = context.compress(bytes(60_000_000)) + context.flush()
    assert len(bomb) < 65535
    assert Deflate().decompress(bomb, 65535) is None


@given(st.binary(max_size=100))
def test_any_octets_are_read_or_not_and_never_raise(octets: bytes) -> None:
    plain = Deflate().decompress(octets, 1000)
    assert plain is None or len(plain) <= 1000


@given(texts.filter(lambda text: len(text) > 1), st.data())
def test_what_is_cut_off_is_none(text: bytes, data: st.DataObject) -> None:
    packed = Deflate().compress(text)
    cut = data.draw(st.integers(0, len(packed) - 1))
    assert Deflate().decompress(packed[:cut], 65535) is None


def test_what_cannot_shrink_does_not() -> None:
    text = os.urandom(1000)
    assert len(Deflate().compress(text)) >= len(text)


def test_one_packet_after_the_other() -> None:
    """Nothing of one is needed for the next (RFC 3173 section 2)."""
    deflate = Deflate()
    packed = [deflate.compress(b"hello, world; " * 20) for _ in range(3)]
    assert packed[0] == packed[1] == packed[2]
    assert Deflate().decompress(packed[2], 1000) == b"hello, world; " * 20


@pytest.mark.parametrize("number", [0, 1, 3, 4, 255])
def test_what_no_library_has_is_refused(number: int) -> None:
    with pytest.raises(UnsupportedAlgorithmError, match=str(number)):
        crypto.compression(number)
    assert ("compress", number) not in crypto.probe()
    assert ("compress", 2) in crypto.probe()
