"""The lab's own machinery: captures, pcap files, traffic; then the command with its examples."""

import subprocess
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from pfkey.lab.traffic import PING_TEXT, SECRETS, letter, ping, transfer
from pfkey.lab.wire import ICMP, TCP, Capture, Frame, write_pcap

pytestmark = [pytest.mark.root, pytest.mark.slow]

A, B = "10.1.1.1", "20.1.1.1"


def test_any_hundred_octets_of_the_letter_hold_its_text() -> None:
    text = letter(5000)
    assert len(text) == 5000
    assert all(SECRETS[1] in text[n : n + 100] for n in range(0, 4900, 7))


def test_capture_sees_both_directions_and_tcpdump_reads_its_file(net: Net, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    _, device = net.link(a, f"{A}/32", b, f"{B}/32")
    content = letter(1 << 20)
    with Capture(b, device) as capture:
        pings = ping(a, B, 2)
        assert transfer(a, b, B, content) == content
    assert (pings.sent, pings.received) == (2, 2)
    assert capture.lost == 0
    assert {(f.src, f.dst, f.protocol) for f in capture.frames if not f.is_arp} == {
        (A, B, ICMP), (B, A, ICMP), (A, B, TCP), (B, A, TCP),
    }  # fmt: skip
    octets = b"".join(f.octets for f in capture.frames)
    assert all(secret in octets for secret in SECRETS)  # in clear, and so they are found
    file = tmp_path / "x.pcap"
    write_pcap(file, capture.frames)
    read = subprocess.run(
        ["tcpdump", "-n", "-r", file, "icmp"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(read) == 4
    ours = [f.line() for f in capture.frames if f.protocol == ICMP]
    assert ours == [
        f"IP {A} > {B}: ICMP echo request, length 64", f"IP {B} > {A}: ICMP echo reply, length 64",
    ] * 2  # fmt: skip


def test_esp_is_shown_as_tcpdump_shows_it() -> None:
    packet = bytes.fromhex("45000024 00000000 40320000 0a010101 14010101".replace(" ", ""))
    frame = Frame(
        0, bytes(12) + b"\x08\x00" + packet + bytes.fromhex("00002694 00000001") + b"12345678"
    )
    assert frame.line() == "IP 10.1.1.1 > 20.1.1.1: ESP(spi=0x00002694,seq=0x1), length 16"


def test_ping_without_an_answer_counts_none(net: Net) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, f"{A}/32", b, f"{B}/32")
    b.ip("addr", "flush", "dev", "toa")
    pings = ping(a, B, 2)
    assert (pings.sent, pings.received) == (2, 0)
    assert len(PING_TEXT) == 16
