"""`sysctl` on the control socket and `pfkey sysctl`, against a pfkeyd without packets."""

import grp
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from keyd.engine.sysctl import ROWS
from keyd.shell import rpc
from pfkey.cli import main
from tests.support.nobody import NOBODY, as_user, open_directory
from tests.support.schema import check_schema, schema
from tests.support.shell import Process, control
from tests.support.system import BIN


@pytest.fixture
def run(daemon: Process, capsys: pytest.CaptureFixture[str]) -> Any:
    def command(*words: str) -> tuple[int, str, str]:
        try:
            status = main(["sysctl", "--socket", str(daemon.socket), *words])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return command


def values(daemon: Process, name: str = "") -> dict[str, Any]:
    answer = control(daemon.socket, "sysctl", name=name)["result"]
    check_schema(answer, schema("sysctl"))
    found: dict[str, Any] = answer["values"]
    return found


def fault(daemon: Process, **params: Any) -> tuple[int, str]:
    error = control(daemon.socket, "sysctl", **params)["error"]
    return error["code"], error["message"]


def test_all_are_read_or_those_below_a_name_or_one(daemon: Process) -> None:
    assert list(values(daemon)) == [row.name for row in ROWS]
    assert all(name.startswith("net.key.") for name in values(daemon, "net.key"))
    assert values(daemon, "net.key.") == values(daemon, "net.key")
    assert values(daemon, "net.key.spi_try") == {"net.key.spi_try": 1000}


def test_what_is_written_is_read_and_told(daemon: Process) -> None:
    answer = control(daemon.socket, "sysctl", name="net.key.spi_try", value=7)
    assert answer["result"] == {"before": 1000, "value": 7}
    assert values(daemon, "net.key.spi_try") == {"net.key.spi_try": 7}
    assert "sysctl name=net.key.spi_try before=1000 value=7" in daemon.log
    control(daemon.socket, "sysctl", name="net.key.spi_try", value=1000)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"name": "net.key.spi"}, "no net.key.spi"),
        ({"name": "net.ke"}, "no net.ke"),
        ({"name": 7}, "must be text"),
        ({"name": "net.key.nothing", "value": 1}, "no net.key.nothing"),
        ({"name": "net.key.spi_try", "value": 0}, "takes 1 to 1000000, not 0"),
        ({"name": "net.key.spi_try", "value": "7"}, "whole number"),
        ({"name": "net.key.spi_try", "value": True}, "whole number"),
        ({"name": "net.key.spi_try", "value": 7.5}, "whole number"),
        ({"name": "net.key.stats", "value": 7}, "no net.key.stats"),
        ({"names": "net.key"}, "takes no 'names'"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(
    daemon: Process, params: dict[str, Any], words: str
) -> None:
    code, why = fault(daemon, **params)
    assert (code, words in why) == (rpc.INVALID_PARAMS, True), why
    assert values(daemon, "net.key.spi_try") == {"net.key.spi_try": 1000}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["net.key.nothing"], 1, "pfkey sysctl: there is no net.key.nothing\n"),
        (["-w", "net.key.spi_try=0"], 1,
         "pfkey sysctl: EINVAL: net.key.spi_try takes 1 to 1000000, not 0\n"),
        (["-w", "net.key.spi_try=many"], 2,
         "pfkey: sysctl: net.key.spi_try=many: a value is a whole number, as in net.key.spi_try=1\n"
         "try: pfkey --help\n"),
    ],
)  # fmt: skip
def test_the_command_tells_it_once(run: Any, words: list[str], status: int, said: str) -> None:
    assert run(*words) == (status, "", said)


def test_counters_are_read_by_their_whole_name(daemon: Process, run: Any) -> None:
    (found,) = values(daemon, "net.key.stats").values()
    assert found["sas"] == 0
    assert found["requests"] >= 0
    assert "net.key.stats" not in values(daemon, "net.key")
    for name in ("net.inet.ipsec.ipsecstats", "net.inet6.ipsec6.stats"):
        assert values(daemon, name)[name]["in_polvio"] == 0
    status, out, _ = run("net.key.stats")
    assert status == 0
    assert "net.key.stats.sas = 0\n" in out


