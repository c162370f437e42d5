"""Debian's iked, unmodified, under `pfkey run`: it negotiates, and pfkeyd does the rest.

iked sends no INFORMATIONAL of its own accord when a peer falls silent: on Linux that is compiled
out of it, since it takes a lifetime extension of OpenBSD's.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pfkey.const import MsgType, SaType
from pfkey.control import Control
from pfkey.lab.hosts import Net
from tests.netns.test_conversation import transfer
from tests.support.iked import Authority, Iked
from tests.support.sites import join_both, side
from tests.support.system import ENDS, Daemon, require, until
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

ESP, UDP = 50, 17
PATIENCE = 40  # iked waits for two seconds before it begins, and repeats what was lost
PSK = 'psk "not a secret"'
NAMES = ("a.example", "b.example")


def _meant(words: dict[str, str], word: re.Match[str]) -> str:
    return words[word[0]]


class Two:
    """Hosts a and b, a pfkeyd on each, and for a while an iked."""

    def __init__(self, net: Net, tmp: Path) -> None:
        self.a, self.b = net.host("a", ipv6=True), net.host("b", ipv6=True)
        self.b_dev = "toa"
        join_both(net, self.a, side(ENDS, 0), self.b, side(ENDS, 1))
        self.daemons = (Daemon(self.a, tmp), Daemon(self.b, tmp))
        self.version = 4

    @property
    def ends(self) -> tuple[str, str]:
        return ENDS[self.version]

    @contextlib.contextmanager
    def negotiating(
        self, tmp: Path, rule: str, modes: tuple[str, str] = ("active", "passive"),
        authority: Authority | None = None,
    ) -> Iterator[tuple[Iked, Iked]]:  # fmt: skip
        """With an iked on both; `rule` speaks of MODE, OWN, OTHER, ME and YOU."""
        ikeds: list[Iked] = []
        for daemon in self.daemons:
            daemon.setkey("flush; spdflush;")
        try:
            for n in (1, 0):  # first who waits
                folder = tmp / NAMES[n]
                folder.mkdir()
                folder.chmod(0o755)
                words = {
                    "MODE": modes[n], "OWN": self.ends[n], "OTHER": self.ends[1 - n],
                    "ME": NAMES[n], "YOU": NAMES[1 - n],
                }  # fmt: skip
                text = re.sub(r"\b[A-Z]+\b", partial(_meant, words), rule)
                host = (self.a, self.b)[n]
                ikeds.insert(0, Iked(host, folder, NAMES[n], text, authority=authority))
                until(partial(self.has_registered, n), PATIENCE)
            yield ikeds[0], ikeds[1]
        finally:
            for iked in ikeds:
                iked.stop()
            for daemon in self.daemons:  # an SPI that was reserved for a rekeying may remain
                assert not re.findall("state=(?!larval)", daemon.setkey("", "-D"))

    def has_registered(self, n: int) -> bool:
        """Whether a host's iked is ready."""
        return bool(self.daemons[n].control("status")["registered"])

    def spis(self, n: int) -> set[str]:
        """Of the SAs that a host may use."""
        shown = self.daemons[n].setkey("", "-D")
        return set(re.findall(r"spi=\d+\((\w+)\)(?=(?:(?!spi=)[\s\S])*?state=mature)", shown))

    def have_keys(self) -> bool:
        """Whether both ends have the same pair of SAs."""
        return len(self.spis(0)) == 2 and self.spis(0) == self.spis(1)

    def is_established(self) -> bool:
        """Whether both have all that iked loads for one rule."""
        return self.have_keys() and self.policies(0) == self.policies(1) == 3

    def policies(self, n: int) -> int:
        """How many policies a host has, sockets' aside."""
        shown = self.daemons[n].setkey("", "-DP")
        return len(re.findall(r"^\t(?:in|out|fwd) ipsec", shown, re.M))

    def ping(self, *options: str) -> str:
        """What ping says on a about b."""
        argv = ("ping", "-n", "-c3", "-i0.05", "-W2", *options, self.ends[1])
        return self.a.run(*argv, check=False).stdout

    def is_reached(self) -> bool:
        """Whether b answers all that a asks."""
        return " 0% packet loss" in self.ping()

    @contextlib.contextmanager
    def watched(self) -> Iterator[Tap]:
        """What b gets from a meanwhile."""
        with Tap(self.b, self.b_dev) as tap:
            yield tap


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        made = Two(net, tmp_path_factory.mktemp("iked"))
        yield made
        for daemon in made.daemons:
            daemon.stop()


@pytest.fixture
def two(stand: Two, request: pytest.FixtureRequest) -> Two:
    stand.version = getattr(request, "param", 4)
    return stand


