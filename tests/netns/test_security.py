"""The rules of docs/security.md tried with real packets: forged, damaged, and at bad times."""

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyd.model import SaSpec
from keyd.packet.esp import EspSa
from pfkey.const import Mode
from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import MEGABYTE, SEND, Two, transfer
from tests.support.system import AUTHENTIC_KEYS, A, B, Daemon, require, until
from tests.support.wire import Tap, checksum, drain, in_host, ipv4, mac_of, udp, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 9996
ESP, UDP, ICMP = 50, 17, 1
# what a packet that came in by the ESP socket can end in, besides the application
DROPS = (
    "hdrops", "notdb", "badilen", "badenc", "badauth", "replay", "invalid", "pdrops", "badkcr",
    "spoofed", "nd_refused", "expired", "hold_dropped", "internal", "qfull",
)  # fmt: skip


def counters(daemon: Daemon) -> dict[str, int]:
    """All counters that are not zero, by name."""
    groups = daemon.control("counters")["counters"]
    return {name: n for group in groups.values() for name, n in group.items() if n}


def packet_socket(host: Host) -> socket.socket:
    return in_host(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))


class Attacked(Two):
    """Two hosts under `require` with keys; crafted packets go onto the wire towards b or a."""

    def __init__(self, net: Net, tmp: Path) -> None:
        super().__init__(net, tmp)
        self.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
        self._to_b = packet_socket(self.a), (self.a_dev, 0x0800, 0, 0, mac_of(self.b, self.b_dev))
        self._to_a = packet_socket(self.b), (self.b_dev, 0x0800, 0, 0, mac_of(self.a, self.a_dev))
        self._numbers = itertools.count(1000)
        self._esp = EspSa(
            SaSpec(
                slot=0, proto=ESP, spi=9876, src=socket.inet_aton(A), dst=socket.inet_aton(B),
                mode=Mode.ANY, encrypt=12, encrypt_key=b"hogehogehogehoge", auth=5,
                auth_key=b"0123456789abcdef0123456789abcdef",
            )
        )  # fmt: skip

    def to_b(self, *packets: bytes) -> None:
        for packet in packets:
            self._to_b[0].sendto(packet, self._to_b[1])

    def to_a(self, *packets: bytes) -> None:
        for packet in packets:
            self._to_a[0].sendto(packet, self._to_a[1])

    def sealed(self, payload: bytes = b"hello", proto: int = UDP, seq: int = 0) -> bytes:
        """ESP as a would send it; a UDP datagram unless `proto` says otherwise."""
        inner = udp(A, B, 1, PORT, payload) if proto == UDP else payload
        return self._esp.seal(seq or next(self._numbers), inner, proto, os.urandom(16))


@pytest.fixture
def two(net: Net, tmp_path: Path) -> Attacked:
    return Attacked(net, tmp_path)


@contextlib.contextmanager
def only_esp(two: Two) -> Iterator[Tap]:
    with Tap(two.b, two.b_dev) as tap:
        yield tap
        time.sleep(0.1)
    assert set(tap.protocols(A, B)) <= {ESP}, tap.protocols(A, B)


# ---------------------------------------------------------------- what comes in


def test_every_crafted_packet_ends_in_one_counter(two: Attacked) -> None:
    listener = udp_listener(two.b, B, PORT)
    good = two.sealed()
    damaged = two.sealed()
    packets = {
        "delivered": [ipv4(A, B, ESP, good), ipv4(A, B, ESP, two.sealed(b"x" * 1200))],
        "dummy": [ipv4(A, B, ESP, two.sealed(b"", proto=59))],
        "hdrops": [ipv4(A, B, ESP, b""), ipv4(A, B, ESP, good[:7])],
        "replay": [ipv4(A, B, ESP, good)] * 3 + [ipv4(A, B, ESP, two.sealed(seq=3))],
        "badauth": [ipv4(A, B, ESP, damaged[:-1] + bytes((damaged[-1] ^ 1,)))],
        "badilen": [ipv4(A, B, ESP, damaged[:30]), ipv4(A, B, ESP, damaged[:-1])],
        "notdb": [ipv4(A, B, ESP, bytes(60)), ipv4(A, "224.0.0.1", ESP, two.sealed())],
        "invalid": [
            ipv4("9.9.9.9", B, ESP, two.sealed()),
        ],
    }
    for sort, some in packets.items():
        before = counters(two.db)
        two.to_b(*some)

        def heard(before: dict[str, int] = before, some: list[bytes] = some) -> bool:
            return counters(two.db).get("input", 0) == before.get("input", 0) + len(some)

        until(heard, 3, sort)
        after = counters(two.db)
        risen = {n: after.get(n, 0) - before.get(n, 0) for n in DROPS}
        wanted = {sort: len(some)} if sort in DROPS else {}
        assert {n: count for n, count in risen.items() if count} == wanted, sort
    assert sorted(map(len, drain(listener))) == [5, 1200]


