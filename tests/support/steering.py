"""A host with steering whose TUN device the test itself reads and writes, over either family."""

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from keyd.model import PolicySpec, Request
from keyd.shell.steer import Steer
from keyd.shell.tun import VNET_HEADER_OCTETS
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.lab.hosts import Host, Net
from pfkey.selector import Range, Selector
from tests.support.wire import Tap, checksum, family, in_host, ipv4, mac_of, packed

BYPASS_UID = 54321
WORD = b"clear!"
HOP_BY_HOP, TCP, UDP, ROUTING, FRAGMENT, ESP, AH, ICMPV6, NONE, OPTIONS = (
    0, 6, 17, 43, 44, 50, 51, 58, 59, 60,
)  # fmt: skip
_EXTENSIONS = (HOP_BY_HOP, ROUTING, OPTIONS)


def follow(steer: Steer, policies: Sequence[PolicySpec]) -> None:
    """Commit what makes these all the policies that nft has."""
    had = {
        spec.id: spec
        for blocks in steer._chains._blocks.values()
        for block in blocks
        for _, spec, _ in block.entries
    }
    wanted = {spec.id: spec for spec in policies}
    steer.commit(
        [spec for spec in policies if had.get(spec.id) != spec],
        [spec for spec in had.values() if wanted.get(spec.id) != spec],
    )


def policy(
    dir: Dir, src: str, dst: str, type: PolicyType = PolicyType.IPSEC,
    level: Level = Level.REQUIRE, *, proto: int = 255, sport: int = 0, dport: int = 0,
) -> PolicySpec:  # fmt: skip
    """A policy between two prefixes; an address alone is a host."""

    def end(text: str, port: int) -> Range:
        address, _, bits = text.partition("/")
        octets = packed(address)
        return Range(octets, int(bits or 8 * len(octets)), port)

    request = Request(proto=ESP, mode=Mode.TRANSPORT, level=level)
    return PolicySpec(
        id=0, dir=dir, type=type, selector=Selector(end(src, sport), end(dst, dport), proto),
        requests=(request,) if type == PolicyType.IPSEC else (),
    )  # fmt: skip


class Steered:
    """Steering in a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.steer = Steer(bypass_uid=BYPASS_UID)
        self.call(self.steer.open)

    def call(self, job: Callable[..., Any], *args: Any) -> Any:
        """Run something in the host's namespace."""
        return in_host(self.host, lambda: job(*args))

    def commit(self, *policies: PolicySpec) -> None:
        """Make these the policies, in this order."""
        numbered = [replace(p, id=n + 1, order=n) for n, p in enumerate(policies)]
        self.call(follow, self.steer, numbered)

    def count(self, name: str) -> int:
        """A counter's value."""
        return int(self.call(self.steer.counters)[name])

    def records(self, seconds: float = 0.3) -> list[bytes]:
        """What came into the TUN, virtio-net header first."""
        records = []
        while select.select([self.steer.tun_fd], [], [], seconds)[0]:
            records.append(os.read(self.steer.tun_fd, 70000))
            seconds = 0.05
        return records

    def packets(self, seconds: float = 0.3) -> list[bytes]:
        """What came into the TUN."""
        return [record[VNET_HEADER_OCTETS:] for record in self.records(seconds)]

    def write(self, *packets: bytes) -> None:
        """Packets as if the data path had opened them."""
        for packet in packets:
            os.write(self.steer.tun_fd, bytes(VNET_HEADER_OCTETS) + packet)

    def close(self, hold: bool = False) -> None:
        """Stop."""
        self.call(self.steer.close, hold)


@contextlib.contextmanager
def steered(host: Host) -> Iterator[Steered]:
    """Steering, stopped at the end."""
    made = Steered(host)
    try:
        yield made
    finally:
        made.close()


