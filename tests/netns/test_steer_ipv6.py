"""Steering and guard over IPv6, with real packets: fragments, extension headers, neighbours."""

import contextlib
import itertools
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from pfkey.const import Dir, Level, PolicyType
from pfkey.lab.hosts import Net
from tests.support import steering
from tests.support.steering import (
    AH,
    ESP,
    FRAGMENT,
    HOP_BY_HOP,
    ICMPV6,
    OPTIONS,
    TCP,
    UDP,
    WORD,
    Steered,
    Wire,
    arrives,
    datagram,
    extension,
    ipv6,
    piece,
    policy,
)
from tests.support.system import until
from tests.support.wire import checksum, drain, in_host, packed, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

A, B = "2001:db8:1::1", "2001:db8:2::1"
PORT = 9000
OUT, IN = policy(Dir.OUT, A, B), policy(Dir.IN, B, A)
ALL_OUT, ALL_IN = policy(Dir.OUT, "::/0", "::/0"), policy(Dir.IN, "::/0", "::/0")
NONE = PolicyType.NONE


class Rig(Steered):
    """Host A with steering; host B is the wire."""

    def __init__(self, net: Net) -> None:
        self.b = net.host("b", ipv6=True)
        a = net.host("a", ipv6=True)
        self.a_dev, b_dev = steering.join(net, a, A, self.b, B)
        self.wire = Wire(self.b, b_dev, a, self.a_dev)
        until(lambda: a.run("ping", "-c1", "-W0.3", B, check=False).returncode == 0)
        super().__init__(a)

    def send(self, dport: int = PORT, payload: bytes = WORD, **how: str) -> None:
        """A UDP datagram from A; a local refusal is no error."""

        def job() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                if how.get("device"):
                    sender.setsockopt(
                        socket.SOL_SOCKET, socket.SO_BINDTODEVICE, how["device"].encode()
                    )
                with contextlib.suppress(OSError):
                    sender.sendto(payload, (how.get("to", B), dport))

        in_host(self.host, job)

    def ping(self, *options: str, to: str = B) -> bool:
        done = self.host.run("ping", "-c1", "-W0.3", *options, to, check=False)
        return done.returncode == 0


@pytest.fixture
def rig(net: Net) -> Iterator[Rig]:
    made = Rig(net)
    with made.wire:
        yield made
    made.close()


def test_what_a_policy_selects_enters_the_tun_whole_and_not_the_wire(rig: Rig) -> None:
    rig.commit(OUT)
    with rig.wire.quiet(A, B):
        rig.send(payload=WORD * 1000)
        (packet,) = rig.packets()
        assert not rig.ping()
    assert (packet[6], packet[8:40]) == (UDP, packed(A) + packed(B))
    assert len(packet) == 40 + 8 + 6000, "one datagram, not fragments"
    rig.commit()
    until(rig.ping)


def test_the_first_matching_policy_decides(rig: Rig) -> None:
    rig.commit(policy(Dir.OUT, A, B, NONE, proto=UDP, dport=53), OUT)
    rig.send(53)
    rig.send(54)
    until(lambda: rig.wire.between(A, B))
    assert len(rig.packets()) == 1
    with rig.wire.quiet(A, B):
        rig.commit(policy(Dir.OUT, "2001:db8::/32", "::/0", PolicyType.DISCARD))
        rig.send()
        assert rig.packets() == []
    assert rig.count("out_discard") == 1


def test_neighbours_are_found_under_policies_for_everything(rig: Rig) -> None:
    rig.commit(ALL_OUT, IN)
    for host in (rig.host, rig.b):
        host.ip("-6", "neigh", "flush", "all")
    rig.b.run("ping", "-c1", "-W0.3", A, check=False)
    rig.send(device=rig.a_dev)
    until(lambda: B in rig.host.ip("-6", "neigh", "show", "nud", "reachable"))
    assert rig.count("in_polvio") == 1, "the ping, not the solicitations"