@pytest.mark.parametrize("proto", [4, 41, 50, 51, 108])
def test_a_layer_that_no_policy_asks_for_brings_nothing_in(two: Attacked, proto: int) -> None:
    """Each of two layers would pass for the one that the policy wants."""
    listener = udp_listener(two.b, B, PORT)
    inner = two.sealed() if proto == ESP else ipv4(A, B, UDP, udp(A, B, 1, PORT, b"inner"))
    two.to_b(ipv4(A, B, ESP, two.sealed(inner, proto)))
    two.to_b(ipv4(A, B, ESP, two.sealed(b"after")))
    assert select.select([listener], [], [], 3)[0]
    assert drain(listener) == [b"after"]


def test_a_noisy_run_adds_up_on_both_sides(two: Attacked) -> None:
    """A transfer while every fifth packet is repeated, damaged, or of nobody."""
    tap = Tap(two.b, two.b_dev)
    with tap:
        transfer(two.a, two.b, B, MEGABYTE)
    for number, packet in enumerate(p for p in tap.packets if p[9] == ESP and p[20:24] != bytes(4)):
        if number % 5 == 0:
            spoiled = bytearray(packet)
            spoiled[20 + number % 3 * 4] ^= 0x55  # the SPI, the number, the IV
            two.to_b(packet, bytes(spoiled))
    assert two.ping()
    got, sent = counters(two.db), counters(two.da)
    delivered = (
        got["tun_writes"] - got.get("coalesced_writes", 0) + got.get("coalesced_segments", 0)
    )
    assert got["input"] == delivered + sum(got.get(name, 0) for name in DROPS), got
    assert min(got[name] for name in ("replay", "notdb")) > 50
    assert sent["tun_segments"] == sent["output"] + sum(
        sent.get(name, 0) for name in ("out_nosa", "foreign", "icmp_toobig_sent", "out_inval")
    )


def fragments(octets: bytes, ident: int, *cuts: int) -> list[bytes]:
    """Pieces of an ESP datagram, cut at these offsets."""
    ends = (*cuts, len(octets))
    return [
        ipv4(A, B, ESP, octets[at:end], ident=ident, offset=at, more=end < len(octets))
        for at, end in zip((0, *cuts), ends, strict=True)
    ]


def test_fragments_of_esp_join_in_any_order_or_not_at_all(two: Attacked) -> None:
    listener = udp_listener(two.b, B, PORT)
    tiny = fragments(two.sealed(b"t" * 1200), 5, *range(8, 1200, 8))
    two.to_b(*reversed(fragments(two.sealed(b"r" * 1200), 4, 800)), *tiny)
    until(lambda: counters(two.db).get("input", 0) == 2)
    head, tail = fragments(two.sealed(b"o" * 1200), 6, 800)
    two.to_b(head, ipv4(A, B, ESP, b"\xff" * 408, ident=6, offset=600, more=True), tail)
    head, tail = fragments(two.sealed(b"d" * 1200), 7, 800)
    two.to_b(head, head, tail, tail)
    time.sleep(0.3)
    for datagram in (got := drain(listener)):
        assert datagram in {letter * 1200 for letter in (b"r", b"t", b"o", b"d")}
    assert len(got) == len(set(got)) >= 2
    assert "internal" not in counters(two.db)


