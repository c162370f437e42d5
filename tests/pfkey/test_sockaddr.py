"""Socket addresses inside extensions, in every dialect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import sockaddr
from pfkey.dialect import DIALECTS, FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import WireError
from tests.pfkey import strategies

FAMILIES = {LINUX: (2, 10), NETBSD: (2, 24), FREEBSD: (2, 28), OPENBSD: (2, 24)}
each = st.sampled_from(list(DIALECTS.values()))


@given(strategies.packed, strategies.u16, each)
def test_a_sockaddr_has_port_and_address_in_network_order(
    address: bytes, port: int, dialect: Dialect
) -> None:
    octets = sockaddr.encode_sockaddr(address, port, dialect)
    size = {4: 16, 16: 28}[len(address)]
    family = FAMILIES[dialect][len(address) == 16]
    assert len(octets) == size
    assert octets[:2] == (bytes([family, 0]) if dialect is LINUX else bytes([size, family]))
    assert octets[2:4] == port.to_bytes(2, "big")
    assert address in octets
    assert sockaddr.octets_in(octets, 0, dialect) == len(address)
    padded = octets + bytes(-len(octets) % 8)
    assert sockaddr.decode_sockaddr(padded, "sadb_ident", 0, dialect) == (address, port)


@given(strategies.pairs, strategies.u16, strategies.u16, each)
def test_a_pair_is_padded_at_its_end_only(
    pair: tuple[bytes, bytes], here: int, there: int, dialect: Dialect
) -> None:
    octets = sockaddr.encode_pair(*pair, here, there, dialect)
    assert len(octets) == {4: 32, 16: 56}[len(pair[0])]
    assert sockaddr.decode_pair(octets, "pair", 0, dialect) == (*pair, here, there)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "address family 0"),
        (b"\x02", "address family 2"),
        (b"\x03\0" + bytes(30), "address family 3"),
        (b"\x02\0" + bytes(29), "31 octets hold no pair of sockaddr_in"),
        (b"\x0a\0" + bytes(53), "55 octets hold no pair of sockaddr_in6"),
        (b"\x02\0" + bytes(14) + b"\x0a\0" + bytes(14), "the second sockaddr is not like the"),
    ],
)
def test_pairs_that_are_none_are_refused(octets: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        sockaddr.decode_pair(octets, "sadb_x_ipsecrequest", 48)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"\x10\x0a" + bytes(14), "address family 10"),  # Linux's AF_INET6
        (b"\x0f\x02" + bytes(14), "sa_len 15 with address family 2"),
        (b"\x02\0" + bytes(14), "address family 0"),  # Linux's order
        (b"\x10", "address family 0"),
        (b"\x10\x02" + bytes(22), "24 octets are no sockaddr_in"),
    ],
)
def test_sockaddrs_that_are_none_are_refused_on_netbsd(octets: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        sockaddr.decode_sockaddr(octets, "sadb_ident", 48, NETBSD)


def test_addresses_of_other_sizes_have_no_family() -> None:
    with pytest.raises(WireError, match="5 octets"):
        sockaddr.encode_sockaddr(bytes(5))
    with pytest.raises(WireError, match="families differ"):
        sockaddr.encode_pair(bytes(4), bytes(16))


def test_addresses_are_shown_to_people() -> None:
    assert sockaddr.address_text(bytes([192, 0, 2, 1])) == "192.0.2.1"
    assert sockaddr.address_text(bytes(15) + b"\1") == "::1"
