"""`pfkey capture` and tcpdump on pfkey0: what is inside, what is sealed, which belongs to which."""

import contextlib
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Host, Net
from tests.netns.test_conversation import Two, transfer
from tests.support.nobody import as_user
from tests.support.sites import BEHIND, Vpn
from tests.support.system import AUTHENTIC_KEYS, BIN, A, B, require, until

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
        until(lambda: path.stat().st_size > OCTETS, 5)
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

    config = tmp_path / "wireshark"
    config.mkdir()
    secrets.rename(config / "esp_sa")
    (config / "preferences").write_text("esp.enable_encryption_decode: TRUE\n")
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
    assert len([row for row in rows if row[0] == "tor" and "inside: packet" in row[1]]) >= 4
    assert len([row for row in rows if row[1].startswith("inside packet")]) >= 4


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
    until(lambda: "listening on pfkey0" in watching.stderr.readline(), 5)  # type: ignore[union-attr]
    assert two.ping()
    assert watching.wait(5) == 0
    assert watching.stdout
    said = watching.stdout.read()
    assert said.count(f"IP {A} > {B}: ICMP echo request") == 2
    assert said.count(f"IP {B} > {A}: ICMP echo reply") == 2
    assert "ESP" not in said
