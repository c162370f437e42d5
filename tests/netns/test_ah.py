"""AH between two hosts, alone and around ESP, in both modes: RFC 4302 and the FAQ's examples."""

import contextlib
import socket

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from tests.netns.test_conversation import MEGABYTE, Two, transfer
from tests.support.system import A, B, until
from tests.support.wire import Tap, drain, in_host, mac_of, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

# the FAQ's, word for word
AH_KEYS = f"""
add {A} {B} ah 9877 -A hmac-md5 "hogehogehogehoge";
add {B} {A} ah 10001 -A hmac-md5 0xdeadbeefdeadbeefdeadbeefdeadbeef;
"""
ESP_KEYS = f"""
add {A} {B} esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";
add {B} {A} esp 10000 -E 3des-cbc 0xdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef;
"""
REPLAY_KEYS = AH_KEYS.replace("-A", "-r 32 -A")


def policies(own: str, other: str, steps: str) -> str:
    """Both directions."""
    return f"""
spdadd {own} {other} any -P out ipsec {steps};
spdadd {other} {own} any -P in ipsec {steps};
"""


def load(two: Two, keys: str, steps: str) -> None:
    two.load(keys + policies(A, B, steps), keys + policies(B, A, steps))


AH_ONLY = "ah/transport//require"
BOTH = "esp/transport//require ah/transport//require"


def judge(packet: bytes) -> IP:
    """The packet as scapy authenticates it."""
    sa = SecurityAssociation(AH, spi=9877, auth_algo="HMAC-MD5-96", auth_key=b"hogehogehogehoge")
    return sa.decrypt(IP(packet))


def test_the_faqs_authentication_holds_and_an_independent_judge_agrees(two: Two) -> None:
    load(two, AH_KEYS, "ah/transport//use")
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
    packets = [packet for packet in tap.packets if packet[9] == 51]
    assert set(tap.protocols(A, B)) == {51}
    assert packets[0][20:32] == bytes.fromhex("01040000 00002695 00000001")
    for packet in packets:
        assert judge(packet).proto == 1
        assert packet[4:6] != b"\0\0"
    assert two.db.counter("ah", "input") >= 2
    assert two.da.counter("ah", "output") >= 2
    assert two.da.counter("esp", "output") == 0


def test_esp_inside_and_ah_around_it_as_the_faq_has_it(two: Two) -> None:
    load(two, AH_KEYS + ESP_KEYS, "esp/transport//use ah/transport//use")
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        for size in ("1400", "3000"):
            assert two.ping("-s", size), size
    assert set(tap.protocols(A, B)) == {51}
    first = next(packet for packet in tap.packets if packet[12:16] == socket.inet_aton(A))
    inside = judge(first)
    assert inside.proto == 50
    esp = SecurityAssociation(
        ESP, spi=9876, crypt_algo="3DES", crypt_key=b"hogehogehogehogehogehoge"
    )
    assert esp.decrypt(IP(bytes(inside))).proto == 1
    assert two.da.counter("ipsec", "out_bundlesa") >= 2


