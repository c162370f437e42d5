"""`pfkey sysctl`: the words of sysctl(8) for pfkeyd's knobs.

net.key.larval_lifetime = 30
net.key.larval_lifetime: 30 -> 60
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from pfkey.const import MsgType
from pfkey.errors import ShellError

SCHEMA_VERSION = 1
# What these hold, as NetBSD says it: the records of a dump, one behind the other.
DUMPS = {"net.key.dumpsa": MsgType.DUMP, "net.key.dumpsp": MsgType.X_SPDDUMP}
Value = int | str | Mapping[str, int]


class Assignment(NamedTuple):
    """NAME=VALUE of the command line."""

    name: str
    value: int


def assignment(text: str) -> Assignment | None:
    """What a word assigns; None for a name alone.

    Raises:
        ValueError: the value is no whole number; decimal, 0x and 0o are taken.
    """
    name, equals, value = text.partition("=")
    if not equals:
        return None
    try:
        return Assignment(name.strip(), int(value.strip(), 0))
    except ValueError:
        raise ValueError(f"{text}: a value is a whole number, as in {name}=1") from None


def values_of(answer: object) -> dict[str, Value | None]:
    """The values in the control socket's answer; None where a dump tells.

    Raises:
        ShellError: pfkeyd speaks another version of the document.
    """
    match answer:
        case {"schema_version": 1, "values": dict(values)}:
            return values
        case _:
            raise ShellError(
                "pfkeyd's answer has no values that this pfkey knows",
                "install the same version of both, then restart pfkeyd",
            )


def render(name: str, value: Value, *, bare: bool = False) -> str:
    """One knob; what has several numbers is a line for each. Octets are hexadecimal."""
    if isinstance(value, int | str):
        return str(value) if bare else f"{name} = {value}"
    return "\n".join(render(f"{name}.{key}", one, bare=bare) for key, one in value.items())


def changed(name: str, before: int, after: int) -> str:
    """What sysctl(8) prints after a write."""
    return f"{name}: {before} -> {after}"


def document(values: Mapping[str, Value]) -> str:
    """The JSON document of `schemas/sysctl.json`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "values": values}, indent=2)
