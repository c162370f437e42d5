"""Raw sockets over the loopback of a namespace: errors, marks, owners, what they keep out."""

import json
import socket
import struct

import pytest

from keyd.shell import raw
from keyd.shell.batches import Sender
from keyd.shell.raw import IcmpError, RawSockets, open_raw
from pfkey.lab.hosts import Host, Net
from tests.support.steering import AH, ESP, ICMPV6, OPTIONS, extension, packet
from tests.support.wire import checksum, in_host

pytestmark = pytest.mark.root

MARK = 0x4C000000
UID = 4242
LO = {4: "127.0.0.1", 6: "::1"}
ICMP = 1
versions = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


def opened(host: Host) -> dict[int, RawSockets]:
    found: list[dict[int, RawSockets]] = []

    def job() -> None:
        found.append(open_raw(mark=MARK, bypass_uid=UID))

    in_host(host, job)
    return found[0]


def closed(wire: dict[int, RawSockets]) -> None:
    for sockets in wire.values():
        sockets.close()


def sealed(version: int, size: int = 100, proto: int = ESP) -> bytes:
    body = struct.pack("!II", 256, size) + bytes(size)
    return packet(LO[version], LO[version], proto, body)


@versions
def test_the_senders_hear_nothing_of_what_arrives(net: Net, version: int) -> None:
    wire = opened(net.host("a", ipv6=True))
    sent = [sealed(version)] * 3
    assert not list(Sender(wire[version].esp_out).send(sent))
    assert raw.drain(wire[version].esp_in) == 3
    assert raw.drain(wire[version].esp_out) == raw.drain(wire[version].clear_out) == 0
    closed(wire)


@versions
def test_protocol_unreachable_is_suppressed_by_our_being_there(net: Net, version: int) -> None:
    host = net.host("a", ipv6=True)
    wire = opened(host)
    family, proto = raw.FAMILIES[version], ICMP if version == 4 else ICMPV6
    heard = in_host(host, lambda: socket.socket(family, socket.SOCK_RAW, proto))
    heard.settimeout(0.3)
    for sealing in (ESP, AH, 108):
        sent = [sealed(version, 40, sealing)]
        assert not list(Sender(wire[version].clear_out).send(sent))
    with pytest.raises(TimeoutError):
        heard.recv(100)
    assert raw.drain(wire[version].ah) == raw.drain(wire[version].comp) == 1
    closed(wire)


RULES = f"""
table inet t {{
    counter marked {{ }}
    counter owned {{ }}
    chain output {{
        type filter hook output priority 0;
        meta mark and 0xff000000 == {MARK} counter name marked
        meta skuid {UID} counter name owned
    }}
}}
"""


@versions
def test_senders_carry_the_mark_and_the_user(net: Net, version: int) -> None:
    host = net.host("a", ipv6=True)
    wire = opened(host)
    host.run("nft", "-f", "-", stdin=RULES)
    list(Sender(wire[version].esp_out).send([sealed(version)]))
    list(Sender(wire[version].clear_out).send([sealed(version)] * 2))
    listing = json.loads(host.run("nft", "-j", "list", "counters").stdout)["nftables"]
    counts = {o["counter"]["name"]: o["counter"]["packets"] for o in listing if "counter" in o}
    assert counts == {"marked": 3, "owned": 3}
    closed(wire)


def test_an_icmp_error_is_read_with_what_it_quotes(net: Net) -> None:
    wire = opened(net.host("a"))
    sent = sealed(4)
    list(Sender(wire[4].esp_out).send([sent]))
    body = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + sent[:28]
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    list(Sender(wire[4].clear_out).send([packet("127.0.0.2", LO[4], ICMP, body)]))
    (error,) = raw.errors(wire[4].esp_out)
    assert (error.type, error.code, error.mtu) == (3, 4, 1300)
    assert error.quoted[:28] == sent[:28]
    assert raw.errors(wire[4].esp_out) == []
    assert not list(Sender(wire[4].esp_out).send([sent])), "no error is left behind"
    closed(wire)


def icmpv6(kind: int, mtu: int, quoted: bytes, *, spoil: int = 0) -> bytes:
    body = struct.pack(">BBHI", kind, 0, 0, mtu) + quoted
    pseudo = bytes(15) + b"\1" + bytes(15) + b"\1" + struct.pack(">II", len(body), ICMPV6)
    total = checksum(pseudo + body) ^ spoil
    return packet(LO[6], LO[6], ICMPV6, body[:2] + struct.pack(">H", total) + body[4:])


def test_icmpv6_errors_are_heard_if_they_quote_what_could_be_ours(net: Net) -> None:
    """And nothing of it reaches the kernel's own memory of paths: see tests/netns/test_security."""
    wire = opened(net.host("a", ipv6=True))
    esp, ah = sealed(6), sealed(6, proto=AH)
    behind = packet(LO[6], LO[6], OPTIONS, extension(ESP, esp[40:], kind=OPTIONS))
    udp, tcp = (packet(LO[6], LO[6], proto, bytes(40)) for proto in (17, 6))
    sent = [
        icmpv6(2, 1400, esp), icmpv6(2, 1300, ah), icmpv6(1, 0, behind), icmpv6(2, 1, tcp),
        icmpv6(2, 1200, udp),
        icmpv6(128, 1, esp), icmpv6(255, 1, esp), icmpv6(2, 1, esp[:6]), icmpv6(2, 0, b""),
        icmpv6(2, 1, esp, spoil=1),
    ]  # fmt: skip
    list(Sender(wire[6].clear_out).send(sent))
    icmp = wire[6].icmp
    assert icmp is not None
    assert raw.errors6(icmp) == [
        IcmpError(2, 0, 1400, esp), IcmpError(2, 0, 1300, ah), IcmpError(1, 0, 0, behind),
        IcmpError(2, 0, 1200, udp),
    ]  # fmt: skip
    assert raw.errors6(icmp) == []
    closed(wire)


def test_a_kernel_without_ipv6_gets_sockets_for_ipv4(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `ipv6.disable=1`, which no namespace can have for itself."""
    monkeypatch.setattr(raw, "has_ipv6", lambda: False)
    wire = opened(net.host("a"))
    assert list(wire) == [4]
    closed(wire)
