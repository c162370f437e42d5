"""docs/pfkeyd.8 says what pfkeyd does: every option is there, and mandoc has no complaint."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from keyd.shell.options import parse

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "pfkeyd.8"


def test_the_manual_page_has_exactly_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    has = set(re.findall(r"--[a-z-]+", capsys.readouterr().out.split("options:")[1]))
    told = {f"-{o}" for o in re.findall(r"Fl (-[a-z-]+)", PAGE.read_text())}
    assert told == has


def test_the_manual_page_has_every_knob_with_its_default_and_what_it_does() -> None:
    table = tomllib.loads((ROOT / "specs" / "tables" / "sysctls.toml").read_text())
    section = PAGE.read_text().split(".Sh KNOBS")[1].split(".Sh ")[0]
    told = dict(re.findall(r"^\.It Li (\S+)(?: No = -?\d+)?\n((?:[^.].*\n)+)", section, re.M))
    assert list(told) == list(table)
    for name, row in table.items():
        assert " ".join(told[name].split()).rstrip(".").lower() == row["effect"].lower()
        has_default = f".It Li {name} No = {row.get('default')}\n" in section
        assert has_default == ("default" in row)


def test_mandoc_has_nothing_to_say() -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is missing: apt-get install mandoc")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", str(PAGE)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
