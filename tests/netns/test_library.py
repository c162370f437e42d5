"""The key manager of docs/library.md, with real packets between two hosts."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.support.system import BIN, A, B, Daemon, until
from tests.test_library import BLOCKS, MANAGER

pytestmark = [pytest.mark.root, pytest.mark.slow]

SCRIPTS = {note.removeprefix("host: "): text for note, _, text in BLOCKS if "host: " in note}


@contextmanager
def following_the_page(daemon: Daemon, address: str, folder: Path) -> Iterator[None]:
    """What the page says to do on the host with this address."""
    folder.mkdir()
    (folder / "manager.py").write_text(MANAGER)
    script = SCRIPTS[address].replace("&\n", "&\necho $! > pid\n", 1)
    with (folder / "log").open("w") as log:
        subprocess.run(
            [*daemon.host.enter, "sh", "-e"], input=script, text=True, cwd=folder, check=True,
            timeout=30, stdout=log, stderr=log,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        )  # fmt: skip
    pid = int((folder / "pid").read_text())
    try:
        until(lambda: daemon.control("status")["registered"], 20, "the manager has registered")
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists())
        assert (folder / "log").read_text() == ""


def test_the_key_manager_of_the_page_keys_every_ping(net: Net, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, f"{A}/32", b, f"{B}/32")
    here, there = Daemon(a, tmp_path), Daemon(b, tmp_path)
    assert set(SCRIPTS) == {A, B}
    with (
        following_the_page(here, A, tmp_path / "a"),
        following_the_page(there, B, tmp_path / "b"),
    ):
        for host, other in ((a, B), (b, A)):
            shown = host.run("ping", "-n", "-c3", "-i0.2", "-W5", other).stdout
            assert " 3 received" in shown, shown
        for daemon in (here, there):
            assert daemon.setkey("", "-D").count("state=mature") == 2
            assert daemon.counter("esp", "output") >= 6
            assert "Traceback" not in daemon.log
