"""Hostile packets: changed on the way, or sealed by a peer that holds the keys and means ill.

Whatever comes, nothing raises, work is bounded, and each packet ends in one place: at the
application, in one counter of drops, or among the fragments that wait for others.
"""

import random
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import SaSpec
from keyd.packet import counters as count
from keyd.packet import datagram, ip, ip6, natt, segment
from keyd.packet.ah import AhSa
from keyd.packet.esp_old import esp_sa
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, KameFlag, SaFlag
from tests.keyd.packet import test_bundles, test_ipcomp
from tests.keyd.packet.test_natt import encap
from tests.support.counted import IN_ENDS, OUT_ENDS
from tests.support.packets import A6, B6, A, B, frame, ipv4, ipv6, tcp, udp
from tests.support.pipelines import COMP, ESP, TRANSPORT, TUNNEL, G, H, Pair, Step, sa, whole

LINES_MAX = 30_000  # of Python for one packet, the longest that there can be


def changed(**more: object) -> Callable[[int, Step], SaSpec]:
    def make(slot: int, step: Step) -> SaSpec:
        base = sa(slot, step)
        values = {name: getattr(base, name) for name in base.__slots__}
        return SaSpec(**{**values, **(more if step[0] != COMP else {})})

    return make


Case = tuple[list[Step], bytes, bytes, Callable[[int, Step], SaSpec]]
CASES: dict[str, Case] = {
    **{name: (*case, sa) for name, case in test_bundles.BUNDLES.items()},
    **{name: (*case, sa) for name, case in test_ipcomp.BUNDLES.items()},
    "udp": ([(ESP, TRANSPORT, A, B)], A, B, encap),
    "udp-tunnel": ([(ESP, TUNNEL, G, H)], A, B, encap),
    "udp6": ([(ESP, TRANSPORT, A6, B6)], A6, B6, encap),
    "esn": ([(ESP, TRANSPORT, A, B)], A, B, changed(flags=SaFlag.ESN)),
    "gcm": (
        [(ESP, TUNNEL, G, H)], A, B,
        changed(encrypt=20, encrypt_key=b"k" * 20, auth=0, auth_key=b""),
    ),
    "null": ([(ESP, TUNNEL, G, H)], A, B, changed(encrypt=11, encrypt_key=b"")),
    "unsigned": ([(ESP, TRANSPORT, A, B)], A, B, changed(auth=0, auth_key=b"")),
    "old": (
        [(ESP, TRANSPORT, A, B)], A, B,
        changed(flags=KameFlag.OLD, encrypt=2, encrypt_key=b"k" * 8, auth=0, auth_key=b""),
    ),
}  # fmt: skip
# nothing vouches for what comes out of these
UNSIGNED = {"unsigned", "old"} | {
    name for name, (steps, *_) in CASES.items() if all(step[0] == COMP for step in steps)
}
every = pytest.mark.parametrize("name", CASES)


def ends(values: Any, rows: set[int]) -> int:
    return sum(values[row] for row in rows)


def waiting(values: Any) -> int:
    """Fragments that did not complete anything, minus none: each is one packet's end for now."""
    return int(values[count.FRAG_HELD] - values[count.FRAG_JOINED])


def deliver(pair: Pair, packet: bytes) -> list[bytes]:
    """Let one packet in; it must end in one place. The packets that came out."""
    values = pair.in_values
    before = ends(values, IN_ENDS) + waiting(values)
    written = pair.receive([packet])
    after = ends(values, IN_ENDS) + waiting(values) - before
    head = datagram.read(packet)
    if head is None or head.proto not in (4, 41):  # others may have tunnels between these hosts
        assert len(written) + after == 1, (pair.dropped(), packet.hex())
    for octets in written:
        assert octets[:10] == segment.PLAIN
        fresh = datagram.read(octets[10:])
        assert fresh is not None
        assert fresh.total == len(octets) - 10
    return [octets[10:] for octets in written]


# ---------------------------------------------------------------- changed on the way


def flip(dice: random.Random, octets: bytearray) -> None:
    octets[dice.randrange(len(octets))] = dice.choice([0, 1, 0x7F, 0xFF, dice.randrange(256)])


def flip_header(dice: random.Random, octets: bytearray) -> None:
    octets[dice.randrange(min(len(octets), 64))] ^= 1 << dice.randrange(8)


def cut(dice: random.Random, octets: bytearray) -> None:
    del octets[dice.randrange(len(octets)) :]


def grow(dice: random.Random, octets: bytearray) -> None:
    octets += dice.randbytes(dice.randrange(1, 64))


