"""An example of the FAQ standing, and scapy, who has its keys, to say what was on the wire."""

import io
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP
from scapy.layers.ipsec import AH as SCAPY_AH
from scapy.layers.ipsec import ESP as SCAPY_ESP
from scapy.layers.ipsec import SecurityAssociation

from pfkey.lab.example import ESP, Example, LinkSpec, ManualSa, policies_out
from pfkey.lab.hosts import Host, Net
from pfkey.lab.stage import Stage
from pfkey.lab.story import Story
from pfkey.lab.system import System
from tests.support.system import until
from tests.support.wire import Tap, checksum, in_host, mac_of

_SCAPY = {
    "3des-cbc": "3DES", "rijndael-cbc": "AES-CBC", "blowfish-cbc": "Blowfish",
    "hmac-md5": "HMAC-MD5-96",
}  # fmt: skip


class Standing:
    """An example whose hosts have been given their files; nothing of it is told."""

    def __init__(self, example: Example, net: Net, tmp: Path) -> None:
        self.example = example
        self.out = io.StringIO()
        self.stage = Stage(example, Story(self.out), net, tmp)
        self.stage.begin(keep=False)
        for given in example.given:
            self.stage.give(given)
        assert not self.stage.story.failed, self.out.getvalue()
        self.node, self.peer = self.stage.node, self.stage.peer
        self.link = example.protected_link

    def host(self, name: str) -> Host:
        """A host by its name in the example."""
        return self.stage.hosts[name]

    def tap(self, host: Host, link: LinkSpec) -> Tap:
        """What arrives at one end of a link."""
        return Tap(host, self.device(host, link))

    def delivered(self) -> Tap:
        """What the peer makes of packets from the node: for itself, or for the server."""
        if not self.example.is_tunnel:
            return Tap(self.peer.host, "pfkey0")
        server = self.stage.server
        link = next(one for one in self.example.links if server.name in (one.a, one.b))
        return self.tap(server, link)

    def device(self, host: Host, link: LinkSpec) -> str:
        """A host's device on a link."""
        return f"to{link.b if host.name == link.a else link.a}"

    def ping(self, *, back: bool = False, count: int = 2) -> int:
        """How many pings from client to server, or back, were answered."""
        ends = (self.stage.client, self.example.server), (self.stage.server, self.example.client)
        host, (_, address) = ends[back]
        pace = ("-l", str(count), "-i", "2") if count <= 3 else ("-i", "0.1")
        done = host.run("ping", "-n", "-c", str(count), *pace, "-W", "1", address, check=False)
        return int(re.findall(r"(\d+) received", done.stdout)[0])

    def inject(self, packet: bytes) -> None:
        """Put a packet on the protected link, from the node towards the peer."""
        node, peer = self.node.host, self.peer.host
        link = in_host(node, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        to = mac_of(peer, self.device(peer, self.link))
        link.sendto(packet, (self.device(node, self.link), 0x0800, 0, 0, to))

    def setkey(self, system: str, commands: str) -> None:
        """Give setkey commands to the node or the peer."""
        assert {"node": self.node, "peer": self.peer}[system].setkey(commands)

    def require_at_node(self) -> None:
        """What the peer sends protected the node requires so, as the FAQ's extra line does."""
        for line in policies_out(self.example.text(self.example.peer)):
            self.setkey("node", line.replace("-P out", "-P in").replace("/use", "/require"))

    @contextmanager
    def windows(self) -> Iterator[None]:
        """Every SA with a replay window, which the FAQ's lines do not ask for."""
        for sa in self.example.sas:
            commands = sa.again().replace(f" {sa.option} ", f" -r 32 {sa.option} ")
            self.setkey("node", commands)
            self.setkey("peer", commands)
        yield
        for sa in self.example.sas:
            self.setkey("node", sa.again())
            self.setkey("peer", sa.again())


@contextmanager
def grows(system: System, group: str, name: str, by: int) -> Iterator[None]:
    """A counter grows by so much, and nothing else is dropped under ESP's and AH's names."""
    before, drops = system.counter(group, name), system.drops()
    yield
    until(lambda: system.counter(group, name) >= before + by, what=f"{group} {name}")
    assert system.counter(group, name) == before + by
    expected = f"{group} {name}"
    assert {k: n for k, n in system.drops().items() if k != expected} == {
        k: n for k, n in drops.items() if k != expected
    }


def security_association(sa: ManualSa, example: Example) -> SecurityAssociation:
    """The same SA in scapy."""
    proto = SCAPY_ESP if sa.proto == ESP else SCAPY_AH
    kind = "crypt" if sa.option == "-E" else "auth"
    tunnel = IP(src=sa.src, dst=sa.dst) if example.is_tunnel else None
    return SecurityAssociation(
        proto, spi=sa.spi, tunnel_header=tunnel,
        **{f"{kind}_algo": _SCAPY[sa.algorithm], f"{kind}_key": sa.key},
    )  # fmt: skip


def decode(example: Example, packet: bytes) -> bytes:
    """The inner packet of one from the protected link, as scapy sees it with the keys.

    Raises:
        IPSecIntegrityError: an ICV does not hold.
    """
    seen = IP(packet)
    for proto in example.layers:
        sa = next(sa for sa in example.sas if (sa.dst, sa.proto) == (seen.dst, proto))
        # parsed anew, for scapy leaves what was inside as octets
        seen = IP(bytes(security_association(sa, example).decrypt(seen)))
    return bytes(seen)


def without_hops(packet: bytes) -> bytes:
    """A packet with what each router changes set to zero: TTL and header checksum."""
    return packet[:8] + b"\0" + packet[9:10] + b"\0\0" + packet[12:]


def changed(packet: bytes, at: int, bits: int) -> bytes:
    """A packet with some bits of one octet turned over, its IP header checksum put right."""
    octets = bytearray(packet)
    octets[at] ^= bits
    octets[10:12] = b"\0\0"
    octets[10:12] = checksum(bytes(octets[:20])).to_bytes(2, "big")
    return bytes(octets)
