"""`pfkey lab` runs the FAQ's examples end to end, leaves nothing behind, and stays up if asked."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfkey.lab.catalogue import EXAMPLES
from pfkey.lab.example import ESP, NAMES, Example
from pfkey.lab.hosts import sweep
from tests.support import nobody
from tests.support.nobody import NOBODY, as_user

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
PFKEY = str(BIN / "pfkey")
TUN = "/dev/net/tun"


def lab(
    where: Path, *words: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, PFKEY, "lab", *words], cwd=where, capture_output=True, text=True, check=False,
        env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip


def has_host(story: str, hosts: int = 2) -> list[str]:
    """Which of the namespaces that a story names are still there."""
    names = set(re.findall(r"ip netns add (\S+)", story))
    assert len(names) == hosts
    return [name for name in names if Path("/run/netns", name).exists()]


def packets(file: Path) -> list[bytes]:
    """The frames of a pcap file, read by its definition and not by what wrote it."""
    octets = file.read_bytes()
    assert struct.unpack_from("=I", octets)[0] == 0xA1B23C4D
    assert struct.unpack_from("=I", octets, 20)[0] == 1  # Ethernet
    found, at = [], 24
    while at < len(octets):
        length, original = struct.unpack_from("=II", octets, at + 8)
        assert length == original
        found.append(octets[at + 16 : at + 16 + length])
        at += 16 + length
    return found


@pytest.fixture
def state(tmp_path: Path) -> Iterator[str]:
    """A place of its own for kept hosts, which are taken down whatever happens."""
    place = str(tmp_path / "state")
    yield place
    lab(tmp_path, "--down", PFKEY_LAB_STATE=place)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_every_check_holds(name: str, tmp_path: Path) -> None:
    file = tmp_path / "here.pcap"
    done = lab(tmp_path, name, "--capture", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ checks passed, 0 failed", done.stdout, re.M)
    assert "FAILED" not in done.stdout
    example = EXAMPLES[name]
    sa = example.sa(example.layers[0], towards_peer=True)
    on_wire = f"{'ESP' if sa.proto == ESP else 'AH'}(spi={sa.spi:#010x},seq=0x1"
    for shown in ("setkey -D\n", "setkey -DP\n", "pfkey stat", on_wire, f"capture file: {file}"):
        assert shown in done.stdout
    refused = re.search(r"ok +(?:the )?\w+ counts each as a policy violation \([1-9]", done.stdout)
    assert (refused is not None) == example.requires
    assert has_host(done.stdout, len(example.hosts)) == []
    if not example.port:
        look_at_captures(example, file)


def look_at_captures(example: Example, file: Path) -> None:
    """The files that a run leaves, one for each link, as tcpdump sees them and by their octets."""
    for link in example.links:
        beside = file if link.protected else file.with_stem(f"here-{link.a}-{link.b}")
        frames = packets(beside)
        assert len(frames) > 100
        is_readable = [f for f in frames if b"letter that only" in f or b"ping in clear" in f]
        assert bool(is_readable) == (not link.protected or not example.hides)
        wanted = NAMES[example.layers[0]] if link.protected else "not esp and not ah"
        others = subprocess.run(
            ["tcpdump", "-n", "-r", beside, f"not ({wanted}) and not arp"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert others.stdout == ""


def test_kept_hosts_can_be_entered_and_are_taken_down(tmp_path: Path, state: str) -> None:
    done = lab(tmp_path, "encryption", "--keep", PFKEY_LAB_STATE=state, SHELL="true")
    assert done.returncode == 0, done.stdout + done.stderr
    again = lab(tmp_path, "encryption", "--keep", PFKEY_LAB_STATE=state)
    assert again.returncode == 1
    assert "pfkey lab --down" in again.stderr
    enter = re.findall(r"enter the (?:node|peer): +(.*)", done.stdout)
    assert len(enter) == 2
    for line in enter:
        assert line.startswith("nsenter ")
        inside = line.removesuffix("true") + "setkey -D"
        shown = subprocess.run(["sh", "-c", inside], capture_output=True, text=True, check=True)
        assert shown.stdout.count("state=mature") == 2
    gone = lab(tmp_path, "--down", PFKEY_LAB_STATE=state)
    assert (gone.returncode, gone.stdout) == (0, "encryption is down\n")
    assert subprocess.run(["sh", "-c", enter[0]], capture_output=True, check=False).returncode != 0
    assert not Path(re.findall(r"logs are in (\S+)", done.stdout)[0]).exists()
    assert lab(tmp_path, "--down", PFKEY_LAB_STATE=state).stdout == "nothing is up\n"


@contextlib.contextmanager
def running(where: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A lab in the middle of its run; its story is in the file `story`."""
    path = where / "story"
    with path.open("w") as story:
        process = subprocess.Popen(
            [PFKEY, "lab", "encryption"], cwd=where, stdout=story, stderr=story
        )
        until(lambda: "1-peer.sh was accepted" in path.read_text() or process.poll() is not None)
        assert process.poll() is None, path.read_text()
        yield process


def until(claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_takes_everything_down(number: int, tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert has_host((tmp_path / "story").read_text()) == []


def test_a_killed_run_leaves_no_daemon_and_its_hosts_to_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait()
    assert len(children) >= 2
    until(lambda: not [pid for pid in children if Path("/proc", pid).exists()])
    sweep()  # or that of another test, who came first
    assert has_host((tmp_path / "story").read_text()) == []


def test_a_program_that_cannot_start_is_told_in_one_line(tmp_path: Path) -> None:
    hide = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
    done = lab(tmp_path, "encryption", before=("unshare", "--mount", "sh", "-c", hide, "sh"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert TUN in done.stderr


def without_root(tun_mode: str) -> tuple[str, ...]:
    """Words before a command: nobody runs it, and /dev/net/tun has this mode for it alone."""
    tun = f"mount -t tmpfs tmpfs /dev/net && mknod -m {tun_mode} {TUN} c 10 200"
    return as_user(first=[tun])


@pytest.fixture
def open_directory() -> Iterator[Path]:
    with nobody.open_directory() as made:
        yield made


def test_without_root_it_runs_in_a_user_namespace(open_directory: Path) -> None:
    done = lab(open_directory, "encryption-require", before=without_root("666"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout
    assert (open_directory / "pfkey-lab-encryption-require.pcap").stat().st_uid == NOBODY


def test_root_without_rights_does_as_others_do(tmp_path: Path) -> None:
    drop = ("capsh", "--drop=cap_sys_admin,cap_net_admin", "--shell=/usr/bin/env", "--")
    done = lab(tmp_path, "encryption", before=drop)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_root_one_line_says_what_is_missing(open_directory: Path) -> None:
    done = lab(open_directory, "encryption", before=without_root("600"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"pfkey lab: no rights of root, and {TUN} has mode 0600; run as root,"
        f" or let everybody use it, as root: chmod 666 {TUN}\n"
    )
