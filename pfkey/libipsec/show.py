"""libipsec's printing functions. They write to standard output, as in C, or to `file`.

Keys are printed, as in C: who calls these has asked for them. `pfkey.text` has the same as text.
"""

import sys
import time
from typing import TextIO

from pfkey import text
from pfkey.errors import WireError
from pfkey.libipsec.check import pfkey_align, pfkey_check
from pfkey.libipsec.errors import EIPSEC_INVAL_SADBMSG, TEXTS, IpsecError
from pfkey.libipsec.sockets import Octets
from pfkey.message import Message


def _print(shown: str, file: TextIO | None) -> None:
    (sys.stdout if file is None else file).write(shown)


def _checked(msg: Octets) -> Message | str:
    """The message, or why it is none that libipsec prints."""
    octets = msg.encode() if isinstance(msg, Message) else msg
    try:
        pfkey_check(pfkey_align(octets))
        return Message.decode(octets)
    except IpsecError as error:
        return f"{error.text}\n"
    except WireError:
        return f"{TEXTS[EIPSEC_INVAL_SADBMSG]}\n"


def pfkey_sadump(msg: Octets, file: TextIO | None = None) -> None:
    """Print an SA as setkey -D does; of a message that is none, the reason. Sends nothing."""
    found = _checked(msg)
    shown = found if isinstance(found, str) else text.sa(found, now=time.time())
    _print(shown, file)


def pfkey_sadump_withports(msg: Octets, file: TextIO | None = None) -> None:
    """Print an SA as setkey -Dp does, the ports behind its addresses. Sends nothing."""
    found = _checked(msg)
    shown = found if isinstance(found, str) else text.sa(found, now=time.time(), has_ports=True)
    _print(shown, file)


def pfkey_spdump(msg: Octets, file: TextIO | None = None) -> None:
    """Print a policy as setkey -DP does; of a message that is none, the reason. Sends nothing."""
    found = _checked(msg)
    _print(found if isinstance(found, str) else text.policy(found, has_tunnel_ports=False), file)


def pfkey_spdump_withports(msg: Octets, file: TextIO | None = None) -> None:
    """Print a policy as setkey -DPp does, ports of tunnel ends included. Sends nothing."""
    found = _checked(msg)
    _print(found if isinstance(found, str) else text.policy(found, has_tunnel_ports=True), file)


def kdebug_sadb(msg: Octets, file: TextIO | None = None) -> None:
    """Print a message field by field, as setkey -x does. Sends nothing."""
    octets = msg.encode() if isinstance(msg, Message) else msg
    try:
        shown = text.message(Message.decode(octets))
    except WireError as error:
        shown = f"kdebug_sadb: {error.part} at offset {error.offset}: {error.rule}\n"
    _print(shown, file)


def ipsec_hexdump(buf: bytes, length: int | None = None, file: TextIO | None = None) -> None:
    """Print octets in groups of four, 32 a row, without a line break at the end. Sends nothing."""
    _print(text.groups(buf if length is None else buf[:length]), file)
