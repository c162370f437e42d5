"""Hosts with both families: two of them, and two gateways with a host behind each."""

from pathlib import Path

from pfkey.lab.hosts import Host, Net
from tests.support.steering import join
from tests.support.system import ENDS, Daemon

KEY, MAC, AH_KEY = "rijndaeltest.001", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123"
ESP, AH = 50, 51
SPI = {(ESP, "out"): 14245, (ESP, "in"): 14246, (AH, "out"): 14247, (AH, "in"): 14248}

# hosts behind gateways, the gateways' addresses towards them, and the networks of both
BEHIND = {4: ("10.0.1.5", "10.0.2.5"), 6: ("2001:db8:a::5", "2001:db8:b::5")}
_NEAR = {4: ("10.0.1.1", "10.0.2.1"), 6: ("2001:db8:a::1", "2001:db8:b::1")}
NETWORKS = {4: ("10.0.1.0/24", "10.0.2.0/24"), 6: ("2001:db8:a::/64", "2001:db8:b::/64")}


def keys(version: int) -> str:
    """ESP and AH in both directions between the ends of a version, as the first one sees them."""
    text = ""
    for way, (src, dst) in (("out", ENDS[version]), ("in", ENDS[version][::-1])):
        text += f"""
add -{version} {src} {dst} esp {SPI[ESP, way]} -r 32 -E aes-cbc "{KEY}" -A hmac-sha2-256 "{MAC}";
add -{version} {src} {dst} ah {SPI[AH, way]} -r 32 -A hmac-sha1 "{AH_KEY}";
"""
    return text


def policies(
    version: int, ends: tuple[str, str], requests: tuple[str, str], upper: str = "any"
) -> str:
    """Out and in, as the first of `ends` sees it; the requests of either."""
    own, other = ends
    return f"""
spdadd -{version} {own} {other} {upper} -P out ipsec {requests[0]};
spdadd -{version} {other} {own} {upper} -P in ipsec {requests[1]};
"""


def join_both(net: Net, a: Host, a_ends: dict[int, str], b: Host, b_ends: dict[int, str]) -> None:
    """Join two hosts by addresses of both families; the devices are called after the other end."""
    devices = join(net, a, a_ends[6], b, b_ends[6])
    for host, device, own, other in (
        (a, devices[0], a_ends[4], b_ends[4]), (b, devices[1], b_ends[4], a_ends[4]),
    ):  # fmt: skip
        host.ip("addr", "add", f"{own}/32", "dev", device)
        host.ip("route", "add", other, "dev", device, "src", own)


def side(ends: dict[int, tuple[str, str]], number: int) -> dict[int, str]:
    """The addresses of one side, by version."""
    return {version: pair[number] for version, pair in ends.items()}


class Vpn:
    """The FAQ's virtual private network, over either family, for either family.

    h ── g ══ r ── k        a pfkeyd on g and on r; h and k know nothing of them
    """

    def __init__(self, net: Net, tmp: Path, *options: str) -> None:
        self.h, self.g, self.r, self.k = (net.host(name, ipv6=True) for name in "hgrk")
        join_both(net, self.h, side(BEHIND, 0), self.g, side(_NEAR, 0))
        join_both(net, self.k, side(BEHIND, 1), self.r, side(_NEAR, 1))
        join_both(net, self.g, side(ENDS, 0), self.r, side(ENDS, 1))
        for gateway in (self.g, self.r):
            gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for version in (4, 6):
            for n, (host, dev, gateway, out) in enumerate(
                ((self.h, "tog", self.g, "tor"), (self.k, "tor", self.r, "tog"))
            ):
                host.ip("route", "add", "default", "via", _NEAR[version][n], "dev", dev)
                far = NETWORKS[version][1 - n]
                gateway.ip("route", "add", far, "via", ENDS[version][1 - n], "dev", out)
        self.dg, self.dr = Daemon(self.g, tmp, *options), Daemon(self.r, tmp)

    def load_g(self, inside: int, outside: int, proto: str = "esp") -> None:
        """Keys and policies of g."""
        self.dg.setkey(keys(outside) + _tunnels(inside, outside, proto, 1))

    def reload_keys_g(self, outside: int) -> None:
        """Of g, the same keys anew."""
        self.dg.setkey("flush;" + keys(outside))

    def load_r(self, inside: int, outside: int, proto: str = "esp") -> None:
        """Keys and policies of r."""
        self.dr.setkey(keys(outside) + _tunnels(inside, outside, proto, -1))

    def load(self, inside: int, outside: int, proto: str = "esp") -> None:
        """Of both, and nothing else."""
        for daemon in (self.dg, self.dr):
            daemon.setkey("flush; spdflush;")
        self.load_g(inside, outside, proto)
        self.load_r(inside, outside, proto)

    def ping(self, address: str, *options: str, host: Host | None = None) -> bool:
        """Whether h, or another host, gets answers."""
        argv = ("ping", "-c2", "-i0.02", "-W1", *options, address)
        return (host or self.h).run(*argv, check=False).returncode == 0


def _tunnels(inside: int, outside: int, proto: str, order: int) -> str:
    one, other = NETWORKS[inside][::order]
    near, far = ENDS[outside][::order]
    requests = f"{proto}/tunnel/{near}-{far}/require", f"{proto}/tunnel/{far}-{near}/require"
    return policies(inside, (one, other), requests)
