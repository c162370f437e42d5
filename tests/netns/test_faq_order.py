"""The FAQ's "Interaction with NPF" and "Processing order", with nftables as the packet filter.

A filter sees the wire's format: before IPsec inbound, after it outbound. What was inside passes
the filter again, on pfkey0, as the FAQ says of tunnel devices.
"""

import json
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from pfkey.lab.traffic import ping
from tests.support.system import AUTHENTIC_KEYS, A, B, Daemon, nft, require
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

PINGS = 2
AH_KEYS = f"""
add {A} {B} ah 24500 -A hmac-sha1 0x{"11" * 20};
add {B} {A} ah 24501 -A hmac-sha1 0x{"22" * 20};
"""
WATCH = """
table inet watch {{
    chain inbound {{
        type filter hook input priority filter
        iifname {dev} meta l4proto esp counter comment "wire in esp"
        iifname {dev} meta l4proto ah counter comment "wire in ah"
        iifname {dev} meta l4proto icmp counter comment "wire in icmp"
        iifname pfkey0 meta l4proto esp counter comment "pfkey0 in esp"
        iifname pfkey0 meta l4proto ah counter comment "pfkey0 in ah"
        iifname pfkey0 meta l4proto icmp counter comment "pfkey0 in icmp"
    }}
    chain outbound {{
        type filter hook postrouting priority filter
        oifname {dev} meta l4proto esp counter comment "wire out esp"
        oifname {dev} meta l4proto ah counter comment "wire out ah"
        oifname {dev} meta l4proto icmp counter comment "wire out icmp"
        oifname pfkey0 meta l4proto esp counter comment "pfkey0 out esp"
        oifname pfkey0 meta l4proto ah counter comment "pfkey0 out ah"
        oifname pfkey0 meta l4proto icmp counter comment "pfkey0 out icmp"
    }}
}}
"""


class Two:
    """Two hosts that protect everything between them, both under `require`."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a"), net.host("b")
        self.a_dev, self.b_dev = net.link(self.a, f"{A}/32", self.b, f"{B}/32")
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)
        self.da.setkey(AUTHENTIC_KEYS + require(A, B))
        self.db.setkey(AUTHENTIC_KEYS + require(B, A))

    def answered(self) -> int:
        return ping(self.a, B, PINGS).received


@pytest.fixture
def two(net: Net, tmp_path: Path) -> Two:
    return Two(net, tmp_path)


def seen(host: Host) -> dict[str, int]:
    """How many packets each rule of WATCH saw, those that saw none left out."""
    rules = json.loads(host.run("nft", "-j", "list", "table", "inet", "watch").stdout)["nftables"]
    counted = {}
    for rule in (item["rule"] for item in rules if "rule" in item):
        packets = next(e["counter"]["packets"] for e in rule["expr"] if "counter" in e)
        if packets:
            counted[rule["comment"]] = packets
    return counted


@pytest.mark.parametrize("proto", ["esp", "ah"])
def test_a_filter_sees_what_is_sealed_on_the_wire_and_the_inner_packet_on_pfkey0(
    two: Two, proto: str
) -> None:
    for daemon, own, other in ((two.da, A, B), (two.db, B, A)):
        daemon.setkey("spdflush;" + AH_KEYS + require(own, other).replace("esp/", f"{proto}/"))
    nft(two.a, WATCH.format(dev=two.a_dev))
    nft(two.b, WATCH.format(dev=two.b_dev))
    assert two.answered() == PINGS
    each_side = dict.fromkeys(
        (f"wire in {proto}", "pfkey0 in icmp", "pfkey0 out icmp", f"wire out {proto}"), PINGS
    )
    assert seen(two.a) == each_side
    assert seen(two.b) == each_side


@pytest.mark.parametrize("hook", ["input", "postrouting"])
def test_dropping_protocol_50_on_the_real_device_cuts_the_tunnel(two: Two, hook: str) -> None:
    assert two.answered() == PINGS
    side = "iifname" if hook == "input" else "oifname"
    nft(
        two.b,
        f"table inet cut {{ chain c {{ type filter hook {hook} priority filter;"
        f" {side} {two.b_dev} meta l4proto esp drop; }}; }}",
    )
    with Tap(two.a, two.a_dev) as tap:
        opened = two.db.counter("esp", "ibytes")
        assert two.answered() == 0
    # a filter that drops on input keeps them from IPsec; one on output has what IPsec made
    assert (two.db.counter("esp", "ibytes") == opened) == (hook == "input")
    assert tap.protocols(B, A) == {}  # and nothing goes out in clear instead
    nft(two.b, "delete table inet cut")
    assert two.answered() == PINGS


def test_a_filter_on_the_real_device_cannot_drop_what_is_inside(two: Two) -> None:
    nft(
        two.b,
        "table inet cut { chain c { type filter hook input priority filter;"
        f" iifname {two.b_dev} meta l4proto icmp drop; }}; }}",
    )
    assert two.answered() == PINGS


def test_a_filter_on_pfkey0_drops_the_inner_packet_after_it_was_opened(two: Two) -> None:
    nft(
        two.b,
        "table inet cut { chain c { type filter hook input priority filter;"
        " iifname pfkey0 meta l4proto icmp drop; }; }",
    )
    opened = two.db.counter("esp", "input")
    assert two.answered() == 0
    assert two.db.counter("esp", "input") == opened + PINGS
    assert two.db.counter("ipsec", "in_polvio") == 0