OPTIONS = {
    "record-route": bytes((7, 7, 4, 0, 0, 0, 0, 0)),
    "source-route": bytes((131, 7, 4, 30, 1, 1, 1, 0)),
    "malformed": bytes((7, 200, 4, 0)),
}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_fragments_that_an_application_makes_cross_as_one_datagram(
    two: Attacked, order: tuple[int, ...]
) -> None:
    """Transport mode protects whole datagrams (RFC 4301 section 7); a missing piece is nobody's."""
    listener = udp_listener(two.b, B, PORT)
    sender = in_host(
        two.a, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    )

    def pieces(word: bytes, ident: int) -> list[bytes]:
        datagram = udp(A, B, 1, PORT, word * 300)
        return [
            ipv4(A, B, UDP, datagram[at : at + 800], ident=ident, offset=at, more=at < 1600)
            for at in range(0, len(datagram), 800)
        ]

    lost, whole = pieces(b"gone..", 7), pieces(b"hello.", 8)
    assert len(whole) == 3
    for packet in [*lost[:2], *(whole[n] for n in order)]:
        sender.sendto(packet, (B, 0))
    until(lambda: drain(listener) == [b"hello." * 300])
    seen = counters(two.da)
    assert "frag_dropped" not in seen
    assert (seen["frag_held"], seen["frag_joined"], seen["output"]) == (5, 1, 1)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_the_outer_header_lead_nothing_astray(two: Attacked, options: bytes) -> None:
    listener = udp_listener(two.b, B, PORT)
    payload = two.sealed()
    octets = 20 + len(options)
    head = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s", 0x40 | octets // 4, 0, octets + len(payload), 1, 0, 64, ESP, 0,
            socket.inet_aton(A), socket.inet_aton(B),
        ) + options
    )  # fmt: skip
    head[10:12] = struct.pack(">H", checksum(bytes(head)))
    with Tap(two.a, two.a_dev) as back:
        two.to_b(bytes(head) + payload)
        time.sleep(0.3)
    assert drain(listener) in ([], [b"hello"])
    assert not [p for p in back.packets if b"hello" in p]
    assert "internal" not in counters(two.db)


@pytest.mark.parametrize("src", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", B])  # noqa: S104
def test_a_source_that_cannot_be_brings_nothing_in(two: Attacked, src: str) -> None:
    listener = udp_listener(two.b, B, PORT)
    two.to_b(ipv4(src, B, ESP, two.sealed()))
    two.to_b(ipv4(src, B, UDP, udp(src, B, 1, PORT, b"clear")))
    time.sleep(0.2)
    assert [got for got in drain(listener) if got == b"hello"] == []


# ---------------------------------------------------------------- ICMP errors


def icmp_error(quoted: bytes, mtu: int, kind: int = 3, code: int = 4) -> bytes:
    body = struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quoted
    body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
    return ipv4("20.1.1.254", A, ICMP, body)


def test_a_forged_icmp_error_teaches_neither_us_nor_the_kernel(two: Attacked) -> None:
    """TCP would obey the kernel's memory: it shares the address with the outer packets."""
    assert two.ping()

    def seen() -> tuple[int, int]:
        now = counters(two.da)
        return now.get("icmp_ignored", 0), now.get("icmp_accepted", 0)

    def told(spi: int, seq: int, mtu: int, kind: int = 3, code: int = 4) -> int:
        before, accepted = seen()
        quoted = ipv4(A, B, ESP, struct.pack(">II", spi, seq) + bytes(20))
        two.to_a(icmp_error(quoted, mtu, kind, code))
        until(lambda: sum(seen()) == before + accepted + 1, 3)
        return seen()[1] - accepted

    assert told(spi=1, seq=1, mtu=600) == 0
    assert told(spi=9876, seq=5000, mtu=600) == 0
    assert told(spi=9876, seq=1, mtu=0) == 0
    assert told(spi=9876, seq=1, mtu=65535) == 0
    for kind, code in ((3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0)):
        assert told(spi=9876, seq=5000, mtu=0, kind=kind, code=code) == 0
        assert told(spi=9876, seq=1, mtu=0, kind=kind, code=code) == 1
    assert "mtu" not in two.a.ip("route", "get", B)
    assert len(transfer(two.a, two.b, B, MEGABYTE)) == MEGABYTE, "hard errors stay soft"
    assert counters(two.da)["icmp_relayed"]
    assert counters(two.da)["output"] < 1000, "the segments are as large as ever"


# ---------------------------------------------------------------- marks, NAT, addresses

CLOBBER = "table ip x {{\n chain c {{\n type {} hook {} priority {};\n meta mark set 1\n }}\n}}\n"


@pytest.mark.parametrize(
    "hook",
    [("filter", "postrouting", -150), ("filter", "output", 0), ("route", "output", -150),
     ("route", "output", 0)],
    ids=lambda h: "-".join(map(str, h)),
)  # fmt: skip
def test_marks_that_others_overwrite_open_nothing(
    two: Attacked, hook: tuple[str, str, int]
) -> None:
    """MARK --set-mark without a mask, as many a firewall has it."""
    two.a.run("nft", "-f", "-", stdin=CLOBBER.format(*hook))
    with only_esp(two) as tap:
        assert two.ping()
        two.a.run("ping", "-c2", "-i0.1", "-W0.3", "-I", two.a_dev, B, check=False)
        assert two.ping("-s", "3000")
    assert tap.protocols(A, B)[ESP] >= 4
    assert counters(two.da)["out_guard"] >= 2, "the bound socket met the guard"


def test_masquerading_beside_us_changes_nothing(two: Attacked) -> None:
    table = (
        "table ip n {\n chain c {\n type nat hook postrouting priority 100;\n masquerade\n }\n}\n"
    )
    two.a.run("nft", "-f", "-", stdin=table)
    with only_esp(two):
        assert two.ping("-s", "3000")
        assert len(transfer(two.a, two.b, B, MEGABYTE)) == MEGABYTE
        assert len(transfer(two.b, two.a, A, MEGABYTE)) == MEGABYTE


@pytest.mark.parametrize("level", ["use", "require"])
def test_broadcast_and_multicast_go_in_clear_or_not_at_all(
    net: Net, tmp_path: Path, level: str
) -> None:
    """No routing rule leads them to the TUN, so nft decides: `use` lets them pass."""
    a, b = net.host("a"), net.host("b")
    net.link(a, "10.1.1.1/24", b, "10.1.1.2/24")
    for group in ("224.0.0.0/4", "255.255.255.255"):
        a.ip("route", "add", group, "dev", "tob")
    daemon = Daemon(a, tmp_path)
    daemon.setkey(f"spdadd 10.1.1.0/24 0.0.0.0/0 any -P out ipsec esp/transport//{level};")
    sender = udp_listener(a, "10.1.1.1", 0)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    wanted = ["10.1.1.255", "255.255.255.255", "224.0.0.5"]
    with Tap(b, "toa") as tap:
        for to in wanted:
            with contextlib.suppress(OSError):
                sender.sendto(b"all", (to, 9))
        time.sleep(0.2)
    got = [socket.inet_ntoa(p[16:20]) for p in tap.packets if p[-3:] == b"all"]
    assert got == (wanted if level == "use" else [])
    assert counters(daemon).get("out_polvio", 0) == (0 if level == "use" else 3)


def test_what_the_sender_wrote_into_the_ip_header_stays(two: Attacked) -> None:
    """TOS with its ECN bits, TTL, DF; and UDP without a checksum stays without."""
    listener = udp_listener(two.b, B, PORT)
    sender = udp_listener(two.a, A, 0)
    sender.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB9)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
    with only_esp(two) as tap, Tap(two.b, "pfkey0") as inner:
        sender.sendto(b"small", (B, PORT))
        sender.sendto(b"large" * 1000, (B, PORT))
        until(lambda: len(inner.packets) == 2, 3)
    assert [len(got) for got in drain(listener)] == [5, 5000]
    for packet in tap.packets + inner.packets:
        assert (packet[1], packet[8]) == (0xB9, 33)
    assert [p[26:28] for p in inner.packets] == [bytes(2)] * 2
    first, *pieces = tap.packets
    assert first[6:8] == b"\x40\0"
    assert len({p[4:6] for p in pieces}) == 1
    assert all(not p[6] & 0x40 for p in pieces)


