"""UDP_ENCAP under `pfkey run`: the socket that sets it receives IKE alone, pfkeyd the ESP in UDP.

a 10.1.1.1 ── 10.1.1.254 n 20.1.1.254 ── 20.1.1.1, 20.1.1.2 b; n masquerades, b knows a as n.
"""

import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from errno import ENOPROTOOPT
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from pfkey import set_encap
from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two, transfer
from tests.netns.test_natt import N, Natted, keys, policies
from tests.support.supervised import BIN
from tests.support.system import A6, B6, A, B, until
from tests.support.wire import Tap, drain, in_host, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "support" / "ike_sockets.py"
B2 = "20.1.1.2"
A_IN, B_IN = "10.9.1.1", "10.9.2.1"  # inside of a tunnel
IKE, ESP, KEEPALIVE = b"\0\0\0\0an IKE message", b"\x00\x00\x30\x39\0\0\0\1some ESP", b"\xff"


class IkeSockets:
    """That program in a host, under `pfkey run`."""

    def __init__(self, host: Host, *where: str) -> None:
        self._process = host.start(
            str(BIN / "pfkey"), "run", "--", sys.executable, "-I", "-S", str(SCRIPT), *where,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.line() == " ".join(["ready", *["2" for one in where if "/" in one]])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def line(self) -> str:
        """The next line that it prints."""
        out = self._process.stdout
        assert out is not None
        assert select.select([out], [], [], 10)[0], "it says nothing"
        return out.readline().rstrip("\n")

    def tell(self, *words: str | int) -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def send(self, number: int, address: str, port: int, octets: bytes) -> None:
        """Have it send."""
        self.tell("send", number, address, port, octets.hex())

    def set(self, number: int, value: int) -> str:
        """Have it set UDP_ENCAP; what getsockopt(2) tells then."""
        self.tell("set", number, value)
        return self.line().removeprefix("set ")

    def gets(self, number: int, octets: bytes = IKE) -> None:
        """The next that it receives is this, at this socket."""
        assert self.line() == f"{number} {octets.hex()}"


class Encap(Natted):
    """Those hosts with a second address at b, and what is inside of a tunnel."""

    def __init__(self, net: Net, tmp: Path) -> None:
        super().__init__(net, tmp)
        self.b.ip("addr", "add", f"{B2}/24", "dev", self.b_dev)
        self.b.ip("addr", "add", f"{B_IN}/32", "dev", "lo")
        self.a.ip("addr", "add", f"{A_IN}/32", "dev", "lo")

    def open_tcp(self) -> socket.socket:
        return in_host(self.b, socket.socket)

    def nosa(self) -> int:
        """ESP of SAs that b does not know, since the test began."""
        return self.count(self.db, "esp", "notdb")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encap]:
    with Net() as net:
        yield Encap(net, tmp_path_factory.mktemp("encap"))


@pytest.fixture
def natted(hosts: Encap) -> Encap:
    hosts.again()
    return hosts


def swallowed(host: Host) -> int:
    """ESP that the kernel has taken for itself, and had no SA for."""
    rows = dict(line.split() for line in host.run("cat", "/proc/net/xfrm_stat").stdout.splitlines())
    return int(rows["XfrmInNoStates"])


def test_each_socket_receives_ike_alone_before_there_are_sas(natted: Encap) -> None:
    """Ports, addresses, several daemons: what counts is the socket."""
    before = swallowed(natted.b)
    sender = udp_listener(natted.a, A, 0)
    plain = udp_listener(natted.b, B, 4502)
    with (
        IkeSockets(natted.b, f"{B}/4500", f"{B}/4501") as first,
        IkeSockets(natted.b, f"{B2}/4500") as second,
        IkeSockets(natted.b, "::/4503") as third,
    ):
        wanted = (
            (first, 0, B, 4500),
            (first, 1, B, 4501),
            (second, 0, B2, 4500),
            (third, 0, B2, 4503),
        )
        for program, number, address, port in wanted:
            for octets in (ESP, KEEPALIVE, IKE):
                sender.sendto(octets, (address, port))
            program.gets(number)
        until(lambda: natted.nosa() == len(wanted), 5, "ESP is pfkeyd's")
        until(lambda: natted.count(natted.db, "pfkey", "natt_keepalives_in") == len(wanted), 5)
        for octets in (ESP, KEEPALIVE, IKE):
            sender.sendto(octets, (B, 4502))
            assert plain.recv(100) == octets
    assert swallowed(natted.b) == before


def test_clearing_it_or_closing_the_socket_gives_the_port_back(natted: Encap) -> None:
    sender = udp_listener(natted.a, A, 0)
    with IkeSockets(natted.b, f"{B}/4500", f"{B}/4501") as program:
        assert program.set(0, 0) == "0"
        sender.sendto(ESP, (B, 4500))
        program.gets(0, ESP)
        assert program.set(0, 2) == "2"
        sender.sendto(ESP, (B, 4500))
        sender.sendto(IKE, (B, 4500))
        program.gets(0)
        program.tell("close", 1)
        assert program.line() == "closed"
        successor = udp_listener(natted.b, B, 4501)
        sender.sendto(ESP, (B, 4501))
        until(lambda: successor.recv(100) == ESP, 5, "the port is anybody's")
        until(lambda: natted.nosa() == 1, 5, "one came while it was set")