@pytest.mark.parametrize(
    ("two", "mode", "child", "shown"),
    [
        (4, "tunnel", "enc aes-256 auth hmac-sha1", {"E": "aes-cbc", "A": "hmac-sha1"}),
        (4, "transport", "enc aes-128 auth hmac-sha2-512", {"E": "aes-cbc", "A": "hmac-sha512"}),
        (6, "tunnel", "enc aes-256 auth hmac-sha2-384", {"E": "aes-cbc", "A": "hmac-sha384"}),
    ],
    indirect=["two"],
    ids=["tunnel", "transport", "ipv6"],
)
def test_two_ikeds_protect_what_two_hosts_say(
    two: Two, tmp_path: Path, mode: str, child: str, shown: dict[str, str]
) -> None:
    rule = (
        f"ikev2 MODE {mode} esp from OWN to OTHER local OWN peer OTHER"
        f" childsa {child} srcid ME dstid YOU {PSK}"
    )
    with two.negotiating(tmp_path, rule) as (a, b):
        until(two.is_established, PATIENCE)
        until(lambda: a.loaded == b.loaded == [child])
        for daemon in two.daemons:
            listed = daemon.setkey("", "-D")
            assert listed.count(f"mode={mode}") == 2
            assert all(f"{letter}: {name} " in listed for letter, name in shown.items())
        with two.watched() as tap:
            assert two.is_reached()
            assert len(transfer(two.a, two.b, two.ends[1], 200_000)) == 200_000
        assert set(tap.protocols(*two.ends)) == {ESP}
        a.control("reset", "id", f"FQDN/{NAMES[1]}")
        until(lambda: not two.spis(0) and not two.spis(1) and not two.policies(1), PATIENCE)


def test_an_sa_is_rekeyed_before_its_octets_are_used_up(two: Two, tmp_path: Path) -> None:
    rule = (
        "ikev2 MODE esp from OWN to OTHER local OWN peer OTHER"
        f" childsa enc aes-256 auth hmac-sha1 srcid ME dstid YOU lifetime 3h bytes 200K {PSK}"
    )
    with two.negotiating(tmp_path, rule) as (a, b), two.watched() as tap:
        until(two.is_established, PATIENCE)
        first = two.spis(0)
        transfer(two.a, two.b, two.ends[1], 165_000)  # the soft limit is 85 to 95 of 100

        def is_rekeyed() -> bool:
            two.ping("-s1000")
            return two.have_keys() and not two.spis(0) & first

        until(is_rekeyed, PATIENCE)
        until(lambda: len(a.loaded) == len(b.loaded) == 2)
        until(two.is_reached, PATIENCE)
        assert set(tap.protocols(*two.ends)) == {ESP, UDP}


def test_traffic_starts_a_negotiation_with_certificates(two: Two, tmp_path: Path) -> None:
    """Nobody is active: an ACQUIRE is what begins it, and SPDGET tells iked for whom."""
    rule = (
        "ikev2 MODE transport esp from OWN to OTHER local OWN peer OTHER"
        " childsa enc aes-256 auth hmac-sha1 srcid ME dstid YOU"
    )
    modes = ("passive", "passive")
    with two.negotiating(tmp_path, rule, modes, Authority()) as (a, b):
        two.daemons[0].setkey(require(*two.ends))
        with two.watched() as tap:
            until(two.is_reached, PATIENCE)
        assert set(tap.protocols(*two.ends)) == {ESP, UDP}
        until(two.have_keys)
        until(lambda: a.loaded == b.loaded == ["enc aes-256 auth hmac-sha1"])


def test_a_pfkeyd_that_dies_is_found_again(two: Two, tmp_path: Path) -> None:
    """iked hears of the flush, is registered without its doing, and obeys the next ACQUIRE."""
    rule = (
        "ikev2 MODE transport esp from OWN to OTHER local OWN peer OTHER"
        f" childsa enc aes-256 auth hmac-sha1 srcid ME dstid YOU {PSK}"
    )
    with two.negotiating(tmp_path, rule, ("passive", "passive")) as (a, b):
        here = two.daemons[0]
        here.setkey(require(*two.ends))
        until(two.is_reached, PATIENCE)
        first = two.spis(0)
        here.kill()
        here.start()
        assert not two.spis(0)
        until(partial(two.has_registered, 0), PATIENCE)
        with two.watched() as tap:
            here.setkey(require(*two.ends))
            until(two.is_reached, PATIENCE)
        assert set(tap.protocols(*two.ends)) == {ESP, UDP}
        assert len(two.spis(0) - first) == 2
        until(lambda: len(a.loaded) == len(b.loaded) == 2)


# ---------------------------------------------------------------- how it starts


def heard(control: Control) -> tuple[str, int, int]:
    """Direction, type and SA type of the next message."""
    notification = control.notification(timeout=10)
    assert notification is not None
    record = bytes.fromhex(notification["params"]["hex"])
    return notification["params"]["direction"], record[1], record[3]


def test_iked_starts_and_registers(net: Net, tmp_path: Path) -> None:
    """Its parent opens the socket; a child without rights, in a chroot, uses it."""
    host = net.host("a")
    daemon = Daemon(host, tmp_path, "--no-dataplane")
    rule = f"ikev2 passive esp from 10.1.1.1 to 20.1.1.1 peer any {PSK}"
    with Control(daemon.socket) as control:
        control.call("subscribe", show_keys=False)
        (tmp_path / "iked").mkdir()
        iked = Iked(host, tmp_path / "iked", NAMES[0], rule)
        messages = [heard(control) for _ in range(6)]
        assert messages == [
            ("in", MsgType.FLUSH, SaType.UNSPEC), ("out", MsgType.FLUSH, SaType.UNSPEC),
            ("in", MsgType.REGISTER, SaType.ESP), ("out", MsgType.REGISTER, SaType.ESP),
            ("in", MsgType.REGISTER, SaType.AH), ("out", MsgType.REGISTER, SaType.AH),
        ]  # fmt: skip
        until(lambda: daemon.control("status")["registered"] == 1)
        iked.stop()
    until(lambda: daemon.control("status")["clients"] == 0)
    daemon.stop()
