"""What comes in, tried with real packets over either family: forged, damaged, in pieces."""

import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.netns.test_conversation import MEGABYTE, transfer
from tests.support import steering
from tests.support.attacked import DROPS, PORT, Attacked, Pairs, counters
from tests.support.steering import (
    AH,
    ESP,
    FRAGMENT,
    HOP_BY_HOP,
    NONE,
    OPTIONS,
    ROUTING,
    UDP,
    arrives,
    datagram,
    extension,
    packet,
    piece,
)
from tests.support.system import A, B, over, require, until
from tests.support.wire import Tap, checksum, drain, ipv4, packed, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    made = Pairs(tmp_path_factory)
    yield made
    made.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def two(request: pytest.FixtureRequest, pairs: Pairs) -> Attacked:
    return pairs.pair(request.param)


def test_every_crafted_packet_ends_in_one_counter(two: Attacked) -> None:
    listener = udp_listener(two.b, two.other, PORT)
    good = two.sealed()
    damaged = two.sealed()
    group, nobody = {4: ("224.0.0.1", "9.9.9.9"), 6: ("ff02::1", "2001:db8:9::9")}[two.version]
    packets = {
        "delivered": [two.esp(good), two.esp(two.sealed(b"x" * 1200))],
        "dummy": [two.esp(two.sealed(b"", proto=59))],
        "hdrops": [two.esp(b""), two.esp(good[:7])],
        "replay": [two.esp(good)] * 3 + [two.esp(two.sealed(seq=3))],
        "badauth": [two.esp(damaged[:-1] + bytes((damaged[-1] ^ 1,)))],
        "badilen": [two.esp(damaged[:30]), two.esp(damaged[:-1])],
        "notdb": [two.esp(bytes(60)), two.esp(two.sealed(), dst=group)],
        "invalid": [two.esp(two.sealed(), src=nobody)],
    }
    for sort, some in packets.items():
        before = counters(two.db)
        wanted = {"input": len(some)} | ({sort: len(some)} if sort in DROPS else {})
        two.to_b(*some)

        # a packet comes in before it ends: what is read may stand between the two
        def ended(before: dict[str, int] = before, wanted: dict[str, int] = wanted) -> bool:
            after = counters(two.db)
            grown = {n: after.get(n, 0) - before.get(n, 0) for n in ("input", *DROPS)}
            return {n: count for n, count in grown.items() if count} == wanted

        until(ended, what=sort)
    assert sorted(map(len, drain(listener))) == [5, 1200]


@pytest.mark.parametrize("proto", [4, 41, ESP, AH, 108])
def test_a_layer_that_no_policy_asks_for_brings_nothing_in(two: Attacked, proto: int) -> None:
    """Each of two layers would pass for the one that the policy wants."""
    listener = udp_listener(two.b, two.other, PORT)
    inner = {ESP: two.sealed(), 4: ipv4(A, B, UDP, datagram(A, B, PORT, b"inner"))}.get(
        proto, packet(two.own, two.other, UDP, two.datagram(b"inner"))
    )
    two.to_b(two.esp(two.sealed(inner, proto)))
    two.to_b(two.esp(two.sealed(b"after")))
    assert select.select([listener], [], [], 3)[0]
    assert drain(listener) == [b"after"]


def test_a_noisy_run_adds_up_on_both_sides(two: Attacked) -> None:
    """A transfer while every fifth packet is repeated, damaged, or of nobody."""
    esp_at = 20 if two.version == 4 else 40
    tap = Tap(two.b, two.b_dev)
    with tap:
        transfer(two.a, two.b, two.other, MEGABYTE)
    sealed = [p for p in tap.between(two.own, two.other) if p[esp_at : esp_at + 4] != bytes(4)]
    for number, octets in enumerate(sealed):
        if number % 5 == 0:
            spoiled = bytearray(octets)
            spoiled[esp_at + number % 3 * 4] ^= 0x55  # the SPI, the number, the IV
            two.to_b(octets, bytes(spoiled))
    assert two.ping()

    def all_ended() -> bool:
        """Nothing is on its way, and each packet that came in has one end."""
        got = counters(two.db)
        delivered = (
            got["tun_writes"] - got.get("coalesced_writes", 0) + got.get("coalesced_segments", 0)
        )
        return got["input"] == delivered + sum(got.get(name, 0) for name in DROPS)

    def all_left() -> bool:
        sent = counters(two.da)
        others = ("out_nosa", "foreign", "icmp_toobig_sent", "out_inval")
        return sent["tun_segments"] == sent["output"] + sum(sent.get(n, 0) for n in others)

    until(all_ended, what="each packet that came in has one end")
    until(all_left, what="each segment that was read has one end")
    got = counters(two.db)
    assert min(got[name] for name in ("replay", "notdb")) > 50


