"""Hosts without IPv6, or without it where it is needed: IPv4 works, and nothing is silent."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.support import withoutipv6
from tests.support.sites import join_both, side
from tests.support.steering import ESP
from tests.support.system import (
    A6,
    AUTHENTIC_KEYS,
    B6,
    BIN,
    ENDS,
    A,
    B,
    Daemon,
    over,
    require,
    until,
)
from tests.support.wire import Tap, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

WITHOUT = (sys.executable, withoutipv6.__file__)
# as many containers have it
READ_ONLY = (
    "unshare", "--mount", "--propagation", "private", "sh", "-c",
    'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"', "sh",
)  # fmt: skip


class Wrapped(Daemon):
    """pfkeyd behind another program."""

    def __init__(self, host: Host, tmp: Path, wrapper: tuple[str, ...], *options: str) -> None:
        self._wrapper = wrapper
        super().__init__(host, tmp, *options)

    def command(self) -> tuple[str, ...]:
        return (*self._wrapper, *super().command())


def doctor(host: Host, *wrapper: str) -> dict[str, object]:
    """What `pfkey doctor` says of IPv6."""
    done = host.run(*wrapper, str(BIN / "pfkey"), "doctor", "--json", check=False)
    (found,) = (f for f in json.loads(done.stdout)["findings"] if f["name"] == "ipv6")
    assert isinstance(found, dict)
    return found


def ping(host: Host, address: str) -> bool:
    return host.run("ping", "-c1", "-W0.5", address, check=False).returncode == 0


def test_a_kernel_without_ipv6_protects_ipv4(net: Net, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    _, b_dev = net.link(a, f"{A}/32", b, f"{B}/32")
    found = doctor(a, *WITHOUT)
    assert found["ok"]
    assert "none" in str(found["seen"])
    da, db = Wrapped(a, tmp_path, WITHOUT), Daemon(b, tmp_path)
    da.setkey(AUTHENTIC_KEYS + require(A, B))
    db.setkey(AUTHENTIC_KEYS + require(B, A))
    with Tap(b, b_dev) as tap:
        assert ping(a, B)
    assert set(tap.protocols(A, B)) == {ESP}
    assert "warning" not in da.log
    assert a.ip("-6", "rule").count("7575") == 0
    # what IPv6 would carry has no way, and says so
    da.setkey("spdflush;" + over(6, AUTHENTIC_KEYS) + f"""
spdadd {A} {B} any -P out ipsec esp/tunnel/{A6}-{B6}/require;
""")  # fmt: skip
    assert not ping(a, B)
    assert da.counter("ipsec", "out_noroute") >= 1
    assert da.counter("pfkey", "internal") == 0
    da.stop()
    assert "pfkey0" not in a.ip("link")


def test_ipv6_switched_off_here_is_no_fault(net: Net, tmp_path: Path) -> None:
    a = net.host("a")
    found = doctor(a)
    assert found["ok"]
    assert "off on every device" in str(found["seen"])
    daemon = Daemon(a, tmp_path)
    daemon.setkey(over(6, AUTHENTIC_KEYS + require(A, B)))
    assert "warning" not in daemon.log
    daemon.stop()


def test_a_tun_that_cannot_have_ipv6_is_told_of_and_what_is_protected_is_dropped(
    net: Net, tmp_path: Path
) -> None:
    """New devices come without IPv6, and /proc/sys is read-only: until somebody mends it."""
    a, b = net.host("a", ipv6=True), net.host("b", ipv6=True)
    join_both(net, a, side(ENDS, 0), b, side(ENDS, 1))
    a.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    found = doctor(a, *READ_ONLY)
    assert not found["ok"]
    assert "read-only" in str(found["seen"])
    checked = a.run(*READ_ONLY, str(BIN / "pfkeyd"), "-n")
    assert "ipv6: on tob, but pfkey0 cannot have it" in checked.stderr
    da, db = Wrapped(a, tmp_path, READ_ONLY), Daemon(b, tmp_path)
    assert "warning ipv6: on tob, but pfkey0 cannot have it" in da.log
    for version in (4, 6):
        da.setkey(over(version, AUTHENTIC_KEYS + require(A, B)))
        db.setkey(over(version, AUTHENTIC_KEYS + require(B, A)))
    sender = udp_listener(a, A6, 0)
    with Tap(b, "toa") as tap:
        assert ping(a, B)
        assert not ping(a, B6)
        for _ in range(3):
            with contextlib.suppress(OSError):
                sender.sendto(b"x", (B6, 9))
    assert set(tap.protocols(A, B)) == {ESP}
    assert tap.protocols(A6, B6) == {}
    found = doctor(a)
    assert "off on pfkey0" in str(found["seen"])
    subprocess.run([*a.enter, *str(found["remedy"]).split()], check=True, capture_output=True)
    with Tap(b, "toa") as tap:
        until(lambda: ping(a, B6), 10, "the remedy helps at once")
    assert set(tap.protocols(A6, B6)) == {ESP}
    assert doctor(a)["ok"]