def test_a_python_program_does_it_without_pfkey_run(natted: Encap) -> None:
    sender, receiver = udp_listener(natted.a, A, 0), udp_listener(natted.b, B, 4500)
    set_encap(receiver, path=natted.db.socket)
    for octets in (ESP, IKE):
        sender.sendto(octets, (B, 4500))
    until(lambda: drain(receiver) == [IKE], 5)
    set_encap(receiver, encap=False, path=natted.db.socket)
    sender.sendto(ESP, (B, 4500))
    until(lambda: drain(receiver) == [ESP], 5)
    with pytest.raises(OSError, match="for UDP") as refused:
        set_encap(natted.open_tcp(), path=natted.db.socket)
    assert refused.value.errno == ENOPROTOOPT


def test_a_connected_socket_receives_ike_alone_where_the_guide_is_obeyed(natted: Encap) -> None:
    """The kernel finds those before nft has a say, unless it is told not to."""
    natted.b.run("sysctl", "-qw", "net.ipv4.udp_early_demux=0")
    sender = udp_listener(natted.a, A, 4600)
    with IkeSockets(natted.b, f"{B}/4500") as program:
        sender.sendto(IKE, (B, 4500))
        program.gets(0)
        program.tell("connect", 0, N, 4600)
        assert program.set(0, 2) == "2"  # it has been connected by now
        for octets in (ESP, IKE):
            sender.sendto(octets, (B, 4500))
        program.gets(0)
        until(lambda: natted.nosa() == 1, 5)


def both_ways(natted: Encap) -> None:
    """ESP goes both ways in both SAs' ports, and TCP in it."""
    assert natted.ping()
    assert natted.b.run("ping", "-c1", "-W5", N).returncode == 0
    assert natted.ping("-I", A_IN, to=B_IN)
    assert len(transfer(natted.a, natted.b, B, 200_000)) == 200_000


def transport(own: str, other: str) -> str:
    """At port 4500."""
    return sas(own, other, 4500, "transport") + policies(own, other, "transport")


def tunnel(own: str, other: str, inner: tuple[str, str]) -> str:
    """At port 4501."""
    return sas(own, other, 4501, "tunnel") + policies(own, other, "tunnel", inner)


def sas(own: str, other: str, port: int, mode: str) -> str:
    """Keys by hand that serve one mode alone; an SPI is its port, and one more for the answers."""
    ends = ((own, other, port), (other, own, port + 1))
    spis = ends if own == A else [(src, dst, 2 * port + 1 - spi) for src, dst, spi in ends]
    return "".join(
        keys(src, dst, spi, port, port).replace(" -r ", f" -m {mode} -r ") for src, dst, spi in spis
    )


def test_two_daemons_have_ike_and_pfkeyd_the_esp_of_both_through_a_nat(natted: Encap) -> None:
    """Transport mode at port 4500, a tunnel at 4501."""
    with (
        IkeSockets(natted.a, "bypass", f"{A}/4500", f"{A}/4501") as one,
        IkeSockets(natted.b, "bypass", f"{B}/4500") as first,
        IkeSockets(natted.b, "bypass", "0.0.0.0/4501") as second,
        Tap(natted.b, natted.b_dev) as tap,
    ):
        natted.da.setkey(transport(A, B) + tunnel(A, B, (A_IN, B_IN)))
        natted.db.setkey(transport(B, N) + tunnel(B, N, (B_IN, A_IN)))
        both_ways(natted)
        for number, (port, program) in enumerate(((4500, first), (4501, second))):
            one.send(number, B, port, IKE)
            program.gets(0)
            program.send(0, N, port, IKE + b" in answer")
            one.gets(number, IKE + b" in answer")
        natted.db.kill()
        natted.db.start()
        natted.db.setkey(transport(B, N))
        assert natted.ping()
        sender = udp_listener(natted.a, A, 0)
        for octets in (ESP, IKE):
            sender.sendto(octets, (B, 4501))
        second.gets(0)
    assert {packet[9] for packet in tap.packets} == {socket.IPPROTO_UDP}
    spis = {packet[28:32] for packet in tap.between(N, B)}
    assert {bytes(4), struct.pack(">I", 4500), struct.pack(">I", 4501)} <= spis
    natted.da.setkey("flush; spdflush;")


def test_ipv6_is_told_apart_as_well(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path, 6)
    with (
        IkeSockets(two.a, "bypass", f"{A6}/4501") as one,
        IkeSockets(two.b, "bypass", "::/4501") as other,
    ):
        one.send(0, B6, 4501, ESP)
        one.send(0, B6, 4501, IKE)
        other.gets(0)
        until(lambda: two.db.counter("esp", "notdb") == 1, 5)
        both = keys(A, B, 1000, 4501, 4501) + keys(B, A, 1001, 4501, 4501)
        two.load(both + policies(A, B, "transport"), both + policies(B, A, "transport"))
        assert two.ping()
        for sender, receiver, address in ((one, other, B6), (other, one, A6)):
            sender.send(0, address, 4501, IKE)
            receiver.gets(0)
