"""setkey as a user runs it: what it prints and how it ends, against a fake engine."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfkey.const import Dir, MsgType
from pfkey.message import Message
from pfkey.setkey.main import main
from tests.pfkey import golden
from tests.pfkey.fake_engine import FakeEngine, fake_engine

FAQ_1 = """\
#! one of the FAQ's
add 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc "hogehogehogehogehogehoge";
add 20.1.1.1 10.1.1.1 esp 10000 -E 3des-cbc 0xdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef;
spdadd 10.1.1.1 20.1.1.1 any -P out ipsec esp/transport//use;
spdadd 20.1.1.1 10.1.1.1 any -P in ipsec esp/transport//require;
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    monkeypatch.setenv("TZ", "UTC")
    path = tmp_path / "pfkey.sock"
    monkeypatch.setenv("PFKEY_SOCKET", str(path))
    with fake_engine(path) as found:
        yield found


Feeder = Callable[[str], None]


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Feeder]:
    """Standard input from a text, as a pipe."""
    with contextlib.ExitStack() as opened:

        def feed(text: str) -> None:
            out, into = os.pipe()
            with open(into, "w") as pipe:
                pipe.write(text)
            monkeypatch.setattr("sys.stdin", opened.enter_context(open(out)))

        yield feed


def conf(tmp_path: Path, text: str) -> str:
    path = tmp_path / "ipsec.conf"
    path.write_text(text)
    return str(path)


