"""The command `pfkey` asks a running pfkeyd: counters, messages as they pass, a look around."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.schema import check_schema, schema
from tests.support.shell import Process

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
KEY = "686f6765686f6765686f6765686f6765"
ADD = f"add 10.1.1.1 20.1.1.1 esp 9876 -E aes-cbc 0x{KEY};\n"


def until(claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """A pfkeyd without data path: needs no privilege."""
    path = tmp_path / "s"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [BIN / "pfkeyd", "--no-dataplane", "--socket", path], stdout=log, stderr=log
        )
    until(lambda: "ready socket=" in (tmp_path / "log").read_text())
    yield path
    process.terminate()
    assert process.wait(10) == 0


def run(*words: str, socket: Path, stdin: str = "") -> str:
    return subprocess.run(
        [BIN / words[0], *words[1:]], input=stdin, capture_output=True, text=True, check=True,
        env={**os.environ, "PFKEY_SOCKET": str(socket)},
    ).stdout  # fmt: skip


def test_counters_come_as_text_and_as_json(socket: Path) -> None:
    assert "\t0 policy violations (input)\n" in run("pfkey", "stat", socket=socket)
    assert run("pfkey", "stat", "-s", socket=socket) == ""
    check_schema(json.loads(run("pfkey", "stat", "--json", socket=socket)), schema("counters"))


def test_each_policys_counts_come_as_text_and_as_json(socket: Path) -> None:
    assert run("pfkey", "stat", "--policies", socket=socket) == ""
    lines = (
        f"spdadd 10.{number}.1.1 20.1.1.1[80] tcp -P out ipsec esp/transport//require;\n"
        for number in range(200)
    )
    run("setkey", "-c", socket=socket, stdin="".join(lines))
    text = run("pfkey", "stat", "--policies", socket=socket)
    assert text.startswith(
        "10.0.1.1 20.1.1.1[80] tcp -P out ipsec (id 9):\n\t0 packets passed\n\t0 bytes passed\n"
    )
    assert run("pfkey", "stat", "--policies", "-s", socket=socket) == ""
    found = json.loads(run("pfkey", "stat", "--policies", "--json", socket=socket))
    check_schema(found, schema("policies"))
    assert [policy["policy"].split()[0] for policy in found["policies"]] == [
        f"10.{number}.1.1" for number in range(200)
    ]


def test_doctor_finds_the_daemon(socket: Path) -> None:
    done = subprocess.run(
        [BIN / "pfkey", "doctor", "--json"], capture_output=True, text=True, check=False,
        env={**os.environ, "PFKEY_SOCKET": str(socket)},
    )  # fmt: skip
    document = json.loads(done.stdout)
    check_schema(document, schema("doctor"))
    found = next(f for f in document["findings"] if f["name"] == "pfkeyd")
    assert found["ok"]
    assert "no data path" in found["seen"]


def test_a_capture_that_cannot_be_written_is_named(socket: Path) -> None:
    done = subprocess.run(
        [BIN / "pfkey", "monitor", "--socket", socket, "--pcap", "/dev/full"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pfkey monitor: /dev/full: No space left on device\n"


@pytest.mark.parametrize("options", [(), ("--json",), ("--pcap", "-")])
def test_monitor_tells_that_pfkeyd_has_ended(tmp_path: Path, options: tuple[str, ...]) -> None:
    shown = tmp_path / "shown"
    with Process(tmp_path) as daemon, shown.open("w") as out:
        monitor = subprocess.Popen(
            [BIN / "pfkey", "monitor", "--socket", daemon.socket, *options],
            stdout=out, stderr=subprocess.PIPE,
        )  # fmt: skip
        # a message that it shows: so it listens
        until(lambda: run("setkey", "-F", socket=daemon.socket) or shown.stat().st_size > 500)
        daemon.signal(9)
        _, said = monitor.communicate(timeout=20)
    assert monitor.returncode == 1
    assert said == b"pfkey monitor: pfkeyd closed the connection; its log says why\n"


@pytest.mark.parametrize("options", [(), ("--json",), ("--show-keys",), ("--json", "--show-keys")])
def test_monitor_shows_what_passes_and_keys_only_on_demand(
    socket: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        process = subprocess.Popen(
            [BIN / "pfkey", "monitor", "--socket", socket, *options], stdout=out
        )
    try:
        until(lambda: run("setkey", "-F", socket=socket) or "FLUSH" in shown.read_text())
        run("setkey", "-c", stdin=ADD, socket=socket)
        until(lambda: shown.read_text().count("ADD") >= 2)
    finally:
        process.send_signal(2)
        assert process.wait(10) == 0
    text = shown.read_text()
    has_key = KEY in text.replace(" ", "")
    assert has_key == ("--show-keys" in options)
    if "--json" in options:
        events = [json.loads(line) for line in text.splitlines()]
        for event in events:
            check_schema(event, schema("monitor"))
        adds = [e["direction"] for e in events if e["message"]["type"] == "ADD"]
        assert adds == ["in", "out"]
