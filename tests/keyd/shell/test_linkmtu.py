"""What the kernel tells of links and addresses, in a namespace, for both families."""

import socket
import struct
from collections.abc import Iterator

import pytest

from keyd.shell import linkmtu
from keyd.shell.linkmtu import Links
from pfkey.lab.hosts import Net
from tests.support import steering
from tests.support.steering import ICMPV6, UDP, Wire
from tests.support.wire import checksum, close_all, family, in_host, ipv4, packed

pytestmark = pytest.mark.root

MARK = 0x4C000000
ENDS = {4: ("10.1.1.1", "20.1.1.1"), 6: ("2001:db8:1::1", "2001:db8:2::1")}
NOWHERE = {4: "99.1.1.1", 6: "2001:db8:99::1"}


class Rig:
    def __init__(self, net: Net, version: int) -> None:
        self.version = version
        self.own, self.other = ENDS[version]
        self.a, self.b = net.host("a", ipv6=True), net.host("b", ipv6=True)
        self.a_dev, self.b_dev = steering.join(net, self.a, self.own, self.b, self.other)
        made: list[Links] = []

        def make() -> None:
            made.append(Links(MARK))

        in_host(self.a, make)
        (self.links,) = made

    def mtu(self, address: str = "") -> int:
        self.links.forget()
        # in the host, for /proc/sys is that of the thread's namespace
        return in_host(self.a, lambda: self.links.mtu(packed(address or self.other)))

    def is_local(self, address: str) -> bool:
        return self.links.is_local(packed(address))


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def rig(request: pytest.FixtureRequest, net: Net) -> Iterator[Rig]:
    made = Rig(net, request.param)
    yield made
    made.links.close()
    close_all()


def test_the_links_mtu_is_known_for_addresses_behind_it(rig: Rig) -> None:
    assert rig.mtu() == 1500
    rig.a.ip("link", "set", rig.a_dev, "mtu", "1400")
    assert rig.links.mtu(packed(rig.other)) == 1500, "for ten seconds"
    assert rig.mtu() == 1400
    assert rig.mtu(NOWHERE[rig.version]) == linkmtu.DEFAULT_MTU
    assert rig.mtu(rig.own) == 65536


def test_what_the_administrator_says_of_a_route_counts(rig: Rig) -> None:
    rig.a.ip("route", "replace", rig.other, "dev", rig.a_dev, "src", rig.own, "mtu", "1300")
    assert rig.mtu() == 1300


def test_routes_are_asked_for_under_the_mark_of_the_senders(rig: Rig) -> None:
    option = ("-6",) if rig.version == 6 else ()
    rig.a.ip(*option, "rule", "add", "priority", "9", "fwmark", hex(MARK), "lookup", "77")
    rig.a.ip("route", "add", rig.other, "dev", rig.a_dev, "mtu", "1290", "table", "77")
    assert rig.mtu() == 1290


def test_own_addresses_are_known(rig: Rig) -> None:
    assert rig.is_local(rig.own)
    assert not rig.is_local(rig.other)
    assert not rig.is_local(NOWHERE[rig.version])
    if rig.version == 6:
        assert rig.is_local("::1")
        rig.a.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        rig.a.ip("addr", "add", "2001:db8:5::1/64", "dev", rig.a_dev, "nodad")
        assert rig.is_local("2001:db8:5::"), "anybody's at this router"


def test_what_the_kernel_learned_from_icmp_does_not(rig: Rig) -> None:
    sender = in_host(rig.a, lambda: socket.socket(family(rig.own), socket.SOCK_DGRAM))
    sender.bind((rig.own, 0))
    sender.connect((rig.other, 9))
    rig.b.ip("route", "replace", rig.own, "dev", rig.b_dev, "src", rig.other)
    sender.send(b"x")
    said = struct.pack(">HHHH", sender.getsockname()[1], 9, 9, 0) + b"x"
    if rig.version == 4:
        body = struct.pack(">BBHHH", 3, 4, 0, 0, 1300) + ipv4(rig.own, rig.other, UDP, said)
        body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        error = ipv4(rig.other, rig.own, 1, body)
    else:
        body = struct.pack(">BBHI", 2, 0, 0, 1300) + steering.ipv6(rig.own, rig.other, UDP, said)
        pseudo = packed(rig.other) + packed(rig.own) + struct.pack(">II", len(body), ICMPV6)
        body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
        error = steering.ipv6(rig.other, rig.own, ICMPV6, body)
    Wire(rig.b, rig.b_dev, rig.a, rig.a_dev).inject(error)
    assert "mtu 1300" in rig.a.ip("route", "get", rig.other)
    assert rig.mtu() == 1500


def test_what_a_router_announced_for_the_link_counts_for_ipv6(rig: Rig) -> None:
    rig.a.run("sysctl", "-qw", f"net.ipv6.conf.{rig.a_dev}.mtu=1350")
    assert rig.mtu() == {4: 1500, 6: 1350}[rig.version]


def test_a_kernel_that_does_not_answer_costs_the_default(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(19, "No such device")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    assert rig.mtu() == linkmtu.DEFAULT_MTU
