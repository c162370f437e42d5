"""Steering on a gateway with real packets: forwarded traffic into the TUN and out of it.

h ───── g ───── w        h, i: hosts behind the gateway; g: steering, its TUN read by the test;
i ──────┘                w: the wire
"""

import array
import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from keyd.shell.tun import VNET_HEADER_OCTETS
from pfkey.const import Dir, Level, PolicyType
from pfkey.lab.hosts import Host, Net
from tests.support import steering
from tests.support.steering import (
    ESP,
    ICMPV6,
    TCP,
    UDP,
    WORD,
    Steered,
    Wire,
    arrives,
    datagram,
    packet,
    policy,
)
from tests.support.system import until
from tests.support.wire import checksum, drain, family, in_host, packed, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 9000
NONE = PolicyType.NONE
ICMP = 1


class Site(Steered):
    """The gateway with its links, over one family."""

    def __init__(self, net: Net, is_ipv6: bool) -> None:
        self.is_ipv6 = is_ipv6
        self.h_addr, self.i_addr, self.w_addr = (
            ("2001:db8:1::1", "2001:db8:2::1", "2001:db8:f::1") if is_ipv6
            else ("10.1.1.1", "10.2.2.1", "20.1.1.1")
        )  # fmt: skip
        self.h, self.i, self.w, gateway = (net.host(n, ipv6=is_ipv6) for n in "hiwg")
        links = {}
        for n, (host, address) in enumerate(
            ((self.h, self.h_addr), (self.i, self.i_addr), (self.w, self.w_addr))
        ):
            near = f"2001:db8:e::{n + 1}" if is_ipv6 else f"10.99.0.{n + 1}"
            host_dev, gateway_dev = steering.join(net, host, address, gateway, near)
            host.ip("route", "add", "default", "via", near, "dev", host_dev)
            links[host.name] = (host, host_dev, gateway, gateway_dev)
        gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.out = policy(Dir.OUT, self.h_addr, self.w_addr)
        self.back = policy(Dir.IN, self.w_addr, self.h_addr)
        until(lambda: self.ping())
        self.wires = {name: Wire(*ends) for name, ends in links.items()}
        super().__init__(gateway)

    @property
    def wire(self) -> Wire:
        return self.wires["w"]

    def ping(self, *options: str) -> bool:
        done = self.h.run("ping", "-c1", "-W0.3", *options, self.w_addr, check=False)
        return done.returncode == 0

    def send(self, to: str, payload: bytes = WORD, dport: int = PORT, host: Host | None = None,
             segment: int = 0) -> None:  # fmt: skip
        def job() -> None:
            with socket.socket(family(to), socket.SOCK_DGRAM) as sender:
                if segment:
                    sender.setsockopt(socket.IPPROTO_UDP, 103, segment)  # UDP_SEGMENT
                with contextlib.suppress(OSError):
                    sender.sendto(payload, (to, dport))

        in_host(host or self.h, job)

    def hops(self, octets: bytes) -> int:
        return octets[7 if self.is_ipv6 else 8]

    def quiet(self) -> contextlib.AbstractContextManager[None]:
        return self.wire.quiet(self.h_addr, self.w_addr)

    def is_icmp(self, octets: bytes) -> bool:
        return octets[6] == ICMPV6 if self.is_ipv6 else octets[9] == ICMP


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def site(request: pytest.FixtureRequest, net: Net) -> Iterator[Site]:
    made = Site(net, request.param)
    with contextlib.ExitStack() as stack:
        for wire in made.wires.values():
            stack.enter_context(wire)
        yield made
    made.close()


def test_what_a_policy_selects_enters_the_tun_one_hop_shorter(site: Site) -> None:
    site.commit(site.out)
    with site.quiet():
        site.send(site.w_addr)
        (taken,) = site.packets()
        assert not site.ping()
        assert len(site.packets()) == 1
    assert site.hops(taken) == 63
    assert taken.endswith(WORD)
    assert packed(site.h_addr) + packed(site.w_addr) in taken
    site.commit(policy(Dir.OUT, site.i_addr, site.w_addr))
    until(site.ping, what="others are not concerned")


