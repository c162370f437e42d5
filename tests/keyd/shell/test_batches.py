"""Batches over the loopback of a namespace; IPv6 headers made up from control messages."""

import errno
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.packet import datagram, ip6
from keyd.shell.batches import Receiver, Receiver6, Sender, made_up
from keyd.shell.raw import BATCH, RawSockets, open_raw
from pfkey.lab.hosts import Host, Net
from tests.support import steering
from tests.support.steering import AH, ESP, FRAGMENT, HOP_BY_HOP, OPTIONS, Wire, packet
from tests.support.system import until
from tests.support.wire import close_all, in_host, packed

LO = {4: ("127.0.0.1", "127.0.0.2"), 6: ("::1", "2001:db8::1")}
A, B = "2001:db8:1::1", "2001:db8:2::1"
versions = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def opened(host: Host, version: int) -> RawSockets:
    found: list[dict[int, RawSockets]] = []

    def job() -> None:
        found.append(open_raw())

    in_host(host, job)
    found[0].pop(10 - version).close()
    return found[0][version]


def receiver(sockets: RawSockets, version: int, proto: int = ESP) -> Receiver | Receiver6:
    sock = sockets.esp_in if proto == ESP else sockets.ah
    return Receiver(sock) if version == 4 else Receiver6(sock)


def local(net: Net, version: int) -> Host:
    host = net.host("a", ipv6=True)
    if version == 6:
        host.ip("addr", "add", LO[6][1], "dev", "lo")
    return host


def esp(version: int, size: int, dst: str | None = None) -> bytes:
    body = struct.pack("!II", 256, size) + bytes(size)
    return packet(LO[version][0], dst or LO[version][0], ESP, body)


def everything(source: Receiver | Receiver6, least: int) -> list[bytes]:
    """All that comes; the loopback may hand over later what it took."""
    got: list[bytes] = []

    def enough() -> bool:
        while batch := source.receive():
            assert len(batch) <= BATCH
            got.extend(batch)
        return len(got) >= least

    until(enough, what=f"{least} packets")
    return got


@pytest.mark.root
@versions
def test_a_batch_of_any_sizes_arrives_in_order(net: Net, version: int) -> None:
    wire = opened(local(net, version), version)
    sizes = [*range(0, 1500, 50), 40000, 65000, *range(0, 6000, 40), 65000, 65000, 1]
    packets = [esp(version, size, LO[version][size % 100 == 0]) for size in sizes]
    assert not list(Sender(wire.esp_out).send(packets))
    assert everything(receiver(wire, version), len(packets)) == packets
    wire.close()


@pytest.mark.root
@versions
def test_a_packet_the_system_refuses_is_named_and_the_rest_is_sent(net: Net, version: int) -> None:
    host = local(net, version)
    host.ip("link", "set", "lo", "mtu", "1500")
    wire = opened(host, version)
    nowhere = {4: "99.0.0.1", 6: "2001:db8:9::1"}[version]
    packets = [esp(version, 100), esp(version, 3000), esp(version, 200),
               esp(version, 10, nowhere), esp(version, 300)]  # fmt: skip
    refused = list(Sender(wire.esp_out).send(packets))
    assert refused == [(packets[1], errno.EMSGSIZE), (packets[3], errno.ENETUNREACH)]
    assert everything(receiver(wire, version), 3) == [packets[0], packets[2], packets[4]]
    wire.close()


# ---------------------------------------------------------------- IPv6 headers


def chain(*kinds: int, proto: int, payload: bytes) -> tuple[int, bytes]:
    """(first protocol, octets) of extension headers before a payload."""
    for kind in reversed(kinds):
        payload = steering.extension(proto, payload, kind=kind)
        proto = kind
    return proto, payload


def whole(proto: int, payload: bytes, *, first: int = 0x605A2345, hops: int = 33) -> bytes:
    head = struct.pack(">IHBB", first, len(payload), proto, hops)
    return head + packed(B) + packed(A) + payload


SEALED = bytes((17, 4)) + bytes(range(250)) * 5
ARRIVALS: dict[str, tuple[bytes, ...]] = {
    "plain": (whole(AH, SEALED),),
    "of nothing": (whole(AH, b""),),
    "no class, no label": (whole(AH, SEALED[:40], first=6 << 28, hops=255),),
    "options": (whole(*chain(OPTIONS, proto=AH, payload=SEALED)),),
    "hop-by-hop, options twice": (
        whole(*chain(HOP_BY_HOP, OPTIONS, OPTIONS, proto=AH, payload=SEALED)),
    ),
    "long options": (
        whole(OPTIONS, bytes((AH, 31)) + b"\x1e\xf8" + bytes(248) + b"\0" * 4 + SEALED[:900]),
    ),
}


