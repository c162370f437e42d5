"""The command line of pfkeyd, and where its socket is."""

from pathlib import Path

import pytest

from keyd.shell import paths
from keyd.shell.options import Options, parse
from pfkey.errors import ShellError


def test_without_options_everything_is_served() -> None:
    assert parse([]) == Options()
    assert Options().dataplane
    assert not Options().hold


def test_each_option_says_one_thing() -> None:
    argv = ["--socket", "/x", "--group", "g", "--no-dataplane", "--hold", "--mark-mask", "0xff0000",
            "--log-level", "debug", "--plain-table", "-n", "--load", "/f",
            "--dialect", "openbsd"]  # fmt: skip
    assert parse(argv) == Options(
        socket="/x", group="g", dataplane=False, hold=True, mark_mask=0xFF0000,
        log_level="debug", plain_table=True, check=True, load=Path("/f"),
        dialect="openbsd",
    )  # fmt: skip


def test_the_usual_file_is_loaded_unless_told_otherwise() -> None:
    usual = Path("/etc/pfkey/ipsec.conf")
    assert parse([]).default_file == usual
    assert parse(["--no-load"]).default_file is None
    assert parse(["--no-dataplane"]).default_file is None
    assert parse(["--load", "x"]).load == Path.cwd() / "x"


@pytest.mark.parametrize(
    "argv",
    [["--dialect", "plan9"], ["--nonsense"], ["x"], ["--hol"], ["--log-level", "loud"],
     ["--socket"],
     ["--mark-mask", "0"], ["--mark-mask", "0xf0"], ["--mark-mask", "0xff1"],
     ["--load", ""], ["--load", "/f", "--no-load"],
     ["--mark-mask", "0xff00000000"], ["--mark-mask", "all"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_exits_2_with_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("pfkeyd: ")
    assert said.endswith("try: pfkeyd --help\n")


def test_help_has_examples_and_version_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    for option, word in (("--help", "examples:"), ("--version", "pfkeyd 0")):
        with pytest.raises(SystemExit) as ended:
            parse([option])
        assert ended.value.code == 0
        assert word in capsys.readouterr().out


def test_the_socket_is_given_or_named_or_of_the_namespace() -> None:
    inode = Path("/proc/self/ns/net").stat().st_ino
    env = {"PFKEY_SOCKET": "/e", "XDG_RUNTIME_DIR": "/run/user/5"}
    assert paths.socket_path("/o", env, is_root=True) == Path("/o")
    assert paths.socket_path(None, env, is_root=True) == Path("/e")
    assert paths.socket_path(None, {}, is_root=True) == Path(f"/run/pfkey/{inode}.sock")
    del env["PFKEY_SOCKET"]
    assert paths.socket_path(None, env, is_root=False) == Path(f"/run/user/5/pfkey/{inode}.sock")
    with pytest.raises(ShellError, match="--socket"):
        paths.socket_path(None, {}, is_root=False)


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(ShellError, match="too long"):
        paths.socket_path("/" + "x" * 110, {}, is_root=True)


def test_a_namespace_has_a_cookie() -> None:
    assert paths.netns_cookie() > 0
    assert paths.netns_cookie() == paths.netns_cookie()


def test_no_file_but_a_socket_is_removed(tmp_path: Path) -> None:
    precious = tmp_path / "s"
    precious.write_text("kept")
    with pytest.raises(ShellError, match="no socket"):
        paths.remove_socket(precious)
    assert precious.read_text() == "kept"
    paths.remove_socket(tmp_path / "nothing")
