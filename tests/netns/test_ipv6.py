"""IPv6, and each family in the other: every way of protection between two hosts, all sizes.

a 2001:db8:1::1, 10.1.1.1 ── toa/tob ── 2001:db8:2::1, 20.1.1.1 b       a pfkeyd in each
"""

import contextlib
import functools
import itertools
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scapy.layers import ipsec
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, moves_in_super_packets, transfer
from tests.support.sites import AH, AH_KEY, ESP, KEY, MAC, SPI, join_both, keys, policies, side
from tests.support.steering import Wire, arrives, datagram, fragments
from tests.support.system import A6, B6, ENDS, Daemon, until
from tests.support.wire import (
    Tap,
    drain,
    family,
    has_come,
    in_host,
    is_of_the_link,
    protocol,
    udp_listener,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]


@dataclass(frozen=True, slots=True)
class Way:
    """How packets of an IP version are protected; `steps` as seen from a, OWN and OTHER in it."""

    inside: int
    outside: int
    steps: str

    @property
    def layers(self) -> tuple[int, ...]:
        """Protocols on the wire, from the outside in."""
        named = {"esp": ESP, "ah": AH}
        return tuple(named[step.split("/")[0]] for step in reversed(self.steps.split()))

    @property
    def is_tunnel(self) -> bool:
        return "tunnel" in self.steps

    def commands(self, order: int) -> str:
        """Keys and policies of a (1) or b (-1)."""
        near, far = ENDS[self.outside][::order]
        there = self.steps.replace("OWN", near).replace("OTHER", far)
        back = self.steps.replace("OWN", far).replace("OTHER", near)
        ends = ENDS[self.inside][::order]
        return keys(self.outside) + policies(self.inside, (ends[0], ends[1]), (there, back))


WAYS = {
    "esp": Way(6, 6, "esp/transport//require"),
    "ah": Way(6, 6, "ah/transport//require"),
    "esp-ah": Way(6, 6, "esp/transport//require ah/transport//require"),
    "esp-tunnel": Way(6, 6, "esp/tunnel/OWN-OTHER/require"),
    "ah-tunnel": Way(6, 6, "ah/tunnel/OWN-OTHER/require"),
    "4-in-6": Way(4, 6, "esp/tunnel/OWN-OTHER/require"),
    "6-in-4": Way(6, 4, "esp/tunnel/OWN-OTHER/require"),
    "4-in-6-esp-ah": Way(4, 6, "esp/tunnel/OWN-OTHER/require ah/transport//require"),
    "6-in-4-ah": Way(6, 4, "ah/tunnel/OWN-OTHER/require"),
}


def opened(packet: bytes, version: int, layers: tuple[int, ...], *, is_tunnel: bool) -> Packet:
    """A whole packet as scapy reads it with a's keys."""
    kinds = {4: IP, 6: IPv6}
    src, dst = ENDS[version]
    found = kinds[version](packet)
    for depth, proto in enumerate(layers):
        is_last = is_tunnel and depth == len(layers) - 1
        header = kinds[version](src=src, dst=dst) if is_last else None
        if proto == AH:
            sa = ipsec.SecurityAssociation(
                ipsec.AH, spi=SPI[proto, "out"], auth_algo="HMAC-SHA1-96", auth_key=AH_KEY.encode(),
                tunnel_header=header,
            )  # fmt: skip
        else:
            sa = ipsec.SecurityAssociation(
                ipsec.ESP, spi=SPI[proto, "out"], crypt_algo="AES-CBC", crypt_key=KEY.encode(),
                auth_algo="SHA2-256-128", auth_key=MAC.encode(), tunnel_header=header,
            )  # fmt: skip
        found = sa.decrypt(found)
        if proto == AH and not is_last:  # what came out, read anew
            found = kinds[version](bytes(found))
    return found


