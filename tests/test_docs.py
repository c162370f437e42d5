"""What the documents show is true: commands run, options exist, named tests are there."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from pfkey.arguments import parser
from pfkey.control import control_call
from pfkey.errors import PfkeyError
from pfkey.lab.hosts import Host, Net

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").iterdir())]
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)
PATH = f"{BIN}:{os.environ['PATH']}"


def wait(claim: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status(host: Host) -> dict[str, int] | None:
    try:
        found: dict[str, int] = control_call(Path(f"/run/pfkey/{host.inode}.sock"), "status")
    except PfkeyError:
        return None
    return found


@pytest.mark.root
@pytest.mark.slow
def test_commands_of_the_readme_run_in_their_order(net: Net, tmp_path: Path) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, "10.1.1.1/32", b, "20.1.1.1/32")
    pid = 0
    try:
        for block in BLOCKS:
            if block.startswith("make "):
                continue
            with (tmp_path / "log").open("w+") as log:
                done = subprocess.run(
                    [*a.enter, "sh", "-e"], input=block, text=True, cwd=tmp_path, timeout=30,
                    stdout=log, stderr=log, env={**os.environ, "PATH": PATH}, check=False,
                )  # fmt: skip
                log.seek(0)
                assert done.returncode == 0, f"{block}\n{log.read()}"
            if block.rstrip().endswith("&"):
                wait(lambda: status(a))
                pid = (status(a) or {})["pid"]
        shown = a.run("setkey", "-D", env={"PATH": PATH}).stdout
        assert shown.count("state=mature") == 2
    finally:
        if pid:
            os.kill(pid, 15)
            wait(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_make_targets_and_programs_of_documents_exist(path: Path) -> None:
    text = path.read_text()
    for program in re.findall(r"\b(?:bench|tools)/\w+(?:\.py)?", text):
        assert (ROOT / program).exists(), program
    targets = re.findall(r"`make ([a-z-]+)", text)
    if path.name == "README.md":
        targets += re.findall(r"^make ([a-z-]+)$", text, re.M)
        assert {"demo", "test", "setup"} <= set(targets)
    for target in set(targets):
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@cache
def helped(*command: str) -> str:
    argv = [str(BIN / command[0]), *command[1:], "--help"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_commands_named_in_documents_exist_with_their_options(path: Path) -> None:
    """Every `pfkey …`, `pfkeyd …` in backquotes is a command line that --help knows."""
    for inline in re.findall(r"`(pfkeyd? [^`]*)`", path.read_text()):
        command, *words = shlex.split(inline)
        sub = [w for w in words[:1] if command == "pfkey" and not w.startswith("-")]
        shown = helped(command, *sub)
        for option in re.findall(r"(?<!\S)-[-\w]+", inline):
            assert option in shown, f"{inline}: no {option}"


def test_links_of_documents_lead_to_files() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert link.startswith("https://") or (path.parent / link).exists(), f"{path}: {link}"


def test_tests_named_in_documents_exist() -> None:
    for path in DOCUMENTS:
        for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text()):
            text = (ROOT / file).read_text()
            assert not name or f"def {name}(" in text, f"{path.name}: {file}::{name}"


def test_standards_are_what_the_tool_makes_of_the_pages() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "standards", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_tests_and_modules_named_in_the_specs_exist() -> None:
    files = list((ROOT / "tests").rglob("*.py"))
    tests = {path.name for path in files}
    functions = {
        name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    for page in sorted((ROOT / "specs").glob("*.md")):
        text = page.read_text()
        for name in re.findall(r"\b(test_\w+)\b(?!\.py)", text):
            assert name in functions, f"{page.name}: {name}"
        for name in re.findall(r"\b(test_\w+\.py)\b", text):
            assert name in tests, f"{page.name}: {name}"
        for name in re.findall(r"\b(?:pfkey|keyd|specs|tests)/[\w/]+\.\w+", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_point_of_the_faq_names_its_tests() -> None:
    """All but those about IKE, and those about which there is nothing to run."""
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "faq.md").read_text(), re.M)
    points = {int(number): re.findall(r"tests/[\w/]+\.py::\w+", tests) for number, tests in rows}
    about_ike = {4, 5, 6, 7, 20, 93}
    wanted = {*range(1, 63), *range(82, 97)} - about_ike
    assert set(points) == wanted
    assert {number for number, tests in points.items() if not tests} == {17, 18, 56}


def test_manual_pages_have_no_fault() -> None:
    pages = sorted((ROOT / "docs").glob("*.[1-8]"))
    assert pages
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


def test_manual_page_of_pfkey_has_every_option_and_no_other() -> None:
    page = (ROOT / "docs" / "pfkey.1").read_text()
    written = {f"-{o}" for o in re.findall(r"Fl (-?[a-z][\w-]*)", page)}
    choices = next(a for a in parser()._actions if a.choices).choices
    assert isinstance(choices, dict)
    known = {o for sub in choices.values() for a in sub._actions for o in a.option_strings}
    assert written - {"--version"} == known - {"-h"}
    assert set(re.findall(r"^\.Cm ([a-z]+)", page, re.M)) == set(choices)