def join(net: Net, a: Host, a_address: str, b: Host, b_address: str) -> tuple[str, str]:
    """Join two hosts by addresses of either family; IPv6 ones are usable at once."""
    if family(a_address) == socket.AF_INET:
        return net.link(a, f"{a_address}/32", b, f"{b_address}/32")
    devices = f"to{b.name}", f"to{a.name}"
    a.ip("link", "add", devices[0], "type", "veth", "peer", "name", devices[1], "netns", b.netns)
    for host, device, own in ((a, devices[0], a_address), (b, devices[1], b_address)):
        host.run("sysctl", "-qw", f"net.ipv6.conf.{device}.accept_dad=0")
        host.ip("addr", "add", f"{own}/128", "dev", device, "nodad")
        host.ip("link", "set", device, "up")
    for host, device, own, other in (
        (a, devices[0], a_address, b_address), (b, devices[1], b_address, a_address),
    ):  # fmt: skip
        host.ip("route", "replace", other, "dev", device, "src", own)
    return devices


class Wire(Tap):
    """What arrives at a device of a host, and a way to put packets on the wire from there."""

    def __init__(self, host: Host, device: str, peer: Host, peer_device: str) -> None:
        super().__init__(host, device)
        self.peer_mac = mac_of(peer, peer_device)
        self._device = device
        self._sender = in_host(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._sender.close()

    def inject(self, *packets: bytes) -> None:
        """Packets towards the other end, past everything that this host is."""
        for packet in packets:
            kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
            self._sender.sendto(packet, (self._device, kind, 0, 0, self.peer_mac))

    @contextlib.contextmanager
    def quiet(self, src: str, dst: str) -> Iterator[None]:
        """Nothing goes from one address to the other meanwhile; what was under way may arrive."""
        time.sleep(0.05)
        self.forget()
        yield
        time.sleep(0.15)
        assert self.between(src, dst) == []


def datagram(src: str, dst: str, dport: int, payload: bytes = WORD, sport: int = 1) -> bytes:
    """A UDP datagram with its checksum."""
    head = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0)
    pseudo = packed(src) + packed(dst) + struct.pack(">IHBB", len(head + payload), 0, 0, UDP)
    return head[:6] + struct.pack(">H", checksum(pseudo + head + payload) or 0xFFFF) + payload


def ipv6(src: str, dst: str, proto: int, payload: bytes, *, hops: int = 64) -> bytes:
    """An IPv6 packet; `proto` is that of what follows the fixed header."""
    return struct.pack(">IHBB", 6 << 28, len(payload), proto, hops) + packed(src) + packed(dst) + (
        payload
    )  # fmt: skip


def extension(proto: int, payload: bytes, *, kind: int) -> bytes:
    """An extension header of eight octets before a payload."""
    body = b"\x01\x04\0\0\0\0" if kind != ROUTING else bytes((4, 0, 0, 0, 0, 0))
    return bytes((proto, 0)) + body + payload


def piece(proto: int, payload: bytes, offset: int, *, more: bool, ident: int = 7) -> bytes:
    """A fragment header before a piece of the fragmentable part."""
    return struct.pack(">BBHI", proto, 0, offset | more, ident) + payload


def fragments(
    src: str, dst: str, proto: int, payload: bytes, *, cut: int = 800, ident: int = 7,
    tail_proto: int | None = None,
) -> tuple[bytes, bytes]:  # fmt: skip
    """Two fragments of either family."""
    head, tail = payload[:cut], payload[cut:]
    if family(src) == socket.AF_INET:
        return (ipv4(src, dst, proto, head, ident=ident, more=True),
                ipv4(src, dst, proto, tail, ident=ident, offset=cut))  # fmt: skip
    claimed = proto if tail_proto is None else tail_proto
    return (
        ipv6(src, dst, FRAGMENT, piece(proto, head, 0, more=True, ident=ident)),
        ipv6(src, dst, FRAGMENT, piece(claimed, tail, cut, more=False, ident=ident)),
    )


def packet(src: str, dst: str, proto: int, payload: bytes, *, hops: int = 64) -> bytes:
    """A whole packet of either family."""
    if family(src) == socket.AF_INET:
        return ipv4(src, dst, proto, payload, ttl=hops)
    return ipv6(src, dst, proto, payload, hops=hops)


def arrives(receiver: socket.socket, seconds: float = 3.0) -> bytes:
    """The next datagram; a test fails without one."""
    assert select.select([receiver], [], [], seconds)[0], "nothing arrived"
    return receiver.recv(70000)
