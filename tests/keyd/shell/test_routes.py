"""Rule and routes: made, put back, taken away, and others' left alone."""

from collections.abc import Iterator

import pytest

from keyd.shell.nft_rules import Marks
from keyd.shell.routes import Routes
from keyd.shell.tun import Tun
from pfkey.lab.hosts import Host, Net
from tests.support.wire import in_host

pytestmark = pytest.mark.root
ALL = [
    "unreachable route in table 7575", "route to pfkey0 in table 7575", "rule 75",
]  # fmt: skip


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
    looks = ("rule", "route show table all", "-o link")
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL
    assert in_host(host, lambda: routes.ensure(device.index)) == []
    assert "fwmark 0x4b000000/0xff000000 lookup 7575" in host.ip("rule")
    table = host.ip("route", "show", "table", "7575")
    assert "default dev pfkey0" in table
    assert "unreachable default" in table
    in_host(host, routes.remove)
    said = "".join(host.ip(*look.split()) for look in looks)
    assert "75" not in said
    assert "pfkey0" not in said
    in_host(host, routes.remove)


def test_when_the_device_dies_only_the_unreachable_route_is_left(host: Host, device: Tun) -> None:
    routes = Routes("pfkey0", Marks())
    in_host(host, lambda: routes.ensure(device.index))
    device.close()
    assert host.ip("route", "show", "table", "7575").split()[:2] == ["unreachable", "default"]
    assert "from all fwmark" in host.ip("rule")


def test_each_missing_piece_is_put_back_alone(host: Host, device: Tun) -> None:
    routes = Routes("pfkey0", Marks(0xFF00))
    in_host(host, lambda: routes.ensure(device.index))
    for hand, piece in (
        ("route del unreachable default table 7575 metric 9999", ALL[0]),
        ("route del default dev pfkey0 table 7575", ALL[1]),
        ("rule del priority 75", ALL[2]),
    ):
        host.ip(*hand.split())
        assert in_host(host, lambda: routes.ensure(device.index)) == [piece]


def test_rules_and_routes_of_others_stay(host: Host, device: Tun) -> None:
    host.ip("rule", "add", "priority", "75", "fwmark", "1", "lookup", "7575")
    host.ip("route", "add", "192.0.2.0/24", "dev", "lo", "table", "7575")
    routes = Routes("pfkey0", Marks())
    assert in_host(host, lambda: routes.ensure(device.index)) == ALL
    in_host(host, routes.remove)
    assert "fwmark 0x1 lookup 7575" in host.ip("rule")
    assert "192.0.2.0/24 dev lo" in host.ip("route", "show", "table", "7575")
