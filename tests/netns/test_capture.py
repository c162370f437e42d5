"""`pfkey capture` and tcpdump on pfkey0: what is inside, what is sealed, which belongs to which."""

import contextlib
import re
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pfkey import set_policy
from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two, transfer
from tests.support.nobody import as_user
from tests.support.sites import BEHIND, Vpn
from tests.support.system import AUTHENTIC_KEYS, BIN, A, B, require, until
from tests.support.wire import drain, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

OCTETS = 1 << 17
# of the peer, other algorithms
GCM_KEYS = f"""
add {A} {B} esp 9876 -r 32 -E aes-gcm-16 0x{bytes(range(20)).hex()};
add {B} {A} esp 10000 -r 32 -E aes-ctr 0x{bytes(range(20)).hex()} -A hmac-sha2-512 0x{"44" * 64};
"""


@contextlib.contextmanager
def captured(host: Host, path: Path, *options: str) -> Iterator[None]:
    """The command runs; at the end it is interrupted, as a user does."""
    process = host.start(str(BIN / "pfkey"), "capture", *options, str(path))
    assert process.stderr
    assert process.stderr.readline() == "pfkey capture: an interrupt ends it\n"
    yield
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert process.stderr.read() == "", "nothing was missed"


def fields(path: Path, *names: str, config: Path | None = None) -> list[list[str]]:
    """These of each packet, as tshark reads the file, with a configuration of its own."""
    argv = ["tshark", "-r", str(path), "-T", "fields", "-E", "separator=|", "-E", "occurrence=l"]
    for name in names:
        argv += ["-e", name]
    env = {"PATH": "/usr/bin:/bin", "WIRESHARK_CONFIG_DIR": str(config or path.parent / "none")}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
    assert "rror" not in done.stderr, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def configured(tmp: Path, secrets: Path) -> Path:
    """A configuration of Wireshark's with these keys, as the manual says."""
    config = tmp / "wireshark"
    config.mkdir()
    secrets.rename(config / "esp_sa")
    (config / "preferences").write_text("esp.enable_encryption_decode: TRUE\n")
    return config


@pytest.mark.parametrize(
    ("version", "keys"), [(4, AUTHENTIC_KEYS), (6, GCM_KEYS)], ids=["ipv4-cbc", "ipv6-counters"]
)
def test_each_sealed_packet_names_the_one_inside_and_tshark_opens_it(
    net: Net, tmp_path: Path, version: int, keys: str
) -> None:
    two = Two(net, tmp_path, version)
    two.load(keys + require(A, B), keys + require(B, A))
    path = tmp_path / "packets.pcapng"
    path.touch(0o644)
    with captured(two.a, path, "--secrets"):
        assert two.ping()
        assert two.ping("-s", "3000")
        assert len(transfer(two.a, two.b, two.other, OCTETS)) == OCTETS
        until(lambda: path.stat().st_size > OCTETS)
    secrets = path.with_name("packets.pcapng.esp_sa")
    for file in (path, secrets):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    rows = fields(path, "frame.number", "frame.interface_name", "frame.comment", "esp.sequence")
    sealed = [row for row in rows if not row[1].startswith("pfkey")]
    assert {row[1] for row in rows} == {"pfkey0", two.a_dev}
    going = [row for row in sealed if "spi 0x00002694" in row[2]]
    coming = [row for row in sealed if "spi 0x00002710" in row[2]]
    assert len(going) > 50
    comments = {row[0]: row[2] for row in rows}
    for _, _, comment, sequence in going:
        found = re.fullmatch(r"ESP spi 0x00002694 sequence (\d+); inside: packet (\d+)", comment)
        assert found, comment
        assert found[1] == sequence
        assert comments[found[2]] == "inside, before it is sealed"
    inside = [row for row in rows if row[2].startswith("inside packet")]
    named = {n for row in inside for n in re.findall(r"\d+", row[2].partition(":")[0])}
    assert named == {row[0] for row in coming}, "each that came in was opened, and is named once"

    config = configured(tmp_path, secrets)
    opened = fields(path, "frame.interface_name", "frame.protocols", "frame.comment", config=config)
    protocols = [row[1] for row in opened if row[0] == two.a_dev and "sequence" in row[2]]
    assert len(protocols) > 50
    assert all(re.search(r"esp:(icmp|icmpv6|tcp)", one) for one in protocols), protocols


def test_tunnels_and_pieces_of_packets(net: Net, tmp_path: Path) -> None:
    """On a gateway: IPv4 of the hosts behind, in fragments too, inside IPv6."""
    vpn = Vpn(net, tmp_path)
    vpn.load(4, 6)
    path = tmp_path / "tunnel.pcapng"
    with captured(vpn.g, path):
        assert vpn.ping(BEHIND[4][1])
        assert any(vpn.ping(BEHIND[4][1], "-s", "3000") for _ in range(2))
    assert not path.with_name("tunnel.pcapng.esp_sa").exists(), "keys only where asked for"
    rows = fields(path, "frame.interface_name", "frame.comment")
    going = [row[1] for row in rows if row[0] == "tor" and "spi 0x000037a5" in row[1]]
    assert len(going) >= 7, "two small ones, and the pieces of large ones"
    assert all("; inside: packet" in comment for comment in going)
    assert len([row for row in rows if row[1].startswith("inside packet")]) >= 7


