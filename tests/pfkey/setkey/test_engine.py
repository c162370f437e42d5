"""setkey and the key engine, without a socket between them: the words and what comes back."""

from collections.abc import Iterable, Iterator
from datetime import UTC

import pytest

from keyd.engine import Engine
from keyd.engine.effects import ClientId, Dump, Now, Send
from keyd.model import Usage
from pfkey.algorithms import ROWS
from pfkey.client import Exchange
from pfkey.const import MsgType
from pfkey.message import Message
from pfkey.setkey import grammar
from pfkey.setkey.run import Refusal, Runner, World

US = ClientId(1)
WALL = 1700000000.0  # Nov 14 22:13:20 2023 UTC
FAQ_1 = """
add 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";
add 20.1.1.1 10.1.1.1 esp 10000 -E 3des-cbc 0xdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef;
spdadd 10.1.1.1 20.1.1.1 any -P out ipsec esp/transport//use;
"""


class Desk:
    """An engine behind a link, and a setkey in front of it."""

    def __init__(self) -> None:
        usable = {(row.kind.value, row.number) for row in ROWS if row.is_offered}
        self.engine = Engine(supported=usable, usage=lambda _: Usage(), pick=lambda low, _: low)
        self.engine.connect(US)
        self.printed: list[str] = []
        world = World(
            pid=77, now=lambda: WALL + 100, strerror=lambda number: f"errno {number}",
            out=self.printed.append, zone=UTC,
        )  # fmt: skip
        self.runner = Runner(self, world)

    def request(self, message: Message) -> Exchange:
        exchange = Exchange(message)
        for effect in self.engine.receive(US, message.encode(), Now(0.0, WALL)):
            if isinstance(effect, Send):
                exchange.offer(effect.record)
            elif isinstance(effect, Dump):
                for record in effect.records:
                    exchange.offer(record)
                self.engine.dump_done(US)
        assert exchange.is_done
        return exchange

    def requests(self, messages: Iterable[Message]) -> Iterator[Exchange]:
        return map(self.request, messages)

    def run(self, text: str) -> list[Refusal]:
        found, faults = grammar.parse(text, "x", None, self.runner.offered())
        assert not faults, faults
        return [refusal for _, refusal in self.runner.carry_out_all(found)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_faqs_first_example_reads_back(desk: Desk) -> None:
    assert desk.run(FAQ_1) == []
    text, refusal = desk.runner.dump(MsgType.DUMP)
    assert refusal is None
    assert text.replace("\t", ">").splitlines()[:11] == [
        "10.1.1.1 20.1.1.1 ",
        ">esp mode=transport spi=9876(0x00002694) reqid=0(0x00000000)",
        ">E: 3des-cbc  686f6765 686f6765 686f6765 686f6765 686f6765 686f6765",
        ">seq=0x00000000 replay=0 flags=0x00000000 state=mature ",
        ">created: Nov 14 22:13:20 2023>current: Nov 14 22:15:00 2023",
        ">diff: 100(s)>hard: 0(s)>soft: 0(s)",
        ">last:                     >hard: 0(s)>soft: 0(s)",
        ">current: 0(bytes)>hard: 0(bytes)>soft: 0(bytes)",
        ">allocated: 0>hard: 0>soft: 0",
        ">sadb_seq=1 pid=77 refcnt=0",
        "20.1.1.1 10.1.1.1 ",
    ]
    text, _ = desk.runner.dump(MsgType.X_SPDDUMP)
    assert text.startswith(
        "10.1.1.1[any] 20.1.1.1[any] 255\n\tout prio def ipsec\n\tesp/transport//use\n"
        "\tcreated: Nov 14 22:13:20 2023  lastused:                     \n"
        "\tlifetime: 0(s) validtime: 0(s)\n\tspid="
    )


FAQ_1_OVER_IPV6 = """
add -6 2001:db8:1::1 2001:db8:2::1 esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";
add 2001:db8:2::1 2001:db8:1::1 ah 10000 -A hmac-md5 "hogehogehogehoge";
spdadd -6 ::/0 ::/0 icmp6 135,0 -P out none;
spdadd 2001:db8:1::/48[any] 2001:db8:2::/48[110] tcp -P in ipsec
    esp/tunnel/2001:db8:2::1-2001:db8:1::1/require;
spdadd 10.0.1.0/24 10.0.2.0/24 any -P out ipsec
    esp/tunnel/2001:db8:1::1-2001:db8:2::1/require;
spdadd 2001:db8:1::/48 2001:db8:2::/48 any -P out ipsec esp/tunnel/10.1.1.1-20.1.1.1/require;
"""


def test_ipv6_reads_back(desk: Desk) -> None:
    """Prefixes, ports, ICMPv6 types, and tunnels of either family in the other."""
    assert desk.run(FAQ_1_OVER_IPV6) == []
    text, refusal = desk.runner.dump(MsgType.DUMP)
    assert refusal is None
    assert [line for line in text.splitlines() if line.startswith("2001")] == [
        "2001:db8:1::1 2001:db8:2::1 ", "2001:db8:2::1 2001:db8:1::1 ",
    ]  # fmt: skip
    text, _ = desk.runner.dump(MsgType.X_SPDDUMP)
    shown = [line for line in text.splitlines() if "/" in line]
    assert shown == [
        "2001:db8:1::/48[any] 2001:db8:2::/48[110] tcp",
        "\tesp/tunnel/2001:db8:2::1-2001:db8:1::1/require",
        "::/0 ::/0 ipv6-icmp 135,0",
        "10.0.1.0/24[any] 10.0.2.0/24[any] 255",
        "\tesp/tunnel/2001:db8:1::1-2001:db8:2::1/require",
        "2001:db8:1::/48[any] 2001:db8:2::/48[any] 255",
        "\tesp/tunnel/10.1.1.1-20.1.1.1/require",
    ]
    assert desk.run("get 2001:db8:1::1 2001:db8:2::1 esp 9876;") == []
    assert desk.run("delete 2001:db8:1::1 2001:db8:2::1 esp 9876;") == []
    assert desk.run("spddelete -6 ::/0 ::/0 icmp6 135,0 -P out;") == []
    assert [r.why for r in desk.run("add fe80::1 fe80::2 esp 300 -E null;")] == [
        "errno 95 (pfkeyd's log says what and why)"
    ]


def test_refusals_carry_the_engines_reason(desk: Desk) -> None:
    desk.run(FAQ_1)
    assert [r.why for r in desk.run(FAQ_1)] == ["errno 17"] * 3
    assert [r.why for r in desk.run("spddelete 9.9.9.9 8.8.8.8 any -P in;")] == ["No entry"]
    assert [r.why for r in desk.run("get 9.9.9.9 8.8.8.8 esp 300;")] == ["errno 3"]
    assert [r.why for r in desk.run("getspi fe80::1 fe80::2 esp 300;")] == [
        "errno 95 (pfkeyd's log says what and why)"
    ]
    assert [r.why for r in desk.run("getspi 9.9.9.9 8.8.8.8 esp 300;" * 2)] == ["errno 2"]


def test_getspi_reserves_what_update_makes_mature(desk: Desk) -> None:
    assert desk.run("getspi 1.1.1.1 2.2.2.2 esp 0 -m tunnel -u 5;") == []
    shown = "".join(desk.printed)
    assert "\tesp mode=tunnel spi=256(0x00000100) reqid=5(0x00000005)\n" in shown
    assert "state=larval" in shown
    assert desk.run("update 1.1.1.1 2.2.2.2 esp 256 -m tunnel -u 5 -E null;") == []
    text, _ = desk.runner.dump(MsgType.DUMP)
    assert "state=mature" in text
    assert "larval" not in text


def test_one_lifetime_alone_is_taken(desk: Desk) -> None:
    assert desk.run("add 1.1.1.1 2.2.2.2 esp 300 -lh 60 -E null;") == []
    text, _ = desk.runner.dump(MsgType.DUMP)
    assert "\thard: 60(s)\tsoft: 0(s)\n" in text


def test_policies_read_back_as_written(desk: Desk) -> None:
    text = "spdadd 10.0.0.0/8[110] 10.0.1.1 tcp -P in prio high + 5 ipsec esp/transport//require;"
    assert desk.run(text) == []
    assert desk.run("spddump;") == []
    assert "".join(desk.printed).startswith(
        "10.0.0.0/8[110] 10.0.1.1[any] tcp\n\tin prio high + 5 ipsec\n\tesp/transport//require\n"
    )


def test_deleteall_and_flush_empty_the_tables(desk: Desk) -> None:
    desk.run(FAQ_1)
    assert desk.run("deleteall 10.1.1.1 20.1.1.1 esp; delete 20.1.1.1 10.1.1.1 esp 10000;") == []
    assert desk.run("deleteall 10.1.1.1 20.1.1.1 esp; spdflush; flush;") == []
    assert desk.runner.dump(MsgType.DUMP) == ("No SAD entries.\n", None)
    assert desk.runner.dump(MsgType.X_SPDDUMP) == ("No SPD entries.\n", None)


def test_esp_in_udp_reads_back(desk: Desk) -> None:
    line = """
        add 1.1.1.1[4501] 2.2.2.2 esp-udp 10.0.0.1 300 -E 3des-cbc "hogehogehogehogehogehoge";
        add 2001:db8::1 2001:db8::2 esp-udp 301 -E 3des-cbc "hogehogehogehogehogehoge";
    """
    assert desk.run(line) == []
    text, _ = desk.runner.dump(MsgType.DUMP)
    assert text.startswith(
        "1.1.1.1[4501] 2.2.2.2[4500] \n\tesp-udp mode=transport spi=300(0x0000012c) "
        "reqid=0(0x00000000)\n\tNAT OA=10.0.0.1\n\tE: 3des-cbc"
    )
    assert "\n2001:db8::1[4500] 2001:db8::2[4500] \n\tesp-udp mode=transport" in text


def test_windows_of_thousands_of_packets_read_back(desk: Desk) -> None:
    for size in (255, 256, 4096):
        line = f'add 1.1.1.1 2.2.2.2 esp {size} -r {size} -E null -A hmac-sha1 "{"k" * 20}";'
        assert desk.run(line) == []
    text, _ = desk.runner.dump(MsgType.DUMP)
    lines = [line.strip() for line in text.splitlines() if "replay" in line]
    assert [line.split()[1] for line in lines if line.startswith("seq")] == ["replay=255"] * 3
    told = [line for line in lines if line.startswith("replay")]
    assert told == ["replay window: 256 packets", "replay window: 4096 packets"]