def test_the_first_matching_policy_decides(site: Site) -> None:
    everything = "::/0" if site.is_ipv6 else "0.0.0.0/0"
    dns = policy(Dir.OUT, site.h_addr, everything, NONE, proto=UDP, dport=53)
    site.commit(dns, site.out)
    with udp_listener(site.w, site.w_addr, 53) as receiver:
        site.send(site.w_addr, dport=53)
        site.send(site.w_addr, dport=54)
        assert arrives(receiver) == WORD
        assert len(site.packets()) == 1
        site.commit(policy(Dir.OUT, site.h_addr, everything, PolicyType.DISCARD), dns)
        with site.quiet():
            site.send(site.w_addr, dport=53)
        assert site.count("out_discard") == 1
        site.commit(site.out, dns)
        with site.quiet():
            site.send(site.w_addr, dport=53)
            assert len(site.packets()) == 1


def test_packets_to_the_gateway_itself_are_not_forwarded_ones(site: Site) -> None:
    everything = "::/0" if site.is_ipv6 else "0.0.0.0/0"
    site.commit(policy(Dir.OUT, site.h_addr, everything))
    near = "2001:db8:e::1" if site.is_ipv6 else "10.99.0.1"
    with udp_listener(site.host, near, PORT) as receiver:
        site.send(near)
        assert arrives(receiver) == WORD
    assert site.packets(0.1) == []


def test_the_guard_stands_without_rule_and_routes(site: Site) -> None:
    site.commit(site.out)
    version = "-6" if site.is_ipv6 else "-4"
    site.host.ip(version, "rule", "del", "priority", "75")
    site.host.ip(version, "route", "flush", "table", "7575")
    with site.quiet():
        site.send(site.w_addr)
        assert not site.ping()
    assert site.count("out_guard") == 2
    assert site.call(site.steer.ensure)
    site.send(site.w_addr)
    assert len(site.packets()) == 1


def test_marks_that_others_give_on_the_way_in_do_not_count(site: Site) -> None:
    site.host.run("nft", "-f", "-", stdin="""
        add table inet others
        add chain inet others c { type filter hook prerouting priority -150; }
        add rule inet others c meta mark set 0x4b000007
    """)  # fmt: skip
    until(site.ping, what="nothing is steered that no policy selects")
    site.commit(site.out)
    with site.quiet():
        site.send(site.w_addr)
        assert len(site.packets()) == 1
    site.host.run("nft", "-f", "-", stdin="""
        flush chain inet others c
        add rule inet others c meta mark set 0x4c000007
    """)  # fmt: skip
    with site.quiet():
        site.send(site.w_addr)
        assert len(site.packets()) == 1, "nor is anything let past"


@pytest.mark.parametrize(
    "hook",
    [
        "prerouting priority 0",
        "prerouting priority 310",
        "forward priority -150",
        "postrouting priority -150",
    ],
)
def test_marks_that_others_overwrite_open_nothing(site: Site, hook: str) -> None:
    site.host.run("nft", "-f", "-", stdin=f"""
        add table inet others
        add chain inet others c {{ type filter hook {hook}; }}
        add rule inet others c meta mark set 7
    """)  # fmt: skip
    site.commit(site.out)
    with site.quiet():
        site.send(site.w_addr)
        assert not site.ping()
        assert len(site.packets()) + site.count("out_guard") == 2


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_what_the_data_path_opened_is_forwarded_and_not_taken_again(
    site: Site, rp_filter: int
) -> None:
    site.host.run("sysctl", "-qw", f"net.ipv4.conf.all.rp_filter={rp_filter}")
    fwd = policy(Dir.FWD, site.w_addr, site.h_addr)
    site.commit(site.out, site.back, fwd)
    site.write(packet(site.w_addr, site.h_addr, UDP, datagram(site.w_addr, site.h_addr, PORT)))
    until(lambda: site.wires["h"].between(site.w_addr, site.h_addr))
    (got,) = site.wires["h"].between(site.w_addr, site.h_addr)
    assert site.hops(got) == 63
    taken = site.packets()
    assert [site.is_icmp(one) for one in taken] == [True], "only the host's answer"
    counts = site.call(site.steer.counters)
    assert not any(counts.values())


def test_clear_packets_from_the_wire_obey_in_and_then_fwd(site: Site) -> None:
    """The host behind the gateway gets what both directions' first matches let pass."""
    fwd = policy(Dir.FWD, site.w_addr, site.h_addr)
    clear = packet(site.w_addr, site.h_addr, UDP, datagram(site.w_addr, site.h_addr, PORT))
    pass_in = policy(Dir.IN, site.w_addr, site.h_addr, NONE, proto=UDP, dport=PORT)
    pass_fwd = policy(Dir.FWD, site.w_addr, site.h_addr, NONE, proto=UDP, dport=PORT)
    with udp_listener(site.h, site.h_addr, PORT) as receiver:
        for policies, counter in (
            ([], ""),
            ([site.back], "in_polvio"),
            ([pass_in, site.back], ""),
            ([fwd], "fwd_polvio"),
            ([pass_fwd, fwd, pass_in, site.back], ""),
            ([pass_in, site.back, fwd], "fwd_polvio"),
            ([policy(Dir.FWD, site.w_addr, site.h_addr, PolicyType.DISCARD)], "fwd_discard"),
        ):
            site.commit(*policies)
            before = site.count(counter) if counter else 0
            site.wire.inject(clear)
            time.sleep(0.1)
            assert bool(drain(receiver)) == (not counter), policies
            assert not counter or site.count(counter) == before + 1


