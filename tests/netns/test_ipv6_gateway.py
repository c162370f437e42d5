"""Gateways over either family for either family: hosts behind need no setting (RFC 4301 5)."""

import os
import socket
import struct
from functools import partial

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP as SCAPY_ESP
from scapy.layers.ipsec import SecurityAssociation

from keyd.model import SaSpec
from keyd.packet import tunnel
from keyd.packet.esp import EspSa
from pfkey.const import Mode
from tests.netns.test_conversation import MEGABYTE, transfer
from tests.support.sites import AH, BEHIND, ESP, KEY, MAC, SPI, Vpn
from tests.support.steering import ICMPV6, UDP, Wire, arrives, datagram, fragments, packet
from tests.support.system import ENDS, until
from tests.support.wire import (
    Tap,
    checksum,
    drain,
    family,
    has_come,
    in_host,
    packed,
    protocol,
    udp_listener,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 4000
ECHO = {(1, 8), (ICMPV6, 128)}
# inside, outside, protocol
WAYS = {
    "6-in-6": (6, 6, "esp"), "4-in-6": (4, 6, "esp"), "6-in-4": (6, 4, "esp"),
    "6-in-6-ah": (6, 6, "ah"), "6-in-4-ah": (6, 4, "ah"),
}  # fmt: skip


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, vpn: Vpn) -> tuple[int, int, str]:
    vpn.load(*WAYS[request.param])
    return WAYS[request.param]


def test_all_sizes_pass_between_hosts_behind(vpn: Vpn, way: tuple[int, int, str]) -> None:
    inside, outside, proto = way
    h, k = BEHIND[inside]
    with Tap(vpn.r, "tog") as wire, Tap(vpn.k, "tor") as far:
        for size in ("56", "1452", "3000", "65000"):
            # h may have to hear first what fits
            assert any(vpn.ping(k, "-s", size) for _ in range(2)), size
        for sender, receiver, src, dst in ((vpn.h, vpn.k, h, k), (vpn.k, vpn.h, k, h)):
            listener, talker = udp_listener(receiver, dst, PORT), udp_listener(sender, src, 0)
            for octets in (1, 1000, 5000, 65000):
                talker.sendto(b"x" * octets, (dst, PORT))
                assert len(arrives(listener)) == octets
            assert len(transfer(sender, receiver, dst, MEGABYTE)) == MEGABYTE
    assert {protocol(p) for p in wire.packets} == {{"esp": ESP, "ah": AH}[proto]}
    assert {p[0] >> 4 for p in wire.packets} == {outside}
    assert max(map(len, wire.packets)) <= 1500
    requests = [p for p in far.between(h, k) if (protocol(p), p[20 if inside == 4 else 40]) in ECHO]
    assert {p[8 if inside == 4 else 7] for p in requests} == {62}, "two hops"


def test_a_host_behind_is_told_what_fits_and_fragments_itself(
    vpn: Vpn, way: tuple[int, int, str]
) -> None:
    """RFC 8200 4.5: nobody fragments IPv6 but its source."""
    inside, _, _ = way
    h, k = BEHIND[inside]
    vpn.h.run("ip", f"-{inside}", "route", "flush", "cache")
    listener, talker = udp_listener(vpn.k, k, PORT), udp_listener(vpn.h, h, 0)
    if inside == 4:
        talker.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_PMTUDISC_DO
    full = 1500 - (28 if inside == 4 else 48)
    told = vpn.dg.counter("pfkey", "icmp_toobig_sent")
    with Tap(vpn.k, "tor") as far:
        talker.sendto(bytes(full), (k, PORT))
        until(lambda: "mtu" in vpn.h.ip("route", "get", k))
        mtu = int(vpn.h.ip("route", "get", k).split("mtu ")[1].split()[0])
        assert vpn.dg.counter("pfkey", "icmp_toobig_sent") == told + 1
        assert 1380 < mtu < 1480
        talker.sendto(bytes(full - (1500 - mtu)), (k, PORT))
        assert len(arrives(listener)) == full - (1500 - mtu)
        if inside == 6:
            talker.sendto(bytes(full), (k, PORT))
            assert len(arrives(listener)) == full
            until(lambda: [p[6] for p in far.between(h, k)].count(44) == 2, what="two fragments")
    assert vpn.dg.counter("pfkey", "icmp_toobig_sent") == told + 1