def test_discovery_in_fragments_or_from_afar_is_no_discovery(rig: Rig) -> None:
    rig.commit(ALL_IN)
    solicitation = struct.pack(">BBHI", 135, 0, 0, 0) + packed(A)
    echo = struct.pack(">BBHHH", 128, 0, 0, 0, 0)
    rig.wire.inject(
        ipv6(B, A, ICMPV6, solicitation, hops=64),
        ipv6(B, A, FRAGMENT, piece(ICMPV6, solicitation, 0, more=True), hops=255),
        ipv6(B, A, FRAGMENT, piece(ICMPV6, solicitation, 0, more=False), hops=255),
        ipv6(B, A, ICMPV6, echo, hops=255),
    )
    until(lambda: rig.count("in_polvio") == 4)


def test_sockets_that_name_a_device_do_not_get_past_the_guard(rig: Rig) -> None:
    rig.commit(OUT)

    def pktinfo() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            info = bytes(16) + struct.pack("=i", socket.if_nametoindex(rig.a_dev))
            with contextlib.suppress(OSError):
                sender.sendmsg([WORD], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)], 0,
                               (B, PORT))  # fmt: skip

    with rig.wire.quiet(A, B):
        rig.send(device=rig.a_dev)
        assert not rig.ping("-I", rig.a_dev)
        assert rig.count("out_guard") == 2
        rig.call(pktinfo)
        assert len(rig.packets()) + rig.count("out_guard") == 3


def test_scopes_do_not_get_past_the_guard(rig: Rig) -> None:
    local = rig.b.ip("-6", "-br", "addr", "show", "scope", "link", "dev", "toa").split()[2]
    address = local.split("/")[0]
    own = rig.host.ip("-6", "-br", "addr", "show", "scope", "link", "dev", "tob").split()[2]
    until(lambda: rig.ping(to=f"{address}%tob"))
    rig.commit(ALL_OUT)
    with rig.wire.quiet(own.split("/")[0], address):
        assert not rig.ping(to=f"{address}%tob")
        rig.send(to=f"{address}%tob")
        rig.send(to="ff02::1%tob")
    rig.commit(policy(Dir.OUT, "::/0", "fe80::/10", NONE), ALL_OUT)
    until(lambda: rig.ping(to=f"{address}%tob"))


def test_the_guard_stands_without_rule_and_routes(rig: Rig) -> None:
    rig.commit(OUT)
    rig.host.ip("-6", "rule", "del", "priority", "75")
    rig.host.ip("-6", "route", "flush", "table", "7575")
    with rig.wire.quiet(A, B):
        rig.send()
        rig.send(device=rig.a_dev)
        assert not rig.ping()
    assert rig.count("out_guard") == 3


def test_own_addresses_are_decided_without_the_tun(rig: Rig) -> None:
    rig.commit(policy(Dir.OUT, A, A))
    with udp_listener(rig.host, A, PORT) as receiver:
        rig.send(to=A)
        assert drain(receiver) == []
        assert rig.count("out_own") == 1
        rig.commit(policy(Dir.OUT, A, A, level=Level.USE))
        rig.send(to=A)
        assert arrives(receiver) == WORD
    assert rig.packets(0.1) == []