@pytest.fixture
def heard(net: Net) -> Iterator[Callable[..., list[bytes]]]:
    """What a receiver of AH gets for packets on the wire."""
    b, a = net.host("b", ipv6=True), net.host("a", ipv6=True)
    a_dev, b_dev = steering.join(net, a, A, b, B)
    sockets = opened(a, 6)
    source = receiver(sockets, 6, AH)
    wire = Wire(b, b_dev, a, a_dev)

    def through(*packets: bytes) -> list[bytes]:
        wire.inject(*packets)
        assert select.select([source], [], [], 3)[0]
        return source.receive()

    yield through
    sockets.close()
    close_all()


@pytest.mark.root
@pytest.mark.slow
def test_headers_are_what_they_were(heard: Callable[..., list[bytes]]) -> None:
    for name, packets in ARRIVALS.items():
        assert heard(*packets) == list(packets), name


def pieces(unfragmentable: tuple[int, ...], proto: int, data: bytes, ident: int) -> list[bytes]:
    """A datagram in two fragments, extension headers before the fragment header."""
    made = []
    for at, end in ((0, 800), (800, len(data))):
        part = steering.piece(proto, data[at:end], at, more=end < len(data), ident=ident)
        made.append(whole(*chain(*unfragmentable, proto=FRAGMENT, payload=part)))
    return made


@pytest.mark.root
@pytest.mark.slow
def test_a_fragment_header_goes_and_nothing_else(heard: Callable[..., list[bytes]]) -> None:
    """RFC 4302 3.4.1: joined first. Also for a fragment header alone (RFC 6946)."""
    for ident, (before, after) in enumerate(
        (((), ()), ((HOP_BY_HOP,), (OPTIONS,)), ((OPTIONS,), ()), ((HOP_BY_HOP, OPTIONS), ()))
    ):
        proto, data = chain(*after, proto=AH, payload=SEALED)
        wanted = whole(*chain(*before, *after, proto=AH, payload=SEALED))
        for order in (pieces(before, proto, data, ident), pieces(before, proto, data, 99)[::-1]):
            assert heard(*order) == [wanted], (before, after)
        atomic = whole(
            *chain(*before, proto=FRAGMENT, payload=steering.piece(proto, data, 0, more=False))
        )
        assert heard(atomic) == [wanted], (before, after)


@pytest.mark.root
def test_what_cannot_be_told_whole_is_no_packet(heard: Callable[..., list[bytes]]) -> None:
    """More extension headers than the control buffer holds: dropped, and the next one is heard."""
    options = bytes((OPTIONS, 31)) + b"\x1e\xf8" + bytes(248) + b"\0" * 4
    last = bytes((AH,)) + options[1:]
    data = options * 20 + last + SEALED
    sent = []
    for at in range(0, len(data), 1200):
        part = steering.piece(OPTIONS, data[at : at + 1200], at, more=at + 1200 < len(data))
        sent.append(whole(FRAGMENT, part))
    (got,) = heard(*sent)
    assert datagram.read(got) is None
    assert datagram.proto(got) == AH, "counted under its name"
    assert heard(*ARRIVALS["plain"]) == list(ARRIVALS["plain"])


@given(st.binary(max_size=200), st.sampled_from([50, 51]))
def test_any_control_octets_make_a_header_and_no_fault(control: bytes, proto: int) -> None:
    header = made_up(proto, bytes(16), control)
    assert len(header) >= ip6.HEADER_OCTETS
    assert header[0] >> 4 == 6


@given(
    st.lists(st.tuples(st.sampled_from([HOP_BY_HOP, OPTIONS, 43]), st.integers(0, 3))),
    st.integers(0, 0x0FFFFFFF), st.integers(0, 255),
)  # fmt: skip
def test_a_header_is_made_up_of_what_the_kernel_says(
    extensions: list[tuple[int, int]], flow: int, hops: int
) -> None:
    cmsg = struct.Struct("@QII")
    types = {HOP_BY_HOP: socket.IPV6_HOPOPTS, OPTIONS: socket.IPV6_DSTOPTS, 43: socket.IPV6_RTHDR}

    def message(kind: int, data: bytes) -> bytes:
        return cmsg.pack(16 + len(data), 41, kind) + data + b"\xee" * (-len(data) % 8)

    control = message(socket.IPV6_PKTINFO, packed(A) + struct.pack("=I", 3))
    control += message(socket.IPV6_HOPLIMIT, struct.pack("=i", hops))
    control += message(11, struct.pack(">I", flow)) if flow else b""
    bodies = [bytes((44, size)) + bytes(8 * size + 6) for _, size in extensions]
    for (kind, _), body in zip(extensions, bodies, strict=True):
        control += message(types[kind], body)
    header = made_up(AH, packed(B), control)
    assert header[:8] == struct.pack(
        ">IHBB", 6 << 28 | flow, 0, extensions[0][0] if extensions else AH, hops
    )
    assert header[8:40] == packed(B) + packed(A)
    follows = [*(kind for kind, _ in extensions[1:]), AH]
    assert header[40:] == b"".join(
        bytes((proto,)) + body[1:] for proto, body in zip(follows, bodies, strict=False)
    )
