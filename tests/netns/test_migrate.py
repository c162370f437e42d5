"""X_MIGRATE with real packets: a tunnel's host gets another address, and nothing is set up anew."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType
from pfkey.ext_address import Address
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.keymanager import KeyManager
from tests.support.system import A, B
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

INSIDE_A, INSIDE_B = "10.77.0.1", "10.88.0.1"
MOVED = "10.1.1.99"
A4, B4, M4 = (socket.inet_aton(text) for text in (A, B, MOVED))


def tunnel(src: bytes, dst: bytes) -> IpsecRequest:
    return IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.REQUIRE, src=src, dst=dst)


def selector(src: str, dst: str) -> tuple[Address, Address]:
    ends = []
    for exttype, text in ((ExtType.ADDRESS_SRC, src), (ExtType.ADDRESS_DST, dst)):
        ends.append(
            Address(exttype=exttype, address=socket.inet_aton(text), prefixlen=32, proto=255)
        )
    return ends[0], ends[1]


class Roaming:
    """Host a reaches b's inside address through a tunnel, and then gets another address."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.two = Two(net, tmp)
        self.here, self.there = KeyManager(self.two.da.socket), KeyManager(self.two.db.socket)
        for host, own, other, via in (
            (self.two.a, INSIDE_A, INSIDE_B, self.two.a_dev),
            (self.two.b, INSIDE_B, INSIDE_A, self.two.b_dev),
        ):
            host.ip("addr", "add", f"{own}/32", "dev", "lo")
            host.ip("route", "add", other, "dev", via, "src", own)
        for manager, near, far, inside, outside in (
            (self.here, A4, B4, INSIDE_A, INSIDE_B), (self.there, B4, A4, INSIDE_B, INSIDE_A),
        ):  # fmt: skip
            for way, ends, step in (
                (Dir.OUT, selector(inside, outside), tunnel(near, far)),
                (Dir.IN, selector(outside, inside), tunnel(far, near)),
            ):
                policy = Policy(type=PolicyType.IPSEC, dir=way, requests=(step,))
                manager.ask(manager.message(MsgType.X_SPDADD, policy, *ends, satype=0))
            mode = Sa2(mode=Mode.TUNNEL)
            manager.install(MsgType.ADD, A4, B4, 2001, sa2=mode)
            manager.install(MsgType.ADD, B4, A4, 2002, sa2=mode)

    def ping(self) -> bool:
        done = self.two.a.run("ping", "-c2", "-i0.1", "-W1", INSIDE_B, check=False)
        return done.returncode == 0

    def move(self, manager: KeyManager, inside: str, outside: str) -> None:
        """a's address is another one, in both policies of a host."""
        is_here = inside == INSIDE_A
        for way, ends in (
            (Dir.OUT, selector(inside, outside)), (Dir.IN, selector(outside, inside)),
        ):  # fmt: skip
            is_out = (way == Dir.OUT) == is_here
            pair = (tunnel(A4, B4), tunnel(M4, B4)) if is_out else (tunnel(B4, A4), tunnel(B4, M4))
            policy = Policy(type=PolicyType.IPSEC, dir=way, requests=pair)
            manager.ask(manager.message(MsgType.X_MIGRATE, policy, *ends, satype=0))

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture
def roaming(net: Net, tmp_path: Path) -> Iterator[Roaming]:
    made = Roaming(net, tmp_path)
    yield made
    made.close()


def test_a_tunnel_follows_its_host_and_its_numbers_go_on(roaming: Roaming) -> None:
    two = roaming.two
    assert roaming.ping()
    two.a.ip("addr", "add", f"{MOVED}/32", "dev", two.a_dev)
    two.a.ip("addr", "del", f"{A}/32", "dev", two.a_dev)
    two.a.ip("route", "replace", B, "dev", two.a_dev, "src", MOVED)
    two.a.ip("route", "replace", INSIDE_B, "dev", two.a_dev, "src", INSIDE_A)
    two.b.ip("route", "add", MOVED, "dev", two.b_dev, "src", B)
    assert not roaming.ping()
    roaming.move(roaming.here, INSIDE_A, INSIDE_B)
    roaming.move(roaming.there, INSIDE_B, INSIDE_A)
    with Tap(two.b, two.b_dev) as tap:
        assert roaming.ping()
    sent = [p for p in tap.packets if p[9] == 50 and p[12:16] == M4]
    assert [p[16:20] for p in sent] == [B4, B4]
    assert {p[20:24] for p in sent} == {(2001).to_bytes(4, "big")}
    numbers = [int.from_bytes(p[24:28], "big") for p in sent]
    assert numbers[0] > 2, "the window of the other side would refuse old ones"
    shown = two.da.setkey("dump; spddump;")
    assert shown.count(f"{MOVED} {B} ") == shown.count(f"{B} {MOVED} ") == 1
    assert f"esp/tunnel/{MOVED}-{B}/require" in shown
    assert A + " " not in shown
    assert two.db.counter("esp", "replay") == two.db.counter("esp", "badauth") == 0