CHAINS = {
    "plain": lambda d: ipv6(B, A, UDP, d),
    "hop-by-hop": lambda d: ipv6(B, A, HOP_BY_HOP, extension(UDP, d, kind=HOP_BY_HOP)),
    "options": lambda d: ipv6(B, A, OPTIONS, extension(UDP, d, kind=OPTIONS)),
    "three": lambda d: ipv6(B, A, HOP_BY_HOP, extension(OPTIONS, extension(
        OPTIONS, extension(UDP, d, kind=OPTIONS), kind=OPTIONS), kind=HOP_BY_HOP)),
    "atomic fragment": lambda d: ipv6(B, A, FRAGMENT, piece(UDP, d, 0, more=False)),
    "options in an atomic fragment": lambda d: ipv6(B, A, FRAGMENT, piece(
        OPTIONS, extension(UDP, d, kind=OPTIONS), 0, more=False)),
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_extension_headers_do_not_hide_ports(rig: Rig, chain: str) -> None:
    clear = CHAINS[chain](datagram(B, A, PORT))
    to_port = policy(Dir.IN, B, A, proto=UDP, dport=PORT)
    with udp_listener(rig.host, A, PORT) as receiver:
        for policies, passes in (
            ([], True),
            ([to_port], False),
            ([policy(Dir.IN, B, A, proto=UDP, dport=PORT + 1)], True),
            ([policy(Dir.IN, B, A, proto=UDP)], False),
            ([policy(Dir.IN, B, A, proto=TCP)], True),
            ([policy(Dir.IN, B, A, level=Level.USE), IN], True),
        ):
            rig.commit(*policies)
            rig.wire.inject(clear)
            time.sleep(0.1)
            assert bool(drain(receiver)) == passes, policies
    assert rig.count("in_polvio") == 2


def test_none_before_require_lets_in_what_is_whole(rig: Rig) -> None:
    rig.commit(policy(Dir.IN, B, A, NONE, proto=UDP, dport=PORT), IN)
    with udp_listener(rig.host, A, PORT) as receiver:
        rig.wire.inject(CHAINS["three"](datagram(B, A, PORT)))
        assert arrives(receiver) == WORD
        rig.wire.inject(*steering.fragments(B, A, UDP, datagram(B, A, PORT, WORD * 200)))
        time.sleep(0.1)
        assert drain(receiver) == []


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "conntrack"])
@pytest.mark.parametrize(("proto", "port"), [(255, 0), (UDP, 0), (UDP, PORT)])
def test_clear_fragments_do_not_get_in_in_either_order(
    rig: Rig, tracked: bool, proto: int, port: int
) -> None:
    """Also not by a tail that claims another protocol, which no receiver looks at."""
    if tracked:  # connection tracking reassembles early
        rig.host.run("nft", "-f", "-", stdin="""
            add table ip6 early
            add chain ip6 early c { type filter hook prerouting priority -200; }
            add rule ip6 early c ct state invalid counter
        """)  # fmt: skip
    whole = datagram(B, A, PORT, WORD * 200)
    inner = extension(UDP, whole, kind=OPTIONS)  # in the fragmentable part: tails say OPTIONS
    numbers = itertools.count(100)

    def pieces() -> list[tuple[bytes, bytes]]:
        return [
            steering.fragments(B, A, UDP, whole, ident=next(numbers)),
            steering.fragments(B, A, UDP, whole, ident=next(numbers), tail_proto=TCP),
            steering.fragments(B, A, OPTIONS, inner, ident=next(numbers)),
        ]

    with udp_listener(rig.host, A, PORT) as receiver:
        for head, tail in pieces():
            rig.wire.inject(head, tail)
        until(lambda: len(drain(receiver)) or None)
        time.sleep(0.1)
        drain(receiver)
        rig.commit(
            policy(Dir.IN, B, A, NONE, proto=TCP), policy(Dir.IN, B, A, proto=proto, dport=port)
        )
        before = rig.count("in_polvio")
        for head, tail in pieces():
            rig.wire.inject(head, tail)
        for head, tail in pieces():
            rig.wire.inject(tail, head)
        for head, tail in pieces():  # a protected head, then a clear tail
            rig.write(head)
            rig.wire.inject(tail)
        for head, tail in pieces():  # and before it
            rig.wire.inject(tail)
            time.sleep(0.02)
            rig.write(head)
        time.sleep(0.2)
        assert drain(receiver) == []
        assert rig.count("in_polvio") == before + 18
        for head, tail in pieces():
            rig.write(head, tail)
        time.sleep(0.1)
        assert len(drain(receiver)) == 3, "what the data path opened does get in"


@pytest.mark.parametrize("proto", [ESP, AH, 108])
def test_sealed_packets_reach_the_raw_sockets(rig: Rig, proto: int) -> None:
    rig.commit(IN)
    sealed = bytes((UDP, 4)) + bytes(range(250)) * 6
    opener = in_host(rig.host, lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, proto))
    with opener:
        head, tail = steering.fragments(B, A, proto, sealed)
        rig.wire.inject(
            ipv6(B, A, proto, sealed[:90]), ipv6(B, A, OPTIONS, extension(
                proto, sealed[:90], kind=OPTIONS)), tail, head,
        )  # fmt: skip
        assert [arrives(opener) for _ in range(3)] == [sealed[:90], sealed[:90], sealed]
    assert rig.count("in_polvio") == 0


