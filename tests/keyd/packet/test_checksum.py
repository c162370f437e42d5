"""RFC 1071 and the pseudo headers, against a loop over words and against scapy."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from keyd.packet.checksum import checksum, complete, finish, partial, pseudo


def naive(octets: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    octets += b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_rfc1071_example_holds() -> None:
    """Section 3: the words 0001 f203 f4f5 f6f7 sum to ddf2."""
    assert finish(partial(bytes.fromhex("0001f203f4f5f6f7"))) == 0xFFFF - 0xDDF2


@given(st.binary(max_size=3000))
def test_checksum_equals_the_loop_over_words(octets: bytes) -> None:
    assert checksum(octets) == naive(octets)
    assert checksum(memoryview(octets)) == checksum(bytearray(octets)) == naive(octets)


@pytest.mark.parametrize("octets", [b"", b"\0", b"\0\0", b"\xff\xff", b"\xff" * 6, b"\0\1\xff\xfe"])
def test_both_zeros_come_out_as_in_the_loop(octets: bytes) -> None:
    assert checksum(octets) == naive(octets)


@given(st.lists(st.binary().filter(lambda part: len(part) % 2 == 0), min_size=1))
def test_partial_sums_add_up(parts: list[bytes]) -> None:
    assert finish(sum(map(partial, parts))) == naive(b"".join(parts))


@given(st.binary(max_size=200).filter(lambda part: len(part) % 2 == 0))
def test_a_buffer_with_its_checksum_sums_to_zero(octets: bytes) -> None:
    assert checksum(octets + checksum(octets).to_bytes(2)) == 0


@given(st.binary(max_size=2000), st.sampled_from([TCP, UDP]), st.booleans())
def test_a_partial_checksum_of_virtio_is_completed_as_scapy_does(
    data: bytes, layer: type[TCP] | type[UDP], is_ipv6: bool
) -> None:
    outer = IPv6(src="fd00::1", dst="fd00::2") if is_ipv6 else IP(src="10.0.0.1", dst="10.0.0.2")
    expected = bytes(outer / layer(sport=1, dport=2) / data)
    start = 40 if is_ipv6 else 20
    offset = 16 if layer is TCP else 6
    packet = bytearray(expected)
    addresses = packet[8:40] if is_ipv6 else packet[12:20]
    half = len(addresses) // 2
    src, dst = bytes(addresses[:half]), bytes(addresses[half:])
    total = pseudo(src, dst, 6 if layer is TCP else 17, len(packet) - start)
    # what a kernel leaves in the field: the pseudo header's sum, not complemented
    struct.pack_into("!H", packet, start + offset, 65535 - finish(total))
    assert complete(packet, start, offset)
    assert packet == expected


def test_a_result_of_zero_is_written_as_all_ones() -> None:
    """RFC 768: zero would mean that there is no checksum."""
    packet = bytearray(b"\xff\xfe\0\0\0\1")
    assert complete(packet, 0, 2)
    assert packet == b"\xff\xfe\xff\xff\0\1"


@given(st.binary(max_size=40), st.integers(-2, 80), st.integers(-2, 80))
def test_a_field_outside_the_packet_is_refused(octets: bytes, start: int, offset: int) -> None:
    packet = bytearray(octets)
    inside = start >= 0 and offset >= 0 and start + offset + 2 <= len(octets)
    assert complete(packet, start, offset) == inside
    assert inside or packet == octets


@given(st.integers(0, 2**32 - 1))
def test_a_long_payload_counts_with_both_halves_of_its_length(length: int) -> None:
    """RFC 8200 8.1: 32 bits of length."""
    octets = bytes(32) + struct.pack("!IHH", length, 0, 6)
    assert finish(pseudo(bytes(16), bytes(16), 6, length)) == naive(octets)
