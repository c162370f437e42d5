"""Captures of PF_KEY messages, as tshark and scapy read them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import pcapng
from pfkey.blocking import Client
from pfkey.cli import main
from tests.pfkey.test_blocking import SA
from tests.support.shell import Process

PFKEY = Path(sys.executable).parent / "pfkey"
assert SA.encrypt_key is not None
IN, OUT = "0x00000001", "0x00000002"
SECRET = SA.encrypt_key.hex()


def packets(path: Path, *fields: str) -> list[list[str]]:
    """The fields of each packet, as tshark reads them."""
    options = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-E", "separator=|", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("|") for line in done.stdout.splitlines()]


def test_a_capture_is_read_by_tshark(tmp_path: Path) -> None:
    path = tmp_path / "c.pcapng"
    octets = bytes(range(16))
    path.write_bytes(
        pcapng.head("test")
        + pcapng.packet(octets, at=1700000000.25, is_inbound=True, comment="ADD ä")
        + pcapng.packet(octets[:13], at=1700000001, is_inbound=False, comment="two\nlines", lost=7)
    )
    first, second = packets(
        path, "frame.time_epoch", "frame.encap_type", "frame.len", "frame.comment",
        "frame.packet_flags_direction", "frame.interface_name", "user_dlt",
    )  # fmt: skip
    assert first[:6] == ["1700000000.250000000", "45", "16", "ADD ä", IN, "pfkey"]
    assert second[0] == "1700000001.000000000"
    assert (second[2], second[4]) == ("13", OUT)
    shown = subprocess.run(
        ["capinfos", "-M", path], capture_output=True, text=True, check=True
    ).stdout
    assert "Capture application: test" in shown
    assert "Description = PF_KEY v2 messages (RFC 2367)" in shown


def scapy_reads(path: Path) -> list[bytes]:
    code = (
        "import sys; from scapy.utils import RawPcapNgReader\n"
        "for octets, meta in RawPcapNgReader(sys.argv[1]): print(octets.hex(), meta.linktype)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    assert {linktype for _, linktype in rows} <= {str(pcapng.LINKTYPE_USER0)}
    return [bytes.fromhex(octets) for octets, _ in rows]


def test_any_octets_come_out_of_a_capture_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "c.pcapng"
    records = [bytes(range(n)) for n in (1, 2, 3, 4, 5, 16, 255)] + [os.urandom(60_000)]
    body = [pcapng.packet(r, at=1, is_inbound=True, comment="x" * len(r)) for r in records]
    path.write_bytes(pcapng.head("test") + b"".join(body))
    assert scapy_reads(path) == records


@given(st.binary(max_size=40), st.text(max_size=70_000), st.integers(0, 2**40))
def test_every_block_is_whole_words_and_says_its_length_twice(
    octets: bytes, comment: str, lost: int
) -> None:
    block = pcapng.packet(octets, at=1e9, is_inbound=False, comment=comment, lost=lost)
    length = int.from_bytes(block[4:8], sys.byteorder)
    assert length == len(block) == int.from_bytes(block[-4:], sys.byteorder)
    assert length % 4 == 0


@pytest.mark.parametrize("options", [(), ("--show-keys",)])
def test_monitor_writes_a_capture_with_keys_only_on_demand(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "c.pcapng"
    with Process(tmp_path) as daemon, Client(daemon.socket) as client:
        process = subprocess.Popen(
            [PFKEY, "monitor", "--socket", daemon.socket, "--pcap", path, *options]
        )
        try:
            daemon.until(lambda: process.poll() is None and path.exists() and path.stat().st_size)
            client.add(SA)
            client.flush()
            daemon.until(lambda: b"FLUSH" in path.read_bytes())
        finally:
            process.send_signal(2)
            assert process.wait(10) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = packets(path, "frame.packet_flags_direction", "frame.comment")
    adds = [(direction, comment) for direction, comment in rows if " ADD esp " in comment]
    assert [direction for direction, _ in adds] == [IN, OUT]
    assert "spi=9876(0x00002694)" in adds[1][1]
    written = b"".join(scapy_reads(path))
    assert SA.encrypt_key is not None
    assert (SA.encrypt_key in written) == bool(options)
    assert (SECRET in adds[1][1].replace(" ", "")) == bool(options)


def test_monitor_writes_to_standard_output(tmp_path: Path) -> None:
    with (
        Process(tmp_path) as daemon,
        Client(daemon.socket) as client,
        subprocess.Popen(
            [PFKEY, "monitor", "--socket", daemon.socket, "--pcap", "-"], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):  # fmt: skip
        assert process.stdout
        assert process.stderr
        head = process.stdout.read(len(pcapng.head("pfkey 0.1.0")))
        client.flush()
        daemon.stop()
        rest = process.stdout.read()
        assert process.wait(10) == 1
        assert b"pfkeyd closed the connection" in process.stderr.read()
    assert head[:4] == b"\n\r\r\n"
    assert rest.count(b"FLUSH") == 2


def test_a_capture_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Process(tmp_path) as daemon:
        for words, status, said in (
            (["--pcap", "x", "--json"], 2, "not allowed with argument"),
            (["--pcap", ""], 2, "a path is needed"),
            (["--pcap", "/absent/x"], 1, "/absent/x: No such file or directory"),
        ):
            try:
                ended = main(["monitor", "--socket", str(daemon.socket), *words])
            except SystemExit as end:
                ended = int(end.code or 0)
            assert ended == status
            assert said in capsys.readouterr().err


def test_no_file_is_touched_when_nobody_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"precious")
    assert main(["monitor", "--socket", str(tmp_path / "s"), "--pcap", str(kept)]) == 1
    assert "no pfkeyd answers" in capsys.readouterr().err
    assert kept.read_bytes() == b"precious"