@dataclass(frozen=True)
class Layers:
    """What two addresses of their own say to each other, and what a capture says of it."""

    n: int
    keys: str  # of setkey, after the addresses; `esp-udp` has ports
    steps: str
    said: str  # of the layers, as a pattern
    shown: str  # by tshark with the secrets
    version: int = 4

    @property
    def ends(self) -> tuple[str, str]:
        nets = ("10.1.9.", "20.1.9.") if self.version == 4 else ("2001:db8:91::", "2001:db8:92::")
        return f"{nets[0]}{self.n}", f"{nets[1]}{self.n}"

    def lines(self, way: str) -> str:
        src, dst = self.ends
        text = ""
        for line in self.keys.split(";"):
            proto, rest = line.strip().split(" ", 1)
            proto, _, port = proto.partition(":")
            at = f"[{port}]" * bool(port)
            text += f"add {src}{at} {dst}{at} {proto} {rest};\n"
        if self.steps:
            steps = self.steps.format(ends=f"{src}-{dst}")
            text += f"spdadd {src} {dst} any -P {way} ipsec {steps};\n"
        return text


AES = f"-E aes-cbc 0x{'61' * 16} -A hmac-sha1 0x{'62' * 20}"
GCM, DES = f"-E aes-gcm-16 0x{'63' * 20}", f"0x{'01234567' * 2}"
LAYERS = [
    Layers(1, f"esp 0x1001 -r 32 -esn {GCM}", "esp/transport//require",
           r"ESP spi 0x00001001 sequence \d+", "esp:udp:data"),
    Layers(2, f"ipcomp 0x1002 -C deflate; esp 0x1102 {AES}",
           "ipcomp/transport//require esp/transport//require",
           r"ESP spi 0x00001102 sequence \d+, IPComp cpi 0x1002", "esp:ipcomp"),
    Layers(3, f"esp-udp:4500 0x1003 {AES}", "esp/transport//require",
           r"ESP spi 0x00001003 sequence \d+", "udp:udpencap:esp:udp:data"),
    Layers(4, f"esp-udp:4511 0x1004 {AES}", "esp/transport//require",
           r"ESP spi 0x00001004 sequence \d+", "udp:data"),
    Layers(5, f"esp 0x1005 {AES}; ah 0x1105 -A hmac-sha256 0x{'64' * 32}",
           "esp/transport//require ah/transport//require",
           r"AH spi 0x00001105 sequence \d+, ESP spi 0x00001005 sequence \d+",
           "ah:esp:udp:data"),
    Layers(6, f"esp 0x1006 -m tunnel -u 61 {AES}; esp 0x1106 -m tunnel -u 62 {GCM}",
           "esp/tunnel/{ends}/unique:61 esp/tunnel/{ends}/unique:62",
           r"ESP spi 0x00001106 sequence \d+, ESP spi 0x00001006 sequence \d+",
           "esp:ip:esp:ip"),
    Layers(7, "ipcomp 0x1007 -C deflate", "ipcomp/transport//require", "IPComp cpi 0x1007",
           "ipcomp"),
    Layers(8, f"esp 0x1008 -f zero-pad -E des-deriv {DES}", "esp/transport//require",
           r"ESP spi 0x00001008 sequence \d+", "esp"),
    Layers(9, f"esp-old 0x1009 -E des-32iv {DES}; ah-old 0x1109 -A keyed-md5 0x{'65' * 16}",
           "esp/transport//require ah/transport//require",
           "AH spi 0x00001109, ESP spi 0x00001009", "ah:esp"),
    Layers(10, f"esp 0x1010 -r 32 -esn -E aes-ctr 0x{'66' * 20} -A hmac-sha1 0x{'67' * 20}", "",
           r"ESP spi 0x00001010 sequence \d+", "esp:udp:data"),  # of a socket
    Layers(11, f"ah 0x1011 -A hmac-sha1 0x{'68' * 20}", "ah/transport//require",
           r"AH spi 0x00001011 sequence \d+", "ah:ipv6.dstopts:udp:data", 6),
    Layers(12, f"esp 0x1012 {AES}", "esp/transport//require",
           r"ESP spi 0x00001012 sequence \d+", "esp:ipv6.dstopts:udp:data", 6),
    Layers(13, f"esp-udp:4500 0x1013 {AES}", "esp/transport//require",
           r"ESP spi 0x00001013 sequence \d+", "udp:udpencap:esp:ipv6.dstopts:udp:data", 6),
    Layers(14, f"ipcomp 0x1014 -m tunnel -C deflate; esp 0x1114 {GCM}",
           "ipcomp/tunnel/{ends}/require esp/transport//require",
           r"ESP spi 0x00001114 sequence \d+, IPComp cpi 0x1014", "esp:ipcomp", 6),
]  # fmt: skip
SMALL, LARGE = 200, 3000
DESTINATION_OPTIONS = bytes((0, 0, 1, 4)) + bytes(4)  # padding


