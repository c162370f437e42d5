"""The TUN device: its set-up, its refusals, its return after somebody deleted it."""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.shell import tun
from keyd.shell.tun import MTU, Tun
from pfkey.errors import ShellError
from pfkey.lab.hosts import Host, Net
from tests.support.wire import in_host

pytestmark = pytest.mark.root


@pytest.fixture
def host(net: Net) -> Host:
    return net.host("n", ipv6=True)


@pytest.fixture
def device(host: Host) -> Iterator[Tun]:
    made = Tun("pfkey0")
    in_host(host, made.open)
    in_host(host, made.start)
    yield made
    made.close()


def test_the_device_is_up_large_and_offloads(host: Host, device: Tun) -> None:
    link = host.run("ip", "-d", "link", "show", "pfkey0").stdout
    for word in (f"mtu {MTU} ", "vnet_hdr on", "persist off", "pi off", "UP", "qlen 4096"):
        assert word in link
    assert fcntl.fcntl(device.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(device.fd, fcntl.F_GETFL) & os.O_NONBLOCK


def test_redirects_and_autoconfiguration_are_off(host: Host, device: Tun) -> None:
    said = host.run("sysctl", "net.ipv4.conf.pfkey0", "net.ipv6.conf.pfkey0", check=False).stdout
    for name, value in (
        ("ipv4.conf.pfkey0.accept_redirects", 0), ("ipv4.conf.pfkey0.send_redirects", 0),
        ("ipv4.conf.pfkey0.rp_filter", 2), ("ipv4.conf.pfkey0.accept_source_route", 0),
        ("ipv6.conf.pfkey0.disable_ipv6", 0), ("ipv6.conf.pfkey0.accept_ra", 0),
        ("ipv6.conf.pfkey0.addr_gen_mode", 1), ("ipv6.conf.pfkey0.router_solicitations", 0),
        ("ipv6.conf.pfkey0.accept_redirects", 0), ("ipv6.conf.pfkey0.autoconf", 0),
        ("ipv6.conf.pfkey0.accept_source_route", -1),
    ):  # fmt: skip
        assert f"net.{name} = {value}\n" in said
    assert "inet6" not in host.run("ip", "addr", "show", "pfkey0").stdout


def test_ipv6_is_on_where_the_rest_of_the_host_has_none(net: Net) -> None:
    host = net.host("n")
    made = Tun("pfkey0")
    in_host(host, made.open)
    in_host(host, made.start)
    assert host.run("sysctl", "-n", "net.ipv6.conf.pfkey0.disable_ipv6").stdout == "0\n"
    assert in_host(host, made.ensure) == []
    host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    assert in_host(host, made.ensure) == ["pfkey0 IPv6"]
    made.close()


def test_its_address_is_never_a_source(host: Host, device: Tun) -> None:
    host.ip("addr", "add", "10.9.9.9/32", "dev", "lo")
    host.ip("route", "add", "20.1.1.1", "dev", "pfkey0")
    assert "src 10.9.9.9" in host.run("ip", "route", "get", "20.1.1.1").stdout


def test_a_deleted_device_returns_on_the_same_descriptor(host: Host, device: Tun) -> None:
    assert in_host(host, device.ensure) == []
    copy = os.dup(device.fd)
    host.ip("link", "del", "pfkey0")
    with pytest.raises(OSError, match="bad state"):
        os.read(copy, 100)
    assert in_host(host, device.ensure) == ["device pfkey0"]
    with pytest.raises(BlockingIOError):
        os.read(copy, 100)
    os.close(copy)


def test_a_renamed_device_gets_its_name_back(host: Host, device: Tun) -> None:
    host.ip("link", "set", "pfkey0", "name", "other0")
    host.ip("link", "add", "pfkey0", "type", "veth", "peer", "name", "end0")
    with pytest.raises(ShellError, match="pfkey0 is taken; stop the program that uses it, or ip"):
        in_host(host, device.ensure)
    host.ip("link", "del", "pfkey0")
    assert in_host(host, device.ensure) == ["device pfkey0"]
    assert in_host(host, device.ensure) == []
    assert "other0" not in host.run("ip", "-br", "link").stdout


def test_what_others_changed_on_it_is_put_back(host: Host, device: Tun) -> None:
    host.ip("link", "set", "pfkey0", "down", "mtu", "1500")
    host.ip("addr", "flush", "dev", "pfkey0")
    assert in_host(host, device.ensure) == ["pfkey0 up", "pfkey0 mtu 65535", "pfkey0 address"]
    assert in_host(host, device.ensure) == []


READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && "
IDLE = """
from keyd.shell.routes import event_socket
from keyd.shell.tun import Tun
device = Tun("pfkey0")
device.open()
device.start()
events = event_socket()
print(device.ensure())
try:
    print(len(events.recv(65536)))
except BlockingIOError:
    print("no event")
"""


def test_what_a_container_does_not_let_it_set_is_not_tried_for_ever(net: Net) -> None:
    """Each attempt is an event, which asks for another look."""
    words = ("unshare", "-m", "sh", "-c", READ_ONLY + 'exec "$@"', "sh", sys.executable, "-c", IDLE)
    for has_ipv6 in (True, False):
        host = net.host("six" if has_ipv6 else "four", ipv6=has_ipv6)
        assert host.run(*words).stdout.splitlines() == ["[]", "no event"]


def test_a_taken_name_is_refused_with_the_remedy(host: Host, device: Tun) -> None:
    other = Tun("pfkey0")
    with pytest.raises(ShellError, match="ip link delete pfkey0"):
        in_host(host, other.open)
    assert other.fd == -1
    assert "pfkey0" in host.run("ip", "link").stdout


def test_a_name_that_frees_itself_is_waited_for(host: Host, device: Tun) -> None:
    other = Tun("pfkey0")
    end = threading.Timer(0.1, device.close)
    end.start()
    in_host(host, lambda: other.open(5.0))
    end.join()
    other.close()


def test_a_missing_device_node_is_refused_with_the_line_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tun, "_CLONE", str(tmp_path / "tun"))
    with pytest.raises(ShellError, match="mknod /dev/net/tun c 10 200"):
        Tun("pfkey0").open()
