"""The command `pfkey`. Exit status: 0 done, 1 refused or failed, 2 wrong usage."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Never

from pfkey import capture, doctor, monitor, pcapng, stat, streams, sysctl
from pfkey.arguments import parser, program_version
from pfkey.blocking import Client
from pfkey.control import control_call
from pfkey.dialect import DIALECTS
from pfkey.errors import ControlError, PfkeyError, ShellError
from pfkey.lab import kept, rootless
from pfkey.lab.catalogue import DEMO, EXAMPLES
from pfkey.lab.run import run
from pfkey.lab.story import Story
from pfkey.message import Message
from pfkey.run import launch
from pfkey.setkey.main import main as setkey
from pfkey.transport import socket_path

_ENDING = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["setkey"]:
        return setkey(words[1:])
    streams.stand_in()
    options = parser().parse_args(words)
    try:
        status = _run(options, words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # head has enough; and nobody reads what Python would flush
        streams.give_up_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except PfkeyError as error:
        is_said = isinstance(error, ControlError) and error.method == options.command
        print(f"pfkey {'' if is_said else options.command + ': '}{error}", file=sys.stderr)
        return 1
    except OSError as error:  # without a file: it was what we print
        where = error.filename or "standard output"
        if not error.filename:
            streams.give_up_output()
        print(f"pfkey {options.command}: {where}: {error.strerror}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, words: Sequence[str]) -> int:
    match options.command:
        case "lab":
            return _lab(options, words)
        case "stat":
            return _stat(options)
        case "monitor":
            return _monitor(options)
        case "capture":
            return _packets(options)
        case "sysctl":
            return _sysctl(options)
        case "run":
            return _supervised(options)
        case _:
            return _doctor(options)


def _path(options: argparse.Namespace) -> Path:
    return options.socket or socket_path(os.environ)


def _stat(options: argparse.Namespace) -> int:
    if options.policies:
        return _stat_policies(options)
    counters = stat.counters_of(control_call(_path(options), "counters"))
    if options.json:
        print(stat.document(counters))
    elif text := stat.render(counters, nonzero=options.nonzero):
        print(text)
    return 0


def _stat_policies(options: argparse.Namespace) -> int:
    found = list(stat.policies_of(_path(options)))
    if options.nonzero:
        found = [policy for policy in found if policy["packets"] or policy["drops"]]
    if options.json:
        print(stat.policies_document(found))
    elif found:
        print(stat.render_policies(found))
    return 0


def _monitor(options: argparse.Namespace) -> int:
    if options.pcap:
        try:
            return _capture(options)
        except OSError as error:
            if error.filename or str(options.pcap) == "-":
                raise
            raise ShellError(f"{options.pcap}: {error.strerror}") from None
    show = monitor.line if options.json else monitor.render
    try:
        with monitor.subscribe(_path(options), show_keys=options.show_keys) as control:
            for event in monitor.events(control, _lost):
                print(show(event, show_keys=options.show_keys), flush=True)
    except KeyboardInterrupt:
        return 0
    return 0


def _lost(count: int) -> None:
    print(f"pfkey monitor: {count} messages passed too fast to be shown", file=sys.stderr)


def _capture(options: argparse.Namespace) -> int:
    """Write messages to a file that others may not read: with --show-keys it holds keys."""
    lost = 0

    def missing(count: int) -> None:
        nonlocal lost
        lost += count
        _lost(count)

    with contextlib.ExitStack() as stack:
        control = stack.enter_context(
            monitor.subscribe(_path(options), show_keys=options.show_keys)
        )
        out: BinaryIO = sys.stdout.buffer
        if str(options.pcap) != "-":
            out = stack.enter_context(capture.private(options.pcap))
        out.write(pcapng.head(f"pfkey {program_version()}"))
        out.flush()
        with contextlib.suppress(KeyboardInterrupt):
            for event in monitor.events(control, missing):
                out.write(monitor.packet(event, show_keys=options.show_keys, lost=lost))
                out.flush()
                lost = 0
    return 0


def _packets(options: argparse.Namespace) -> int:
    """Capture packets until interrupted, or as many as were asked for."""
    is_piped = str(options.file) == "-"
    if is_piped and options.secrets:
        parser().error("capture: --secrets needs the name of a FILE")
    secrets = options.file.with_name(f"{options.file.name}.esp_sa") if options.secrets else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        out: BinaryIO = sys.stdout.buffer
        tap = stack.enter_context(contextlib.closing(capture.tap()))
        if not is_piped:
            out = stack.enter_context(capture.private(options.file))
        made = capture.Capture(_path(options), tap, out, f"pfkey {program_version()}", secrets)
        stack.callback(made.close)

        def interrupted(*_: object) -> None:
            made.stop()
            for number in _ENDING:  # the second time, at once
                signal.signal(number, signal.default_int_handler)

        for number in _ENDING:
            signal.signal(number, interrupted)
        print("pfkey capture: an interrupt ends it", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            made.run(options.count)
    if made.lost:
        print(f"pfkey capture: {made.lost} packets passed too fast", file=sys.stderr)
    return 0


def _sysctl(options: argparse.Namespace) -> int:
    try:
        words = [(word, sysctl.assignment(word)) for word in options.names or [""]]
    except ValueError as error:
        parser().error(f"sysctl: {error}")
    if any((given is not None) != options.write for _, given in words):
        parser().error("sysctl: -w and NAME=VALUE go together")
    if options.raw and not {word for word, _ in words} <= set(sysctl.DUMPS):
        parser().error(f"sysctl: -r is for {' and '.join(sysctl.DUMPS)}")
    values: dict[str, sysctl.Value] = {}
    for word, given in words:
        if given is not None:
            done = control_call(_path(options), "sysctl", name=given.name, value=given.value)
            if not options.json:
                print(sysctl.changed(given.name, done["before"], done["value"]))
            values[given.name] = done["value"]
            continue
        answer = sysctl.values_of(control_call(_path(options), "sysctl", name=word))
        for name, value in answer.items():
            values[name] = _dump(options, name) if value is None else value
    if options.raw:
        sys.stdout.buffer.write(b"".join(bytes.fromhex(str(values[word])) for word, _ in words))
    elif options.json:
        print(sysctl.document(values))
    elif not options.write:
        for name, value in values.items():
            print(sysctl.render(name, value, bare=options.bare))
    return 0


def _dump(options: argparse.Namespace, name: str) -> str:
    with Client(_path(options)) as engine:
        exchange = engine.request(Message(type=sysctl.DUMPS[name], pid=os.getpid()))
    return b"".join(exchange.records).hex()


def _supervised(options: argparse.Namespace) -> Never:
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        parser().error("run needs the COMMAND to run")
    usual = socket_path({name: os.environ[name] for name in os.environ if name != "PFKEY_SOCKET"})
    path = _path(options)
    launch.run(
        words, path, is_default=path == usual, policies=options.policies,
        dialect=DIALECTS[options.dialect],
    )  # fmt: skip


def _doctor(options: argparse.Namespace) -> int:
    findings = doctor.examine(os.environ)
    print(doctor.document(findings) if options.json else doctor.render(findings))
    return 0 if all(finding.ok for finding in findings) else 1


def _lab(options: argparse.Namespace, words: Sequence[str]) -> int:
    _check_lab(options)
    names = DEMO if options.demo else (options.name,) if options.name else ()
    if options.down:
        for name in (ended := kept.down()):
            print(f"{name} is down")
        if not ended:
            print("nothing is up")
        return 0
    if not names:
        for example in EXAMPLES.values():
            print(f"{example.name:22}{example.title}")
        return 0
    tools = doctor.check_tools()
    if not tools.ok:
        raise ShellError(tools.seen, tools.remedy)
    if not kept.is_privileged():
        rootless.again(words)
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    story = Story()
    for name in names:
        capture = options.capture or Path(f"pfkey-lab-{name}.pcap")
        run(EXAMPLES[name], story, capture, keep=options.keep)
        story.say()
    for claim in story.failed:
        story.say(f"FAILED: {claim}")
    story.say(
        f"{story.passed} checks passed, {len(story.failed)} failed,"
        f" {time.monotonic() - began:.1f} s"
    )
    return 1 if story.failed else 0


def _check_lab(options: argparse.Namespace) -> None:
    """End with the usage status where options do not go together."""
    others = options.name or options.keep or options.capture
    if options.down and (others or options.demo):
        parser().error("lab --down takes down all that is up; it takes no name and no other option")
    if options.demo and others:
        parser().error("lab --demo takes no name and no other option")
    if others and not (options.name or options.demo):
        parser().error("lab --keep and --capture need the NAME of an example")


def _end(number: int, frame: FrameType | None) -> Never:
    """TERM takes down what was built, as an interrupt does."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
