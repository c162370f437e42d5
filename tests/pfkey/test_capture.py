"""Files of packets, as far as they need no packets."""

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pfkey import capture
from pfkey.capture import Capture, private
from pfkey.const import SaState, SaType
from pfkey.entries import SadEntry
from pfkey.errors import ShellError


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


@pytest.mark.root
def test_another_users_file_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "packets"
    file.write_text("theirs")
    os.chown(file, 65534, 65534)
    with pytest.raises(ShellError, match="belongs to another user"):
        private(file)
    assert file.read_text() == "theirs"


def test_an_sas_keys_are_written_when_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GETSPI makes an SA without; UPDATE and a new one with its SPI bring others."""
    larval = SadEntry(
        satype=SaType.ESP, src="10.1.1.1", dst="20.1.1.1", spi=9876, state=SaState.LARVAL
    )
    old, new = b"sixteen octets..", b"sixteen others.."
    mature = replace(larval, state=SaState.MATURE, encrypt=12, encrypt_key=old)
    again = replace(mature, encrypt_key=new)
    databases = iter([[larval], [mature], [mature], [again]])

    class Engine:
        def __init__(self, path: Path) -> None: ...
        def __enter__(self) -> "Engine":
            return self

        def __exit__(self, *exit: object) -> None: ...
        def dump(self) -> list[SadEntry]:
            return next(databases)

    monkeypatch.setattr(capture, "Client", Engine)
    secrets = tmp_path / "secrets"
    near, far = socket.socketpair()
    with near, far, private(tmp_path / "packets") as out:
        made = Capture(tmp_path / "s", near, out, "a test", secrets)
        assert "9876" not in secrets.read_text()
        assert "NULL" not in secrets.read_text()
        for key in (old, old, new):
            made._sas()
            assert key.hex() in secrets.read_text()
        assert old.hex() not in secrets.read_text()