@pytest.mark.parametrize("proto", [ESP, 51, 108])
def test_ipsec_between_others_obeys_like_any_protocol(site: Site, proto: int) -> None:
    """A protected protocol's number opens the door to the gateway itself, to nobody behind it."""
    sealed = packet(site.w_addr, site.h_addr, proto, bytes(range(200)))
    site.wire.inject(sealed)
    until(lambda: site.wires["h"].between(site.w_addr, site.h_addr))
    site.commit(site.back, site.out)
    with site.wires["h"].quiet(site.w_addr, site.h_addr):
        site.wire.inject(sealed)
    assert site.count("in_polvio") == 1
    site.wires["h"].inject(packet(site.h_addr, site.w_addr, proto, bytes(range(200))))
    assert len(site.packets()) == 1


def test_from_tunnel_to_tunnel_and_no_redirect(site: Site) -> None:
    """A hub: what came out of one tunnel goes into another, if an outbound policy says so."""
    site.host.run("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1",
                  "net.ipv4.conf.all.accept_redirects=1")  # fmt: skip
    opened = packet(site.i_addr, site.w_addr, UDP, datagram(site.i_addr, site.w_addr, PORT))
    site.commit(site.out)
    with udp_listener(site.w, site.w_addr, PORT) as receiver:
        site.write(opened)
        assert arrives(receiver) == WORD
    assert site.packets(0.1) == []
    site.commit(policy(Dir.OUT, site.i_addr, site.w_addr))
    with site.wire.quiet(site.i_addr, site.w_addr):
        site.write(opened)
        (taken,) = site.packets()
    assert (site.hops(taken), taken.endswith(WORD)) == (63, True)
    site.commit(policy(Dir.OUT, site.i_addr, site.w_addr, PolicyType.DISCARD))
    site.write(opened)
    assert site.packets(0.1) == []
    assert site.count("out_discard") == 1


def test_what_comes_back_again_and_again_loses_a_hop_each_time(site: Site) -> None:
    """The worst data path would write all it reads: even that ends."""
    everything = "::/0" if site.is_ipv6 else "0.0.0.0/0"
    site.commit(policy(Dir.OUT, everything, everything, proto=UDP))
    going = [packet(site.i_addr, site.w_addr, UDP, datagram(site.i_addr, site.w_addr, PORT),
                    hops=5)]  # fmt: skip
    seen = []
    while not any(map(site.is_icmp, going)):
        site.write(*going)
        going = site.packets()
        seen += [site.hops(one) for one in going]
    assert seen[:4] == [4, 3, 2, 1]
    (told,) = going
    assert told.endswith(WORD), "time exceeded, which goes where it would be answered"


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "conntrack"])
@pytest.mark.parametrize("order", [1, -1], ids=["head first", "tail first"])
@pytest.mark.parametrize("port", [0, PORT])
def test_fragments_of_protected_flows_all_go_to_the_data_path(
    site: Site, tracked: bool, order: int, port: int
) -> None:
    if tracked:
        site.host.run("nft", "-f", "-", stdin="""
            add table inet early
            add chain inet early c { type filter hook prerouting priority -200; }
            add rule inet early c ct state invalid counter
        """)  # fmt: skip
    dns = policy(Dir.OUT, site.h_addr, site.w_addr, NONE, proto=UDP, dport=53)
    site.commit(dns, policy(Dir.OUT, site.h_addr, site.w_addr, proto=UDP, dport=port))
    payload = datagram(site.h_addr, site.w_addr, PORT, WORD * 200)
    made = steering.fragments(site.h_addr, site.w_addr, UDP, payload)[::order]
    with site.quiet():
        site.wires["h"].inject(*made)
        taken = site.packets()
        assert len(taken) == 2
    at = 48 if site.is_ipv6 else 20
    joined = sorted(one[at:] for one in taken)
    assert sorted((payload[:800], payload[800:])) == joined