def test_clear_packets_for_a_host_behind_are_refused(vpn: Vpn, way: tuple[int, int, str]) -> None:
    """Whole and in fragments, in either order, and mixed with pieces that were protected."""
    inside, _, _ = way
    h, k = BEHIND[inside]
    listener = udp_listener(vpn.h, h, PORT)
    wire = Wire(vpn.r, "tog", vpn.g, "tor")
    refused = vpn.dg.counter("ipsec", "in_polvio")
    whole = datagram(k, h, PORT, b"clear!" * 200)

    def pieces(ident: int) -> tuple[bytes, bytes]:
        return fragments(k, h, UDP, whole, ident=ident)

    head, tail = pieces(1)
    wire.inject(packet(k, h, UDP, datagram(k, h, PORT)), head, tail, *reversed(pieces(2)))
    until(lambda: vpn.dg.counter("ipsec", "in_polvio") == refused + 5)
    through = in_host(vpn.k, lambda: socket.socket(family(k), socket.SOCK_RAW, socket.IPPROTO_RAW))
    with Tap(vpn.h, "tog") as near:
        for ident, is_head_protected, is_clear_first in (
            (3, True, True), (4, True, False), (5, False, True), (6, False, False),
        ):  # fmt: skip
            head, tail = pieces(ident)
            protected, clear = (head, tail) if is_head_protected else (tail, head)
            before = len(near.packets)
            if is_clear_first:
                wire.inject(clear)
            through.sendto(protected, (h, 0))
            until(partial(has_come, near, before), what="the protected piece")
            if not is_clear_first:
                wire.inject(clear)
    until(lambda: vpn.dg.counter("ipsec", "in_polvio") == refused + 9)
    assert len(near.packets) == 4, "the protected ones and no other"
    assert drain(listener) == []
    for piece in pieces(7):
        through.sendto(piece, (h, 0))
    assert len(arrives(listener)) == 1200, "both pieces protected"


def is_counted(vpn: Vpn, group: str, name: str, number: int) -> bool:
    return vpn.dg.counter(group, name) == number


# ---------------------------------------------------------------- who may speak for whom


def sealed(vpn: Vpn, inner: bytes, outside: int, seq: int) -> bytes:
    """ESP in tunnel mode as r would send it to g."""
    g, r = ENDS[outside]
    spec = SaSpec(
        slot=0, proto=ESP, spi=SPI[ESP, "in"], src=packed(r), dst=packed(g), mode=Mode.ANY,
        encrypt=12, encrypt_key=KEY.encode(), auth=5, auth_key=MAC.encode(),
    )  # fmt: skip
    esp = EspSa(spec).seal(seq, inner, tunnel.next_header(inner), os.urandom(16))
    return packet(r, g, ESP, esp)


def icmpv6(src: str, dst: str, kind: int, hops: int = 255) -> bytes:
    """A message of neighbour discovery about somebody."""
    body = struct.pack(">BBHI", kind, 0, 0, 0) + packed(dst)
    pseudo = packed(src) + packed(dst) + struct.pack(">II", len(body), ICMPV6)
    body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
    return packet(src, dst, ICMPV6, body, hops=hops)


