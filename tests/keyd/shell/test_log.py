"""Log lines: one event a line, nothing that can be misread, strangers limited, no waiting."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd.shell import log
from tests.support.shell import Process


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def record(text: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    made = logging.LogRecord("keyd.x", level, "", 0, text, args, None)
    made.created, made.msecs = 1_700_000_000.5, 500.0
    return made


def test_a_line_has_time_level_and_event(pipe: tuple[int, int]) -> None:
    log.Lines(pipe[1]).emit(record("sa-mature spi=%#x", 256))
    assert os.read(pipe[0], 1000) == b"2023-11-14T22:13:20.500Z info sa-mature spi=0x100\n"


def test_nothing_breaks_out_of_its_line(pipe: tuple[int, int]) -> None:
    log.Lines(pipe[1]).emit(record("name=%s", "a\nb\x1b[2J\u2028" + "x" * 9000))
    said = os.read(pipe[0], 65536)
    assert said.count(b"\n") == 1
    assert b"\x1b" not in said
    assert len(said) <= 4096


def test_what_a_stopped_reader_does_not_take_is_dropped_and_told(pipe: tuple[int, int]) -> None:
    lines = log.Lines(pipe[1])
    for _ in range(2000):
        lines.emit(record("x" * 100))
    while len(os.read(pipe[0], 65536)) == 65536:
        pass
    lines.emit(record("again"))
    told, again, _ = os.read(pipe[0], 65536).split(b"\n")
    assert told.startswith(b"warning log-lost lines=")
    assert again.endswith(b"again")


def test_lines_of_strangers_are_limited_and_errors_are_not() -> None:
    limit = log.Limit(burst=3, per_second=1)
    assert [limit.filter(record("x")) for _ in range(5)] == [True] * 3 + [False] * 2
    assert limit.filter(record("x", level=logging.ERROR))
    later = record("x")
    later.created += 1
    assert limit.filter(later)
    assert later.getMessage() == "x muted-before=2"


def test_where_an_error_came_from_holds_no_value() -> None:
    def inner(secret: str) -> None:
        raise ValueError(secret)

    with pytest.raises(ValueError, match="dead") as raised:
        inner("deadbeef")
    frames = log.frames_of(raised.value)
    assert frames[-1]["in"] == "inner"
    assert "deadbeef" not in str(frames)


def test_the_process_hides_its_memory_and_keeps_few_rights(tmp_path: Path) -> None:
    with Process(tmp_path) as running:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{running.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        limits = Path(f"/proc/{running.pid}/limits").read_text()
        assert "Max core file size        0                    0" in limits
        sys_admin, sys_ptrace, sys_module = 1 << 21, 1 << 19, 1 << 16
        for which in ("CapEff", "CapPrm", "CapBnd"):
            assert not int(status[which], 16) & (sys_admin | sys_ptrace | sys_module) or (
                which == "CapBnd" and os.geteuid() != 0
            )
        # not dumpable: its files in /proc belong to root, whoever it is
        assert Path(f"/proc/{running.pid}/environ").stat().st_uid == 0
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