@pytest.mark.root
@pytest.mark.slow
def test_who_is_in_the_group_reads_and_only_root_writes() -> None:
    group = grp.getgrgid(NOBODY).gr_name
    code = (
        "import sys; from pathlib import Path; from pfkey.cli import main\n"
        "raise SystemExit(main(['sysctl', '--socket', *sys.argv[1:]]))"
    )
    with open_directory() as folder, Process(folder, "--group", group) as daemon:
        who = (*as_user(), sys.executable, "-c", code, str(daemon.socket))
        read, written = (
            subprocess.run([*who, *words], capture_output=True, text=True, check=False)
            for words in (["net.key.spi_try"], ["-w", "net.key.spi_try=7"])
        )
        assert (read.returncode, read.stdout) == (0, "net.key.spi_try = 1000\n"), read.stderr
        assert written.returncode == 1
        assert "only root may change a value" in written.stderr
        assert values(daemon, "net.key.spi_try") == {"net.key.spi_try": 1000}


# ---------------------------------------------------------------- the command


def test_the_command_speaks_like_sysctl(run: Any) -> None:
    assert run("net.key.spi_try") == (0, "net.key.spi_try = 1000\n", "")
    assert run("-n", "net.key.spi_try") == (0, "1000\n", "")
    written = run("-w", "net.key.spi_try=0x10", "net.key.esp_auth=1")
    assert written == (0, "net.key.spi_try: 1000 -> 16\nnet.key.esp_auth: 0 -> 1\n", "")
    assert run("net.key.spi_try", "net.key.esp_auth")[1].split("\n")[:2] == [
        "net.key.spi_try = 16", "net.key.esp_auth = 1",
    ]  # fmt: skip
    assert run("-w", "net.key.spi_try=1000", "net.key.esp_auth=0")[0] == 0
    assert len(run()[1].splitlines()) == len(ROWS)


def test_json_follows_its_schema(run: Any) -> None:
    for words in (("net.key",), ("net.key.stats",), ("net.key.dumpsa",), ("-w", "net.key.debug=0")):
        status, out, _ = run("--json", *words)
        assert status == 0
        document = json.loads(out)
        check_schema(document, schema("sysctl"))
        assert document["values"]


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("net.key.nothing",), 1, "there is no net.key.nothing"),
        (("-w", "net.key.spi_try=0"), 1, "takes 1 to 1000000"),
        (("-w", "net.key.spi_try"), 2, "-w and NAME=VALUE go together"),
        (("net.key.spi_try=5",), 2, "-w and NAME=VALUE go together"),
        (("-w", "net.key.spi_try=x"), 2, "a value is a whole number"),
        (("-w",), 2, "go together"),
        (("-r", "net.key.spi_try"), 2, "-r is for net.key.dumpsa and net.key.dumpsp"),
    ],
)
def test_the_command_refuses_in_one_line(
    run: Any, words: tuple[str, ...], status: int, why: str
) -> None:
    got, out, err = run(*words)
    assert (got, out) == (status, "")
    assert why in err.splitlines()[0]


def test_dumps_are_the_records_that_setkey_reads(daemon: Process, run: Any, tmp_path: Path) -> None:
    def setkey(*words: str, text: str = "") -> list[str]:
        done = subprocess.run(
            [BIN / "setkey", *words], input=text, text=True, check=True, capture_output=True
        )
        # what depends on the moment, and on who asks
        return [
            line
            for line in done.stdout.splitlines()
            if not any(word in line for word in ("current: ", "diff:", "pid="))
        ]

    socket = ("--socket", str(daemon.socket))
    assert run("-n", "net.key.dumpsa") == (0, "\n", ""), "an empty database"
    setkey(
        *socket, "-f", "-",
        text="add 1.1.1.1 2.2.2.2 esp 300 -E null; add 2.2.2.2 1.1.1.1 esp 301 -E null;"
        "spdadd 1.1.1.1 2.2.2.2 any -P out none;",
    )  # fmt: skip
    for name, option in (("net.key.dumpsa", "-D"), ("net.key.dumpsp", "-DP")):
        with (tmp_path / "raw").open("wb") as file:
            subprocess.run([BIN / "pfkey", "sysctl", *socket, "-r", name], check=True, stdout=file)
        assert setkey(str(tmp_path / "raw")) == setkey(*socket, option)
        assert len(run("-n", name)[1].strip()) == 2 * len((tmp_path / "raw").read_bytes())
    setkey(*socket, "-f", "-", text="flush; spdflush;")
