"""ESP in UDP (RFC 3948) through a real NAT: keys by hand, an IKE daemon's port, peers that move.

a 10.1.1.1 ── 10.1.1.254 n 20.1.1.254 ── 20.1.1.1 b; n masquerades, b knows a as n.
"""

import contextlib
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation

from pfkey.blocking import Client
from pfkey.const import ExtType, MsgType, OpenbsdFlag, SaState, SaType
from pfkey.dialect import OPENBSD
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_x_natt import NatTPort
from pfkey.lab.hosts import Net
from pfkey.message import Message
from tests.netns.test_conversation import MEGABYTE, Two, transfer
from tests.support.system import A6, B6, A, B, Daemon, over, until
from tests.support.wire import Tap, drain, in_host, raw_sender, udp_listener
from tests.support.wire import ipv4 as packet
from tests.support.wire import udp as datagram

pytestmark = [pytest.mark.root, pytest.mark.slow]

N, N_INSIDE = "20.1.1.254", "10.1.1.254"
KEY, MAC = "hogehogehogehoge", "0123456789abcdef0123456789abcdef"
NAT = """
table ip nat {{
    chain out {{
        type nat hook postrouting priority 100;
        oifname "tob" udp sport 4500 masquerade to :{port}
        oifname "tob" masquerade
    }}
    # as such routers do: what comes unasked must not take the port that a's flow is to have
    chain in {{
        type filter hook input priority 0
        iifname "tob" udp dport 4500-6000 ct state new drop
    }}
}}
"""
MODES = ("transport", "tunnel")


def keys(src: str, dst: str, spi: int, sport: int = 4500, dport: int = 4500) -> str:
    return (
        f'add {src}[{sport}] {dst}[{dport}] esp-udp {spi} -r 64 -E aes-cbc "{KEY}"'
        f' -A hmac-sha2-256 "{MAC}";\n'
    )


def policies(own: str, other: str, mode: str, inner: tuple[str, str] | None = None) -> str:
    """Both directions; `inner` are the addresses inside of a tunnel."""
    way, back = (f"{own}-{other}", f"{other}-{own}") if mode == "tunnel" else ("", "")
    here, there = inner or (own, other)
    return f"""
spdadd {here} {there} any -P out ipsec esp/{mode}/{way}/require;
spdadd {there} {here} any -P in ipsec esp/{mode}/{back}/require;
"""


class Natted:
    """Hosts a and b with a pfkeyd each, and between them a NAT that knows nothing of IPsec."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.n, self.b = (net.host(name) for name in "anb")
        self.a_dev, _ = net.link(self.a, f"{A}/24", self.n, f"{N_INSIDE}/24")
        _, self.b_dev = net.link(self.n, f"{N}/24", self.b, f"{B}/24")
        self.a.ip("route", "add", "default", "via", N_INSIDE)
        self.b.ip("route", "add", "default", "via", N)
        self.n.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._port = 0
        self.da, self.db = Daemon(self.a, tmp), Daemon(self.b, tmp)
        self.again()

    def again(self) -> None:
        """As at the start, for another test."""
        for daemon in (self.da, self.db):
            daemon.setkey("flush; spdflush;")
        self.b.run("nft", "delete", "table", "inet", "filter", check=False)
        self.n.ip("link", "set", "tob", "mtu", "1500")
        if self._port != 4500:
            self.map_to(4500)
        until(lambda: self.b.run("ping", "-c1", "-W1", N, check=False).returncode == 0)
        self._before = {daemon: self._rows(daemon) for daemon in (self.da, self.db)}

    def _rows(self, daemon: Daemon) -> dict[str, dict[str, int]]:
        rows: dict[str, dict[str, int]] = daemon.control("counters")["counters"]
        return rows

    def count(self, daemon: Daemon, group: str, name: str) -> int:
        """By how much a counter has grown since."""
        return daemon.counter(group, name) - self._before[daemon][group][name]

    def map_to(self, port: int) -> None:
        """From now on a's port 4500 shows as this one."""
        self._port = port
        self.n.run("nft", "flush", "ruleset")
        self.n.run("nft", "-f", "-", stdin=NAT.format(port=port))
        for state in ("down", "up"):  # what was masqueraded there is forgotten
            self.n.ip("link", "set", "tob", state)

    def load(self, mode: str) -> None:
        """Keys by hand. In a tunnel, b speaks to a's own address."""
        inner = (B, A) if mode == "tunnel" else None
        self.da.setkey(keys(A, B, 1000) + keys(B, A, 1001) + policies(A, B, mode))
        self.db.setkey(keys(N, B, 1000) + keys(B, N, 1001) + policies(B, N, mode, inner))

    def ping(self, *options: str, to: str = B) -> bool:
        argv = ("ping", "-c2", "-i0.1", "-W1", *options, to)
        return self.a.run(*argv, check=False).returncode == 0


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Natted]:
    with Net() as net:
        yield Natted(net, tmp_path_factory.mktemp("natted"))


