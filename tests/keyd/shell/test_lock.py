"""`<socket>.lock`: one daemon per socket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyd.shell.lock import Lock, NamespaceLock, holder
from pfkey.errors import ShellError

HOLD = """
import sys, time
from pathlib import Path
from keyd.shell.lock import Lock
lock = Lock(Path(sys.argv[1]), 77)
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_holds_the_pid_and_the_cookie_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    with Lock(path, 77):
        assert path.read_text() == f"{os.getpid()} 77\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_a_second_holder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    with Lock(path), pytest.raises(ShellError, match=rf"already running as pid {os.getpid()} on"):
        Lock(path)


def test_holder_tells_the_living_only(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    assert holder(path) is None
    with Lock(path):
        assert holder(path) == os.getpid()
    path.write_text("1 1\n")
    assert holder(path) is None


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    with first:
        assert first.stdout
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ShellError, match=f"pid {first.pid} "):
            Lock(path)
        first.kill()
    with Lock(path, 5) as lock:
        assert lock.predecessor_cookie == 77
        assert path.read_text() == f"{os.getpid()} 5\n"


def test_a_lock_file_that_is_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "s.lock").symlink_to(target)
    with pytest.raises(ShellError, match=r"s\.lock"):
        Lock(tmp_path / "s.lock")
    assert target.read_text() == "kept"


def test_a_missing_directory_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ShellError, match="No such file"):
        Lock(tmp_path / "none" / "s.lock")


def test_a_namespace_has_one_data_path_and_the_second_is_told_its_pid() -> None:
    name = f"pfkeyd-test-{os.getpid()}"
    first = NamespaceLock(name)
    for _ in range(10):  # also when nobody accepts those who ask
        with pytest.raises(ShellError, match=r"already running as pid \d+ in this network"):
            NamespaceLock(name)
    first.release()
    NamespaceLock(name).release()
