"""RFC 2367 sections 2.1 to 2.3: alignment, sockaddrs, the walk over extensions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import base
from pfkey.const import AF_INET, AF_INET6
from pfkey.errors import WireError
from tests.pfkey import strategies


@given(st.integers(0, 10_000))
def test_words_hold_their_octets_and_no_word_more(octets: int) -> None:
    assert base.words(octets) * 8 >= octets > (base.words(octets) - 1) * 8
    assert len(base.pad(bytes(octets))) == base.words(octets) * 8


@given(strategies.packed, strategies.u16)
def test_a_sockaddr_has_port_and_address_in_network_order(address: bytes, port: int) -> None:
    octets = base.encode_sockaddr(address, port)
    assert len(octets) == {4: 16, 16: 28}[len(address)]
    assert base.family_in(octets) == {4: AF_INET, 16: AF_INET6}[len(address)]
    assert octets[2:4] == port.to_bytes(2, "big")
    assert address in octets


@given(strategies.pairs, strategies.u16, strategies.u16)
def test_a_pair_is_padded_at_its_end_only(pair: tuple[bytes, bytes], here: int, there: int) -> None:
    octets = base.encode_pair(*pair, here, there)
    assert len(octets) == {4: 32, 16: 56}[len(pair[0])]
    assert base.decode_pair(octets, "pair", 0) == (*pair, here, there)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "address family 0"),
        (b"\x02", "address family 0"),
        (b"\x03\0" + bytes(30), "address family 3"),
        (b"\x02\0" + bytes(29), "31 octets hold no pair of sockaddr_in"),
        (b"\x0a\0" + bytes(53), "55 octets hold no pair of sockaddr_in6"),
        (b"\x02\0" + bytes(14) + b"\x0a\0" + bytes(14), "families 2 and 10 differ"),
    ],
)
def test_pairs_that_are_none_are_refused(octets: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        base.decode_pair(octets, "sadb_x_ipsecrequest", 48)


def test_addresses_of_other_sizes_have_no_family() -> None:
    with pytest.raises(WireError, match="5 octets"):
        base.encode_sockaddr(bytes(5))
    with pytest.raises(WireError, match="families differ"):
        base.encode_pair(bytes(4), bytes(16))


def test_addresses_are_shown_to_people() -> None:
    assert base.address_text(bytes([192, 0, 2, 1])) == "192.0.2.1"
    assert base.address_text(bytes(15) + b"\1") == "::1"


def test_an_unknown_extension_must_fill_its_octets() -> None:
    assert base.Unknown.decode(bytes.fromhex("0100640001020304")).exttype == 100
    with pytest.raises(WireError, match="2 words do not fill 8 octets"):
        base.Unknown.decode(bytes.fromhex("0200640001020304"))
    with pytest.raises(WireError, match="no header"):
        base.Unknown.decode(b"\1\0")


def test_errors_name_an_extension_by_structure_and_type() -> None:
    assert base.part("sadb_key", 9) == "sadb_key (KEY_ENCRYPT)"
    assert base.part("sadb_ext", 77) == "sadb_ext (77)"
