"""Rule and routes: made, put back, taken away, and others' left alone."""

import errno
import socket
from collections.abc import Iterator

import pytest

from keyd.shell import routes as routes_module
from keyd.shell.marks import Marks
from keyd.shell.routes import Routes
from keyd.shell.tun import Tun
from pfkey.lab.hosts import Host, Net
from tests.support.wire import in_host

pytestmark = pytest.mark.root
ALL = [
    f"{family} {what}"
    for family in ("IPv4", "IPv6")
    for what in ("unreachable route in table 7575", "route to pfkey0 in table 7575", "rule 75")
]


@pytest.fixture
def host(net: Net) -> Host:
    return net.host("n")


@pytest.fixture
def device(host: Host) -> Iterator[Tun]:
    made = Tun("pfkey0")
    in_host(host, made.open)
    in_host(host, made.start)
    yield made
    made.close()


def test_all_is_made_once_and_taken_away_wholly(host: Host, device: Tun) -> None:
    looks = [(family, look) for family in ("-4", "-6")
             for look in ("rule", "route show table all", "-o link")]  # fmt: skip
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL
    assert in_host(host, lambda: routes.ensure(device.index)) == []
    for family in ("-4", "-6"):
        assert "fwmark 0x4b000000/0xff000000 lookup 7575" in host.ip(family, "rule")
        table = host.ip(family, "route", "show", "table", "7575")
        assert "default dev pfkey0" in table
        assert "unreachable default" in table
    in_host(host, routes.remove)
    said = "".join(host.ip(family, *look.split()) for family, look in looks)
    assert "75" not in said
    assert "pfkey0" not in said
    in_host(host, routes.remove)


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_when_the_device_dies_only_the_unreachable_route_is_left(
    host: Host, device: Tun, family: str
) -> None:
    routes = Routes("pfkey0", Marks())
    in_host(host, lambda: routes.ensure(device.index))
    device.close()
    left = host.ip(family, "route", "show", "table", "7575").splitlines()
    assert [line.split()[:2] for line in left] == [["unreachable", "default"]]
    assert "from all fwmark" in host.ip(family, "rule")


@pytest.mark.parametrize(("family", "pieces"), [("-4", ALL[:3]), ("-6", ALL[3:])])
def test_each_missing_piece_is_put_back_alone(
    host: Host, device: Tun, family: str, pieces: list[str]
) -> None:
    routes = Routes("pfkey0", Marks(0xFF00))
    in_host(host, lambda: routes.ensure(device.index))
    hands = (
        "route del unreachable default table 7575 metric 9999",
        "route del default dev pfkey0 table 7575",
        "rule del priority 75",
    )
    for hand, piece in zip(hands, pieces, strict=True):
        host.ip(family, *hand.split())
        assert in_host(host, lambda: routes.ensure(device.index)) == [piece]


def test_a_kernel_without_ipv6_is_served(
    host: Host, device: Tun, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        AF_INET, AF_INET6, SOCK_DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_DGRAM

        def socket(self, *_: int) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(routes_module, "socket", Without())
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL[:3]
    in_host(host, routes.remove)
    assert "pfkey0" not in host.ip("-o", "link")


def test_a_device_whose_ipv6_cannot_be_switched_on_gets_the_unreachable_route_only(
    host: Host, device: Tun
) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.pfkey0.disable_ipv6=1")
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == [*ALL[:4], ALL[5]]
    assert in_host(host, lambda: routes.ensure(device.index)) == []


def test_rules_and_routes_of_others_stay(host: Host, device: Tun) -> None:
    host.ip("rule", "add", "priority", "75", "fwmark", "1", "lookup", "7575")
    host.ip("route", "add", "192.0.2.0/24", "dev", "lo", "table", "7575")
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL
    in_host(host, routes.remove)
    assert "fwmark 0x1 lookup 7575" in host.ip("rule")
    assert "192.0.2.0/24 dev lo" in host.ip("route", "show", "table", "7575")