@pytest.fixture
def natted(hosts: Natted) -> Natted:
    hosts.again()
    return hosts


def has_come(listener: socket.socket, datagram: bytes) -> bool:
    return drain(listener) == [datagram]


def is_keepalive(octets: bytes) -> bool:
    """One octet in UDP; what follows pads Ethernet's shortest frame."""
    return struct.unpack_from(">HHH", octets, 20) == (4500, 4500, 9) and octets[28] == 0xFF


@contextlib.contextmanager
def only_esp_in_udp(natted: Natted) -> Iterator[Tap]:
    """What b's wire shows is UDP between the NAT and b, at these ports, and no IKE."""
    with Tap(natted.b, natted.b_dev) as tap:
        yield tap
    for octets in tap.packets:
        assert octets[9] == 17
        assert {socket.inet_ntoa(octets[12:16]), socket.inet_ntoa(octets[16:20])} == {N, B}
        if not struct.unpack_from(">H", octets, 6)[0] & 0x1FFF:
            assert struct.unpack_from(">HH", octets, 20) == (4500, 4500)
            assert any(octets[28:32])


def place(exttype: ExtType, address: str) -> Address:
    return Address(exttype=exttype, address=socket.inet_aton(address), prefixlen=32)


def openbsd_sa(src: str, dst: str, spi: int, port: int) -> Message:
    """ADD as iked sends it on OpenBSD after it has found a NAT; `port` is its peer's."""
    return Message(
        type=MsgType.ADD, satype=SaType.ESP, seq=spi, pid=7,
        extensions=(
            Sa(spi=spi, replay=64, auth=5, encrypt=12, state=SaState.MATURE,
               flags=int(OpenbsdFlag.UDPENCAP)),
            place(ExtType.ADDRESS_SRC, src), place(ExtType.ADDRESS_DST, dst),
            Key(exttype=ExtType.KEY_AUTH, bits=256, key=MAC.encode()),
            Key(exttype=ExtType.KEY_ENCRYPT, bits=128, key=KEY.encode()),
            NatTPort(exttype=ExtType.X_UDPENCAP, port=port),
        ),
    )  # fmt: skip


def test_a_program_of_openbsd_keys_esp_in_udp(natted: Natted) -> None:
    """Behind the NAT a speaks Linux's PF_KEY; b speaks OpenBSD's and names a's port alone."""
    natted.map_to(5001)
    natted.da.setkey(keys(A, B, 1000) + keys(B, A, 1001) + policies(A, B, "transport"))
    with Client(natted.db.socket, dialect="openbsd") as client:
        for src, dst, spi in ((N, B, 1000), (B, N, 1001)):
            request = openbsd_sa(src, dst, spi, 5001)
            (record,) = client.request(request).records
            reply = Message.decode(record, OPENBSD)
            assert reply.errno == 0
            assert reply.ext(ExtType.X_UDPENCAP) == request.extensions[-1]
    shown = natted.db.setkey("", "-D")
    assert f"{N}[5001] {B}[4500]" in shown
    assert f"{B}[4500] {N}[5001]" in shown
    natted.db.setkey(policies(B, N, "transport"))
    with Tap(natted.a, natted.a_dev) as near, Tap(natted.b, natted.b_dev) as far:
        assert natted.ping()
        assert natted.ping("-s", "3000")
    for tap, ports in ((far, (5001, 4500)), (near, (4500, 4500))):  # what comes in, there
        heads = [octets for octets in tap.packets if not octets[6] & 0x1F | octets[7]]
        assert {struct.unpack_from(">HH", octets, 20) for octets in heads} == {ports}
    assert natted.count(natted.db, "pfkey", "natt_moved") == 0, "the port was known"