@pytest.mark.parametrize("outside", [4, 6], ids=["over-ipv4", "over-ipv6"])
def test_what_may_not_come_out_of_a_tunnel_does_not(vpn: Vpn, outside: int) -> None:
    """The peer has the keys and yet may not speak for others, nor for this link."""
    vpn.load(6, outside)
    h, k = BEHIND[6]
    wire = Wire(vpn.r, "tog", vpn.g, "tor")
    g6, _ = ENDS[6]
    cases = [
        (("pfkey", "spoofed"), packet("fe80::1", h, UDP, datagram("fe80::1", h, PORT))),
        (("pfkey", "spoofed"), packet("::1", h, UDP, datagram("::1", h, PORT))),
        (("pfkey", "spoofed"), packet("::ffff:9.9.9.9", h, UDP, datagram("::1", h, PORT))),
        (("pfkey", "spoofed"), packet("ff02::1", h, UDP, datagram("::1", h, PORT))),
        (("pfkey", "spoofed"), packet(g6, h, UDP, datagram(g6, h, PORT))),
        (("pfkey", "nd_refused"), icmpv6(k, h, 135)),
        (("pfkey", "nd_refused"), icmpv6(k, h, 134)),
        (("pfkey", "nd_refused"), icmpv6(k, h, 137, hops=64)),
        (("esp", "pdrops"), packet("2001:db8:c::1", h, UDP, datagram("2001:db8:c::1", h, PORT))),
        (("esp", "pdrops"), packet(k, g6, UDP, datagram(k, g6, PORT))),
        (("esp", "pdrops"), packet("10.0.2.5", "10.0.1.5", UDP, datagram(*BEHIND[4][::-1], PORT))),
        (("esp", "tunnel"), packet(k, h, UDP, datagram(k, h, PORT))[:44]),
    ]
    with Tap(vpn.h, "tog") as near:
        for seq, ((group, name), inner) in enumerate(cases, 2**16):
            before = vpn.dg.counter(group, name)
            wire.inject(sealed(vpn, inner, outside, seq))
            until(partial(is_counted, vpn, group, name, before + 1), what=f"{name}: {inner.hex()}")
        good = packet(k, h, UDP, datagram(k, h, PORT))
        wire.inject(sealed(vpn, good, outside, 2**17))
        until(lambda: near.packets)
    assert len(near.packets) == 1, "of all these, one"


def test_the_gateways_own_traffic_and_others_pass_in_clear(vpn: Vpn) -> None:
    vpn.load(6, 6)
    with Tap(vpn.r, "tog") as wire:
        assert vpn.ping(ENDS[6][1], host=vpn.g)
        assert vpn.ping(ENDS[4][1], host=vpn.g)
        assert vpn.ping(BEHIND[4][1])
        assert vpn.ping(BEHIND[6][1])
    assert set(wire.protocols(*ENDS[6])) == {ICMPV6, ESP}
    assert set(wire.protocols(*ENDS[4])) == set(wire.protocols(*BEHIND[4])) == {1}


def test_scapy_opens_each_familys_tunnel(vpn: Vpn) -> None:
    kinds = {4: IP, 6: IPv6}
    for inside, outside in ((6, 6), (4, 6), (6, 4), (4, 4)):
        vpn.load(inside, outside)
        with Tap(vpn.r, "tog") as wire, Tap(vpn.k, "tor") as far:
            assert vpn.ping(BEHIND[inside][1])
            until(lambda: len(far.packets) >= 2)
        g, r = ENDS[outside]
        sa = SecurityAssociation(
            SCAPY_ESP, spi=SPI[ESP, "out"], crypt_algo="AES-CBC", crypt_key=KEY.encode(),
            auth_algo="SHA2-256-128", auth_key=MAC.encode(),
            tunnel_header=kinds[outside](src=g, dst=r),
        )  # fmt: skip
        found = [sa.decrypt(kinds[outside](p)) for p in wire.between(g, r)]
        assert {(p.src, p.dst) for p in found} == {BEHIND[inside]}
        for before, after in zip(found, far.between(*BEHIND[inside]), strict=True):
            octets = bytes(before)
            at = 8 if inside == 4 else 7
            assert octets[at] == after[at] + 1, "r is a hop"
            assert octets[20:] == after[20:] or inside == 6
