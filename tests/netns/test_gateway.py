"""Forwarded traffic: hosts behind a gateway need no setting, whatever they send."""

import socket
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, transfer
from tests.netns.test_tunnel import FAR, LEAF, ROUTER, LeafNet
from tests.support.sites import BEHIND, NETWORKS, Vpn
from tests.support.system import ENDS, until
from tests.support.wire import Tap, drain, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def leaf(net: Net, tmp_path: Path) -> LeafNet:
    return LeafNet(net, tmp_path)


def test_a_leaf_reaches_the_world_through_its_router(leaf: LeafNet) -> None:
    leaf.load()
    with Tap(leaf.router, leaf.router_dev) as near, Tap(leaf.far, leaf.far_dev) as far:
        for size in ("56", "1400", "3000", "20000"):
            assert leaf.ping(FAR, "-s", size), size
    assert set(near.protocols(LEAF, ROUTER)) == {50}
    assert near.protocols(LEAF, FAR) == {}
    assert set(far.protocols(LEAF, FAR)) == {1}
    assert {packet[8] for packet in far.packets if packet[9] == 1} == {63}, "one hop"


def test_tcp_through_the_tunnel_arrives_whole_in_both_directions(leaf: LeafNet) -> None:
    leaf.load()
    octets = b"payload-pattern-" * (MEGABYTE // 16)
    with Tap(leaf.router, leaf.router_dev) as tap:
        assert transfer(leaf.leaf, leaf.far, FAR, MEGABYTE) == octets
        assert transfer(leaf.far, leaf.leaf, LEAF, MEGABYTE) == octets
    assert not [p for p in tap.packets if b"payload-pattern" in p]
    assert leaf.dl.counter("pfkey", "coalesced_segments") > 10
    for daemon in (leaf.dl, leaf.dr):
        assert daemon.counter("pfkey", "internal") == 0


def test_large_datagrams_pass_forwarded_in_both_directions(leaf: LeafNet) -> None:
    leaf.load()
    for sender, receiver, own, other in (
        (leaf.leaf, leaf.far, LEAF, FAR), (leaf.far, leaf.leaf, FAR, LEAF),
    ):  # fmt: skip
        listener, talker = udp_listener(receiver, other, 4000), udp_listener(sender, own, 0)
        got: list[bytes] = []
        for size in (1, 1000, 5000, 60000):
            talker.sendto(b"x" * size, (other, 4000))

        def arrived(got: list[bytes] = got, listener: socket.socket = listener) -> bool:
            got.extend(drain(listener))
            return len(got) == 4

        until(arrived, what="all datagrams arrive")
        assert [len(g) for g in got] == [1, 1000, 5000, 60000]


def test_a_host_behind_is_told_what_fits_the_tunnel(leaf: LeafNet) -> None:
    leaf.load()
    refused = leaf.far.run(
        "ping", "-c2", "-i0.2", "-W1", "-M", "do", "-s", "1472", LEAF, check=False
    )
    assert "mtu" in refused.stdout.lower() + refused.stderr.lower()
    assert leaf.dr.counter("pfkey", "icmp_toobig_sent") >= 1
    assert (
        leaf.far.run("ping", "-c1", "-W1", "-M", "do", "-s", "1380", LEAF, check=False).returncode
        == 0
    )


def test_a_gateways_own_errors_go_by_policies_for_its_own_address(net: Net, tmp_path: Path) -> None:
    vpn = Vpn(net, tmp_path)
    vpn.load(4, 4)
    near, far = ENDS[4]
    policy = f"spdadd {far} {NETWORKS[4][0]} any -P {{}} ipsec esp/tunnel/{far}-{near}/require;"
    vpn.dg.setkey(policy.format("in"))
    vpn.dr.setkey(policy.format("out"))
    with Tap(vpn.g, "tor") as tap:
        said = vpn.h.run("ping", "-c2", "-i0.2", "-W1", "-t2", BEHIND[4][1], check=False).stdout
    assert f"From {far} icmp_seq=1 Time to live exceeded" in said
    assert {packet[9] for packet in tap.packets if packet[0] >> 4 == 4} == {50}