@pytest.mark.parametrize("mode", MODES)
def test_everything_passes_a_nat(natted: Natted, mode: str) -> None:
    natted.load(mode)
    peer = N if mode == "transport" else A
    with only_esp_in_udp(natted) as tap:
        assert natted.ping()
        for size in ("1400", "1472", "3000", "20000"):
            assert natted.ping("-s", size), size
        listener, sender = udp_listener(natted.b, B, 0), udp_listener(natted.a, A, 0)
        for octets in (0, 1, 1000, 5000, 60000):
            sender.sendto(bytes(octets), listener.getsockname())
            until(partial(has_come, listener, bytes(octets)), what=f"{octets} octets")
        pattern = b"payload-pattern-" * (MEGABYTE // 16)
        assert transfer(natted.a, natted.b, B, MEGABYTE) == pattern
    seen = IP(tap.packets[0])
    sa = SecurityAssociation(
        ESP, spi=1000, crypt_algo="AES-CBC", crypt_key=KEY.encode(), auth_algo="SHA2-256-128",
        auth_key=MAC.encode(), nat_t_header=UDP(sport=4500, dport=4500),
        tunnel_header=IP(src=N, dst=B) if mode == "tunnel" else None,
    )  # fmt: skip
    inside = sa.decrypt(seen)
    assert (inside.src, inside.dst) == (A if mode == "tunnel" else N, B)
    for daemon in (natted.da, natted.db):
        for group, name in (("pfkey", "internal"), ("ipsec", "in_polvio"), ("esp", "badauth"),
                            ("esp", "pdrops"), ("pfkey", "natt_moved")):  # fmt: skip
            assert natted.count(daemon, group, name) == 0, (group, name)
    shown = natted.db.setkey("", "-D")
    assert f"{N}[4500] {B}[4500] \n\tesp-udp mode=" in shown
    assert peer in natted.db.setkey("", "-DP")


def test_an_ike_daemon_keeps_its_port_under_an_operators_filter(natted: Natted) -> None:
    """It sees IKE alone; ESP in UDP goes by it, and a keepalive too."""
    rules = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        udp dport 4500 accept
        iifname "pfkey0" accept
    }
}
"""
    natted.b.run("nft", "-f", "-", stdin=rules)
    daemon, peer = udp_listener(natted.b, B, 4500), udp_listener(natted.a, A, 4500)
    natted.load("transport")
    # IKE is the daemon's: its own policies let it by
    for one, (own, other) in ((natted.da, (A, B)), (natted.db, (B, N))):
        one.setkey(
            f"spdflush; spdadd {own}[4500] {other}[4500] udp -P out none;"
            f"spdadd {other}[4500] {own}[4500] udp -P in none;" + policies(own, other, "transport")
        )
    assert natted.ping()
    peer.sendto(b"\0\0\0\0IKE", (B, 4500))
    until(lambda: drain(daemon) == [b"\0\0\0\0IKE"], what="IKE arrives")
    before = natted.count(natted.db, "pfkey", "natt_keepalives_in")
    peer.sendto(b"\xff", (B, 4500))
    until(lambda: natted.count(natted.db, "pfkey", "natt_keepalives_in") == before + 1)
    daemon.sendto(b"\0\0\0\0back", (N, 4500))
    until(lambda: drain(peer) == [b"\0\0\0\0back"], what="and back")
    assert natted.ping("-s", "3000")
    assert drain(daemon) == []
    assert drain(peer) == []


def test_without_such_sas_the_port_is_anybodys(natted: Natted) -> None:
    daemon, peer = udp_listener(natted.b, B, 4500), udp_listener(natted.a, A, 4500)
    peer.sendto(b"\1\2\3\4 no IKE", (B, 4500))
    until(lambda: drain(daemon) == [b"\1\2\3\4 no IKE"], what="it arrives")
    natted.load("transport")
    natted.db.setkey("flush; spdflush;")
    natted.da.setkey("flush; spdflush;")
    peer.sendto(b"\1\2\3\4 again", (B, 4500))
    until(lambda: drain(daemon) == [b"\1\2\3\4 again"], what="and again")


def test_keepalives_go_where_nothing_else_does(natted: Natted) -> None:
    natted.load("transport")
    before = natted.count(natted.db, "pfkey", "natt_keepalives_in")
    with Tap(natted.b, natted.b_dev) as tap:
        until(lambda: any(map(is_keepalive, tap.between(N, B))), 40, "a keepalive")
    until(lambda: natted.count(natted.db, "pfkey", "natt_keepalives_in") > before)
    assert natted.count(natted.db, "ipsec", "in_polvio") == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_mapping_that_changes_is_followed_and_told(natted: Natted, mode: str) -> None:
    natted.load(mode)
    assert natted.ping()
    monitor = in_host(natted.b, partial(socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET))
    monitor.connect(str(natted.db.socket))
    monitor.settimeout(5)
    monitor.send(Message(type=MsgType.REGISTER, satype=SaType.ESP, seq=1, pid=1).encode())
    monitor.recv(65536)
    natted.map_to(6000)
    until(natted.ping, 10, "answers find the new mapping")
    notice = Message.decode(monitor.recv(65536))
    assert notice.type == MsgType.X_NAT_T_NEW_MAPPING
    assert notice.sa is not None
    assert notice.sa.spi == 1000
    assert notice.nat_t_sport is not None
    assert notice.nat_t_dport is not None
    assert (notice.nat_t_sport.port, notice.nat_t_dport.port) == (4500, 6000)
    new = notice.ext(ExtType.ADDRESS_DST)
    assert getattr(new, "address", b"") == socket.inet_aton(N)
    assert natted.count(natted.db, "pfkey", "natt_moved") == 1
    shown = natted.db.setkey("", "-D")
    assert f"{N}[6000] {B}[4500]" in shown
    assert f"{B}[4500] {N}[6000]" in shown
    assert transfer(natted.a, natted.b, B, MEGABYTE)


SPOIL = """
table ip spoil {
    chain c {
    type filter hook postrouting priority 400
    udp sport 4500 udp checksum set 0x1234
    udp dport 4500 udp checksum set 0x1234
    }
}
"""


def test_a_wrong_udp_checksum_costs_nothing_where_an_icv_vouches(natted: Natted) -> None:
    """Zero is what we send over IPv4; a router in between may have made anything of it."""
    natted.load("transport")
    assert natted.ping()
    natted.n.run("nft", "-f", "-", stdin=SPOIL)
    try:
        with Tap(natted.b, natted.b_dev) as tap:
            assert natted.ping()
            sums = {octets[26:28] for octets in tap.between(N, B) if octets[9] == 17}
    finally:
        natted.n.run("nft", "delete", "table", "ip", "spoil")
    assert sums == {b"\x12\x34"}
    assert natted.count(natted.db, "pfkey", "natt_alien") == 0


def test_a_forged_datagram_moves_nothing(natted: Natted) -> None:
    natted.load("transport")
    assert natted.ping()
    sender = raw_sender(natted.n)
    for payload in (struct.pack(">II", 1000, 1 << 31) + bytes(64), b"\xff", bytes(4) + b"IKE"):
        octets = datagram(N, B, 7777, 4500, payload)
        sender.sendto(packet(N, B, 17, octets), (B, 0))
    until(lambda: natted.count(natted.db, "esp", "badauth") == 1, what="the forged one is counted")
    assert natted.ping()
    assert natted.count(natted.db, "pfkey", "natt_moved") == 0


def test_tcp_adapts_at_once_to_a_small_link_behind_the_nat(natted: Natted) -> None:
    natted.load("transport")
    natted.n.ip("link", "set", "tob", "mtu", "1300")
    with Tap(natted.b, natted.b_dev) as tap:
        assert len(transfer(natted.a, natted.b, B, MEGABYTE)) == MEGABYTE
    assert natted.count(natted.da, "pfkey", "icmp_accepted") >= 1
    assert max(len(p) for p in tap.packets if p[16:20] == socket.inet_aton(B)) <= 1300


@pytest.mark.parametrize("mode", MODES)
def test_ipv6_goes_in_udp_as_well(net: Net, tmp_path: Path, mode: str) -> None:
    two = Two(net, tmp_path, 6)
    both = keys(A, B, 1000) + keys(B, A, 1001)
    two.load(both + policies(A, B, mode), both + policies(B, A, mode))
    with Tap(two.b, two.b_dev) as tap:
        for size in ("56", "1400", "3000", "20000"):
            assert two.ping("-s", size), size
        assert len(transfer(two.a, two.b, B6, MEGABYTE)) == MEGABYTE
    assert set(tap.protocols(A6, B6)) <= {17, 44}
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == daemon.counter("ipsec", "in_polvio") == 0
    assert over(6, f"{A}[4500] {B}[4500]") in two.db.setkey("", "-D")