@pytest.mark.parametrize(
    ("keys", "steps"), [(AH_KEYS, AH_ONLY), (AH_KEYS + ESP_KEYS, BOTH)], ids=["ah", "esp-ah"]
)
def test_everything_large_passes_authenticated(two: Two, keys: str, steps: str) -> None:
    load(two, keys, steps)
    listener, sender = udp_listener(two.b, B, 4000), udp_listener(two.a, A, 0)
    with Tap(two.b, two.b_dev) as tap:
        for size in ("56", "1400", "1472", "3000", "20000"):
            assert two.ping("-s", size), size
        for octets in (1, 1000, 5000, 60000):
            sender.sendto(b"x" * octets, (B, 4000))
        got: list[bytes] = []

        def arrived() -> bool:
            got.extend(drain(listener))
            return len(got) == 4

        until(arrived, what="all datagrams arrive")
        assert [len(g) for g in got] == [1, 1000, 5000, 60000]
        assert transfer(two.a, two.b, B, MEGABYTE) == b"payload-pattern-" * (MEGABYTE // 16)
    assert set(tap.protocols(A, B)) == {51}
    assert max(len(p) for p in tap.packets) <= 1500
    for daemon in (two.da, two.db):
        assert daemon.counter("pfkey", "internal") == daemon.counter("ah", "badauth") == 0


def test_ah_in_tunnel_mode_works_though_the_faq_warns(two: Two) -> None:
    for own, other, daemon in ((A, B, two.da), (B, A, two.db)):
        daemon.setkey(
            AH_KEYS
            + f"spdadd {own} {other} any -P out ipsec ah/tunnel/{own}-{other}/require;"
            + f"spdadd {other} {own} any -P in ipsec ah/tunnel/{other}-{own}/require;"
        )
    with Tap(two.b, two.b_dev) as tap:
        for size in ("56", "1472", "3000"):
            assert two.ping("-s", size), size
    assert set(tap.protocols(A, B)) == {51}
    first = next(packet for packet in tap.packets if packet[12:16] == socket.inet_aton(A))
    assert first[20] == 4
    assert judge(first).proto == 4


@pytest.mark.parametrize(("keys", "steps"), [(AH_KEYS, AH_ONLY), (AH_KEYS + ESP_KEYS, BOTH)])
def test_clear_and_half_protected_packets_are_refused(two: Two, keys: str, steps: str) -> None:
    load(two, keys, steps)
    two.da.setkey("spdflush;")
    assert not two.ping()
    assert two.db.counter("ipsec", "in_polvio") >= 2
    two.da.setkey(policies(A, B, "esp/transport//use ah/transport//use") + "flush;" + ESP_KEYS)
    assert not two.ping()
    assert two.db.counter("esp", "pdrops") + two.db.counter("esp", "notdb") >= 2


def replayed(two: Two, changes: dict[int, int], counter: str) -> None:
    """A recorded packet again, some octets changed or none."""
    load(two, REPLAY_KEYS, AH_ONLY)
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping()
        again = bytearray(next(p for p in tap.packets if p[9] == 51))
    for at, bits in changes.items():
        again[at] ^= bits
    link = in_host(two.a, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
    before = two.db.counter("ah", counter)
    link.sendto(bytes(again), (two.a_dev, 0x0800, 0, 0, mac_of(two.b, two.b_dev)))
    link.close()
    until(lambda: two.db.counter("ah", counter) == before + 1, 5, counter)


@pytest.mark.parametrize(
    ("changes", "counter"),
    [({}, "replay"), ({27: 1}, "notdb"), ({30: 0x10}, "badauth"), ({30: 0x10, 21: 1}, "badauthl")],
    ids=["replay", "spi", "sequence", "length"],
)
def test_a_bad_packet_is_dropped_and_counted(
    two: Two, changes: dict[int, int], counter: str
) -> None:
    replayed(two, changes, counter)


def test_a_wrong_key_is_dropped_and_counted(two: Two) -> None:
    load(two, AH_KEYS, AH_ONLY)
    two.db.setkey("flush;" + AH_KEYS.replace('"hogehogehogehoge"', "0x" + "77" * 16))
    assert not two.ping()
    assert two.db.counter("ah", "badauth") >= 2


def test_keys_for_one_port_leave_the_others_clear(two: Two) -> None:
    """The FAQ's mail server: AH for the port, for whoever comes, and nothing for the rest."""
    two.db.setkey(
        AH_KEYS
        + f"spdadd {B}[110] 0.0.0.0/0 tcp -P out ipsec ah/transport//require;"
        + f"spdadd 0.0.0.0/0 {B}[110] tcp -P in ipsec ah/transport//require;"
    )
    two.da.setkey(
        AH_KEYS
        + f"spdadd {A} {B}[110] tcp -P out ipsec ah/transport//require;"
        + f"spdadd {B}[110] {A} tcp -P in ipsec ah/transport//require;"
    )
    for port, proto in ((110, 51), (5110, 6)):
        with Tap(two.b, two.b_dev) as tap:
            greet(two, port)
        assert set(tap.protocols(A, B)) == {proto}


def greet(two: Two, port: int) -> None:
    """A few octets over TCP."""
    listener = in_host(two.b, lambda: socket.create_server((B, port)))
    listener.settimeout(5)
    client = in_host(two.a, lambda: socket.create_connection((B, port), 5))
    connection = listener.accept()[0]
    with contextlib.closing(listener), contextlib.closing(client), contextlib.closing(connection):
        client.sendall(b"USER x\r\n")
        connection.settimeout(5)
        assert connection.recv(100) == b"USER x\r\n"
