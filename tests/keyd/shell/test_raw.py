"""Raw sockets over the loopback of a namespace: batches, errors, marks, owners."""

import errno
import json
import socket
import struct

import pytest

from keyd.shell import raw
from keyd.shell.raw import RawSockets, Receiver, Sender, open_raw
from pfkey.lab.hosts import Host, Net
from tests.support.packets import ipv4
from tests.support.wire import in_host

pytestmark = pytest.mark.root

MARK = 0x4C000000
UID = 4242
LO = bytes((127, 0, 0, 1))
LOOPBACK_TOO = bytes((127, 0, 0, 2))


def opened(host: Host) -> RawSockets:
    found: list[RawSockets] = []

    def job() -> None:
        found.append(open_raw(mark=MARK, bypass_uid=UID))

    in_host(host, job)
    return found[0]


def esp(size: int, dst: bytes = LO) -> bytes:
    return ipv4(50, struct.pack("!II", 256, size) + bytes(size), src=LO, dst=dst)


def test_a_batch_of_any_sizes_arrives_in_order(net: Net) -> None:
    wire = opened(net.host("a"))
    sizes = [*range(0, 1500, 50), 40000, 65000, *range(0, 6000, 40), 65000, 65000, 1]
    packets = [esp(size, LO if size % 100 else LOOPBACK_TOO) for size in sizes]
    assert not list(Sender(wire.esp_out).send(packets))
    receiver = Receiver(wire.esp_in)
    got: list[bytes] = []
    while batch := receiver.receive():
        assert len(batch) <= raw.BATCH
        got += batch
    assert got == packets
    assert raw.drain(wire.esp_out) == 0, "the sender hears nothing of what arrives"
    wire.close()


def test_a_packet_the_system_refuses_is_named_and_the_rest_is_sent(net: Net) -> None:
    host = net.host("a")
    host.ip("link", "set", "lo", "mtu", "1500")
    wire = opened(host)
    packets = [esp(100), esp(3000), esp(200), esp(10, dst=bytes((99, 0, 0, 1))), esp(300)]
    refused = list(Sender(wire.esp_out).send(packets))
    assert refused == [(packets[1], errno.EMSGSIZE), (packets[3], errno.ENETUNREACH)]
    assert Receiver(wire.esp_in).receive() == [packets[0], packets[2], packets[4]]
    wire.close()


def test_protocol_unreachable_is_suppressed_by_our_being_there(net: Net) -> None:
    host = net.host("a")
    wire = opened(host)
    heard = in_host(
        host, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    )
    heard.settimeout(0.3)
    for proto in (50, 51, 108):
        assert not list(Sender(wire.clear_out).send([ipv4(proto, bytes(40), src=LO, dst=LO)]))
    with pytest.raises(TimeoutError):
        heard.recv(100)
    assert raw.drain(wire.ah) == raw.drain(wire.comp) == 1
    wire.close()
    heard.close()


RULES = f"""
table ip t {{
    counter marked {{ }}
    counter owned {{ }}
    chain output {{
        type filter hook output priority 0;
        meta mark and 0xff000000 == {MARK} counter name marked
        meta skuid {UID} counter name owned
    }}
}}
"""


def test_senders_carry_the_mark_and_the_user(net: Net) -> None:
    host = net.host("a")
    wire = opened(host)
    host.run("nft", "-f", "-", stdin=RULES)
    list(Sender(wire.esp_out).send([esp(1)]))
    list(Sender(wire.clear_out).send([esp(1), esp(2)]))
    listing = json.loads(host.run("nft", "-j", "list", "counters").stdout)["nftables"]
    counts = {o["counter"]["name"]: o["counter"]["packets"] for o in listing if "counter" in o}
    assert counts == {"marked": 3, "owned": 3}
    wire.close()


def test_an_icmp_error_is_read_with_what_it_quotes(net: Net) -> None:
    host = net.host("a")
    wire = opened(host)
    sent = esp(100)
    list(Sender(wire.esp_out).send([sent]))
    body = bytearray(struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + sent[:28])
    body[2:4] = raw_checksum(body)
    list(Sender(wire.clear_out).send([ipv4(1, bytes(body), src=LOOPBACK_TOO, dst=LO)]))
    (error,) = raw.errors(wire.esp_out)
    assert (error.type, error.code, error.mtu) == (3, 4, 1300)
    assert error.quoted[:28] == sent[:28]
    assert raw.errors(wire.esp_out) == []
    assert not list(Sender(wire.esp_out).send([sent])), "no error is left behind"
    wire.close()


def raw_checksum(octets: bytearray) -> bytes:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
