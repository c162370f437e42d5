"""Joining opened TCP segments: what goes in comes out, once, in the order of its flow."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from keyd.packet.checksum import complete
from keyd.packet.coalesce import SEGMENTS_MAX, Coalescer
from keyd.packet.ip import flow_key
from keyd.packet.segment import GSO_TCPV4, cut, packets, read
from tests.support.packets import A, B, frame, ipv4, sums_hold, tcp, udp


def segments(data: bytes, size: int, *, flags: int = 0x10, seq: int = 0) -> list[bytes]:
    octets = frame(
        ipv4(6, tcp(data, flags=flags, seq=seq)), gso=GSO_TCPV4, gso_size=size, csum=(20, 16)
    )
    found = read(octets)
    assert found is not None
    pieces = cut(found, 65535)
    assert pieces is not None
    return packets(found.header, 6, pieces)


def joined(*added: bytes, is_authentic: bool = True) -> list[tuple[int, bytes]]:
    coalescer = Coalescer()
    for packet in added:
        coalescer.add(packet, flow_key(packet), is_authentic)
    return [(count, b"".join(buffers)) for count, buffers in coalescer.flush()]


@given(
    st.binary(min_size=1, max_size=20000),
    st.integers(100, 1460),
    st.sampled_from((0x10, 0x18, 0x11, 0x19)),
    st.sampled_from((0, 1000, 0xFFFFFFF0)),
)
def test_joining_undoes_cutting(data: bytes, size: int, flags: int, seq: int) -> None:
    pieces = segments(data, size, flags=flags, seq=seq)
    frames = joined(*pieces)
    assert sum(count for count, _ in frames) == len(pieces)
    again = []
    for count, octets in frames:
        found = read(octets)
        assert found is not None
        assert (found.gso == GSO_TCPV4) == (count > 1)
        parts = cut(found, 65535)
        assert parts is not None
        again += packets(found.header, 6, parts)
    assert [p[:4] + p[6:10] + p[12:] for p in again] == [
        p[:4] + p[6:10] + p[12:] for p in pieces
    ], "all but identification, which nobody reads in a whole packet"
    if 1 < len(pieces) <= SEGMENTS_MAX:
        assert len(frames) == 1


def test_the_frame_is_what_the_kernel_expects() -> None:
    ((count, octets),) = joined(*segments(bytes(3000), 1000, flags=0x18))
    assert count == 3
    flags, gso, head, size, start, offset = struct.unpack_from("=BBHHHH", octets)
    assert (flags, gso, head, size, start, offset) == (1, GSO_TCPV4, 40, 1000, 20, 16)
    packet = octets[10:]
    assert len(packet) == 3040
    assert packet[33] == 0x18
    mended = bytearray(packet[20:])
    assert complete(mended, 0, 16)
    assert sums_hold(packet[:20] + mended)


@given(st.data())
def test_whatever_the_packets_none_is_lost_and_flows_keep_their_order(data: st.DataObject) -> None:
    added = []
    for number in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(("tcp", "tcp", "tcp", "udp", "torn", "bad")))
        text = bytes((number,)) * data.draw(st.sampled_from((0, 10, 10, 20)))
        if kind == "udp":
            packet = ipv4(17, udp(text))
        else:
            packet = ipv4(6, tcp(
                text, seq=data.draw(st.sampled_from((0, 10, 20, 30))),
                flags=data.draw(st.sampled_from((0x10, 0x10, 0x18, 0x11, 0x02, 0x14, 0x50))),
                sport=data.draw(st.sampled_from((1, 2))),
                window=data.draw(st.sampled_from((5, 5, 6))),
            ))  # fmt: skip
        if kind == "torn":
            packet = ipv4(6, packet[20:33])
        if kind == "bad":
            packet = packet[:-1] + bytes((packet[-1] ^ 1,))
        added.append((packet, data.draw(st.booleans()) or kind != "udp"))
    coalescer = Coalescer()
    for packet, is_authentic in added:
        coalescer.add(packet, flow_key(packet), is_authentic)
    out = []
    for count, buffers in coalescer.flush():
        octets = b"".join(buffers)
        if count == 1:
            out.append(octets[10:])
            continue
        found = read(octets)
        assert found is not None
        parts = cut(found, 65535)
        assert parts is not None
        assert len(parts) == count
        out += packets(found.header, 6, parts)
    for flow in {p[20:24] for p, _ in added}:
        assert [p[20:] for p in out if p[20:24] == flow] == [
            p[20:] for p, _ in added if p[20:24] == flow
        ]
    assert not coalescer.flush()


def test_only_what_an_authenticator_vouches_for_is_joined() -> None:
    pieces = segments(bytes(3000), 1000)
    assert [count for count, _ in joined(*pieces, is_authentic=False)] == [1, 1, 1]


def test_a_segment_whose_checksum_does_not_hold_goes_up_alone() -> None:
    first, second, third = segments(bytes(3000), 1000)
    broken = second[:-1] + b"\x01"
    assert [count for count, _ in joined(first, broken, third)] == [1, 1, 1]


def test_gaps_flags_and_other_acknowledgements_end_a_run() -> None:
    def one(seq: int, flags: int = 0x10, ack: int = 5) -> bytes:
        return ipv4(6, tcp(bytes(100), seq=seq, flags=flags, ack=ack))

    assert [c for c, _ in joined(one(0), one(200))] == [1, 1]
    assert [c for c, _ in joined(one(0), one(100, 0x18), one(200))] == [2, 1]
    assert [c for c, _ in joined(one(0), one(100, 0x30), one(200))] == [1, 1, 1]
    assert [c for c, _ in joined(one(0), one(100, ack=6), one(200, ack=6))] == [1, 2]


def test_options_of_ip_and_of_tcp_must_be_equal() -> None:
    def one(seq: int, tcp_options: bytes = b"\x01" * 4, ttl: int = 64) -> bytes:
        return ipv4(6, tcp(bytes(100), seq=seq, options=tcp_options), ttl=ttl, options=b"\x01" * 4)

    assert [c for c, _ in joined(one(0), one(100))] == [2]
    assert [c for c, _ in joined(one(0), one(100, ttl=63))] == [1, 1]
    assert [c for c, _ in joined(one(0), one(100, b"\x01\x01\x01\x00"))] == [1, 1]


def test_a_super_packet_never_exceeds_what_ip_can_say() -> None:
    many = [ipv4(6, tcp(bytes(8000), seq=8000 * n)) for n in range(12)]
    frames = joined(*many)
    assert all(len(octets) <= 10 + 65535 for _, octets in frames)
    assert [count for count, _ in frames] == [8, 4]
    assert A != B