def other_proto(dice: random.Random, octets: bytearray) -> None:
    at = 6 if octets[0] >> 4 == 6 else 9
    if len(octets) > at:
        octets[at] = dice.choice([0, 4, 17, 41, 43, 44, 50, 51, 59, 60, 108, dice.randrange(256)])


def extend(dice: random.Random, octets: bytearray) -> None:
    """One more IPv6 extension header, or IPv4 options."""
    if octets[0] >> 4 == 6 and len(octets) >= 40:
        octets[40:40] = bytes((octets[6], 0)) + dice.randbytes(6)
        octets[6] = dice.choice([0, 43, 44, 60])
    elif octets[0] == 0x45 and len(octets) >= 20:
        words = dice.randrange(1, 11)
        octets[20:20] = dice.randbytes(4 * words)
        octets[0] = 0x45 + words


def fix(_: random.Random, octets: bytearray) -> None:
    """Lengths and checksum as they should be."""
    if octets[0] >> 4 == 6 and len(octets) >= 40:
        octets[4:6] = min(len(octets) - 40, 0xFFFF).to_bytes(2, "big")
    elif octets[0] >> 4 == 4 and 20 <= (header := ip.header_length(octets)) <= len(octets):
        octets[:header] = ip.rebuild(octets[:header], octets[9], len(octets) - header)


MUTATIONS = [flip, flip, flip_header, flip_header, cut, grow, other_proto, extend, fix, fix, fix]


def mutated(dice: random.Random, packet: bytes) -> bytes:
    octets = bytearray(packet)
    for _ in range(dice.randrange(1, 5)):
        if octets:
            dice.choice(MUTATIONS)(dice, octets)
    return bytes(octets)


def sent(pair: Pair, src: bytes, dst: bytes) -> list[bytes]:
    """Packets of each kind on the wire, all of which shrink."""
    wire = []
    for payload in (
        udp(b"hello" * 40, src=src, dst=dst),
        udp(b"a datagram in fragments" * 100, src=src, dst=dst),
    ):
        wire += pair.send(frame(whole(src, dst, 17, payload, df=False)))
    return wire + pair.send(frame(whole(src, dst, 6, tcp(b"hello" * 30, src=src, dst=dst))))


def core(packet: bytes) -> bytes:
    """What is behind the IP header, but for the checksum, which a NAT's change mends."""
    head = datagram.read(packet)
    assert head is not None
    octets = bytearray(packet[head.at :])
    at = 6 if head.proto == 17 else 16
    octets[at : at + 2] = bytes(len(octets[at : at + 2]))
    return bytes(octets)


@every
@given(seed=st.integers(0, 1 << 32))
def test_what_is_changed_on_the_way_ends_in_one_place(name: str, seed: int) -> None:
    """What an authenticator vouches for arrives as it was or not at all, and once."""
    steps, src, dst, make = CASES[name]
    dice = random.Random(seed)
    pair, twin = Pair(steps, src, dst, make=make), Pair(steps, src, dst, make=make)
    wire = sent(pair, src, dst)
    genuine = [core(octets[10:]) for packet in wire for octets in twin.receive([packet])]
    for packet in [packet for one in wire for packet in (mutated(dice, one), one, one)]:
        for got in deliver(pair, packet):
            if name not in UNSIGNED:
                genuine.remove(core(got))


# ---------------------------------------------------------------- sealed by a peer


