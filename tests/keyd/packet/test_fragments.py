"""Putting fragments together, RFC 791 and 8200, and what must not be: RFC 5722, RFC 3168 5.3."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.packet import datagram, fragments, ip, ip6
from keyd.packet.fragments import Fragments
from tests.support.packets import A6, B6, ipv4, ipv6, udp

HOP = bytes((17, 0, 1, 4, 0, 0, 0, 0))


class Rig:
    def __init__(self) -> None:
        self.dropped = 0
        self.fragments = Fragments(self.drop)

    def drop(self, number: int) -> None:
        self.dropped += number

    def add(self, packet: bytes, context: object = (), now: float = 0.0) -> bytes | None:
        head = datagram.read(packet)
        assert head is not None
        return self.fragments.add(packet, head, str(context), now)


def cut(packet: bytes, mtu: int, ident: int = 7) -> list[bytes]:
    if packet[0] >> 4 == 6:
        return ip6.fragment(packet, mtu, ident)
    return ip.fragment(packet, mtu)


packets = st.builds(
    lambda data, kind: (
        ipv4(17, udp(data), df=False, ident=9),
        ipv4(17, udp(data), df=False, ident=9, options=b"\x94\4\0\0" + b"\1" * 4),
        ipv6(17, udp(data, src=A6, dst=B6)),
        ipv6(0, udp(data, src=A6, dst=B6), before=HOP),
    )[kind],
    st.binary(min_size=100, max_size=3000),
    st.integers(0, 3),
)


@given(packets, st.integers(100, 1500), st.randoms())
def test_pieces_in_any_order_make_the_whole(packet: bytes, mtu: int, chance: random.Random) -> None:
    pieces = cut(packet, mtu)
    if len(pieces) < 2:
        return
    chance.shuffle(pieces)
    rig = Rig()
    assert [rig.add(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert rig.add(pieces[-1]) == packet
    assert rig.dropped == 0
    assert rig.fragments._waiting == {}
    assert rig.fragments._octets == 0


def test_a_piece_sent_twice_counts_and_does_no_harm() -> None:
    packet = ipv4(17, udp(bytes(2000)), df=False)
    first, second, third = ip.fragment(packet, 800)
    rig = Rig()
    for piece in (first, first, third, third):
        assert rig.add(piece) is None
    assert rig.add(second) == packet
    assert rig.dropped == 2


def piece(offset: int, octets: int, *, more: bool = True, version: int = 4) -> bytes:
    if version == 4:
        return ipv4(17, bytes(octets), df=False, ident=3, more=more, offset=offset)
    head = bytes((17, 0)) + (offset | more).to_bytes(2, "big") + (3).to_bytes(4, "big")
    return ipv6(44, head + bytes(octets))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 160, True), (152, 160, False)],  # overlap
        [(0, 160, True), (80, 40, True)],  # one inside another
        [(80, 40, True), (0, 160, True)],
        [(160, 80, False), (160, 160, True)],  # beyond the end
        [(160, 80, False), (160, 88, False)],  # two ends
        [(320, 80, True), (160, 80, False)],  # an end before what is there
        [(0, 160, True), (160, 0, False)],  # an empty one
    ],
)
def test_pieces_that_disagree_spoil_their_datagram(
    version: int, pieces: list[tuple[int, int, bool]]
) -> None:
    rig = Rig()
    for offset, octets, more in pieces:
        assert rig.add(piece(offset, octets, more=more, version=version)) is None
    assert rig.dropped == len(pieces)
    for offset, octets, more in ((0, 80, True), (80, 80, False)):
        assert rig.add(piece(offset, octets, more=more, version=version)) is None
    assert rig.dropped == len(pieces) + 2, "until its time is up"
    assert rig.add(piece(0, 80, version=version), now=16.0) is None
    whole = rig.add(piece(80, 80, more=False, version=version), now=16.0)
    assert whole is not None
    assert len(whole) == (180 if version == 4 else 200)


def test_a_middle_piece_of_no_multiple_of_eight_is_spoilt() -> None:
    """IPv6's never get here; IPv4's do."""
    rig = Rig()
    assert rig.add(piece(0, 81)) is None
    assert rig.dropped == 1


def test_what_would_exceed_the_longest_packet_is_dropped() -> None:
    """Each piece is well formed: the first one's options are what is too much."""
    rig = Rig()
    at = 65_440
    assert rig.add(ipv4(17, bytes(72), df=False, ident=3, offset=at)) is None
    for offset in range(0, at, 1024):
        octets = min(1024, at - offset)
        options = b"" if offset else b"\1" * 40
        more = ipv4(17, bytes(octets), df=False, ident=3, more=True, offset=offset, options=options)
        assert rig.add(more) is None
    assert rig.dropped == 65
    assert rig.fragments._octets == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("marks", "whole"),
    [((0, 0), 0), ((2, 2), 2), ((1, 3), 3), ((3, 2), 3), ((3, 3), 3), ((0, 3), None)],
)
def test_a_mark_of_congestion_on_one_is_on_all(
    version: int, marks: tuple[int, int], whole: int | None
) -> None:
    """RFC 3168 5.3: and one on a sender that knows none spoils all."""
    rig = Rig()
    joined = None
    for mark, (offset, more) in zip(marks, ((0, True), (80, False)), strict=True):
        packet = bytearray(piece(offset, 80, more=more, version=version))
        if version == 4:
            packet[1] = mark
        else:
            packet[1] = packet[1] & 0xCF | mark << 4
        joined = rig.add(bytes(packet))
    if whole is None:
        assert joined is None
        assert rig.dropped == 2
    else:
        assert joined is not None
        assert (joined[1] if version == 4 else joined[1] >> 4) & 3 == (
            marks[0] if whole != 3 else 3
        )
        assert version == 6 or ip.well_formed(joined)


