"""PF_KEY for programs: clients of a key engine, its messages and its entries as values.

    from pfkey import Client, connect, SadEntry, SaType, cipher

`Client` blocks, `connect()` is for trio; `pfkey.policy` has the policy language, `pfkey.libipsec`
the functions of libipsec under their names. docs/library.md is the tutorial.

A name is imported when it is first used: `import pfkey` costs next to nothing, and trio is loaded
for `connect` only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfkey.aio import AsyncClient as AsyncClient
    from pfkey.aio import connect as connect
    from pfkey.aio.session import AsyncDump as AsyncDump
    from pfkey.base import Unknown as Unknown
    from pfkey.blocking import Client as Client
    from pfkey.client import Exchange as Exchange
    from pfkey.const import Dir as Dir
    from pfkey.const import ExtType as ExtType
    from pfkey.const import IdentType as IdentType
    from pfkey.const import Level as Level
    from pfkey.const import Mode as Mode
    from pfkey.const import MsgType as MsgType
    from pfkey.const import PolicyType as PolicyType
    from pfkey.const import SaFlag as SaFlag
    from pfkey.const import SaState as SaState
    from pfkey.const import SaType as SaType
    from pfkey.control import Control as Control
    from pfkey.entries import Algorithms as Algorithms
    from pfkey.entries import Limits as Limits
    from pfkey.entries import NatT as NatT
    from pfkey.entries import SadEntry as SadEntry
    from pfkey.entries import SpdEntry as SpdEntry
    from pfkey.errors import AbsentError as AbsentError
    from pfkey.errors import BusyError as BusyError
    from pfkey.errors import ClosedError as ClosedError
    from pfkey.errors import ControlError as ControlError
    from pfkey.errors import ExistsError as ExistsError
    from pfkey.errors import InvalidError as InvalidError
    from pfkey.errors import MisuseError as MisuseError
    from pfkey.errors import NoAnswerError as NoAnswerError
    from pfkey.errors import NoRoomError as NoRoomError
    from pfkey.errors import NotFoundError as NotFoundError
    from pfkey.errors import NotPermittedError as NotPermittedError
    from pfkey.errors import PfkeyError as PfkeyError
    from pfkey.errors import PolicyError as PolicyError
    from pfkey.errors import RefusedError as RefusedError
    from pfkey.errors import SadbError as SadbError
    from pfkey.errors import ShellError as ShellError
    from pfkey.errors import UnsupportedAlgorithmError as UnsupportedAlgorithmError
    from pfkey.errors import UnsupportedError as UnsupportedError
    from pfkey.errors import WireError as WireError
    from pfkey.events import Acquire as Acquire
    from pfkey.events import Event as Event
    from pfkey.events import Expire as Expire
    from pfkey.events import Lost as Lost
    from pfkey.events import NewMapping as NewMapping
    from pfkey.events import Notice as Notice
    from pfkey.events import PolicyExpire as PolicyExpire
    from pfkey.ext_address import Address as Address
    from pfkey.ext_ident import Ident as Ident
    from pfkey.ext_key import Key as Key
    from pfkey.ext_lifetime import Lifetime as Lifetime
    from pfkey.ext_prop import Comb as Comb
    from pfkey.ext_prop import Proposal as Proposal
    from pfkey.ext_sa import Sa as Sa
    from pfkey.ext_sens import Sensitivity as Sensitivity
    from pfkey.ext_spirange import SpiRange as SpiRange
    from pfkey.ext_supported import Supported as Supported
    from pfkey.ext_supported import SupportedAlgorithm as SupportedAlgorithm
    from pfkey.ext_x_linux import Filter as Filter
    from pfkey.ext_x_linux import KmAddress as KmAddress
    from pfkey.ext_x_linux import KmPrivate as KmPrivate
    from pfkey.ext_x_linux import SecCtx as SecCtx
    from pfkey.ext_x_natt import NatTPort as NatTPort
    from pfkey.ext_x_natt import NatTType as NatTType
    from pfkey.ext_x_policy import IpsecRequest as IpsecRequest
    from pfkey.ext_x_policy import Policy as Policy
    from pfkey.ext_x_sa2 import Sa2 as Sa2
    from pfkey.message import Extension as Extension
    from pfkey.message import Message as Message
    from pfkey.requests import authenticator as authenticator
    from pfkey.requests import cipher as cipher
    from pfkey.requests import compressor as compressor
    from pfkey.session import Dump as Dump
    from pfkey.sockets import get_policy as get_policy
    from pfkey.sockets import set_encap as set_encap
    from pfkey.sockets import set_policy as set_policy

_NAMES = {
    "aio": "AsyncClient connect",
    "aio.session": "AsyncDump",
    "base": "Unknown",
    "blocking": "Client",
    "client": "Exchange",
    "const": "Dir ExtType IdentType Level Mode MsgType PolicyType SaFlag SaState SaType",
    "control": "Control",
    "entries": "Algorithms Limits NatT SadEntry SpdEntry",
    "errors": "AbsentError BusyError ClosedError ControlError ExistsError InvalidError MisuseError"
    " NoAnswerError NoRoomError NotFoundError NotPermittedError PfkeyError PolicyError"
    " RefusedError SadbError ShellError UnsupportedAlgorithmError UnsupportedError WireError",
    "events": "Acquire Event Expire Lost NewMapping Notice PolicyExpire",
    "ext_address": "Address",
    "ext_ident": "Ident",
    "ext_key": "Key",
    "ext_lifetime": "Lifetime",
    "ext_prop": "Comb Proposal",
    "ext_sa": "Sa",
    "ext_sens": "Sensitivity",
    "ext_spirange": "SpiRange",
    "ext_supported": "Supported SupportedAlgorithm",
    "ext_x_linux": "Filter KmAddress KmPrivate SecCtx",
    "ext_x_natt": "NatTPort NatTType",
    "ext_x_policy": "IpsecRequest Policy",
    "ext_x_sa2": "Sa2",
    "message": "Extension Message",
    "requests": "authenticator cipher compressor",
    "session": "Dump",
    "sockets": "get_policy set_encap set_policy",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # a checker shall know the names above, and no other

    def __getattr__(name: str) -> object:
        """Import a public name from its module."""
        if name not in _HOMES:
            raise AttributeError(f"module 'pfkey' has no attribute {name!r}")
        found: object = getattr(import_module(f"pfkey.{_HOMES[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
