"""What a setkey statement says, as values; `messages` turns them into PF_KEY messages.

Addresses are packed, in network order; ports, SPIs and CPIs are plain numbers.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from pfkey.const import KameFlag, Mode, MsgType
from pfkey.ext_x_policy import Policy


class Host(NamedTuple):
    """An address with its port (0: any) and, for a link-local one, its interface."""

    address: bytes
    port: int = 0
    scope_id: int = 0


class Network(NamedTuple):
    """One end of a policy's selector."""

    host: Host
    prefixlen: int


class Limits(NamedTuple):
    """A hard or soft lifetime: seconds since the SA was added, octets; 0 is no limit."""

    seconds: int = 0
    octets: int = 0


NO_LIMITS = Limits()


class Context(NamedTuple):
    """A security context (`-ctx`)."""

    doi: int
    algorithm: int
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SaStatement:
    """`add`, `update`, `getspi`, `get`, `delete`: one message for each pair of addresses."""

    line: int
    type: MsgType
    pairs: tuple[tuple[Host, Host], ...]
    satype: int
    spi: int
    mode: int = Mode.ANY
    reqid: int = 0
    replay: int = 0
    flags: int = KameFlag.CYCSEQ
    hard: Limits = NO_LIMITS
    soft: Limits = NO_LIMITS
    context: Context | None = None
    encrypt: int = 0  # for IPComp the compression algorithm
    auth: int = 0
    encrypt_key: bytes | None = field(default=None, repr=False)
    auth_key: bytes | None = field(default=None, repr=False)
    is_natt: bool = False
    natt_oa: Host | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteAll:
    """`deleteall`: every SA between two addresses."""

    line: int
    pair: tuple[Host, Host]
    satype: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpdStatement:
    """`spdadd`, `spdupdate`, `spddelete`."""

    line: int
    type: MsgType
    src: Network
    dst: Network
    proto: int
    policy: Policy
    context: Context | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatement:
    """`flush`, `dump`, `spdflush`, `spddump`: a bare message. `satype` 0 is all."""

    line: int
    type: MsgType
    satype: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quit:
    """`exit`, `quit`, `bye`: what follows is not read."""

    line: int


Statement = SaStatement | DeleteAll | SpdStatement | TableStatement | Quit