def test_what_is_under_different_protection_is_kept_apart() -> None:
    rig = Rig()
    first, second = piece(0, 80), piece(80, 80, more=False)
    assert rig.add(first, 1) is None
    assert rig.add(second, 2) is None
    assert rig.add(second, 1) is not None


def test_waiting_is_bounded_in_time_datagrams_octets_and_pieces() -> None:
    rig = Rig()
    assert rig.add(piece(0, 80)) is None
    assert rig.add(piece(80, 80, more=False), now=fragments.SECONDS) is None
    assert rig.dropped == 1, "the first one's time was up"
    assert rig.add(piece(0, 80), now=fragments.SECONDS - 1) is None
    assert rig.dropped == 2, "a clock that was set back"
    rig = Rig()
    for context in range(fragments.DATAGRAMS_MAX + 5):
        rig.add(piece(0, 80), context)
    assert rig.dropped == 5
    rig = Rig()
    number = fragments.OCTETS_MAX // 60_000 + 5
    for context in range(number):
        rig.add(piece(0, 60_000), context)
    assert rig.fragments._octets <= fragments.OCTETS_MAX
    assert rig.dropped >= 5
    rig = Rig()
    for n in range(fragments.PIECES_MAX + 1):
        rig.add(piece(16 * n, 8))
    assert rig.dropped == fragments.PIECES_MAX + 1
    assert rig.fragments._octets == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12), st.booleans()), max_size=30))
def test_any_pieces_join_to_what_they_say_or_not_at_all(
    shapes: list[tuple[int, int, bool]],
) -> None:
    """Every fragment ends in a whole or among the dropped, or still waits."""
    rig = Rig()
    joined = 0
    for offset, octets, more in shapes:
        whole = rig.add(piece(8 * offset, 8 * octets, more=more))
        if whole is not None:
            joined += 1
            assert ip.well_formed(whole)
    waiting = sum(len(d.pieces) for d in rig.fragments._waiting.values())
    assert rig.dropped + waiting <= len(shapes)
    assert joined or rig.dropped + waiting == len(shapes)


def test_an_ipv6_header_that_cannot_be_walked_is_dropped() -> None:
    rig = Rig()
    whole = ipv6(17, udp(bytes(100)))
    head = datagram.read(whole)
    assert head is not None
    assert rig.fragments.add(whole, head, (), 0.0) is None
    assert rig.dropped == 1
