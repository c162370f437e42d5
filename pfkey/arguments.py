"""What the command line of `pfkey` may say, and how `--help` shows it."""

import argparse
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pfkey import policy as language
from pfkey.dialect import DIALECTS, LINUX
from pfkey.errors import PolicyError
from pfkey.lab.catalogue import DEMO, EXAMPLES
from pfkey.usage import Parser

_EXAMPLES = """\
examples:
  pfkey lab                    list the examples
  pfkey lab encryption         run one: two hosts, real packets, every claim checked
  pfkey lab encryption --keep  the same, and the hosts stay up to look around
  pfkey stat -s                the counters that are not zero
  pfkey stat --policies        packets, bytes and drops of each policy
  pfkey monitor                PF_KEY messages as they pass
  pfkey monitor --pcap FILE    the same into a file that Wireshark opens
  pfkey capture FILE           packets, inside and sealed, each with the other's number
  pfkey sysctl net.key         the knobs below a name; -w NAME=VALUE turns one
  pfkey doctor                 what this machine lacks, and the line that mends it
  pfkey run -- iked -d         a program written for AF_KEY, unmodified
  pfkey setkey -D              setkey, where another package owns that name

exit codes: 0 done, 1 refused or failed, 2 wrong usage"""

_RUN_EXAMPLES = """\
examples:
  pfkey run -- iked -d         OpenIKED, as Debian built it
  pfkey run -- sh              a shell whose programs all have PF_KEY
  pfkey run --policy 'out ipsec esp/transport//require' -- curl http://10.1.1.2/

exit codes: the program's; 1 refused or failed, 2 wrong usage, 126 the program cannot be run,
127 there is none of that name"""


def _policy(text: str) -> str:
    try:
        language.parse(text)
    except PolicyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def program_version() -> str:
    """The version of the installed package."""
    try:
        return version("pfkey")
    except PackageNotFoundError:
        return "unknown"


def parser() -> argparse.ArgumentParser:
    """The command line as `--help` shows it."""
    top = Parser(
        prog="pfkey",
        description="IPsec's key management and packets, without a kernel that knows them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"pfkey {program_version()}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, does: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=does, description=does, allow_abbrev=False)

    one = command("lab", "build hosts as network namespaces and run a FAQ example end to end")
    one.add_argument("name", nargs="?", metavar="NAME", choices=list(EXAMPLES),
                     help="the example; without it, list them")  # fmt: skip
    one.add_argument("--keep", action="store_true", help="leave hosts and daemons up")
    one.add_argument("--down", action="store_true", help="take down what --keep left")
    one.add_argument("--demo", action="store_true", help=f"run {' and '.join(DEMO)}")
    one.add_argument("--capture", metavar="FILE", type=Path,
                     help="where the capture goes (default: pfkey-lab-NAME.pcap)")  # fmt: skip

    one = command("stat", "the counters, in the words of netstat -s")
    one.add_argument("-s", "--nonzero", action="store_true", help="leave out zeros")
    one.add_argument("--policies", action="store_true", help="what was done under each policy")
    one.add_argument("--json", action="store_true", help="as JSON")
    _socket(one)

    one = command("monitor", "PF_KEY messages as they pass, until interrupted or pfkeyd ends")
    one.add_argument("--show-keys", action="store_true", help="do not mask keys")
    form = one.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--pcap", metavar="FILE", type=_file,
                      help="write them to a pcapng file (-: to standard output)")  # fmt: skip
    _socket(one)

    one = command("capture", "packets, inside and sealed, into a pcapng file; for root")
    one.add_argument("file", metavar="FILE", type=_file, help="the file (-: standard output)")
    one.add_argument("--secrets", action="store_true",
                     help="write the keys to FILE.esp_sa, in Wireshark's form")  # fmt: skip
    one.add_argument("--count", metavar="N", type=_count, help="end after N packets")
    _socket(one)

    one = command("sysctl", "read and turn pfkeyd's knobs, under NetBSD's names")
    one.add_argument("names", nargs="*", metavar="NAME[=VALUE]",
                     help="a knob, or all below a name; none: all")  # fmt: skip
    one.add_argument("-w", "--write", action="store_true", help="turn the knobs given a VALUE")
    one.add_argument("-n", "--bare", action="store_true", help="print values without names")
    one.add_argument("-r", "--raw", action="store_true",
                     help="the octets of net.key.dumpsa or dumpsp, for setkey FILE")  # fmt: skip
    one.add_argument("--json", action="store_true", help="as JSON")
    _socket(one)

    one = command("doctor", "what this machine can do, what is missing, what mends it")
    one.add_argument("--json", action="store_true", help="as JSON")

    one = commands.add_parser(
        "run", help="run a program written for AF_KEY on a kernel that has none",
        description="Run a program, and all that it starts, with PF_KEY sockets that pfkeyd serves."
        " Nothing else changes for it: it keeps this process's id, terminal and exit status.",
        epilog=_RUN_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    one.add_argument("--policy", metavar="POLICY", action="append", default=[], dest="policies",
                     type=_policy,
                     help="a policy for all its sockets, such as 'out ipsec"
                     " esp/transport//require'; once for each direction")  # fmt: skip
    one.add_argument("--dialect", choices=sorted(DIALECTS), default=LINUX.name,
                     help="the system whose PF_KEY it was built for; else linux")  # fmt: skip
    _socket(one)
    one.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...",
                     help="the program and its arguments")  # fmt: skip

    commands.add_parser("setkey", help="the command setkey, with its own options", add_help=False)
    return top


def _socket(command: argparse.ArgumentParser) -> None:
    command.add_argument("--socket", metavar="PATH", type=_file,
                         help="pfkeyd's socket (default: that of this namespace)")  # fmt: skip


def _file(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is needed")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError("a number from 1 on is needed")
    return int(text)