# ---------------------------------------------------------------- bad times


def test_links_addresses_and_routes_may_change(two: Attacked) -> None:
    def mtu(octets: int) -> None:
        for host, device in ((two.a, two.a_dev), (two.b, two.b_dev)):
            host.ip("link", "set", device, "mtu", str(octets))

    def route() -> None:
        two.a.ip("route", "replace", B, "dev", two.a_dev, "src", A)

    with only_esp(two):
        for octets in (900, 1500, 700):
            mtu(octets)
            until(lambda: two.ping("-s", "3000"), 5)
        mtu(1500)
        two.a.ip("link", "set", two.a_dev, "down")
        assert not two.ping()
        two.a.ip("link", "set", two.a_dev, "up")
        route()
        until(two.ping, 5)
        two.a.ip("addr", "del", f"{A}/32", "dev", two.a_dev)
        assert not two.ping()
        two.a.ip("addr", "add", f"{A}/32", "dev", two.a_dev)
        route()
        until(two.ping, 5)
        two.a.ip("route", "replace", "unreachable", B)
        assert not two.ping()
        two.a.ip("route", "del", "unreachable", B)
        route()
        until(two.ping, 5)
        assert len(transfer(two.a, two.b, B, MEGABYTE)) == MEGABYTE
    assert "internal" not in counters(two.da)


def test_the_largest_datagram_is_dropped_and_counted_where_it_no_longer_fits(two: Attacked) -> None:
    with only_esp(two):
        assert two.ping("-s", "65000")
        assert not two.ping("-s", "65507")
    assert counters(two.da)["toobig"] == 2


