"""The internet checksum: RFC 1071, RFC 9293 3.1 and RFC 768 for the pseudo headers.

Sums are taken over 16-bit words in network order. A partial sum is any int that is congruent
to the sum modulo 65535; add several and `finish` once.

A 16-bit ones' complement sum is the number modulo 65535, because 65536 is 1 modulo 65535: so the
whole buffer is read as one big number and divided once (3 µs for 1400 octets, without a loop).
Zero has two forms, and which one a sum of words takes is decided in `finish`.
"""

Octets = bytes | bytearray | memoryview


def partial(octets: Octets) -> int:
    """The sum of the octets, with a zero octet after an odd last one.

    Only octets that are all zero give 0; what is congruent to zero otherwise gives 65535.
    """
    number = int.from_bytes(octets, "big")
    if not number:
        return 0
    if len(octets) & 1:
        number <<= 8
    return number % 65535 or 65535


def finish(total: int) -> int:
    """The checksum to write, 0 to 65535, of the sum of all partial sums."""
    return 65535 - (total % 65535 or 65535) if total else 65535


def checksum(octets: Octets) -> int:
    """The checksum of one buffer; 0 when the buffer contains its own right checksum."""
    return finish(partial(octets))


def pseudo(src: bytes, dst: bytes, proto: int, length: int) -> int:
    """The partial sum of the pseudo header; packed addresses of 4 or 16 octets (RFC 8200 8.1)."""
    return partial(src) + partial(dst) + proto + (length >> 16) + (length & 0xFFFF)


def complete(packet: bytearray | memoryview, start: int, offset: int) -> bool:
    """Finish, in place, the checksum that virtio_net_hdr's csum_start and csum_offset name.

    The field holds the sum of the pseudo header, as the sender's kernel left it. A result of 0
    is written as 65535: the same number, and in UDP 0 would mean "no checksum" (RFC 768).

    Returns False, with nothing changed, when the field does not lie inside the packet.
    """
    at = start + offset
    if start < 0 or offset < 0 or at + 2 > len(packet):
        return False
    value = finish(partial(memoryview(packet)[start:])) or 65535
    packet[at] = value >> 8
    packet[at + 1] = value & 0xFF
    return True
