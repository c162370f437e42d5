"""Lifetimes with real packets: what GET shows, soft and hard ends, new keys without a loss."""

import re
import signal
import socket
from collections.abc import Iterator

import pytest

from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType, SaState
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.lab.hosts import Net
from pfkey.message import Message
from tests.netns.test_conversation import Two
from tests.support.keymanager import KeyManager, ends, negotiate
from tests.support.system import A, B, require, until
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

A4, B4 = socket.inet_aton(A), socket.inet_aton(B)


def lives(hard: int, soft: int, *, of: str) -> tuple[Lifetime, Lifetime]:
    return (
        Lifetime(exttype=ExtType.LIFETIME_HARD, **{of: hard}),
        Lifetime(exttype=ExtType.LIFETIME_SOFT, **{of: soft}),
    )


class Keyed:
    """Two hosts that require ESP of each other, with a key manager at each."""

    def __init__(self, two: Two) -> None:
        self.two = two
        both = "flush; spdflush;"
        self.two.load(both + require(A, B), both + require(B, A))
        self.here, self.there = KeyManager(self.two.da.socket), KeyManager(self.two.db.socket)

    def begin(self, *limits: Lifetime) -> None:
        """Keys for both directions."""
        pinging = self.two.a.start("ping", "-c1", "-W5", B)
        negotiate(self.here, self.there, self.here.acquire(), *limits)
        assert pinging.wait(10) == 0

    def out(self) -> Message:
        """The newest outbound SA of a, as GET shows it."""
        shown = self.two.da.setkey("dump esp;")
        spi = int(re.findall(rf"^{A} {B} \n\tesp mode=\w+ spi=(\d+)", shown, re.M)[-1])
        return self.here.ask(self.here.message(MsgType.GET, Sa(spi=spi), *ends(A4, B4)))

    def close(self) -> None:
        self.here.close()
        self.there.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        yield Two(net, tmp_path_factory.mktemp("lifetimes"))


@pytest.fixture
def keyed(two: Two) -> Iterator[Keyed]:
    made = Keyed(two)
    yield made
    made.close()


def counted(message: Message) -> tuple[int, int]:
    assert message.current is not None
    return message.current.allocations, message.current.octets


def test_what_packets_used_is_in_get_soon(keyed: Keyed) -> None:
    keyed.begin()
    packets, octets = counted(keyed.out())
    keyed.two.a.run("ping", "-c3", "-i0.1", "-s100", B)
    until(lambda: counted(keyed.out()) == (packets + 3, octets + 3 * 128), what="it is counted")
    assert keyed.out().current is not None


def test_a_soft_limit_is_told_and_a_hard_one_ends(keyed: Keyed) -> None:
    keyed.begin(*lives(8, 4, of="allocations"))
    keyed.two.a.run("ping", "-c4", "-i0.1", B)  # and one that began it
    notices = keyed.here.notices(MsgType.EXPIRE)
    soft = [next(notices), next(notices)]  # both directions
    assert all(m.soft is not None and m.hard is None for m in soft)
    assert {m.sa.state for m in soft if m.sa} == {SaState.DYING}
    dying = keyed.out()
    assert dying.sa is not None
    assert dying.sa.state == SaState.DYING
    keyed.two.a.run("ping", "-c5", "-i0.1", "-W1", B, check=False)
    hard = [next(notices), next(notices)]
    assert all(m.hard is not None and m.soft is None for m in hard)
    assert {m.sa.spi for m in hard if m.sa} == {m.sa.spi for m in soft if m.sa}
    assert keyed.two.da.counter("pfkey", "expired") >= 1, "the ninth packet did not leave"
    assert "No SAD entries" in keyed.two.da.setkey("dump;")
    keyed.begin()


def test_a_policy_lives_while_packets_use_it(keyed: Keyed) -> None:
    """Both workers tell of it; idle for two seconds, the policies end and the registered hear."""
    keyed.two.da.setkey("spdflush;")
    step = IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE)
    idle = Lifetime(exttype=ExtType.LIFETIME_HARD, usetime=2)
    for way, pair in ((Dir.OUT, ends(A4, B4)), (Dir.IN, ends(B4, A4))):
        policy = Policy(type=PolicyType.IPSEC, dir=way, requests=(step,))
        keyed.here.ask(keyed.here.message(MsgType.X_SPDADD, policy, *pair, idle, satype=0))
    keyed.begin()
    keyed.two.a.run("ping", "-c9", "-i0.5", B)
    shown = keyed.two.da.setkey("spddump;")
    assert shown.count("validtime: 2(s)") == 2
    assert len(re.findall(r"lastused: \w", shown)) == 2
    notices = keyed.here.notices(MsgType.X_SPDEXPIRE)
    assert {m.policy.dir for m in (next(notices), next(notices)) if m.policy} == {Dir.IN, Dir.OUT}
    assert "No SPD entries" in keyed.two.da.setkey("spddump;")


def test_keys_are_replaced_in_time_and_no_packet_is_lost(keyed: Keyed) -> None:
    keyed.begin(*lives(6, 1, of="addtime"))
    old = keyed.out().sa
    pinging = keyed.two.a.start("ping", "-q", "-n", "-i0.02", "-W5", B)
    with Tap(keyed.two.b, keyed.two.b_dev) as tap:
        for notice in keyed.here.notices(MsgType.EXPIRE):
            assert notice.src is not None
            if notice.src.address == A4 and notice.soft is not None:
                negotiate(keyed.here, keyed.there, notice, *lives(60, 50, of="addtime"))
                break
        new = keyed.out().sa
        assert old is not None
        assert new is not None
        ended = (
            notice.sa.spi
            for notice in keyed.here.notices(MsgType.EXPIRE, 20)
            if notice.hard is not None and notice.sa is not None
        )
        assert old.spi in ended
        numbers = len(tap.packets)
        until(lambda: len(tap.packets) > numbers + 20, what="pings after the old key's end")
        pinging.send_signal(signal.SIGINT)
        assert pinging.wait(20) == 0
        assert pinging.stdout is not None
        told = re.search(r"(\d+) packets transmitted, (\d+) received", pinging.stdout.read())
        assert told
        # the last one's reply may be on its way when ping is told to end
        assert int(told[2]) >= int(told[1]) - 1
    spis = [int.from_bytes(p[20:24], "big") for p in tap.packets if p[12:16] == A4]
    assert set(spis) == {old.spi, new.spi}
    assert spis == sorted(spis, key=lambda spi: spi != old.spi), "from then on only the new one"
