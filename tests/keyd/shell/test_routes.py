"""Rule and routes: made, put back, taken away, and others' left alone."""

from collections.abc import Iterator
from ipaddress import ip_address

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


def test_own_addresses_are_the_hosts_and_not_the_devices(host: Host, device: Tun) -> None:
    host.ip("addr", "add", "10.1.1.1/24", "dev", "lo")
    host.ip("addr", "add", "10.1.1.1/32", "dev", "pfkey0")
    found = in_host(host, Routes("pfkey0", Marks()).own_addresses)
    assert {len(one) for one in found} <= {4, 16}
    assert {str(ip_address(one)) for one in found if len(one) == 4} == {"10.1.1.1", "127.0.0.1"}


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
    monkeypatch.setattr(routes_module, "has_ipv6", lambda: False)
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


def test_ipv6_multicast_is_not_led_to_the_device(host: Host, device: Tun) -> None:
    """The kernel's route for it, and those of other devices, which stay."""
    host.ip("link", "add", "name", "v0", "type", "veth", "peer", "name", "v1")
    for end in ("v1", "v0"):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{end}.disable_ipv6=0")
        host.ip("link", "set", end, "up")
    routes = Routes("pfkey0", Marks())
    in_host(host, lambda: routes.ensure(device.index))
    assert host.ip("-6", "route", "show", "table", "local", "dev", "pfkey0") == ""
    assert "ff00::/8" in host.ip("-6", "route", "show", "table", "local", "dev", "v0")
    assert "pfkey0" not in host.ip("route", "get", "ff05::9")


def test_rules_and_routes_of_others_stay(host: Host, device: Tun) -> None:
    host.ip("rule", "add", "priority", "75", "fwmark", "1", "lookup", "7575")
    host.ip("route", "add", "192.0.2.0/24", "dev", "lo", "table", "7575")
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL
    in_host(host, routes.remove)
    assert "fwmark 0x1 lookup 7575" in host.ip("rule")
    assert "192.0.2.0/24 dev lo" in host.ip("route", "show", "table", "7575")
