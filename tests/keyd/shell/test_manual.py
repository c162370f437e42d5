"""docs/pfkeyd.8 says what pfkeyd does: every option is there, and mandoc has no complaint."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from keyd.shell.options import parse

PAGE = Path(__file__).parents[3] / "docs" / "pfkeyd.8"


def test_the_manual_page_has_exactly_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    has = set(re.findall(r"--[a-z-]+", capsys.readouterr().out.split("options:")[1]))
    told = {f"-{o}" for o in re.findall(r"Fl (-[a-z-]+)", PAGE.read_text())}
    assert told == has


def test_mandoc_has_nothing_to_say() -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is missing: apt-get install mandoc")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(PAGE)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