class Dual:
    """Two hosts with both families."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a", ipv6=True), net.host("b", ipv6=True)
        self.a_dev, self.b_dev = "tob", "toa"
        join_both(net, self.a, side(ENDS, 0), self.b, side(ENDS, 1))
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)

    def load(self, way: Way) -> None:
        for daemon, order in ((self.da, 1), (self.db, -1)):
            daemon.setkey("flush; spdflush;" + way.commands(order))

    def ping(self, address: str, *options: str) -> bool:
        argv = ("ping", "-c2", "-i0.02", "-W1", *options, address)
        return self.a.run(*argv, check=False).returncode == 0

    @contextlib.contextmanager
    def nothing_lost(self) -> Iterator[None]:
        """No counter of a drop grows meanwhile at either end."""
        before = [drops(daemon) for daemon in (self.da, self.db)]
        yield
        after = [drops(daemon) for daemon in (self.da, self.db)]
        for old, new in zip(before, after, strict=True):
            assert {k: n for k, n in new.items() if old[k] != n} == {}


HARMLESS = {
    "input", "output", "ibytes", "obytes", "out_bundlesa", "spdcachelookup", "spdcachemiss",
    "tun_reads", "tun_segments", "superpacket_in", "segments_out", "coalesced_writes",
    "coalesced_segments", "tun_writes", "icmp_toobig_sent",
}  # fmt: skip


def drops(daemon: Daemon) -> dict[str, int]:
    groups = daemon.control("counters")["counters"]
    return {
        f"{group} {name}": n
        for group, rows in groups.items() for name, n in rows.items() if name not in HARMLESS
    }  # fmt: skip


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dual]:
    with Net() as net:
        yield Dual(net, tmp_path_factory.mktemp("dual"))


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, dual: Dual) -> Way:
    found = WAYS[request.param]
    dual.load(found)
    return found


def test_scapy_finds_on_the_wire_what_was_sent(dual: Dual, way: Way) -> None:
    own, other = ENDS[way.inside]
    with Tap(dual.b, dual.b_dev) as tap, Tap(dual.b, "pfkey0") as inner:
        assert dual.ping(other)
        until(lambda: len(inner.between(own, other)) == 2)
    wire = tap.between(*ENDS[way.outside])
    assert {protocol(packet) for packet in tap.packets} == {way.layers[0]}
    assert len(wire) == 2
    for packet, delivered in zip(wire, inner.between(own, other), strict=True):
        found = bytes(opened(packet, way.outside, way.layers, is_tunnel=way.is_tunnel))
        assert without_ident(found) == without_ident(delivered)


def without_ident(packet: bytes) -> bytes:
    """An IPv4 packet without identification and checksum, which AH settles anew."""
    if packet[0] >> 4 == 6:
        return packet
    return packet[:4] + packet[6:10] + packet[12:]


def test_everything_large_passes_both_ways(dual: Dual, way: Way) -> None:
    own, other = ENDS[way.inside]
    with Tap(dual.b, dual.b_dev) as tap, dual.nothing_lost():
        for size in ("1400", "1452", "3000", "65000"):
            assert dual.ping(other, "-s", size), size
        for sender, receiver, src, dst in (
            (dual.a, dual.b, own, other), (dual.b, dual.a, other, own),
        ):  # fmt: skip
            listener, talker = udp_listener(receiver, dst, 4000), udp_listener(sender, src, 0)
            for octets in (1, 1000, 5000, 65000):
                talker.sendto(b"x" * octets, (dst, 4000))
                assert len(arrives(listener)) == octets
    assert {protocol(packet) for packet in tap.packets} == {way.layers[0]}
    assert {packet[0] >> 4 for packet in tap.packets} == {way.outside}
    assert max(map(len, tap.packets)) <= 1500


def test_tcp_moves_in_super_packets_both_ways(dual: Dual, way: Way) -> None:
    own, other = ENDS[way.inside]
    with Tap(dual.b, dual.b_dev) as tap, dual.nothing_lost():
        moves_in_super_packets(dual.a, dual.b, other, dual.da, dual.db)
        moves_in_super_packets(dual.b, dual.a, own, dual.db, dual.da)
    assert {protocol(packet) for packet in tap.packets} == {way.layers[0]}
    assert max(map(len, tap.packets)) <= 1500
    assert not [p for p in tap.packets if b"payload-pattern" in p and ESP in way.layers]


@pytest.mark.parametrize("name", ["esp-tunnel", "4-in-6", "6-in-4"])
def test_a_clear_piece_joins_no_protected_one(dual: Dual, name: str) -> None:
    """Out of a tunnel come fragments, and the kernel joins them, whatever they say."""
    way = WAYS[name]
    dual.load(way)
    own, other = ENDS[way.inside]
    listener = udp_listener(dual.a, own, 4000)
    wire = Wire(dual.b, dual.b_dev, dual.a, dual.a_dev)
    kind = family(own)
    through = in_host(dual.b, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))
    whole = datagram(other, own, 4000, b"clear!" * 200)
    cases = [
        (ident, claimed, is_head_protected, is_clear_first)
        for ident, (claimed, is_head_protected, is_clear_first) in enumerate(
            itertools.product((17, 50), (True, False), (True, False)), 100
        )
    ]
    with Tap(dual.a, "pfkey0") as inner:
        for ident, claimed, is_head_protected, is_clear_first in cases:
            head, tail = fragments(other, own, 17, whole, ident=ident, tail_proto=claimed)
            protected, clear = (head, tail) if is_head_protected else (tail, head)
            came = len(inner.packets)
            if is_clear_first:
                wire.inject(clear)
            held = dual.da.counter("pfkey", "frag_held")
            through.sendto(protected, (own, 0))
            if way.inside == 6 and claimed == ESP and not is_head_protected:
                # it may be of a packet that is to be opened here: it waits for its head
                until(functools.partial(is_held, dual, held + 1), what="the protected piece waits")
            else:
                until(functools.partial(has_come, inner, came), what="the protected piece")
            if not is_clear_first:
                wire.inject(clear)
        for piece in fragments(other, own, 17, whole, ident=99):
            through.sendto(piece, (own, 0))
        assert arrives(listener) == b"clear!" * 200, "both pieces protected"
        assert drain(listener) == []


def is_held(dual: Dual, number: int) -> bool:
    return dual.da.counter("pfkey", "frag_held") == number


HOP_BY_HOP, OPTIONS = bytes((0, 0, 5, 2, 0, 0, 1, 0)), bytes((0, 0, 0x1E, 4)) + b"abcd"


@pytest.mark.parametrize("name", ["esp", "ah", "esp-ah", "esp-tunnel"])
def test_extension_headers_travel_along(dual: Dual, name: str) -> None:
    """A router alert and destination options, on datagrams whole and fragmented; AH covers both."""
    dual.load(WAYS[name])
    listener, talker = udp_listener(dual.b, B6, 4000), udp_listener(dual.a, A6, 0)
    talker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, HOP_BY_HOP)
    talker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, OPTIONS)
    talker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB8)
    talker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33)
    # behind hop-by-hop options, a fragment out of a tunnel is not let in (see `Frame` in nft_rules)
    sizes = (10, 1200) if WAYS[name].is_tunnel else (10, 3000)
    with Tap(dual.b, dual.b_dev) as tap, Tap(dual.b, "pfkey0") as inner, dual.nothing_lost():
        for octets in sizes:
            talker.sendto(b"x" * octets, (B6, 4000))
            assert len(arrives(listener)) == octets
    assert set(tap.protocols(A6, B6)) == {WAYS[name].layers[0]}
    for packet in tap.packets + inner.packets:
        assert (packet[0], packet[1] & 0xF0) == (0x6B, 0x80), "the class of service"
    delivered = inner.packets[0]
    assert (delivered[6], delivered[7]) == (0, 33)
    assert delivered[42:48] == HOP_BY_HOP[2:]
    assert delivered[50:56] == OPTIONS[2:]


# ---------------------------------------------------------------- what fits


def test_a_socket_that_takes_no_fragments_is_refused_what_does_not_fit(
    net: Net, tmp_path: Path
) -> None:
    """RFC 8201: the kernel learns it from the data path, and says so by EMSGSIZE."""
    dual = Dual(net, tmp_path)
    dual.load(WAYS["esp"])
    listener = udp_listener(dual.b, B6, 4000)
    sender = udp_listener(dual.a, A6, 0)
    sender.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
    with Tap(dual.b, dual.b_dev) as tap:
        sender.sendto(bytes(1452), (B6, 4000))
        until(lambda: "mtu" in dual.a.ip("route", "get", B6))
        mtu = int(dual.a.ip("route", "get", B6).split("mtu ")[1].split()[0])
        assert 1400 < mtu < 1500
        for octets in (1452, mtu - 47):
            with pytest.raises(OSError, match="too long"):
                sender.sendto(bytes(octets), (B6, 4000))
        tap.forget()
        sender.sendto(bytes(mtu - 48), (B6, 4000))
        until(lambda: tap.packets)
    assert len(tap.packets) == 1, "as large as can be, and not fragmented"
    assert len(tap.packets[0]) > 1480
    assert [len(got) for got in drain(listener)] == [1452, mtu - 48]
    with Tap(dual.b, dual.b_dev) as tap:
        assert len(transfer(dual.a, dual.b, B6, MEGABYTE)) == MEGABYTE
    assert max(map(len, tap.packets)) <= 1500
    assert not [packet for packet in tap.packets if packet[6] == 44], "TCP is never fragmented"


EVERYTHING = """
spdadd ::/0 ::/0 any -P out ipsec esp/transport//require;
spdadd ::/0 ::/0 any -P in ipsec esp/transport//require;
"""


def test_neighbours_are_found_under_policies_that_protect_everything(dual: Dual) -> None:
    for daemon in (dual.da, dual.db):
        daemon.setkey("flush; spdflush;" + keys(6) + EVERYTHING)
    for host in (dual.a, dual.b):
        host.ip("-6", "neigh", "flush", "all")
    assert B6 not in dual.a.ip("-6", "neigh", "show", "nud", "reachable")
    with Tap(dual.b, dual.b_dev) as tap:
        assert dual.ping(B6)
        assert len(transfer(dual.b, dual.a, A6, 1 << 16)) == 1 << 16
    assert set(tap.protocols(A6, B6)) == {ESP}
    assert B6 in dual.a.ip("-6", "neigh", "show")


def test_the_manuals_lines_let_a_links_own_packets_pass(dual: Dual) -> None:
    """Link-local addresses, and the reports of multicast listeners, which bear one."""
    manual = Path(__file__).parents[2] / "docs" / "pfkeyd.8"
    none = "".join(re.findall(r"^spdadd .* none;$", manual.read_text(), re.M))
    assert none.count("fe80::/10") == 2
    shown = dual.b.ip("-6", "-br", "addr", "show", "scope", "link", "dev", dual.b_dev)
    neighbour = f"{shown.split()[2].split('/')[0]}%{dual.a_dev}"
    for lines, passes in ((EVERYTHING, False), (none + EVERYTHING, True)):
        dual.da.setkey("flush; spdflush;" + keys(6) + lines)
        dual.db.setkey("flush; spdflush;")
        assert dual.ping(neighbour) == passes
    reports: list[bytes] = []
    with in_host(dual.b, lambda: listening(dual.b_dev)) as link:
        member = udp_listener(dual.a, "::", 0)
        index = in_host(dual.a, lambda: socket.if_nametoindex(dual.a_dev))
        group = socket.inet_pton(socket.AF_INET6, "ff0e::77") + struct.pack("=I", index)
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        until(lambda: reports.append(link.recv(2000)) or is_of_the_link(reports[-1]))  # type: ignore[func-returns-value]
        assert reports[-1][8:10] == b"\xfe\x80"


def listening(device: str) -> socket.socket:
    """All IPv6 that comes to a device."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
    link.bind((device, 0x86DD))
    link.settimeout(5)
    return link


def test_types_of_icmpv6_select(net: Net, tmp_path: Path) -> None:
    """The manual's way to let neighbour discovery pass, and any other type."""
    dual = Dual(net, tmp_path)
    text = (
        keys(6)
        + f"""
spdadd {A6} {B6} icmp6 128,0 -P out none;
spdadd {B6} {A6} icmp6 129,0 -P in none;
spdadd 2001:db8:1::/48 2001:db8:2::/48 any -P out ipsec esp/transport//require;
spdadd 2001:db8:2::/48 2001:db8:1::/48 any -P in ipsec esp/transport//require;
"""
    )
    dual.da.setkey(text)
    dual.db.setkey("flush; spdflush;" + keys(6))
    assert "ipv6-icmp 128,0" in dual.da.setkey("", "-DP")
    with Tap(dual.b, dual.b_dev) as tap:
        assert dual.ping(B6)
    assert tap.protocols(A6, B6) == {58: 2}
    sender = udp_listener(dual.a, A6, 0)
    with Tap(dual.b, dual.b_dev) as tap:
        sender.sendto(b"x", (B6, 9))
        until(lambda: tap.protocols(A6, B6))
    assert tap.protocols(A6, B6) == {ESP: 1}
