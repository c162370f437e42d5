"""What the IP headers of a tunnel say, with real packets: DF, ECN, class of service, hop limits.

RFC 4301 5.1.2, RFC 6040, RFC 2983; on gateways, of each version in each.
"""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.support.sites import BEHIND, Vpn
from tests.support.steering import ICMPV6
from tests.support.system import ENDS, until
from tests.support.wire import Tap, drain, protocol, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 4000
WAYS = {"4-in-4": (4, 4), "6-in-6": (6, 6), "4-in-6": (4, 6), "6-in-4": (6, 4)}
NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3
DSCP = 0x2E << 2
DF = 0x40
# on the far gateway, before it opens what came: a router that is congested
CONGESTED = """
table inet congested {
 chain c {
  type filter hook prerouting priority -460;
  ip protocol esp ip ecn set ce
  ip6 nexthdr esp ip6 ecn set ce
 }
}
"""


def traffic_class(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else (packet[0] & 15) << 4 | packet[1] >> 4


def hops(packet: bytes) -> int:
    return packet[8] if packet[0] >> 4 == 4 else packet[7]


class Way:
    """From h through the tunnel to k, of some families."""

    def __init__(self, vpn: Vpn, inside: int, outside: int, taps: contextlib.ExitStack) -> None:
        self.vpn, self.inside, self.outside = vpn, inside, outside
        self.h, self.k = BEHIND[inside]
        self.listener = udp_listener(vpn.k, self.k, PORT)
        self.sender = udp_listener(vpn.h, self.h, 0)
        self.wire, self.far, self.near = (
            taps.enter_context(Tap(host, device))
            for host, device in ((vpn.r, "tog"), (vpn.k, "tor"), (vpn.h, "tog"))
        )
        self._level = socket.IPPROTO_IP if inside == 4 else socket.IPPROTO_IPV6

    def tell(self, option4: int, option6: int, value: int) -> None:
        self.sender.setsockopt(self._level, option4 if self.inside == 4 else option6, value)

    def of_class(self, value: int) -> None:
        self.tell(socket.IP_TOS, socket.IPV6_TCLASS, value)

    def knob(self, name: str, value: int) -> None:
        """Of both gateways, of the version outside."""
        tree = "net.inet.ipsec" if self.outside == 4 else "net.inet6.ipsec6"
        for daemon in (self.vpn.dg, self.vpn.dr):
            daemon.control("sysctl", name=f"{tree}.{name}", value=value)

    def sealed(self) -> bytes:
        """One datagram is sent; the packet on the wire."""
        for tap in (self.wire, self.far, self.near):
            tap.forget()
        self.sender.sendto(b"citizen", (self.k, PORT))
        until(lambda: self.wire.between(*ENDS[self.outside]), what="a sealed packet")
        (packet,) = self.wire.between(*ENDS[self.outside])
        return packet

    def send(self) -> tuple[bytes, bytes]:
        """One datagram; the packet on the wire, and the one that k got."""
        packet = self.sealed()
        until(lambda: drain(self.listener) == [b"citizen"], what="the datagram")
        (opened,) = self.far.between(self.h, self.k)
        return packet, opened


@pytest.fixture(scope="module", params=WAYS)
def loaded(request: pytest.FixtureRequest, vpn: Vpn) -> tuple[int, int]:
    """The families inside and outside, with keys and policies in force; once for all tests."""
    vpn.load(*WAYS[request.param])
    return WAYS[request.param]


@pytest.fixture
def way(vpn: Vpn, loaded: tuple[int, int]) -> Iterator[Way]:
    with contextlib.ExitStack() as taps:
        yield Way(vpn, *loaded, taps)


def test_class_and_congestion_show_outside_as_the_knob_says(way: Way) -> None:
    """1: RFC 6040's normal mode; 0: ECN stays inside; -1: the class does so as well."""
    try:
        for knob, mask in ((1, 0xFF), (0, 0xFC), (-1, 0)):
            way.knob("ecn", knob)
            for ecn in (NOT_ECT, ECT1, ECT0, CE):
                way.of_class(DSCP | ecn)
                sealed, opened = way.send()
                assert traffic_class(sealed) == (DSCP | ecn) & mask, (knob, ecn)
                assert traffic_class(opened) == DSCP | ecn, (knob, ecn)
    finally:
        way.knob("ecn", 1)


def test_congestion_on_the_way_is_told_inside_or_the_packet_dropped(way: Way) -> None:
    """RFC 6040 4.2: who does not know ECN must notice a loss."""
    dropped = way.vpn.dr.counter("esp", "tunnel")
    way.vpn.r.run("nft", "-f", "-", stdin=CONGESTED)
    try:
        for ecn in (ECT1, ECT0, CE):
            way.of_class(DSCP | ecn)
            _, opened = way.send()
            assert traffic_class(opened) == DSCP | CE
        way.of_class(DSCP | NOT_ECT)
        way.sealed()
        until(lambda: way.vpn.dr.counter("esp", "tunnel") == dropped + 1, what="it is counted")
        assert drain(way.listener) == []
    finally:
        way.vpn.r.run("nft", "delete", "table", "inet", "congested")


@pytest.mark.parametrize("loaded", ["4-in-4", "6-in-4"], indirect=True)
def test_dont_fragment_outside_is_as_inside_or_as_the_knob_says(way: Way) -> None:
    """IPv6 inside counts as set: its routers never cut."""
    inside = way.inside
    try:
        for knob in (0, 1, 2):
            way.knob("dfbit", knob)
            for discovers in (0, 2) if inside == 4 else (0,):  # IP_PMTUDISC_DONT, _DO
                way.tell(10, 23, discovers)
                sealed, opened = way.send()
                is_set = knob == 1 or (knob == 2 and (inside == 6 or discovers == 2))
                assert bool(sealed[6] & DF) == is_set, (knob, discovers)
                assert inside == 6 or bool(opened[6] & DF) == (discovers == 2)
    finally:
        way.knob("dfbit", 2)


def test_a_tunnel_is_two_hops_and_its_own_limit_is_outside(way: Way) -> None:
    """Each gateway forwards: it counts, and says so when no hop is left."""
    for limit in (64, 9, 3):
        way.tell(socket.IP_TTL, socket.IPV6_UNICAST_HOPS, limit)
        sealed, opened = way.send()
        assert (hops(sealed), hops(opened)) == (64, limit - 2)
    way.tell(socket.IP_TTL, socket.IPV6_UNICAST_HOPS, 1)
    way.near.forget()
    way.wire.forget()
    way.sender.sendto(b"citizen", (way.k, PORT))
    icmp, exceeded, at = (1, 11, 20) if way.inside == 4 else (ICMPV6, 3, 40)

    def is_told() -> bool:
        return any(protocol(p) == icmp and p[at] == exceeded for p in way.near.packets)

    until(is_told, what="time exceeded")
    assert way.wire.between(*ENDS[way.outside]) == []