def squeezed(octets: bytes) -> bytes:
    """DEFLATE, whether that makes it shorter or not."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeezer.compress(octets) + squeezer.flush()


def layer(spec: SaSpec, seq: int, kind: int, payload: bytes, src: bytes, dst: bytes) -> bytes:
    """An IP packet with this next header and payload, sealed, whatever they are."""
    proto, octets = spec.proto, b""
    if proto == IPPROTO_AH:
        empty = whole(src, dst, proto, b"", df=False)
        ah = AhSa(spec)
        packet = ah.seal(empty, payload, seq, kind, bytes(ah.iv_octets))
        assert isinstance(packet, bytes)
        return packet
    if proto == IPPROTO_COMP:
        octets = bytes((kind, 0)) + spec.spi.to_bytes(2, "big") + squeezed(payload)
    else:
        esp = esp_sa(spec)
        octets = esp.seal(seq, payload, kind, bytes(esp.iv_octets))
    if spec.encap:
        octets = natt.encapsulated(whole(src, dst, 17, b""), octets, spec.sport, spec.dport)
        proto = 17
    return whole(src, dst, proto, octets, df=False)


class Peer:
    """Seals anything with the keys of a bundle."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self.steps, self.src, self.dst, make = CASES[name]
        self.pair = Pair(self.steps, self.src, self.dst, make=make)
        self.specs = [make(slot, step) for slot, step in enumerate(self.steps)]
        self.dice = dice
        self.seq = 0

    def seal(self, at: int, kind: int, payload: bytes) -> bytes:
        """The packet in whose layer number `at`, 0 is the innermost, there is this."""
        packet = b""
        for number in range(at, len(self.steps)):
            _, mode, src, dst = self.steps[number]
            if mode == TRANSPORT and number == at:
                src, dst = self._ends(number)
            if number > at:
                head = datagram.read(packet)
                assert head is not None
                if mode == TUNNEL:
                    kind, payload = 41 if packet[0] >> 4 == 6 else 4, packet
                else:
                    kind, payload = head.proto, packet[head.at :]
                    src, dst = head.src, head.dst
            self.seq += 1
            packet = layer(self.specs[number], self.seq, kind, payload, src, dst)
        return packet

    def _ends(self, number: int) -> tuple[bytes, bytes]:
        _, _, src, dst = self.steps[number]
        return src, dst

    def content(self) -> tuple[int, bytes]:
        """A next header and what follows it."""
        dice = self.dice
        sort = dice.randrange(7)
        if sort == 0:
            return dice.randrange(256), dice.randbytes(dice.choice((0, 1, 7, 8, 40, 300)))
        if sort == 1:
            return dice.choice((0, 43, 44, 60)), chain(dice)
        if sort == 2:  # the like again, or others' layers
            return self.inner(self.seal(dice.randrange(len(self.steps)), *self.content()))
        if sort == 3:
            return dice.choice((4, 41, 50, 51, 108)), bytes(dice.choice((60, 20_000, 60_000)))
        if sort == 4:
            pieces = ip.fragment(ipv4(50, bytes(900), src=self.src[:4], df=False), 300)
            return 4, mutated(dice, dice.choice(pieces))
        make = ipv4 if len(self.src) == 4 else ipv6
        packet = make(17, udp(b"x" * 300, src=self.src, dst=self.dst), src=self.src, dst=self.dst)
        return self.inner(mutated(dice, packet) if sort == 5 else packet)

    def inner(self, packet: bytes) -> tuple[int, bytes]:
        if self.dice.randrange(2):
            return 41 if packet[:1] >= b"\x60" else 4, packet
        at = 6 if packet[:1] >= b"\x60" else 9
        return packet[at] if len(packet) > at else 0, packet[40 if at == 6 else 20 :]


def chain(dice: random.Random) -> bytes:
    """IPv6 extension headers, some of which fit."""
    octets = b""
    for _ in range(dice.randrange(1, 40)):
        size = dice.choice((0, 0, 1, 30))
        kind = dice.choice((0, 43, 44, 50, 51, 60, 17))
        octets += bytes((kind, size)) + dice.randbytes(6 + 8 * size)
    return octets


@every
@given(seed=st.integers(0, 1 << 32))
def test_what_a_peer_seals_ends_in_one_place(name: str, seed: int) -> None:
    peer = Peer(name, random.Random(seed))
    for _ in range(10):
        packet = peer.seal(peer.dice.randrange(len(peer.steps)), *peer.content())
        deliver(peer.pair, packet)
    # and the next good packet arrives
    assert peer.pair.in_values[count.INTERNAL] == 0


# ---------------------------------------------------------------- from applications and guests


@every
@given(seed=st.integers(0, 1 << 32))
def test_what_applications_send_leaves_or_ends_in_a_counter(name: str, seed: int) -> None:
    steps, src, dst, make = CASES[name]
    dice = random.Random(seed)
    mtu = dice.choice((68, 300, 576, 1280, 1500, 9000, 65535))
    pair = Pair(steps, src, dst, mtu, make=make)
    for _ in range(10):
        packet = whole(src, dst, 17, udp(dice.randbytes(dice.choice((0, 8, 999, 5000))), src=src),
                       df=bool(dice.randrange(2)))  # fmt: skip
        if dice.randrange(2):
            packet = whole(src, dst, 6, tcp(bytes(dice.choice((0, 900, 30_000))), src=src))
        octets = frame(
            mutated(dice, packet) if dice.randrange(3) else packet,
            gso=dice.choice((0, 0, 1, 4, 5, 3, 0x81)), gso_size=dice.choice((0, 1, 50, 1400)),
            csum=dice.choice(((0, 0), (20, 16), (40, 16), (20, 6), (3, 60_000))),
        )  # fmt: skip
        values, batch = pair.out_values, pair.out.batch
        before = ends(values, OUT_ENDS), waiting(values)
        pair.out.process(octets, 1_700_000_000_000_000)
        wire = batch.sealed + batch.sealed6 + batch.clear + batch.clear6
        after = ends(values, OUT_ENDS), waiting(values)
        assert wire or after != before
        assert not wire or after[1] <= before[1]
        for packet in wire:
            assert len(packet) <= max(mtu, 1280 if packet[0] >> 4 == 6 else 128)
            assert datagram.read(packet) is not None
        for written in (batch.sealed, batch.sealed6, batch.clear, batch.clear6, batch.back):
            written.clear()