@pytest.mark.parametrize("claimed", [ESP, AH, 108])
def test_a_clear_tail_that_claims_to_be_sealed_joins_no_protected_head(
    rig: Rig, claimed: int
) -> None:
    rig.commit(policy(Dir.IN, B, A))
    head, tail = steering.fragments(B, A, UDP, datagram(B, A, PORT, WORD * 200), tail_proto=claimed)
    with udp_listener(rig.host, A, PORT) as receiver:
        rig.write(head)
        rig.wire.inject(tail)
        rig.wire.inject(tail)
        rig.write(head)
        time.sleep(0.1)
        assert drain(receiver) == []
        rig.write(tail)
        assert arrives(receiver) == WORD * 200, "the protected tail does"
    assert rig.count("in_polvio") == 0
    routed = ipv6(B, A, HOP_BY_HOP, extension(FRAGMENT, head[40:], kind=HOP_BY_HOP))
    rig.write(routed)
    assert rig.count("in_discard") == 1


def test_raw_fragments_of_protected_flows_do_not_get_out(rig: Rig) -> None:
    rig.commit(policy(Dir.OUT, A, B, NONE, proto=UDP, dport=53), policy(
        Dir.OUT, A, B, proto=UDP, dport=PORT))  # fmt: skip
    whole = extension(UDP, datagram(A, B, PORT, WORD * 200), kind=OPTIONS)
    made = [*steering.fragments(A, B, UDP, whole[8:]), *steering.fragments(A, B, OPTIONS, whole)]

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            for one in (*made, *reversed(made)):
                sender.sendto(one, (B, 0))

    with rig.wire.quiet(A, B):
        rig.call(send)
        assert len(rig.packets()) == 8


def test_what_we_opened_comes_in_through_the_tun(rig: Rig) -> None:
    rig.commit(IN, OUT)
    opened = ipv6(B, A, UDP, datagram(B, A, PORT))
    with udp_listener(rig.host, A, PORT) as receiver:
        rig.write(opened)
        assert arrives(receiver) == WORD
    with rig.wire.quiet(A, B):
        rig.write(opened)
        (answer,) = rig.packets()
    assert (answer[6], answer[40:42]) == (ICMPV6, b"\x01\x04"), "port unreachable, protected"
    assert answer[8:40] == packed(A) + packed(B)
    echo = struct.pack(">BBHHH", 128, 0, 0, 1, 2) + b"ab"
    pseudo = packed(B) + packed(A) + struct.pack(">II", len(echo), ICMPV6)
    echo = echo[:2] + struct.pack(">H", checksum(pseudo + echo)) + echo[4:]
    with rig.wire.quiet(A, B):
        rig.write(ipv6(B, A, ICMPV6, echo))
        (answer,) = rig.packets()
    assert answer[40] == 129, "the echo's answer is not bound to the device it came by"


def test_the_device_has_no_address_and_says_nothing(rig: Rig) -> None:
    rig.host.ip("link", "set", "pfkey0", "down")
    rig.call(rig.steer.ensure)
    assert rig.host.ip("-6", "addr", "show", "pfkey0") == ""
    assert rig.packets(1.5) == [], "no solicitation, no report"
    rig.commit(OUT)

    def source() -> str:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.connect((B, PORT))
            sender.send(WORD)
            return str(sender.getsockname()[0])

    assert rig.call(source) == A
    (packet,) = rig.packets()
    assert packet[8:24] == packed(A)


HANDS = (
    "ip -6 rule flush",
    "ip -6 route flush table 7575",
    "sysctl -w net.ipv6.conf.pfkey0.disable_ipv6=1",
    "ip link set pfkey0 down",
    "ip link set pfkey0 mtu 1000",  # too small: IPv6 leaves the device
    "ip link delete pfkey0",
    "ip link set pfkey0 addrgenmode eui64",
)