def test_unselected_fragments_between_the_same_hosts_go_along_together(site: Site) -> None:
    """Heads too: the data path could not put together what it has only half of."""
    dns = policy(Dir.OUT, site.h_addr, site.w_addr, NONE, proto=UDP, dport=53)
    site.commit(dns, policy(Dir.OUT, site.h_addr, site.w_addr, proto=UDP, dport=PORT))
    with site.quiet():
        for port in (53, 54):
            payload = datagram(site.h_addr, site.w_addr, port, WORD * 200)
            site.wires["h"].inject(*steering.fragments(site.h_addr, site.w_addr, UDP, payload))
        assert len(site.packets()) == 4
    site.commit(policy(Dir.OUT, site.h_addr, site.w_addr, proto=TCP, dport=PORT))
    tcp = steering.fragments(site.h_addr, site.w_addr, UDP, payload, ident=99)
    site.wires["h"].inject(*tcp)
    taken = len(site.packets())
    assert taken == (2 if site.is_ipv6 else 0), "an IPv6 tail could belong to anything"


def warm(site: Site, server_at: Host, address: str) -> tuple[socket.socket, ...]:
    """A TCP connection from h with an open congestion window."""
    sink = in_host(server_at, lambda: socket.create_server((address, PORT), family=family(address)))
    client = in_host(site.h, lambda: socket.create_connection((address, PORT), timeout=5))
    server, _ = sink.accept()
    for _ in range(20):
        client.sendall(bytes(50000))
        got = 0
        while got < 50000:
            got += len(server.recv(65536))
    return sink, client, server


def offload(host: Host, device: str, command: int, value: int) -> None:
    """One ethtool switch, by its ioctl."""

    def job() -> None:
        body = array.array("B", struct.pack("=II", command, value))
        request = struct.pack("=16sQ16x", device.encode(), body.buffer_info()[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8946, request)  # SIOCETHTOOL

    in_host(host, job)


@pytest.mark.parametrize("merged", [False, True], ids=["sent as one", "merged on arrival"])
def test_forwarded_tcp_arrives_as_super_packets(site: Site, merged: bool) -> None:
    if merged:  # h sends segments, which the gateway's GRO puts together
        for command in (0x1F, 0x24):  # ETHTOOL_STSO, ETHTOOL_SGSO
            offload(site.h, "tog", command, 0)
        offload(site.host, "toh", 0x2C, 1)  # ETHTOOL_SGRO
    sink, client, server = warm(site, site.w, site.w_addr)
    with sink, client, server:
        site.commit(policy(Dir.OUT, site.h_addr, site.w_addr, proto=TCP))
        with site.quiet():
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(bytes(200000))
            records = site.records()
    flags, gso_type, header, gso_size = struct.unpack_from("=BBHH", max(records, key=len))
    assert (flags & 1, gso_type) == (1, 4 if site.is_ipv6 else 1)
    assert 500 < gso_size <= 1460
    assert header >= 40
    assert max(map(len, records)) > 5 * gso_size
    assert site.hops(max(records, key=len)[VNET_HEADER_OCTETS:]) == 63


def test_forwarded_segmented_datagrams_arrive_as_one_record(site: Site) -> None:
    site.commit(site.out)
    with site.quiet():
        site.send(site.w_addr, WORD * 5000, segment=1000)
        (record,) = site.records()
    _, gso_type, header, gso_size = struct.unpack_from("=BBHH", record)
    ip_octets = 40 if site.is_ipv6 else 20
    assert (gso_type, header, gso_size) == (5, ip_octets + 8, 1000)
    assert len(record) == VNET_HEADER_OCTETS + ip_octets + 8 + 30000


def test_a_super_packet_that_was_opened_is_cut_for_the_next_link(site: Site) -> None:
    """The data path writes merged segments; the kernel forwards what fits each link."""
    site.commit(site.out)
    source, target = packed(site.w_addr), packed(site.h_addr)
    header = struct.pack(">HHIIHHHH", 80, PORT, 1000, 1, 0x5010, 65535, 0, 0)
    payload = WORD * 2000
    pseudo = source + target + struct.pack(">IHBB", 20 + len(payload), 0, 0, TCP)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:16] + struct.pack(">H", (total & 0xFFFF) + (total >> 16)) + header[18:]
    whole = packet(site.w_addr, site.h_addr, TCP, header + payload)
    ip_octets = 40 if site.is_ipv6 else 20
    vnet = struct.pack("=BBHHHH", 1, 4 if site.is_ipv6 else 1, ip_octets + 20, 1400, ip_octets, 16)
    offload(site.host, "toh", 0x1F, 0)  # ETHTOOL_STSO: as a device that cannot
    offload(site.host, "toh", 0x24, 0)
    os.write(site.steer.tun_fd, vnet + whole)
    wire = site.wires["h"]
    until(lambda: len(wire.between(site.w_addr, site.h_addr)) == 9)
    assert max(map(len, wire.between(site.w_addr, site.h_addr))) == ip_octets + 20 + 1400