def test_a_file_is_loaded_after_asking_for_algorithms(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", conf(tmp_path, FAQ_1)]) == 0
    assert capsys.readouterr() == ("", "")
    assert engine.types() == [
        MsgType.REGISTER, MsgType.ADD, MsgType.ADD, MsgType.X_SPDADD, MsgType.X_SPDADD,
    ]  # fmt: skip
    assert {message.pid for message in engine.seen} == {os.getpid()}


def test_an_in_policy_stays_one_unless_asked(engine: FakeEngine, tmp_path: Path) -> None:
    text = "spdadd 1.2.3.4 4.3.2.1 any -P in ipsec esp/transport//unique:7;"
    assert main(["-f", conf(tmp_path, text)]) == 0
    assert main(["-k", "-FP"]) == 2
    assert main(["-kf", conf(tmp_path, "spdflush;" + text)]) == 0
    assert main(["-rf", conf(tmp_path, "spdflush;" + text)]) == 0
    found = [m.policy for m in engine.seen if m.type == MsgType.X_SPDADD]
    assert [p.dir for p in found if p] == [Dir.IN, Dir.IN, Dir.IN, Dir.FWD]
    copy = found[-1]
    assert copy is not None
    assert [(r.level, r.reqid) for r in copy.requests] == [(2, 0)]


def test_nothing_is_sent_of_a_file_with_a_fault(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FAQ_1 + 'add 1.1.1.1 2.2.2.2 esp 1000 -E 3des-cbc\n  "short";\nupdat 1;\n'
    file = conf(tmp_path, text)
    assert main(["-f", file]) == 1
    assert engine.types() == [MsgType.REGISTER]
    assert capsys.readouterr().err.splitlines() == [
        f"setkey: {file}:7:3: Invalid key length: 3des-cbc takes 192 bits, got 40 at `·······'",
        "      ·······;",
        "      ^",
        f"setkey: {file}:8:1: syntax error: none of add, update, getspi, get, delete, deleteall,"
        " flush, dump, spdadd, spdupdate, spddelete, spdflush, spddump, exit, quit, bye"
        " at `updat'",
        "    updat 1;",
        "    ^",
        f"setkey: {file},7: parse failed, nothing of it was sent",
    ]


def test_a_refusal_in_a_file_is_told_with_its_line_and_the_rest_goes_on(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = conf(tmp_path, FAQ_1 + FAQ_1 + "spddelete 9.9.9.9 8.8.8.8 any -P out;\nspdflush;\n")
    assert main(["-f", file]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"setkey: {file},7: File exists",
        f"setkey: {file},8: File exists",
        f"setkey: {file},9: File exists",
        f"setkey: {file},10: File exists",
        f"setkey: {file},11: No entry",
    ]
    assert engine.types()[-1] == MsgType.X_SPDFLUSH


def test_unsupported_requests_point_to_the_log(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.refuse[MsgType.GETSPI] = errno.EOPNOTSUPP
    file = conf(tmp_path, "getspi 1.2.3.4 4.3.2.1 esp 0x5000;")
    assert main(["-f", file]) == 1
    assert capsys.readouterr().err == (
        f"setkey: {file},1: Operation not supported (pfkeyd's log says what and why)\n"
    )


def test_standard_input_acts_at_each_semicolon(
    engine: FakeEngine, stdin: Feeder, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin("flush;\nadd 1.2.3.4 4.3.2.1 esp 5 -E null; bogus; dump; exit; flush;\n")
    assert main(["-c"]) == 1
    assert engine.types() == [MsgType.REGISTER, MsgType.FLUSH, MsgType.ADD, MsgType.DUMP]
    out, err = capsys.readouterr()
    assert out.startswith("1.2.3.4 4.3.2.1 \n\tesp mode=any spi=5(0x00000005)")
    assert err.startswith("setkey: stdin:2:36: syntax error")


def test_standard_input_tells_refusals_in_the_classic_words(
    engine: FakeEngine, stdin: Feeder, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin("dump;\n" + FAQ_1 + FAQ_1 + "get 1.2.3.4 1.2.3.5 esp 7;")
    assert main(["-c"]) == 1
    out, err = capsys.readouterr()
    assert out == "No SAD entries.\n" + "File exists.\n" * 4 + "No such process.\n"
    assert err.splitlines()[0] == "setkey: stdin,8: refused"


def test_an_empty_dump_is_no_failure(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-D"]) == 0
    assert main(["-DP"]) == 0
    assert capsys.readouterr().out == "No SAD entries.\nNo SPD entries.\n"
    file = conf(tmp_path, "dump;\nspddump;")
    assert main(["-f", file]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"setkey: {file},1: No SAD entries",
        f"setkey: {file},2: No SPD entries",
    ]


def test_dump_prints_all_and_flush_takes_all_away(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", conf(tmp_path, FAQ_1)]) == 0
    assert main(["-D"]) == 0
    out = capsys.readouterr().out
    assert out.count("\tE: 3des-cbc  ") == 2
    assert out.endswith(f"\tsadb_seq=0 pid={os.getpid()} refcnt=0\n")
    assert main(["-DP"]) == 0
    assert "10.1.1.1[any] 20.1.1.1[any] 255\n\tout prio def ipsec\n" in capsys.readouterr().out
    assert main(["-F"]) == main(["-FP"]) == 0
    assert capsys.readouterr() == ("", "")
    assert not engine.sad
    assert not engine.spd


def test_dead_sas_are_shown_with_a(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.sad[2, 256, b""] = golden.AH_PORTS
    assert main(["-D"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["-Dap"]) == 0
    assert capsys.readouterr().out.startswith("1.2.3.4[500] 4.3.2.1[any] \n\tah ")


def test_json_has_keys_only_when_asked(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", conf(tmp_path, FAQ_1)]) == 0
    assert main(["-D", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert [sa["encryption"]["key"] for sa in found["sas"]] == [None, None]
    assert main(["-D", "--json", "--show-keys"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sas"][1]["encryption"]["key"] == "deadbeef" * 6
    assert main(["-DP", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["policies"]) == 2
    assert main(["-FP"]) == main(["-DP", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "policies": []}


def test_deleteall_deletes_what_lies_between(engine: FakeEngine, tmp_path: Path) -> None:
    text = "".join(f"add 1.1.1.1 2.2.2.2 esp {spi} -E null;" for spi in (300, 301))
    text += "add 1.1.1.1 2.2.2.3 esp 302 -E null; deleteall 1.1.1.1 2.2.2.2 esp;"
    assert main(["-f", conf(tmp_path, text)]) == 0
    assert [key[1] for key in engine.sad] == [302]


def test_get_prints_one_sa(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", conf(tmp_path, FAQ_1 + "get 10.1.1.1 20.1.1.1 esp 9876;")]) == 0
    assert "spi=9876(0x00002694)" in capsys.readouterr().out


def test_verbose_prints_what_passes(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-Fv"]) == 0
    assert capsys.readouterr().out.count("sadb_msg{ version=2 type=9 errno=0 satype=0\n") == 2


def test_the_news_of_others_are_not_taken_for_our_reply(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.noise = [
        Message(type=MsgType.FLUSH, pid=1).encode(),
        Message(type=MsgType.ACQUIRE).encode(),
        Message(type=MsgType.FLUSH, pid=1, errno=errno.EPERM).encode(),
    ]
    assert main(["-F"]) == 0
    assert capsys.readouterr() == ("", "")


def test_without_pfkeyd_one_line_says_how_to_start_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.sock"
    assert main(["--socket", str(path), "-D"]) == 1
    assert capsys.readouterr().err == (
        f"setkey: pfkey_open: no pfkeyd answers at {path};"
        f" start it with: pfkeyd --socket {path} &\n"
    )


def test_an_engine_that_goes_away_is_an_error(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.hangs_up_at = 2
    assert main(["-f", conf(tmp_path, FAQ_1)]) == 1
    assert capsys.readouterr().err == ("setkey: pfkeyd closed the connection; its log says why\n")


def test_the_monitor_ends_with_the_engine(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_and_end(record: bytes) -> list[bytes]:
        engine.hangs_up_at = 0
        return [record, golden.ESP.encode(), b"short"]

    monkeypatch.setattr(engine, "answer", answer_and_end)
    monkeypatch.setattr(engine, "_talk", lambda link: _answer_once(engine, link))
    assert main(["-xH"]) == 1
    out, err = capsys.readouterr()
    assert "sadb_msg{ version=2 type=11 errno=0 satype=1\n" in out
    assert "00000000: 02 0a 00 03 1c 00 " in out
    assert "sadb_sa{ spi=9876 replay=0 state=1\n" in out
    assert "no PF_KEY message: " in out
    assert "closed" in err


def _answer_once(engine: FakeEngine, link: object) -> None:
    assert isinstance(link, socket.socket)
    for reply in engine.answer(link.recv(65536)):
        link.send(reply)


def test_files_of_raw_messages_are_decoded_without_an_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "dump"
    raw.write_bytes(golden.wire("sa-esp") + golden.wire("policy-tunnel"))
    assert main([str(raw)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("10.1.1.1 20.1.1.1 \n\tesp mode=transport")
    assert "\tesp/tunnel/20.0.0.1-20.0.0.2/require\n" in out
    raw.write_bytes(golden.wire("sa-esp")[:-8])
    assert main([str(raw), str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"setkey: {raw}: octet 0: sadb_msg: its length runs past the end of the file",
        f"setkey: {tmp_path / 'absent'}: No such file or directory",
    ]


def test_a_full_disk_is_an_error(engine: FakeEngine, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pfkey.setkey.main", "-D"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "setkey: standard output: No space left on device\n"
    )  # fmt: skip


def test_nobody_reading_is_no_traceback(engine: FakeEngine) -> None:
    out, into = os.pipe()
    os.close(out)
    program = [sys.executable, "-m", "pfkey.setkey.main", "-D"]
    done = subprocess.run(program, stdout=into, stderr=subprocess.PIPE, text=True, check=False)
    os.close(into)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_loop_prints_a_line_for_each_sa_until_interrupted(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.sad[3, 9876, b""] = golden.ESP
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    assert main(["-Dl"]) == 130
    assert naps == [1, 1]
    assert capsys.readouterr().out.count(" esp m 00002694 ") == 2


def test_what_is_no_text_is_said_to_be_none(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(golden.wire("sa-esp"))
    assert main(["-f", str(raw)]) == 1
    assert capsys.readouterr().err == (
        f"setkey: {raw}: not a text; raw messages are decoded with: setkey {raw}\n"
    )
    assert main(["-f", conf(tmp_path, "\x1b[31mred\x07;")]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_check_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFKEY_SOCKET", str(tmp_path / "none.sock"))
    assert main(["-nf", conf(tmp_path, FAQ_1)]) == 0
    assert main(["-nf", conf(tmp_path, "conn west\n  left=1.2.3.4\n")]) == 1
    assert "this is a strongSwan or libreswan file" in capsys.readouterr().err
    assert main(["-nf", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err == (
        f"setkey: {tmp_path / 'absent'}: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [[], ["-D", "-F"], ["-Z"], ["-P"], ["-D", "file"], ["-f"], ["-FH"], ["-rkc"], ["-f", ""]],
)
def test_a_wrong_command_line_is_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("setkey: ")
    assert "usage: setkey" in err


def test_help_and_version_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == main(["--help"]) == 0
    assert "examples\n  setkey -f " in capsys.readouterr().out
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("setkey (pfkey ")


@pytest.mark.parametrize(
    ("arguments", "closed", "said"),
    [
        (["-D"], ">&-", "setkey: standard output: Bad file descriptor\n"),
        (["-h"], ">&-", "setkey: standard output: Bad file descriptor\n"),
        (["-c"], "<&-", "setkey: standard input: Bad file descriptor\n"),
        (["-f", "-"], "<&-", "setkey: standard input: Bad file descriptor\n"),
        (["-D"], "2>&- >&- <&-", ""),
    ],
)
def test_a_closed_stream_is_one_line_without_a_traceback(
    engine: FakeEngine, arguments: list[str], closed: str, said: str
) -> None:
    command = f'exec "$@" {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-m", "pfkey.setkey.main", *arguments],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_byte_order_mark_is_no_word(
    engine: FakeEngine, tmp_path: Path, stdin: Feeder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-f", conf(tmp_path, "\ufeffflush;")]) == 0
    stdin("\ufeffflush;")
    assert main(["-c"]) == 0
    assert capsys.readouterr() == ("", "")
    assert engine.types().count(MsgType.FLUSH) == 2


def test_a_statement_that_does_not_end_is_shown_where_it_stops(
    engine: FakeEngine, stdin: Feeder, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin("flush \n\n")
    assert main(["-c"]) == 1
    assert capsys.readouterr().err == (
        "setkey: stdin:1:6: syntax error: ; expected at the end of the statement"
        " at `end of input'\n    flush\n         ^\n"
    )


def test_an_empty_socket_is_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", "", "-D"]) == 2
    assert capsys.readouterr().err.startswith("setkey: --socket is empty\n")


def test_a_raw_refusal_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "raw"
    empty = Message(type=MsgType.DUMP, errno=errno.ENOENT).encode()
    file.write_bytes(empty + Message(type=MsgType.ADD, errno=errno.EEXIST).encode())
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == "No SAD entries.\nFile exists.\n"


def test_a_reader_of_decoded_files_who_leaves_is_no_fault_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "raw"
    file.write_bytes(Message(type=MsgType.DUMP, errno=errno.ENOENT).encode() * 30000)
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" | head -1', "sh", sys.executable, "-m", "pfkey.setkey.main",
         str(file)], capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("No SAD entries.\n", "")


def test_reading_ends_where_it_can_come_to_nothing(
    engine: FakeEngine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["-f", "/dev/zero"]) == 1
    assert capsys.readouterr().err.startswith("setkey: /dev/zero: not a text; ")
    monkeypatch.setattr("pfkey.setkey.reading.OCTETS_MAX", 100_000)
    large = conf(tmp_path, "#\n" * 50_001)
    said = f"setkey: {large}: larger than 100000 octets; cut it into several files\n"
    for options in (["-f", large], [large]):
        assert main(options) == 1
        assert capsys.readouterr().err == said
    assert main(["-f", conf(tmp_path, "#\n" * 50_000)]) == 0
    assert engine.types() == [MsgType.REGISTER]


def test_a_file_may_be_a_pipe(engine: FakeEngine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", 'printf "flush;\n" > "$0"; ', str(fifo)]):
        assert main(["-f", str(fifo)]) == 0
    assert engine.types() == [MsgType.REGISTER, MsgType.FLUSH]
