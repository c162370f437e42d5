"""The command line of `pfkey`: subcommands, usage, exit status."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pfkey.cli import main
from pfkey.lab import rootless
from pfkey.lab.catalogue import DEMO, EXAMPLES


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_lab_lists_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "lab")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(EXAMPLES)


def test_every_example_has_its_files() -> None:
    for example in EXAMPLES.values():
        assert all(given.text.endswith(("EOF\n", ";\n")) for given in example.given)
    assert set(DEMO) <= set(EXAMPLES)


@pytest.mark.parametrize(
    "words",
    [(), ("nonsense",), ("lab", "nonsense"), ("stat", "--nonsense"), ("lab", "--demo", "--keep")],
)
def test_wrong_usage_ends_with_2_and_says_where_help_is(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, _, err = run(capsys, *words)
    assert status == 2
    assert "--help" in err.splitlines()[-1]


def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert "examples:" in out
    assert "exit codes: 0 done, 1 refused or failed, 2 wrong usage" in out


@pytest.mark.parametrize("words", [("stat",), ("stat", "--json"), ("monitor",)])
def test_without_pfkeyd_one_line_says_how_to_start_it(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *words, "--socket", "/nonexistent/pfkey.sock")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "; start it with: pfkeyd --socket /nonexistent/pfkey.sock &" in err


def test_doctor_ends_with_1_while_something_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFKEY_SOCKET", "/nonexistent/pfkey.sock")
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    assert "MISSING pfkeyd" in out


def test_down_without_anything_up_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PFKEY_LAB_STATE", str(tmp_path / "none"))
    assert run(capsys, "lab", "--down")[:2] == (0, "nothing is up\n")


def test_setkey_is_a_subcommand_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "setkey", "-V")[1].startswith("setkey")


def test_without_root_a_closed_tun_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tun = tmp_path / "tun"
    monkeypatch.setattr(rootless, "_TUN", tun)
    assert "mknod" in str(rootless.refuse_reason())
    tun.touch(mode=0o600)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert str(rootless.refuse_reason()) == (
        f"no rights of root, and {tun} has mode 0600; run as root, or let everybody use it,"
        f" as root: chmod 666 {tun}"
    )


def test_a_missing_program_is_named_with_its_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name == "ping" else which(name))
    status, out, err = run(capsys, "lab", "encryption")
    assert (status, out) == (1, "")
    assert err == "pfkey lab: ping missing; apt-get install iputils-ping\n"


@pytest.mark.root
def test_a_capture_file_that_cannot_be_is_refused_before_anything_is_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = run(capsys, "lab", "encryption", "--capture", "/nonexistent/x.pcap")
    assert (status, out) == (1, "")
    assert "/nonexistent/x.pcap" in err


@pytest.mark.parametrize(
    "words",
    [
        ("lab", "--keep"), ("lab", "--capture", "x"), ("lab", "--down", "encryption"),
        ("lab", "--down", "--demo"), ("stat", "--socket", ""),
    ],
)  # fmt: skip
def test_an_option_that_would_be_ignored_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("pfkey")


@pytest.mark.parametrize(
    ("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("words", ["lab", "doctor"])
def test_a_full_standard_output_is_named(words: str, to: str, why: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {to}', "sh", sys.executable, "-m", "pfkey.cli", words],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"pfkey {words}: standard output: {why}\n")


@pytest.mark.parametrize(
    ("module", "words", "prog"),
    [
        ("pfkey.cli", ("--help",), "pfkey"), ("pfkey.cli", ("--version",), "pfkey"),
        ("pfkey.cli", ("stat", "--help"), "pfkey stat"),
        ("pfkey.setkey.main", ("--help",), "setkey"), ("pfkey.setkey.main", ("-V",), "setkey"),
        ("keyd.shell.main", ("--help",), "pfkeyd"), ("keyd.shell.main", ("--version",), "pfkeyd"),
    ],
)  # fmt: skip
def test_help_that_cannot_be_written_is_no_success(
    module: str, words: tuple[str, ...], prog: str
) -> None:
    why = {
        ">/dev/full": f"{prog}: standard output: No space left on device\n",
        "| :": "",  # who reads has had enough
    }
    for to, said in why.items():
        argv = [sys.executable, "-m", module, *words]
        done = subprocess.run(
            ["/bin/bash", "-c", f'"$@" {to}; exit ${{PIPESTATUS[0]}}', "sh", *argv],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        if to == ">/dev/full":
            assert (done.returncode, done.stderr) == (1, said)
        else:
            assert done.stderr == said
