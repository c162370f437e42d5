"""Fragments are put together whatever their order; nothing is raised and nothing piles up."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from pfkey.pieces import Pieces
from tests.support.pieces import cut

A, B = "10.1.1.1", "20.1.1.1"
A6, B6 = "2001:db8::1", "2001:db8::2"


def datagram(version: int, octets: int, ident: int = 7) -> bytes:
    """The fields that `cut` does not keep are as a whole one has them."""
    head = IP(src=A, dst=B, id=ident) if version == 4 else IPv6(src=A6, dst=B6)
    return bytes(head / UDP(sport=1, dport=2) / bytes(n & 255 for n in range(octets)))


def but_the_checksum(packet: bytes) -> bytes:
    return packet[:10] + packet[12:] if packet[0] >> 4 == 4 else packet


@given(st.sampled_from([4, 6]), st.integers(1500, 20000), st.data())
def test_in_any_order_the_last_to_come_makes_it_whole(
    version: int, octets: int, data: st.DataObject
) -> None:
    packet, pieces = datagram(version, octets), Pieces()
    *others, last = data.draw(st.permutations(list(cut(packet, ident=7))))
    for piece in others:
        assert pieces.add(piece) is None
    whole = pieces.add(last)
    assert whole
    assert but_the_checksum(whole) == but_the_checksum(packet)
    assert pieces.start(last) == b"", "and it is forgotten"


def test_what_is_whole_is_no_fragment_and_others_datagrams_are_not_mixed() -> None:
    pieces = Pieces()
    assert pieces.add(datagram(4, 100)) is None
    one, other = (list(cut(datagram(4, 2000, ident), ident)) for ident in (1, 2))
    assert [pieces.add(piece) for piece in (one[0], other[1])] == [None, None]
    assert pieces.start(one[1]) == one[0][20:]
    assert pieces.start(other[1]) == b""
    assert pieces.add(one[1])


def test_headers_that_each_fragment_has_stay() -> None:
    def piece(offset: int, more: int, payload: bytes) -> bytes:
        made = IPv6(src=A6, dst=B6) / IPv6ExtHdrDestOpt()
        return bytes(made / IPv6ExtHdrFragment(nh=50, id=3, offset=offset, m=more) / payload)

    pieces = Pieces()
    assert pieces.add(piece(0, 1, b"8 octets")) is None
    whole = pieces.add(piece(1, 0, b"end"))
    assert whole
    found = IPv6(whole)
    assert (found.plen, found[IPv6ExtHdrDestOpt].nh) == (8 + 11, 50)
    assert whole.endswith(b"8 octetsend")


@given(st.lists(st.binary(max_size=80), max_size=5), st.sampled_from([b"\x45", b"\x60", b"\x4f"]))
def test_any_octets_can_be_looked_at(packets: list[bytes], first: bytes) -> None:
    pieces = Pieces()
    for packet in packets:
        pieces.start(first + packet)
        pieces.add(first + packet)


def test_those_begun_first_are_forgotten_first() -> None:
    pieces = Pieces()
    begun = [list(cut(datagram(4, 2000, ident), ident)) for ident in range(1, 200)]
    for first, _ in begun:
        pieces.add(first)
    assert pieces.add(begun[0][1]) is None
    assert pieces.add(begun[-1][1])


def test_a_datagram_without_end_is_given_up() -> None:
    pieces = Pieces()
    first, *_ = cut(datagram(4, 2000), 7)
    for n in range(1, 200):  # each begins 8 octets behind the last
        pieces.add(first[:6] + (0x2000 | n).to_bytes(2, "big") + first[8:])
        held = [len(part) for one in pieces._begun.values() for part in one.parts.values()]
        assert sum(held) <= 1 << 16
