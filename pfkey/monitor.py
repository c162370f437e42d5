"""`pfkey monitor`: PF_KEY messages as they pass, from the control socket's `subscribe`."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from pfkey import document, pcapng, text
from pfkey.const import FIELD_MAX, ExtType, MsgType, SaType
from pfkey.control import Control
from pfkey.dialect import DIALECTS, LINUX, Dialect, digits
from pfkey.errors import WireError
from pfkey.message import Message
from pfkey.neutral import unwrapped

SCHEMA_VERSION = 1
_SPD = {
    MsgType.X_SPDUPDATE, MsgType.X_SPDADD, MsgType.X_SPDDELETE, MsgType.X_SPDGET,
    MsgType.X_SPDDUMP, MsgType.X_SPDSETIDX, MsgType.X_SPDDELETE2, MsgType.X_SPDACQUIRE,
    MsgType.X_SPDEXPIRE,
}  # fmt: skip
Event = dict[str, Any]


def subscribe(socket: Path, *, show_keys: bool = False) -> Control:
    """A control connection that hears every message from now on.

    Raises:
        ShellError: no pfkeyd is there.
        ControlError: it refuses.
    """
    control = Control(socket)
    try:
        control.call("subscribe", show_keys=show_keys)
    except BaseException:
        control.close()
        raise
    return control


def events(control: Control, lost: Callable[[int], None]) -> Iterator[Event]:
    """What pfkeyd tells a subscriber. `lost` hears how many messages we were too slow for.

    Raises:
        ClosedError: pfkeyd has ended.
    """
    while True:
        match control.notification():
            case {"method": "message", "params": dict(event)}:
                yield event
            case {"method": "lost", "params": {"count": int(count)}}:
                lost(count)


def _dialect(event: Event) -> Dialect:
    """In which system's PF_KEY the client speaks: Linux's unless it is said."""
    return DIALECTS.get(str(event.get("dialect", LINUX.name)), LINUX)


def _message(event: Event) -> Message:
    """What passed; of a copy for a promiscuous client, the message that it is a copy of.

    Raises:
        WireError: that is none.
    """
    dialect = _dialect(event)
    return Message.decode(unwrapped(bytes.fromhex(event["hex"]), dialect), dialect)


def reason(errno: int) -> str:
    """What a refusal's errno means; the number itself where it has no name here."""
    return os.strerror(errno) if errno <= FIELD_MAX else f"error {digits(errno)}"


def render(event: Event, *, show_keys: bool = False, zone: tzinfo | None = None) -> str:
    """One message for people: a line that says who told whom, then what as setkey prints it."""
    at = datetime.fromtimestamp(event["time"], UTC).astimezone(zone)
    arrow = "->" if event["direction"] == "in" else "<-"
    head = f"{at:%H:%M:%S.%f} client {event['client']} (pid {event['pid']}) {arrow} "
    octets = bytes.fromhex(event["hex"])
    try:
        record = _message(event)
    except WireError as error:
        return f"{head}{len(octets)} octets that are no message: {error.part}: {error.rule}"
    words = [document.name(MsgType, record.type).removeprefix("X_")]
    if record.dialect is not LINUX:
        words.insert(0, record.dialect.name)
    if record.satype:
        words.append(document.name(SaType, record.satype).removeprefix("X_").lower())
    words.append(f"seq={record.seq} pid={record.pid}")
    if record.errno:
        words.append(f"refused: {reason(record.errno)}")
    return head + " ".join(words) + _body(record, event["time"], show_keys, zone)


def _body(record: Message, now: float, show_keys: bool, zone: tzinfo | None) -> str:
    if text.is_flow(record) or (record.type in _SPD and record.policy is not None):
        body = text.policy(record, zone=zone)
    elif record.sa is not None and record.src is not None and record.dst is not None:
        if record.key_encrypt or record.key_auth or record.current:
            body = text.sa(record, now=now, zone=zone, show_keys=show_keys)
        else:  # it names an SA, it does not describe one
            spi = record.sa.spi
            body = f"{record.src.text} {record.dst.text} spi={spi}({spi:#010x})"
    else:
        body = " ".join(document.name(ExtType, one.exttype) for one in record.extensions)
    return "".join(f"\n    {line}" for line in body.rstrip("\n").splitlines())


def line(event: Event, *, show_keys: bool = False) -> str:
    """One message as a line of JSON: `schemas/monitor.json`."""
    record: dict[str, Any] | None = None
    fault: str | None = None
    try:
        record = document.message(_message(event), show_keys=show_keys)
    except WireError as error:
        fault = str(error)
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "time": event["time"],
            "client": event["client"],
            "pid": event["pid"],
            "direction": event["direction"],
            "dialect": _dialect(event).name,
            "message": record,
            "fault": fault,
        }
    )


def packet(event: Event, *, show_keys: bool = False, lost: int = 0) -> bytes:
    """One message as a packet of a capture file, with what `render` says as its comment."""
    return pcapng.packet(
        bytes.fromhex(event["hex"]), at=event["time"], is_inbound=event["direction"] == "in",
        comment=render(event, show_keys=show_keys), lost=lost,
    )  # fmt: skip
