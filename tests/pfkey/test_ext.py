"""Laws that every extension obeys (RFC 2367 section 2.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.const import ExtType
from pfkey.errors import WireError
from pfkey.message import DECODERS, Extension
from tests.pfkey import strategies


@given(strategies.extensions())
def test_extensions_survive_the_wire(extension: Extension) -> None:
    octets = extension.encode()
    assert int.from_bytes(octets[:2], "little") * 8 == len(octets)
    assert octets[2:4] == int(extension.exttype).to_bytes(2, "little")
    assert DECODERS[extension.exttype](octets, 16) == extension


@given(strategies.extensions(), st.data())
def test_reserved_octets_are_ignored(extension: Extension, data: st.DataObject) -> None:
    """Whatever decodes, encodes to octets that decode to the same."""
    octets = data.draw(strategies.mutations(st.just(extension.encode())))
    try:
        again = DECODERS[extension.exttype](octets, 0)
    except WireError:
        return
    assert DECODERS[extension.exttype](again.encode(), 0) == again


@pytest.mark.parametrize("exttype", list(ExtType))
@given(st.binary(max_size=96))
def test_any_octets_decode_or_raise_wire_error(exttype: ExtType, octets: bytes) -> None:
    body = octets + bytes(-len(octets) % 8)
    head = (len(body) // 8 + 1).to_bytes(2, "little") + int(exttype).to_bytes(2, "little")
    try:
        extension = DECODERS[exttype](head + body[:4] + body, 0)
    except WireError:
        return
    assert extension.exttype == exttype


@pytest.mark.parametrize("exttype", list(ExtType))
def test_a_decoder_refuses_another_type_and_another_length(exttype: ExtType) -> None:
    decode = DECODERS[exttype]
    with pytest.raises(WireError, match="no extension of type 200"):
        decode(b"\x02\0\xc8\0" + bytes(12), 0)
    with pytest.raises(WireError, match="9 words in 16 octets"):
        decode(b"\x09\0" + bytes([exttype, 0]) + bytes(12), 0)
    with pytest.raises(WireError, match="no header"):
        decode(b"\x01", 0)