def test_too_big_reaches_the_host_behind_the_gateway(site: Site) -> None:
    """As the data path says it: in the name of the packet's destination, which is not local."""
    site.commit(site.out, site.back, policy(Dir.FWD, site.w_addr, site.h_addr))

    def connect() -> socket.socket:
        made = socket.socket(family(site.w_addr), socket.SOCK_DGRAM)
        made.connect((site.w_addr, PORT))
        made.send(WORD)
        return made

    with in_host(site.h, connect):
        (quoted,) = site.packets()
        kind = b"\x02\0" if site.is_ipv6 else b"\x03\x04"
        rest = struct.pack(">I", 1300) + quoted
        pseudo = packed(site.w_addr) + packed(site.h_addr)
        pseudo += struct.pack(">II", 4 + len(rest), ICMPV6)
        total = checksum((pseudo if site.is_ipv6 else b"") + kind + bytes(2) + rest)
        answer = kind + struct.pack(">H", total) + rest
        site.write(packet(site.w_addr, site.h_addr, ICMPV6 if site.is_ipv6 else ICMP, answer))
        until(lambda: "mtu 1300" in site.h.ip("route", "get", site.w_addr))


def test_what_is_held_is_not_forwarded(site: Site) -> None:
    site.commit(site.out, site.back)
    site.close(hold=True)
    with site.quiet():
        site.send(site.w_addr)
        assert not site.ping()
    successor = Steered(site.host)
    with site.quiet():
        site.send(site.w_addr)
    assert successor.count("hold_dropped") >= 1
    site.steer = successor.steer


def test_forwarded_multicast_is_held_back_and_local_multicast_is_not(net: Net) -> None:
    """No mark steers multicast: what must be protected is dropped."""
    group = "239.1.2.3"
    site = Site(net, is_ipv6=False)

    def join() -> socket.socket:
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        member.bind(("", PORT))
        mreq = socket.inet_aton(group) + struct.pack(
            "=4si", b"", socket.if_nametoindex("toh" if at is site.host else "tog")
        )
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq)
        member.setblocking(False)
        return member

    def route() -> socket.socket:
        router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
        router.setsockopt(socket.IPPROTO_IP, 200, 1)  # MRT_INIT
        for number, device in enumerate(("toh", "tow")):
            vif = struct.pack("=HBBIi4x", number, 8, 1, 0, socket.if_nametoindex(device))
            router.setsockopt(socket.IPPROTO_IP, 202, vif)  # MRT_ADD_VIF by index
        entry = packed(site.h_addr) + packed(group) + struct.pack("=H", 0)
        entry += bytes((0, 1)) + bytes(30 + 2 + 16)
        router.setsockopt(socket.IPPROTO_IP, 204, entry)  # MRT_ADD_MFC
        return router

    site.h.ip("route", "add", "224.0.0.0/4", "dev", "tog")
    at = site.w
    far = in_host(site.w, join)
    at = site.host
    near = in_host(site.host, join)
    with in_host(site.host, route), far, near:

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
                sender.sendto(WORD, (group, PORT))

        for policies, passes in (
            ([], True),
            ([policy(Dir.OUT, site.h_addr, group)], False),
            (
                [policy(Dir.OUT, site.h_addr, group, NONE), policy(Dir.OUT, "0.0.0.0/0", group)],
                True,
            ),
            # of UDP: the kernel itself announces groups, when it likes
            ([policy(Dir.OUT, "0.0.0.0/0", "0.0.0.0/0", PolicyType.DISCARD, proto=UDP)], False),
        ):
            site.commit(*policies)
            in_host(site.h, send)
            assert arrives(near) == WORD
            time.sleep(0.05)
            assert bool(drain(far)) == passes, policies
        site.commit(policy(Dir.OUT, site.h_addr, group, level=Level.USE))
        in_host(site.h, send)
        assert arrives(far) == WORD, "and what need not be protected passes"
    assert (site.count("out_own"), site.count("out_discard")) == (1, 1)
    site.close()
