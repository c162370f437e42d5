"""Each of the FAQ's examples on the wire: scapy reads it with the keys; what must not pass."""

from collections.abc import Iterator

import pytest

from pfkey.lab.catalogue import EXAMPLES
from pfkey.lab.example import AH, ESP, NAMES, Example
from pfkey.lab.hosts import Net
from pfkey.lab.traffic import letter, transfer
from tests.support.faq import Standing, changed, decode, grows, without_hops
from tests.support.system import until

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # scapy's names of old ciphers
]

ICMP, TCP = 1, 6


# "encryption" is "encryption-require" without a line; pings are not mail
WHOLE = [one.name for one in EXAMPLES.values() if one.name != "encryption" and not one.port]


@pytest.fixture(scope="module", params=WHOLE)
def standing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Standing]:
    """An example with its files; each test leaves its SAs as they were."""
    with Net() as net:
        yield Standing(EXAMPLES[request.param], net, tmp_path_factory.mktemp("faq"))


def outer(example: Example) -> str:
    return NAMES[example.layers[0]]


def one_on_the_wire(standing: Standing) -> bytes:
    """A packet from the node to the peer, as it passed."""
    with standing.tap(standing.peer.host, standing.link) as tap:
        assert standing.ping(count=1) == 1
    return next(p for p in tap.packets if p[9] == standing.example.layers[0])


def test_scapy_finds_with_the_keys_what_was_delivered(standing: Standing) -> None:
    example, stage = standing.example, standing.stage
    content = letter(200_000)
    with standing.tap(standing.peer.host, standing.link) as wire, standing.delivered() as inner:
        assert standing.ping() == 2
        assert transfer(stage.client, stage.server, example.server[1], content) == content
    assert {p[9] for p in wire.packets} == {example.layers[0]}
    decoded = [decode(example, p) for p in wire.packets]
    pings = [p for p in inner.packets if p[9] == ICMP]
    found = [p for p in decoded if p[9] == ICMP]
    assert [without_hops(p) for p in found] == [without_hops(p) for p in pings]
    assert len(found) == 2
    assert {p[8] - q[8] for p, q in zip(found, pings, strict=True)} == {int(example.is_tunnel)}
    assert stream([p for p in decoded if p[9] == TCP]) == content


def stream(packets: list[bytes]) -> bytes:
    """What one side of a TCP connection said."""
    segments: dict[int, bytes] = {}
    first = 0
    for packet in packets:
        octets = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
        seq = int.from_bytes(octets[4:8], "big")
        if octets[13] & 2:  # SYN
            first = seq + 1
        elif data := octets[(octets[12] >> 4) * 4 :]:
            segments[(seq - first) & 0xFFFFFFFF] = data
    said = bytearray()
    for at in sorted(segments):
        said[at : at + len(segments[at])] = segments[at]
    return bytes(said)


def test_a_wrong_key_is_dropped_and_counted(standing: Standing) -> None:
    """Without an authenticator one of some 250 looks well-formed; it is garbage all the same."""
    example, peer = standing.example, standing.peer
    name = {ESP: "esp badenc", AH: "ah badauth"}[example.layers[0]]
    sa = example.sa(example.layers[0], towards_peer=True)
    standing.setkey("peer", sa.with_wrong_key())
    before = peer.drops()
    assert standing.ping(count=8) == 0
    least = 6 if sa.proto == ESP else 8
    until(lambda: peer.drops().get(name, 0) >= before.get(name, 0) + least, what=name)
    standing.setkey("peer", sa.again())
    assert standing.ping() == 2


def test_an_unknown_spi_is_dropped_and_counted(standing: Standing) -> None:
    packet = one_on_the_wire(standing)
    at = 20 + {ESP: 3, AH: 7}[standing.example.layers[0]]  # the last octet of the SPI
    with grows(standing.peer, outer(standing.example), "notdb", 1):
        standing.inject(changed(packet, at, 0xFF))


def test_a_tampered_octet_is_dropped_and_counted(standing: Standing) -> None:
    packet = one_on_the_wire(standing)
    if standing.example.layers[0] == AH:
        for at in (len(packet) - 1, 5):  # what is carried; the identification of the IP header
            with grows(standing.peer, "ah", "badauth", 1):
                standing.inject(changed(packet, at, 1))
        return
    # nobody vouches for these packets, but in CBC a bit of one block turns over one of the next:
    # here the pad length, the last octet but one
    sa = standing.example.sa(ESP, towards_peer=True)
    block = 16 if sa.algorithm == "rijndael-cbc" else 8
    with grows(standing.peer, "esp", "badenc", 1):
        standing.inject(changed(packet, len(packet) - block - 2, 0x80))


def test_a_router_may_change_the_ttl(standing: Standing) -> None:
    packet = one_on_the_wire(standing)
    with grows(standing.peer, outer(standing.example), "input", 1):
        standing.inject(changed(packet, 8, 1))


def test_a_packet_sent_again_is_dropped_where_there_is_a_window(standing: Standing) -> None:
    with standing.windows():
        packet = one_on_the_wire(standing)
        with grows(standing.peer, outer(standing.example), "replay", 3):
            for _ in range(3):
                standing.inject(packet)
        assert standing.ping() == 2


def test_without_a_window_a_packet_sent_again_is_taken_again(standing: Standing) -> None:
    packet = one_on_the_wire(standing)
    with grows(standing.peer, outer(standing.example), "input", 1):
        standing.inject(packet)


def test_clear_packets_are_dropped_where_require_says_so(standing: Standing) -> None:
    example = standing.example
    if not example.requires:
        standing.require_at_node()
    assert standing.ping(back=True) == 2
    undo = standing.stage.silence_policies()
    with (
        grows(standing.node, "ipsec", "in_polvio", 2),
        standing.tap(standing.node.host, standing.link) as tap,
    ):
        assert standing.ping(back=True) == 0
    assert [p[9] for p in tap.packets] == [ICMP, ICMP]
    standing.setkey("peer", undo)
    assert standing.ping(back=True) == 2


def test_large_packets_pass_both_ways(standing: Standing) -> None:
    with standing.tap(standing.peer.host, standing.link) as tap:
        for host, (_, address) in (
            (standing.stage.client, standing.example.server),
            (standing.stage.server, standing.example.client),
        ):
            host.run("ping", "-n", "-c", "1", "-W", "2", "-s", "3000", address)
            host.run("ping", "-n", "-c", "1", "-W", "2", "-s", "65000", address)
    assert {p[9] for p in tap.packets} == {standing.example.layers[0]}
    assert max(len(p) for p in tap.packets) <= 1500
