"""Laws that every extension obeys in every dialect that has it (RFC 2367 section 2.3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfkey.dialect import DIALECTS, Dialect
from pfkey.errors import WireError
from pfkey.message import DECODERS, Extension
from tests.pfkey import strategies

EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
# Every extension of every dialect, by our number.
ALL = [
    pytest.param(dialect, exttype, id=f"{dialect.name}-{exttype}")
    for dialect in DIALECTS.values()
    for exttype in sorted(dialect.extensions.named.values())
]


def head(words: int, exttype: int, dialect: Dialect) -> bytes:
    return words.to_bytes(2, "little") + dialect.exttype(exttype).to_bytes(2, "little")


@EACH
@given(st.data())
def test_extensions_survive_the_wire(dialect: Dialect, data: st.DataObject) -> None:
    extension: Extension = data.draw(strategies.extensions(dialect))
    octets = extension.encode(dialect)
    assert octets[:4] == head(len(octets) // 8, extension.exttype, dialect)
    assert len(octets) % 8 == 0
    assert DECODERS[extension.exttype](octets, 16, dialect) == extension


@EACH
@given(st.data())
def test_reserved_octets_are_ignored(dialect: Dialect, data: st.DataObject) -> None:
    """Whatever decodes, encodes to octets that decode to the same."""
    extension: Extension = data.draw(strategies.extensions(dialect))
    octets = data.draw(strategies.mutations(st.just(extension.encode(dialect))))
    try:
        again = DECODERS[extension.exttype](octets, 0, dialect)
    except WireError:
        return
    assert DECODERS[extension.exttype](again.encode(dialect), 0, dialect) == again


@EACH
@given(st.data())
def test_any_octets_decode_or_raise_wire_error(dialect: Dialect, data: st.DataObject) -> None:
    exttype = data.draw(st.sampled_from(sorted(dialect.extensions.named.values())))
    octets = data.draw(st.binary(max_size=96))
    body = octets + bytes(-len(octets) % 8)
    whole = head(len(body) // 8 + 1, exttype, dialect) + body[:4].ljust(4, b"\0") + body
    try:
        extension = DECODERS[exttype](whole, 0, dialect)
    except WireError:
        return
    assert extension.exttype == exttype


@pytest.mark.parametrize(("dialect", "exttype"), ALL)
def test_a_decoder_refuses_another_type_and_another_length(dialect: Dialect, exttype: int) -> None:
    decode = DECODERS[exttype]
    with pytest.raises(WireError, match="no extension of type 200"):
        decode(b"\x02\0\xc8\0" + bytes(12), 0, dialect)
    with pytest.raises(WireError, match="9 words in 16 octets"):
        decode(head(9, exttype, dialect) + bytes(12), 0, dialect)
    with pytest.raises(WireError, match="no header"):
        decode(b"\x01", 0, dialect)


@pytest.mark.parametrize("exttype", sorted(DECODERS))
@settings(max_examples=3)
@given(st.data())
def test_what_a_dialect_has_not_it_does_not_say(exttype: int, data: st.DataObject) -> None:
    """No extension of one system is written with a number that means another thing elsewhere."""
    homes = [d for d in DIALECTS.values() if exttype in d.extensions]
    extension = data.draw(strategies.by_type(homes[0])[exttype])
    for other in set(DIALECTS.values()) - set(homes):
        with pytest.raises(WireError, match="is not of this dialect"):
            extension.encode(other)