@pytest.mark.parametrize("role", ["out", "in"])
def test_a_worker_that_stands_still_holds_up_nobody_and_hoards_nothing(
    two: Attacked, role: str
) -> None:
    pid = two.da.workers()[role]

    def resident() -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    before = resident()
    os.kill(pid, signal.SIGSTOP)
    try:
        with only_esp(two):
            two.a.run("ping", "-f", "-c", "20000", "-w1", B, check=False)
        for _ in range(3):
            began = time.monotonic()
            counters(two.da)
            assert time.monotonic() - began < 1
        two.da.setkey("spdadd 1.2.3.4 5.6.7.8 any -P out none;")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(two.ping, 10)
    assert resident() - before < 8 << 10, "KiB"


def test_a_transfer_survives_the_death_of_everything(two: Attacked) -> None:
    listener = in_host(two.b, lambda: socket.create_server((B, 0)))
    size = 32 * MEGABYTE
    to = (B, str(listener.getsockname()[1]), str(size))
    with only_esp(two):
        sender = two.a.start(sys.executable, "-c", SEND.replace("timeout=20", "timeout=40"), *to)
        connection = listener.accept()[0]
        connection.settimeout(30)
        got = len(connection.recv(1 << 16, socket.MSG_WAITALL))
        for pid in (two.da.process.pid, *two.da.workers().values()):
            os.kill(pid, signal.SIGKILL)
        two.da.process.wait()
        time.sleep(0.3)
        two.da.start()
        two.da.setkey(AUTHENTIC_KEYS + require(A, B))
        while piece := connection.recv(1 << 20):
            got += len(piece)
        connection.send(b"k")
        connection.close()
        assert got == size
        two.a.stop(sender)
    assert "replay" not in counters(two.db), "no sequence number went out twice"


def test_no_change_of_policies_lets_a_packet_out_in_clear(two: Attacked) -> None:
    code = (
        "import contextlib, socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "while True:\n"
        "    with contextlib.suppress(OSError): s.sendto(b'in clear', (sys.argv[1], 9))\n"
    )
    with only_esp(two) as tap:
        sender = two.a.start(sys.executable, "-c", code, B)
        until(lambda: tap.protocols(A, B).get(ESP, 0) > 100)
        for number in range(8):
            two.da.setkey(
                f"spdupdate {A} {B} any -P out prio {number + 1} ipsec esp/transport//require;"
                f"spdadd {A} {B} udp -P out ipsec esp/transport//require;"
                f"spdadd {A} {B}[99] udp -P out none;"
                f"spddelete {A} {B} udp -P out; spddelete {A} {B}[99] udp -P out;"
            )
        two.da.setkey(f"delete {A} {B} esp 9876;")
        time.sleep(0.2)
        two.a.stop(sender)
    assert counters(two.da)["out_nosa"] > 0


FLOODS: list[tuple[str, Callable[[Attacked], Host]]] = [
    ("s = socket.socket(2, 3, 255); s.setsockopt(1, 25, b'pfkey0'); to = '30.1.1.1'\n"
     "head = b'E' + bytes(7) + b'@\\x11'", lambda two: two.a),
    (f"s = socket.socket(2, 3, 50); to = '{A}'\nhead = b''", lambda two: two.b),
]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS, ids=["into-the-tun", "of-sealed-junk"])
def test_a_flood_leaves_control_answering(
    two: Attacked, flood: tuple[str, Callable[[Attacked], Host]]
) -> None:
    setup, host = flood
    code = (
        f"import contextlib, os, socket\n{setup}\n"
        "while True:\n"
        "    with contextlib.suppress(OSError): s.sendto(head + os.urandom(80), (to, 0))\n"
    )
    process = host(two).start(sys.executable, "-c", code)
    try:
        until(lambda: {"foreign", "notdb"} & set(counters(two.da)))
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            two.da.control("status")
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 0.5
    finally:
        host(two).stop(process)
    until(two.ping)
    assert "internal" not in counters(two.da), two.da.log


def test_a_full_run_directory_is_said_in_one_line_and_leaves_nothing(
    net: Net, tmp_path: Path
) -> None:
    host = net.host("a")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", tmp_path], check=True)
    try:
        before = host.run("nft", "list", "ruleset").stdout
        done = host.run(
            str(Path(sys.executable).parent / "pfkeyd"), "--socket", f"{tmp_path}/s", check=False
        )
        assert done.returncode == 1
        assert "no room for the state file" in done.stderr
        assert "Traceback" not in done.stderr
        assert host.run("nft", "list", "ruleset").stdout == before
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
