"""What setkey prints: databases, messages that pass, files of raw messages."""

import sys
from collections.abc import Iterator, Sequence
from datetime import tzinfo

from pfkey import text
from pfkey.base import header
from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, MsgType
from pfkey.dialect import LINUX, Dialect
from pfkey.errors import WireError
from pfkey.message import Message

POLICY_TYPES = frozenset(
    {
        MsgType.X_SPDUPDATE, MsgType.X_SPDADD, MsgType.X_SPDDELETE, MsgType.X_SPDGET,
        MsgType.X_SPDDUMP, MsgType.X_SPDSETIDX, MsgType.X_SPDDELETE2, MsgType.X_SPDEXPIRE,
        MsgType.X_ADDFLOW, MsgType.X_DELFLOW, MsgType.X_ASKPOLICY,
    }
)  # fmt: skip


def record(
    found: Message, *, now: float, zone: tzinfo | None = None, has_ports: bool = False
) -> str:
    """One entry of a database, by the message's type: a policy, a flow or an SA."""
    if found.type in POLICY_TYPES:
        return text.policy(found, zone=zone)
    return text.sa(found, now=now, zone=zone, has_ports=has_ports)


def entry(
    found: Message, *, now: float, zone: tzinfo | None = None, has_ports: bool = False
) -> str:
    """One message of a file: an entry of a database, or the fields of what is none."""
    is_policy = found.policy is not None or text.is_flow(found)
    if is_policy if found.type in POLICY_TYPES else found.sa is not None:
        return record(found, now=now, zone=zone, has_ports=has_ports)
    return text.message(found)


def table(records: Sequence[Message], *, now: float, zone: tzinfo | None = None) -> str:
    """One line for each SA, under a header (-l)."""
    lines = [text.sa_line(found, now=now, zone=zone) for found in records]
    return text.SHORT_HEADER + "".join(lines)


def passing(octets: bytes, *, now: float, zone: tzinfo | None = None, has_hex: bool) -> str:
    """A message as -x prints it: time, octets if wanted, fields."""
    head = text.stamp(now, zone) + (text.hexdump(octets) if has_hex else "")
    try:
        base = header(octets)
        if base.type == MsgType.X_PROMISC and len(octets) > HEADER_OCTETS:
            octets = octets[HEADER_OCTETS:]  # as KAME wraps what it shows to listeners
        return head + text.message(Message.decode(octets)) + "\n"
    except WireError as error:
        return f"{head}no PF_KEY message: {error.part} at offset {error.offset}: {error.rule}\n\n"


def split(octets: bytes, dialect: Dialect = LINUX) -> Iterator[Message]:
    """The messages of a file of one system's raw messages, one after the other.

    Raises:
        WireError: at the first that is none; its offset counts from the file's start.
    """
    at = 0
    while at < len(octets):
        size = int.from_bytes(octets[at + 4 : at + 6], sys.byteorder) * UNIT_OCTETS
        if len(octets) - at < HEADER_OCTETS or not HEADER_OCTETS <= size <= len(octets) - at:
            raise WireError("sadb_msg", "its length runs past the end of the file", at)
        try:
            yield Message.decode(octets[at : at + size], dialect)
        except WireError as error:
            raise WireError(error.part, error.rule, at + error.offset, error.errno) from None
        at += size