def test_every_layer_is_named_and_taken_off_on_either_side(net: Net, tmp_path: Path) -> None:
    """Also in fragments, behind IPv6's destination options, and of a socket's own policy."""
    two = Two(net, tmp_path, 6)
    sides = ((two.a, two.a_dev), (two.b, two.b_dev))
    for case in LAYERS:
        bits = {4: 32, 6: 128}[case.version]
        for side, (host, device) in enumerate(sides):
            nodad = ("nodad",) * (case.version == 6)
            host.ip("addr", "add", f"{case.ends[side]}/{bits}", "dev", device, *nodad)
            host.ip("route", "add", case.ends[1 - side], "dev", device)
    two.da.setkey("".join(case.lines("out") for case in LAYERS))
    two.db.setkey("".join(case.lines("in") for case in LAYERS))
    listener = udp_listener(two.b, "::", 4000)
    paths = [tmp_path / "a.pcapng", tmp_path / "b.pcapng"]
    got: list[bytes] = []

    def arrived() -> bool:
        got.extend(drain(listener))
        return len(got) == 2 * len(LAYERS)

    with captured(two.a, paths[0], "--secrets"), captured(two.b, paths[1]):
        for case in LAYERS:
            sender = udp_listener(two.a, case.ends[0], 0)
            if not case.steps:
                set_policy(sender, "out ipsec esp/transport//require", path=two.da.socket)
            if case.version == 6 and "tunnel" not in case.steps:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, DESTINATION_OPTIONS)
            for octets in (SMALL, LARGE):
                sender.sendto(bytes(octets), (case.ends[1], 4000))
        until(arrived, 10, "all datagrams arrive")
    assert sorted(map(len, got)) == [SMALL] * len(LAYERS) + [LARGE] * len(LAYERS)
    config = configured(tmp_path, paths[0].with_name("a.pcapng.esp_sa"))
    names = ("ip.src", "ipv6.src", "frame.number", "frame.comment", "frame.interface_name",
             "frame.protocols")  # fmt: skip
    going, coming = (fields(path, *names, config=config) for path in paths)
    comments = {number: comment for _, _, number, comment, *_ in going}
    for case in LAYERS:
        mine = [row[2:] for row in going if case.ends[0] in row[:2]]
        sealed = [row for row in mine if row[2] == two.a_dev and row[1] != "a piece"]
        assert len(sealed) >= 2, case
        for _, comment, _, protocols in sealed:
            found = re.fullmatch(rf"{case.said}; inside: packet (\d+)", comment)
            assert found, comment
            assert comments[found[1]] == "inside, before it is sealed"
            assert f":{case.shown}" in protocols, protocols
        door = "pfkey0" if case.steps else "pfkey1"
        assert {row[2] for row in mine if row[1].startswith("inside")} == {door}

        arrivals = [row[2:] for row in coming if case.ends[0] in row[:2]]
        sealed = [row for row in arrivals if row[2] == two.b_dev and row[1] != "a piece"]
        inside = [row[1] for row in arrivals if row[2] == "pfkey0"]
        for comment in inside:
            assert re.fullmatch(rf"inside packet \d+: {case.said}", comment), comment
        named = {comment.split(":")[0].split()[-1] for comment in inside}
        assert named == {row[0] for row in sealed}, "each that was opened is named once"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        made = Two(net, tmp_path_factory.mktemp("two"))
        made.load(AUTHENTIC_KEYS + require(A, B), AUTHENTIC_KEYS + require(B, A))
        yield made


def test_only_root_may_and_a_number_of_packets_ends_it(two: Two, tmp_path: Path) -> None:
    path = tmp_path / "few.pcapng"
    argv = (str(BIN / "pfkey"), "capture", "--count", "4", str(path))
    process = two.a.start(*argv)
    assert process.stderr
    process.stderr.readline()
    assert two.ping()
    assert process.wait(10) == 0
    assert len(fields(path, "frame.number")) == 4
    refused = two.a.run(*as_user(12345), *argv, check=False)
    assert refused.returncode == 1
    assert "only root may capture packets" in refused.stderr
    assert "Traceback" not in refused.stderr
    wrong = two.a.run(*argv[:2], "--secrets", "-", check=False)
    assert (wrong.returncode, "needs the name of a FILE" in wrong.stderr) == (2, True)


def test_tcpdump_shows_what_is_inside(two: Two) -> None:
    watching = two.a.start("tcpdump", "-lni", "pfkey0", "-c", "4")
    assert watching.stderr
    until(lambda: "listening on pfkey0" in watching.stderr.readline())  # type: ignore[union-attr]
    assert two.ping()
    assert watching.wait(5) == 0
    assert watching.stdout
    said = watching.stdout.read()
    assert said.count(f"IP {A} > {B}: ICMP echo request") == 2
    assert said.count(f"IP {B} > {A}: ICMP echo reply") == 2
    assert "ESP" not in said