@pytest.mark.parametrize("hand", HANDS)
def test_foreign_hands_open_nothing_and_are_undone(rig: Rig, hand: str) -> None:
    rig.commit(OUT, IN)
    for fd in rig.steer.event_fds():
        rig.steer.drain_events(fd)
    with rig.wire.quiet(A, B):
        rig.host.run(*hand.split())
        if "rule" in hand:
            rig.host.ip("-6", "rule", "add", "priority", "32766", "lookup", "main")
        rig.send()
        rig.send(device=rig.a_dev)
        if "addrgenmode" not in hand:
            assert select.select(rig.steer.event_fds(), [], [], 3)[0], "we are told"
        assert rig.call(rig.steer.ensure), "something was put back"
        assert rig.call(rig.steer.ensure) == []
        with contextlib.suppress(OSError):
            rig.packets(0)
        rig.send()
        assert len(rig.packets()) == 1, "steered again"
    assert "inet6" not in rig.host.ip("addr", "show", "pfkey0")


@pytest.mark.parametrize("switched_on_later", [False, True])
def test_a_host_without_ipv6_works_and_may_get_it_later(net: Net, switched_on_later: bool) -> None:
    a, b = net.host("a", ipv6=not switched_on_later), net.host("b", ipv6=True)
    if switched_on_later:
        rig = Steered(a)
        rig.commit(OUT, IN)
        assert rig.call(rig.steer.ensure) == []
        a.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0",
              "net.ipv6.conf.default.disable_ipv6=0")  # fmt: skip
    a_dev, b_dev = steering.join(net, a, A, b, B)
    if not switched_on_later:
        rig = Steered(a)
        rig.commit(OUT, IN)
        a.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        assert rig.call(rig.steer.ensure)
        assert rig.call(rig.steer.ensure) == []
        a.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
        a.ip("addr", "add", f"{A}/128", "dev", a_dev)
        a.ip("route", "replace", B, "dev", a_dev, "src", A)
    rig.call(rig.steer.ensure)
    with Wire(b, b_dev, a, a_dev) as wire, wire.quiet(A, B):
        a.run("ping", "-c1", "-W0.2", B, check=False)
        assert len(rig.packets()) == 1
    rig.close()
    assert "75" not in a.ip("-6", "rule")
    assert a.ip("-6", "route", "show", "table", "all").count("7575") == 0


def test_without_a_way_to_switch_ipv6_on_all_stays_shut(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers with a read-only /proc/sys."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    rig.commit(OUT)
    rig.host.run("sysctl", "-qw", "net.ipv6.conf.pfkey0.disable_ipv6=1")
    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert rig.call(rig.steer.ensure) == []
    with rig.wire.quiet(A, B):
        rig.send()
        rig.send(device=rig.a_dev)


def test_an_open_tcp_connection_is_steered_as_super_packets(rig: Rig) -> None:
    sink = in_host(rig.b, lambda: socket.create_server((B, PORT), family=socket.AF_INET6))
    client = in_host(rig.host, lambda: socket.create_connection((B, PORT), timeout=5))
    server, _ = sink.accept()
    with sink, client, server:
        for _ in range(20):  # opens the congestion window
            client.sendall(bytes(50000))
            got = 0
            while got < 50000:
                got += len(server.recv(65536))
        rig.commit(policy(Dir.OUT, A, B, proto=TCP))
        with rig.wire.quiet(A, B):
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(bytes(200000))
            records = rig.records()
    flags, gso_type, header, gso_size = struct.unpack_from("=BBHH", max(records, key=len))
    assert (flags & 1, gso_type) == (1, 4), "checksum left to us, TCP over IPv6"
    assert 500 < gso_size <= 1440
    assert header >= 60
    assert max(map(len, records)) > 10 * gso_size


def test_segmented_datagrams_are_one_record(rig: Rig) -> None:
    rig.commit(OUT)

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
            sender.sendto(WORD * 5000, (B, PORT))

    with rig.wire.quiet(A, B):
        rig.call(send)
        (record,) = rig.records()
    _, gso_type, header, gso_size = struct.unpack_from("=BBHH", record)
    assert (gso_type, header, gso_size, len(record)) == (5, 48, 1000, 10 + 48 + 30000)
