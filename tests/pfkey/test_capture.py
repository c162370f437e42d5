"""Files of packets, as far as they need no packets."""

import os
import stat
from pathlib import Path

from pfkey.capture import private


def test_a_file_that_was_there_is_nobody_elses_to_read_any_more(tmp_path: Path) -> None:
    file = tmp_path / "packets"
    file.touch(mode=0o644)
    with private(file) as out:
        out.write(b"keys")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_no_file_keeps_its_mode(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with private(pipe) as out:
        out.write(b"keys")
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644
    assert os.read(reader, 5) == b"keys"
    os.close(reader)