# ---------------------------------------------------------------- work is bounded


@contextmanager
def lines_of_work() -> Iterator[list[int]]:
    """Counts the lines that Python runs; as good on a slow machine as on a fast one."""
    lines = [0]

    def trace(_: FrameType, event: str, __: object) -> Any:
        lines[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def bomb(layers: int) -> bytes:
    """IPComp in IPComp in IPComp, with zeros at the core."""
    payload, kind = bytes(10_000_000), 17
    for _ in range(layers):
        payload = bytes((kind, 0)) + (1000).to_bytes(2, "big") + squeezed(payload)
        kind = COMP
    return payload


PADS = bytes((50, 255)) + bytes(2046)
LARGEST = {
    "extension-headers": ipv6(60, bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 8000),
    "fragment-headers": ipv6(44, bytes((44, 0)) + bytes(6) + bytes((44, 0, 0, 0, 0, 0, 0, 0)) * 9),
    "pads": ipv6(60, (bytes((60, 255)) + bytes(2046)) * 15 + bytes((51, 255)) + bytes(2146)),
    "options": ipv4(51, bytes(60_000), options=b"\1" * 40),
    "bomb": ipv4(COMP, bomb(1)),
    "bombs": ipv4(COMP, bomb(3)),
    "ipcomp-alone": ipv4(COMP, (b"\x6c\0\x03\xe8" * 16_000)),
    "esp": ipv4(50, (1000).to_bytes(4, "big") + bytes(65_000)),
    "udp": ipv4(17, udp(bytes(65_000), sport=4500, dport=4500)),
}


@pytest.mark.parametrize("sort", LARGEST)
@pytest.mark.parametrize("name", ["comp", "esp", "ah", "ah6", "comp6", "udp", "4-in-6"])
def test_work_for_one_packet_is_bounded(sort: str, name: str) -> None:
    steps, src, dst, make = CASES[name]
    pair = Pair(steps, src, dst, make=make)
    with lines_of_work() as lines:
        pair.receive([LARGEST[sort]])
    assert lines[0] < LINES_MAX


@pytest.mark.parametrize("name", ["ah6", "esp6-ah6", "6-in-4-in-6", "comp6-tunnel-4"])
def test_work_for_what_a_peer_seals_is_bounded(name: str) -> None:
    peer = Peer(name, random.Random(1))
    for kind, payload in ((60, PADS * 25), (41, ipv6(60, PADS * 25)), (COMP, bomb(2)[:60_000])):
        packet = peer.seal(0, kind, payload)
        with lines_of_work() as lines:
            peer.pair.receive([packet])
        assert lines[0] < LINES_MAX


@pytest.mark.parametrize("size", [1, 8, 31, 32, 100])
def test_no_read_is_cut_into_more_packets_than_can_be_meant(size: int) -> None:
    for kind, packet in (
        (segment.GSO_TCPV4, ipv4(6, tcp(bytes(65_000)))),
        (segment.GSO_UDP_L4, ipv4(17, udp(bytes(65_000)))),
    ):
        pair = Pair([(ESP, TRANSPORT, A, B)], A, B)
        wire = pair.send(frame(packet, gso=kind, gso_size=size))
        assert len(wire) <= segment.SEGMENTS_MAX
        assert (not wire) == (size < 32) == bool(pair.out_values[count.TUN_SHORT])


def test_fragments_of_one_octet_cost_no_more_than_others() -> None:
    pair = Pair([(ESP, TRANSPORT, A, B)], A, B)
    with lines_of_work() as lines:
        for at in range(8000, 0, -1):
            pair.send(frame(ipv4(17, bytes(8), df=False, more=True, offset=8 * at)))
    assert lines[0] < 200 * 8000
    assert pair.out_values[count.FRAG_DROPPED] == 8000
    assert ip6.EXTENSIONS_MAX < 32
