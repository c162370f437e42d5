"""Shell: the program setkey. Arguments, files, the socket, standard output, the exit status."""

import codecs
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pfkey import streams
from pfkey.blocking import Client
from pfkey.const import MsgType
from pfkey.errors import ConfError, PfkeyError, ShellError, WireError
from pfkey.message import Message
from pfkey.monitor import reason
from pfkey.setkey import dump, grammar, messages
from pfkey.setkey.lexer import Feed, Lexed, Source, printable
from pfkey.setkey.options import HELP, USAGE, Mode, Options, UsageError, parse
from pfkey.setkey.reading import ENCODING, read_octets, read_text
from pfkey.setkey.resolve import SystemNames
from pfkey.setkey.run import Refusal, Runner, World, refused
from pfkey.setkey.statements import Quit, Statement
from pfkey.transport import socket_path

DONE, FAILED, USAGE_STATUS, INTERRUPTED = 0, 1, 2, 130
FAULTS_SHOWN = 20
TOKEN_SHOWN = 80  # characters
CHUNK_OCTETS = 65536
STDIN_NAME = "stdin"


def _print(text: str) -> None:
    sys.stdout.write(text)


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"setkey: {text}\n")


def _fault(error: ConfError, source: Source | None) -> None:
    token = printable(" ".join(error.token.split("\n")))[:TOKEN_SHOWN]
    _complain(f"{error.file}:{error.line}:{error.column}: {error.why} at `{token}'")
    caret = source.caret(error) if source else ""
    for line in caret.splitlines():
        sys.stderr.write(f"    {line}\n")


def _world() -> World:
    return World(pid=os.getpid(), now=time.time, strerror=os.strerror, out=_print)


def _path(options: Options) -> Path:
    return Path(options.socket) if options.socket else socket_path()


def _connect(options: Options) -> Client:
    try:
        return Client(_path(options), queue=0)
    except ShellError as error:
        raise ShellError(f"pfkey_open: {error.what}", error.remedy) from None


def _runner(options: Options, link: Client) -> Runner:
    return Runner(
        link, _world(), has_fwd_copy=options.has("-r"), has_ports=options.has("-p"),
        is_verbose=options.has("-v"),
    )  # fmt: skip


def _from_file(options: Options) -> int:
    """-f: the whole file is read before anything is sent."""
    text = read_text(options.file)
    name = STDIN_NAME if options.file == "-" else options.file
    if options.has("-n"):
        return DONE if _parsed(name, text, None) is not None else FAILED
    with _connect(options) as link:
        runner = _runner(options, link)
        statements = _parsed(name, text, runner.offered())
        if statements is None:
            return FAILED
        status = DONE
        for statement, refusal in runner.carry_out_all(statements):
            _complain(f"{name},{statement.line}: {refusal.why}")
            if not refusal.is_empty:
                status = FAILED
    return status


def _parsed(name: str, text: str, offered: grammar.Offered | None) -> list[Statement] | None:
    """The statements of a text, None if it has faults, which are reported."""
    statements, faults = grammar.parse(text, name, SystemNames(), offered)
    if not faults:
        return statements
    source = Source(name, text)
    for fault in faults[:FAULTS_SHOWN]:
        _fault(fault, source)
    if len(faults) > FAULTS_SHOWN:
        _complain(f"{name}: {len(faults) - FAULTS_SHOWN} more faults")
    _complain(f"{name},{faults[0].line}: parse failed, nothing of it was sent")
    return None


def _pieces() -> Iterator[str]:
    """Standard input as it comes: a terminal gives lines, a pipe what is there."""
    decode = codecs.getincrementaldecoder(ENCODING)("surrogateescape").decode
    while piece := _read_stdin():
        yield decode(piece)
    yield decode(b"", True)


def _read_stdin() -> bytes:
    try:
        return os.read(sys.stdin.fileno(), CHUNK_OCTETS)
    except OSError as error:
        raise ShellError(f"standard input: {error.strerror}") from None


def _lexed(pieces: Iterable[str]) -> Iterator[Lexed]:
    feed = Feed(STDIN_NAME)
    for piece in pieces:
        yield from feed.feed(piece)
    rest = feed.rest()
    if rest is not None:
        yield rest


