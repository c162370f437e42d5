"""Tunnels: a leaf behind its router (everything through the tunnel), and two gateways.

leaf 10.0.1.5 ── 10.0.1.1 router 30.1.1.1 ── 30.1.1.9 far
"""

import socket
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

from pfkey.lab.hosts import Net
from tests.support.system import Daemon, until
from tests.support.wire import Tap, drain, in_host, ipv4, raw_sender, udp

pytestmark = [pytest.mark.root, pytest.mark.slow]

LEAF, ROUTER, FAR = "10.0.1.5", "10.0.1.1", "30.1.1.9"
KEY = "rijndaeltest.001"
MAC = "0123456789abcdef0123456789abcdef"


def keys(one: str, other: str) -> str:
    """Both directions, as in the FAQ but with an authenticator."""
    return f"""
add {one} {other} esp 14245 -r 32 -E aes-cbc "{KEY}" -A hmac-sha2-256 "{MAC}";
add {other} {one} esp 14246 -r 32 -E aes-cbc "{KEY}" -A hmac-sha2-256 "{MAC}";
"""


def tunnel(own: str, other: str, near: str, far: str, proto: str = "esp") -> str:
    return f"""
spdadd {own} {other} any -P out ipsec {proto}/tunnel/{near}-{far}/require;
spdadd {other} {own} any -P in ipsec {proto}/tunnel/{far}-{near}/require;
"""


class LeafNet:
    """The FAQ's leaf node and its router, and somebody far who knows nothing of it."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.leaf, self.router, self.far = net.host("l"), net.host("r"), net.host("f")
        self.leaf_dev, self.router_dev = net.link(
            self.leaf, f"{LEAF}/32", self.router, f"{ROUTER}/32"
        )
        _, self.far_dev = net.link(self.router, "30.1.1.1/32", self.far, f"{FAR}/32")
        self.leaf.ip("route", "add", "default", "via", ROUTER, "dev", self.leaf_dev, "src", LEAF)
        self.far.ip("route", "add", "default", "via", "30.1.1.1", "dev", self.far_dev, "src", FAR)
        self.router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.dl, self.dr = Daemon(self.leaf, tmp), Daemon(self.router, tmp)

    def load(self) -> None:
        self.dl.setkey(keys(LEAF, ROUTER) + tunnel(f"{LEAF}/32", "0.0.0.0/0", LEAF, ROUTER))
        self.dr.setkey(keys(LEAF, ROUTER) + tunnel("0.0.0.0/0", f"{LEAF}/32", ROUTER, LEAF))

    def ping(self, address: str, *options: str) -> bool:
        argv = ("ping", "-c2", "-i0.1", "-W1", *options, address)
        return self.leaf.run(*argv, check=False).returncode == 0


@pytest.fixture
def leaf(net: Net, tmp_path: Path) -> LeafNet:
    return LeafNet(net, tmp_path)


def sa(src: str, dst: str, spi: int = 14245) -> SecurityAssociation:
    """The same SA as scapy sees it."""
    return SecurityAssociation(
        ESP, spi=spi, crypt_algo="AES-CBC", crypt_key=KEY.encode(), auth_algo="SHA2-256-128",
        auth_key=MAC.encode(), tunnel_header=IP(src=src, dst=dst),
    )  # fmt: skip


def test_a_leaf_reaches_its_router_through_the_tunnel_between_them(leaf: LeafNet) -> None:
    leaf.load()
    with Tap(leaf.router, leaf.router_dev) as tap:
        assert leaf.ping(ROUTER)
        for size in ("1400", "3000", "20000"):
            assert leaf.ping(ROUTER, "-s", size), size
        assert leaf.ping(ROUTER, "-s", "1400", "-M", "do")
    assert set(tap.protocols(LEAF, ROUTER)) == {50}
    assert max(map(len, tap.packets)) <= 1500
    inner = sa(LEAF, ROUTER).decrypt(IP(tap.packets[0]))
    assert (inner.src, inner.dst, inner.proto) == (LEAF, ROUTER, 1)
    outer = IP(tap.packets[0])
    assert (outer.ttl, outer.flags.DF, outer.tos) == (64, inner.flags.DF, inner.tos)
    assert leaf.dr.counter("esp", "pdrops") == leaf.dr.counter("pfkey", "spoofed") == 0


def test_clear_packets_are_refused_at_both_ends(leaf: LeafNet) -> None:
    leaf.load()
    leaf.dl.setkey("spdflush;")
    assert not leaf.ping(FAR)
    assert leaf.dr.counter("ipsec", "in_polvio") >= 2


def test_a_wrong_key_gets_nothing_through(leaf: LeafNet) -> None:
    leaf.load()
    leaf.dl.setkey("flush;" + keys(LEAF, ROUTER).replace(MAC, MAC[::-1]))
    assert not leaf.ping(FAR)
    assert leaf.dr.counter("esp", "badauth") >= 2


@pytest.mark.parametrize(
    ("src", "dst", "counter"),
    [
        ("30.1.1.9", "30.1.1.1", ("esp", "pdrops")),
        (ROUTER, ROUTER, ("pfkey", "spoofed")),
        ("127.0.0.1", ROUTER, ("pfkey", "spoofed")),
        ("169.254.1.1", ROUTER, ("pfkey", "spoofed")),
    ],
)
def test_what_no_policy_names_does_not_come_out_of_a_tunnel(
    leaf: LeafNet, src: str, dst: str, counter: tuple[str, str]
) -> None:
    """The peer has the keys and yet may not speak for others."""
    leaf.dr.setkey(keys(LEAF, ROUTER) + tunnel("0.0.0.0/0", f"{LEAF}/32", ROUTER, LEAF))
    inner = IP(ipv4(src, dst, 17, udp(src, dst, 5, 4000, b"x")))
    sealed = sa(LEAF, ROUTER).encrypt(inner, seq_num=1)
    listener = in_host(leaf.router, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    listener.bind(("0.0.0.0", 4000))  # noqa: S104
    raw_sender(leaf.leaf).sendto(bytes(sealed), (ROUTER, 0))
    until(lambda: leaf.dr.counter(*counter) == 1, 5, str(counter))
    listener.setblocking(False)
    assert drain(listener) == []


def test_a_transport_policy_does_not_take_tunnels(leaf: LeafNet) -> None:
    leaf.dr.setkey(
        keys(LEAF, ROUTER) + f"spdadd {LEAF} {ROUTER} any -P in ipsec esp/transport//require;"
    )
    leaf.dl.setkey(keys(LEAF, ROUTER) + tunnel(LEAF, ROUTER, LEAF, ROUTER))
    assert not leaf.ping(ROUTER)
    assert leaf.dr.counter("esp", "pdrops") >= 2


def test_use_on_a_tunnel_is_clear_without_keys(leaf: LeafNet) -> None:
    text = tunnel(f"{LEAF}/32", "0.0.0.0/0", LEAF, ROUTER).replace("require", "use")
    leaf.dl.setkey(text)
    with Tap(leaf.router, leaf.router_dev) as tap:
        assert leaf.ping(FAR)
        assert set(tap.protocols(LEAF, FAR)) == {1}
