"""What the FAQ says beside its examples: bundles in any order, routes, silence, other protocols."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import AH as SCAPY_AH
from scapy.layers.ipsec import ESP as SCAPY_ESP
from scapy.layers.ipsec import SecurityAssociation

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.system import A, B, Daemon
from tests.support.wire import Tap, ipv4, raw_sender

pytestmark = [pytest.mark.root, pytest.mark.slow]

ICMP, ESP, AH = 1, 50, 51
AES, MAC = "hogehogehogehoge", "0123456789abcdef0123456789abcdef"


def sas(kind: str, spi: int, mode: str = "any") -> str:
    """Both directions of an SA, with the same key."""
    keys = {
        "esp": f'-E aes-cbc "{AES}" -A hmac-sha2-256 "{MAC}"',
        "ah": f'-A hmac-sha2-256 "{MAC}"',
    }
    return "".join(
        f"add {src} {dst} {kind} {spi} -m {mode} -r 32 {keys[kind]};\n"
        for src, dst in ((A, B), (B, A))
    )


def policies(own: str, other: str, steps: str, upper: str = "any") -> str:
    """Both directions; `A-B` in the steps are the ends of a tunnel."""
    back = steps.replace("A-B", f"{other}-{own}")
    return (
        f"spdadd {own} {other} {upper} -P out ipsec {steps.replace('A-B', f'{own}-{other}')};\n"
        f"spdadd {other} {own} {upper} -P in ipsec {back};\n"
    )


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        yield Two(net, tmp_path_factory.mktemp("claims"))


@pytest.fixture
def two(standing: Two) -> Iterator[Two]:
    """Two hosts, empty again after the test."""
    yield standing
    standing.load("flush; spdflush;", "flush; spdflush;")


def peeled(packet: IP, layers: list[tuple[int, int]]) -> IP:
    """What is inside, as scapy opens it: (protocol, SPI) from the outside in."""
    for proto, spi in layers:
        assert packet.proto == proto
        kind = SCAPY_ESP if proto == ESP else SCAPY_AH
        cipher = {"crypt_algo": "AES-CBC", "crypt_key": AES.encode()} if proto == ESP else {}
        inside = SecurityAssociation(
            kind, spi=spi, auth_algo="SHA2-256-128", auth_key=MAC.encode(), **cipher
        ).decrypt(packet)
        packet = IP(bytes(inside))
        if packet.proto == 4:
            packet = IP(bytes(packet.payload))
    return packet


ESP_T, AH_T = "esp/transport//require", "ah/transport//require"
BUNDLES = {
    "esp, ah around it": (f"{ESP_T} {AH_T}", [(AH, 2000), (ESP, 1000)]),
    "ah, esp around it": (f"{AH_T} {ESP_T}", [(ESP, 1000), (AH, 2000)]),
    "esp, ah, a tunnel around both": (
        f"{ESP_T} {AH_T} esp/tunnel/A-B/require", [(ESP, 3000), (AH, 2000), (ESP, 1000)],
    ),
    "a tunnel of ah, esp around it": (f"ah/tunnel/A-B/require {ESP_T}", [(ESP, 1000), (AH, 4000)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_any_combination_in_the_order_of_the_policy(two: Two, name: str) -> None:
    steps, layers = BUNDLES[name]
    keys = sas("esp", 1000, "transport") + sas("esp", 3000, "tunnel")
    keys += sas("ah", 2000, "transport") + sas("ah", 4000, "tunnel")
    two.load(keys + policies(A, B, steps), keys + policies(B, A, steps))
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        assert two.ping("-s", "3000")
    assert set(tap.protocols(A, B)) == {layers[0][0]}
    first = next(p for p in tap.packets if p[12:16] == socket.inet_aton(A))
    inner = peeled(IP(first), layers)
    assert (inner.src, inner.dst, inner.proto) == (A, B, ICMP)
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == 0


def test_a_wrong_key_is_answered_by_silence(two: Two) -> None:
    keys = sas("esp", 1000)
    two.load(keys + policies(A, B, ESP_T), keys.replace(MAC, MAC[::-1]) + policies(B, A, ESP_T))
    before = two.db.counter("esp", "badauth")
    with Tap(two.b, two.b_dev) as there, Tap(two.a, two.a_dev) as back:
        assert not two.ping()
    assert there.protocols(A, B) == {ESP: 2}
    assert back.protocols(B, A) == {}, "no ICMP, nothing at all"
    assert two.db.counter("esp", "badauth") == before + 2


def test_an_sa_that_is_unknown_is_answered_by_silence(two: Two) -> None:
    """A system without IPsec would say "protocol unreachable"."""
    two.da.setkey(sas("esp", 1000) + policies(A, B, ESP_T))
    before = two.db.counter("esp", "notdb")
    with Tap(two.a, two.a_dev) as back:
        assert not two.ping()
    assert back.protocols(B, A) == {}
    assert two.db.counter("esp", "notdb") == before + 2


def test_a_policy_may_name_a_type_of_icmp(two: Two) -> None:
    """Echo requests are protected, their replies are not."""
    two.da.setkey(sas("esp", 1000) + f"spdadd {A} {B} icmp 8,0 -P out ipsec {ESP_T};")
    two.db.setkey(sas("esp", 1000) + f"spdadd {A} {B} icmp 8,0 -P in ipsec {ESP_T};")
    with Tap(two.b, two.b_dev) as there, Tap(two.a, two.a_dev) as back:
        assert two.ping()
        assert two.ping("-s", "3000")
    assert set(there.protocols(A, B)) == {ESP}
    assert set(back.protocols(B, A)) == {ICMP}


@pytest.mark.parametrize("upper", ["47", "gre"])
def test_a_policy_may_name_a_protocol_by_its_number(two: Two, upper: str) -> None:
    two.da.setkey(sas("esp", 1000) + f"spdadd {A} {B} {upper} -P out ipsec {ESP_T};")
    sender = raw_sender(two.a)
    with Tap(two.b, two.b_dev) as tap:
        for proto in (47, 99):
            sender.sendto(ipv4(A, B, proto, bytes(20)), (B, 0))
    assert tap.protocols(A, B) == {ESP: 1, 99: 1}


HOST, NEAR, FAR, NET = "10.0.1.2", "20.0.0.1", "20.0.0.2", "10.0.2.0/24"
TUNNEL = f"spdadd 10.0.1.0/24 {NET} any -P out ipsec esp/tunnel/{NEAR}-{FAR}/require;"


def test_a_gateways_own_packets_need_a_route_and_those_it_forwards_do_not(
    net: Net, tmp_path: Path
) -> None:
    """The FAQ: "routing should be set up in advance".

    DEVIATION from NetBSD, where the policy is looked up after routing for both: forwarded packets
    are marked before it, so the gateway needs no route to the net behind the other one.
    """
    host, near, far = net.host("h"), net.host("n"), net.host("f")
    net.link(host, f"{HOST}/24", near, "10.0.1.1/24")
    near_dev, far_dev = net.link(near, f"{NEAR}/32", far, f"{FAR}/32")
    near.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.ip("route", "add", "default", "via", "10.0.1.1")
    daemon = Daemon(near, tmp_path)
    daemon.setkey(f'add {NEAR} {FAR} esp 13245 -E blowfish-cbc "blowfishtest.001";{TUNNEL}')
    with Tap(far, far_dev) as tap:
        own = near.run("ping", "-c1", "-W0.2", "10.0.2.9", check=False)
        assert "Network is unreachable" in own.stderr
        assert tap.protocols(NEAR, FAR) == {}
        host.run("ping", "-c2", "-i0.1", "-W0.2", "10.0.2.9", check=False)
        assert tap.protocols(NEAR, FAR) == {ESP: 2}
        near.ip("route", "add", NET, "via", FAR, "dev", near_dev, "src", "10.0.1.1")
        near.run("ping", "-c1", "-W0.2", "10.0.2.9", check=False)
    assert tap.protocols(NEAR, FAR) == {ESP: 3}