def _from_stdin(options: Options) -> int:
    """-c: each statement acts at its semicolon; a fault does not undo what came before."""
    if options.has("-n"):
        return _statements(None, None)
    with _connect(options) as link:
        runner = _runner(options, link)
        return _statements(runner, runner.offered())


def _statements(runner: Runner | None, offered: grammar.Offered | None) -> int:
    status = DONE
    names = SystemNames()
    for lexed in _lexed(_pieces()):
        try:
            statement = grammar.parse_statement(lexed, names, offered)
        except ConfError as fault:
            _fault(fault, lexed.source)
            status = FAILED
            if lexed.tokens[0].text in grammar.STRANGERS:
                break
            continue
        if isinstance(statement, Quit):
            break
        if runner is not None:
            for refusal in runner.carry_out(statement):
                _print(f"{refusal.why}.\n")
                if not refusal.is_empty:
                    _complain(f"{STDIN_NAME},{statement.line}: refused")
                    status = FAILED
        sys.stdout.flush()
    return status


def _answer(refusal: Refusal | None) -> int:
    if refusal is None:
        return DONE
    _complain(refusal.why)
    return FAILED


def _dump(options: Options) -> int:
    type = MsgType.X_SPDDUMP if options.has("-P") else MsgType.DUMP
    is_loop = options.has("-l")
    with _connect(options) as link:
        runner = _runner(options, link)
        while True:
            text, refusal = runner.dump(
                type, has_dead=options.has("-a"), is_json=options.has("--json"),
                is_short=is_loop, show_keys=options.has("--show-keys"),
            )  # fmt: skip
            _print(text)
            if refusal is not None or not is_loop:
                return _answer(refusal)
            sys.stdout.flush()
            time.sleep(1)


def _flush(options: Options) -> int:
    with _connect(options) as link:
        type = MsgType.X_SPDFLUSH if options.has("-P") else MsgType.FLUSH
        return _answer(_runner(options, link).flush(type))


def _monitor(options: Options) -> int:
    """-x: a PROMISC request, then whatever passes, until the engine ends or we are interrupted."""
    with _connect(options) as link:
        # satype 1 switches it on; its echo is the first message shown
        link.send(messages.table(MsgType.X_PROMISC, os.getpid(), 1).encode())
        while True:
            record = link.recv()
            if record is not None:
                _print(dump.passing(record, now=time.time(), has_hex=options.has("-H")))
                sys.stdout.flush()


def _decode(options: Options) -> int:
    status = DONE
    for file in options.files:
        try:
            octets = read_octets(file)
        except ShellError as error:
            _complain(str(error))
            status = FAILED
            continue
        try:
            for found in dump.split(octets, options.dialect):
                _print(_decoded(found, has_ports=options.has("-p")))
        except WireError as error:
            _complain(f"{file}: octet {error.offset}: {error.part}: {error.rule}")
            status = FAILED
    return status


def _decoded(found: Message, *, has_ports: bool) -> str:
    if found.errno:  # a refusal, or a dump of nothing: a header alone
        return f"{refused(found.type, found.errno, reason)}.\n"
    return dump.entry(found, now=time.time(), has_ports=has_ports)


def _version() -> int:
    # here, for it is a tenth of what every other run takes to begin
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("pfkey")
    except PackageNotFoundError:
        number = "(not installed)"
    _print(f"setkey (pfkey {number})\n")
    return DONE


def _help() -> int:
    _print(HELP)
    return DONE


def _run(arguments: Sequence[str]) -> int:
    try:
        options = parse(arguments)
    except UsageError as error:
        sys.stderr.write(f"setkey: {error}\n{USAGE}")
        return USAGE_STATUS
    match options.mode:
        case Mode.HELP:
            return _help()
        case Mode.VERSION:
            return _version()
        case Mode.STDIN:
            return _from_stdin(options)
        case Mode.FILE:
            return _from_file(options)
        case Mode.DUMP:
            return _dump(options)
        case Mode.FLUSH:
            return _flush(options)
        case Mode.MONITOR:
            return _monitor(options)
        case Mode.DECODE:
            return _decode(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run setkey; the exit status: 0 done, 1 refused or failed, 2 usage."""
    streams.stand_in()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except PfkeyError as error:
        _complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:  # standard output; all else was caught where it happened
        streams.give_up_output()
        if not isinstance(error, BrokenPipeError):  # who reads us may have had enough
            sys.stderr.write(f"setkey: standard output: {error.strerror}\n")
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