def fragments(two: Attacked, octets: bytes, ident: int, *cuts: int) -> list[bytes]:
    """Pieces of an ESP datagram, cut at these offsets."""
    ends = (*cuts, len(octets))
    made = []
    for at, end in zip((0, *cuts), ends, strict=True):
        part, more = octets[at:end], end < len(octets)
        if two.version == 4:
            made.append(ipv4(A, B, ESP, part, ident=ident, offset=at, more=more))
        else:
            part = piece(ESP, part, at, more=more, ident=ident)
            made.append(packet(two.own, two.other, FRAGMENT, part))
    return made


def all_that_came(two: Attacked, listener: socket.socket) -> list[bytes]:
    """What was sent to b has been handled when what is sealed behind it is there."""
    two.to_b(two.esp(two.sealed(b"the last")))
    came: list[bytes] = []

    def is_over() -> bool:
        came.extend(drain(listener))
        return b"the last" in came

    until(is_over)
    came.remove(b"the last")
    return came


def test_fragments_of_esp_join_in_any_order_or_not_at_all(two: Attacked) -> None:
    listener = udp_listener(two.b, two.other, PORT)
    tiny = fragments(two, two.sealed(b"t" * 1200), 5, *range(8, 1200, 8))
    two.to_b(*reversed(fragments(two, two.sealed(b"r" * 1200), 4, 800)), *tiny)
    until(lambda: counters(two.db).get("input", 0) == 2)
    head, tail = fragments(two, two.sealed(b"o" * 1200), 6, 800)
    overlap = fragments(two, b"\xff" * 1400, 6, 600, 1008)[1]
    two.to_b(head, overlap, tail)
    head, tail = fragments(two, two.sealed(b"d" * 1200), 7, 800)
    two.to_b(head, head, tail, tail)
    for octets in (got := all_that_came(two, listener)):
        assert octets in {letter * 1200 for letter in (b"r", b"t", b"o", b"d")}
    assert len(got) == len(set(got)) >= 2
    assert "internal" not in counters(two.db)


OPTIONS4 = {
    "record-route": bytes((7, 7, 4, 0, 0, 0, 0, 0)),
    "source-route": bytes((131, 7, 4, 30, 1, 1, 1, 0)),
    "malformed": bytes((7, 200, 4, 0)),
}


@pytest.mark.parametrize("options", OPTIONS4.values(), ids=OPTIONS4)
def test_options_of_the_outer_header_lead_nothing_astray(pairs: Pairs, options: bytes) -> None:
    two = pairs.pair(4)
    payload = two.sealed()
    octets = 20 + len(options)
    head = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s", 0x40 | octets // 4, 0, octets + len(payload), 1, 0, 64, ESP, 0,
            packed(A), packed(B),
        ) + options
    )  # fmt: skip
    head[10:12] = struct.pack(">H", checksum(bytes(head)))
    leads_nothing_astray(two, bytes(head) + payload)


def leads_nothing_astray(two: Attacked, *packets: bytes) -> None:
    """What is inside gets to its port, or nowhere."""
    listener = udp_listener(two.b, two.other, PORT)
    with Tap(two.a, two.a_dev) as back:
        two.to_b(*packets)
        assert set(all_that_came(two, listener)) <= {b"hello"}
    listener.close()
    assert not [p for p in back.packets if b"hello" in p]
    assert "internal" not in counters(two.db)


def test_extension_headers_lead_nothing_astray(pairs: Pairs) -> None:
    """Before ESP and inside it: of every sort, too many, in the wrong order, not what they say."""
    two = pairs.pair(6)
    route = bytes((0, 2, 0, 1)) + bytes(4) + packed("2001:db8:9::9")

    def outer(*kinds: int) -> bytes:
        proto, octets = ESP, two.sealed()
        for kind in reversed(kinds):
            proto, octets = kind, extension(proto, octets, kind=kind)
        return packet(two.own, two.other, proto, octets)

    def inner(*kinds: int) -> bytes:
        proto, octets = UDP, two.datagram()
        for kind in reversed(kinds):
            proto, octets = kind, extension(proto, octets, kind=kind)
        return two.esp(two.sealed(octets, proto))

    leads_nothing_astray(
        two,
        *(make(*kinds) for make in (outer, inner) for kinds in (
            (HOP_BY_HOP,), (OPTIONS,), (ROUTING,), (HOP_BY_HOP, OPTIONS, ROUTING, OPTIONS),
            (OPTIONS,) * 14, (OPTIONS,) * 40, (OPTIONS, HOP_BY_HOP),
        )),
        packet(two.own, two.other, ROUTING, bytes((ESP,)) + route[1:] + two.sealed()),
        two.esp(two.sealed(bytes((UDP,)) + route[1:] + two.datagram(), ROUTING)),
        two.esp(two.sealed(bytes((UDP, 255)) + two.datagram(), OPTIONS)),
        two.esp(two.sealed(bytes((FRAGMENT, 0, 1, 4, 0, 0, 0, 0)), OPTIONS)),
        two.esp(two.sealed(b"", NONE)), packet(two.own, two.other, HOP_BY_HOP, two.sealed()),
    )  # fmt: skip
    listener = udp_listener(two.b, two.other, PORT)
    for octets in (outer(HOP_BY_HOP, OPTIONS), inner(OPTIONS)):
        two.to_b(octets)
        assert arrives(listener) == b"hello", "what is in order gets through"


