"""The command line of pfkeyd, as values."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from keyd.shell.log import LEVELS
from pfkey.dialect import DIALECTS, LINUX
from pfkey.usage import Parser

_EXAMPLES = """\
examples:
  pfkeyd                                serve this network namespace
  ip netns exec red pfkeyd --no-load    serve the namespace red, without this host's file
  pfkeyd --hold                         stopping leaves closed what policies protect
  pfkeyd --no-dataplane --socket /tmp/k key engine only: needs no privilege
  pfkeyd --load my.conf                 setkey commands in force before anybody is served
  pfkeyd --check                        what this machine lacks, what is wrong with the file

exit codes: 0 stopped on request, 1 refused or failed, 2 wrong usage"""

MARK_MASK = 0xFF000000
DEFAULT_FILE = Path("/etc/pfkey/ipsec.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for. None: not given."""

    socket: str | None = None
    group: str | None = None
    dataplane: bool = True
    hold: bool = False
    load: Path | None = None
    has_default_file: bool = True
    mark_mask: int = MARK_MASK
    log_level: str = "info"
    plain_table: bool = False
    dialect: str = LINUX.name
    check: bool = False

    @property
    def default_file(self) -> Path | None:
        """What is loaded where no file is given: nothing without a data path."""
        return DEFAULT_FILE if self.has_default_file and self.dataplane else None


def program_version() -> str:
    """The version of the package that is installed."""
    try:
        return version("pfkey")
    except PackageNotFoundError:
        return "unknown"


def _mask(text: str) -> int:
    """A mark mask: 8 bits side by side, which hold our numbers."""
    value = int(text, 0)
    low = value & -value
    if not 0 < value <= 0xFFFFFFFF or value // low != 0xFF:
        raise ValueError(text)
    return value


_mask.__name__ = "mark mask (8 neighbouring bits, as 0xff000000)"


def _file(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a path is needed")
    return Path(text).absolute()


def parse(argv: Sequence[str]) -> Options:
    """Read the command line; on --help, --version and faults it ends the program (0, 0, 2)."""
    parser = Parser(
        prog="pfkeyd",
        description="The kernel half of IPsec as a process: PF_KEY v2 on a Unix socket, ESP over"
        " a TUN device. Runs in the foreground and logs to standard error.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--socket", metavar="PATH", help="the PF_KEY socket (default: $PFKEY_SOCKET, else"
        " /run/pfkey/<inode of the network namespace>.sock)")  # fmt: skip
    add("--group", metavar="NAME", help="members of this group may connect as well")
    add("--dialect", choices=tuple(DIALECTS), default=LINUX.name,
        help="the system whose PF_KEY the socket speaks (default: linux); the other systems' are"
        " beside it")  # fmt: skip
    add("--no-dataplane", dest="dataplane", action="store_false",
        help="key engine only: no packets, no nft, no privilege")  # fmt: skip
    add("--hold", action="store_true",
        help="when stopped, go on refusing what policies protect")  # fmt: skip
    file = parser.add_mutually_exclusive_group()
    file.add_argument("--load", metavar="FILE", type=_file,
        help=f"setkey commands to put in force before serving, and again on SIGHUP (default:"
        f" {DEFAULT_FILE}, if it exists and there is a data path)")  # fmt: skip
    file.add_argument("--no-load", dest="has_default_file", action="store_false",
        help="load no file")  # fmt: skip
    add("--mark-mask", type=_mask, default=MARK_MASK, metavar="MASK",
        help="the bits of packet marks to use (default: 0xff000000)")  # fmt: skip
    add("--log-level", choices=LEVELS, default="info", help="how much to log (default: info)")
    add("--plain-table", action="store_true",
        help="use a plain nft table (automatic on kernels before 6.9)")  # fmt: skip
    add("-n", "--check", action="store_true",
        help="say what is missing, and what is wrong in the file; change nothing")  # fmt: skip
    add("--version", action="version", version=f"pfkeyd {program_version()}")
    return Options(**vars(parser.parse_args(argv)))