IMPOSSIBLE = {
    4: ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", B),  # noqa: S104
    6: ("::", "::1", "ff02::1", "::ffff:10.1.1.1", "fe80::1", "2001:db8:2::1"),
}


def test_a_source_that_cannot_be_brings_nothing_in(two: Attacked) -> None:
    listener = udp_listener(two.b, two.other, PORT)
    for src in IMPOSSIBLE[two.version]:
        two.to_b(two.esp(two.sealed(), src=src))
        two.to_b(packet(src, two.other, UDP, datagram(src, two.other, PORT, b"clear")))
    time.sleep(0.2)
    assert [got for got in drain(listener) if got == b"hello"] == []
    two.to_b(two.esp(two.sealed(b"after")))
    until(lambda: b"after" in drain(listener))


def test_transport_mode_needs_no_policy_as_the_faqs_first_example_has_it(two: Attacked) -> None:
    """What is opened is delivered where no `in` policy speaks of it, and so is what is clear."""
    two.db.setkey("spdflush;" + over(two.version, f"spdadd {B} {A} any -P out none;"))
    listener = udp_listener(two.b, two.other, PORT)
    two.to_b(two.esp(two.sealed()), packet(two.own, two.other, UDP, two.datagram(b"clear")))
    assert {arrives(listener), arrives(listener)} == {b"hello", b"clear"}


def test_without_an_authenticator_only_what_a_policy_selects_is_believed(two: Attacked) -> None:
    """The FAQ's own examples have none: who changes octets on the wire makes noise of them."""
    bare = f"""
flush; spdflush;
add {A} {B} esp 9876 -E aes-cbc "hogehogehogehoge";
{require(B, A, "udp")}
"""
    two.db.setkey(over(two.version, bare))
    listener = udp_listener(two.b, two.other, PORT)
    before = counters(two.db)
    esp = two.sealed(b"x" * 64)[:-16]  # the same cipher and key, without its ICV
    for at in range(24, len(esp), 5):
        two.to_b(two.esp(esp[:at] + bytes((esp[at] ^ 0x55,)) + esp[at + 1 :]))
    two.to_b(two.esp(two.sealed(bytes(64), proto=6)[:-16]), two.esp(esp))
    assert arrives(listener) == b"x" * 64, "UDP's own checksum stops what is damaged inside"
    assert drain(listener) == []
    after = counters(two.db)
    assert after["badkcr"] - before.get("badkcr", 0) >= 1
    assert after["badenc"] - before.get("badenc", 0) >= 2
    assert "coalesced_writes" not in after


def test_clear_fragments_join_no_head_or_tail_that_was_protected(two: Attacked) -> None:
    """In transport mode there are none: all pieces of a datagram are clear, or none is."""
    listener = udp_listener(two.b, two.other, PORT)
    whole = two.datagram(b"clear!" * 200)
    before = counters(two.db).get("in_polvio", 0)
    for ident in (11, 12):
        head, tail = steering.fragments(two.own, two.other, UDP, whole, ident=ident)
        order = (head, tail) if ident == 11 else (tail, head)
        two.to_b(order[0])
        two.to_b(two.esp(two.sealed(b"between")))
        two.to_b(order[1])
        assert arrives(listener) == b"between"
    until(lambda: counters(two.db)["in_polvio"] == before + 4)
    assert drain(listener) == []


def test_a_clear_tail_that_claims_to_be_sealed_brings_nothing_in(two: Attacked) -> None:
    """IPv6 tails name the protocol of the datagram, and nobody looks at what they say."""
    listener = udp_listener(two.b, two.other, PORT)
    whole = two.datagram(b"clear!" * 200)
    for claimed in (ESP, AH, 108):
        for ident, order in ((20 + claimed, 1), (220 + claimed, -1)):
            head, tail = steering.fragments(
                two.own, two.other, UDP, whole, ident=ident, tail_proto=claimed
            )
            if two.version == 4:
                tail = ipv4(two.own, two.other, claimed, tail[20:], ident=ident, offset=800)
            two.to_b(*(head, tail)[::order])
    two.to_b(two.esp(two.sealed(b"after")))
    assert arrives(listener) == b"after"
    assert drain(listener) == []
