"""docs/library-reference.md, made from the docstrings: `make docs` writes it, a test compares."""

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pfkey
from pfkey import libipsec, policy

INTRO = """\
# The library, name by name

Made from the docstrings by `make docs`; [library.md](library.md) is the tutorial. All names but
those of the last two parts are imported from `pfkey`. Unless something else is said, lengths are
octets, times are seconds, and numbers are plain numbers whatever their byte order on the wire.
Every error is a `PfkeyError`.
"""
# Which names a heading has, by the module they come from.
PARTS = {
    "Clients": ("blocking", "session", "aio", "aio.session", "client", "control"),
    "Entries": ("entries", "requests"),
    "Events": ("events",),
    "Errors": ("errors",),
    "Messages": ("message", "base"),
    "Policies of sockets": ("sockets",),
    "Numbers": ("const",),
}
SECTIONS = ("Args", "Attributes", "Raises", "Every request raises")
ENTRY = re.compile(r"^    (?P<names>[\w, ]+): (?P<text>.*)$")
QUALIFIED = re.compile(r"\b(?:[a-z_][a-z_0-9]*\.)+(?=[A-Z])")
UNIONS = {QUALIFIED.sub("", str(getattr(pfkey, name))): name for name in ("Event", "Extension")}


def main() -> str:
    """The whole page."""
    out = [INTRO]
    homes = pfkey._HOMES
    seen = set()
    for title, modules in PARTS.items():
        is_extension = title == "Messages"
        names = [n for module in modules for n, home in homes.items() if home == module]
        if is_extension:
            names += [n for n, home in homes.items() if home.startswith("ext_")]
        seen |= set(names)
        out.append(f"## {title}\n")
        for name in names:
            out += described(name, getattr(pfkey, name))
    if seen != set(homes):
        raise SystemExit(f"tools/reference.py: no heading for {set(homes) - seen}")
    out.append("## Policies: `pfkey.policy`\n")
    for name in ("parse", "forwarded", "render", "render_request", "render_priority"):
        out += described(f"policy.{name}", getattr(policy, name))
    out.append("## libipsec: `pfkey.libipsec`\n")
    out += paragraphs(inspect.getdoc(libipsec) or "")
    for name in libipsec.__all__:
        out += described(name, getattr(libipsec, name))
    return "\n".join(out).rstrip() + "\n"


def described(name: str, found: object) -> Iterator[str]:
    """One name with its members."""
    if isinstance(found, int):
        yield f"- `{name}` = {found}\n"
        return
    if inspect.isclass(found) and issubclass(found, Enum):
        yield f"### {name}\n"
        yield from paragraphs(inspect.getdoc(found) or "")
        yield ", ".join(f"`{m.name}` {m.value:#x}" if m.value > 255 else f"`{m.name}` {m.value}"
                        for m in found) + ".\n"  # fmt: skip
        return
    if not inspect.isclass(found) and not inspect.isfunction(found):
        yield f"### {name}\n"
        yield f"One of {names_of(found)}.\n"
        return
    yield f"### `{name}{signature(found)}`\n"
    yield from paragraphs(inspect.getdoc(found) or "")
    if inspect.isclass(found):
        alike = []
        for member, value in members(found):
            doc = inspect.getdoc(value) or ""
            if f": as `Client.{member}`." in doc:
                alike.append(f"`{member}`")
                continue
            is_property = isinstance(value, property)
            yield f"#### `{name}.{member}{'' if is_property else signature(value)}`\n"
            yield from paragraphs(doc)
        if alike:
            yield f"To be awaited, and otherwise as those of `Client`: {', '.join(alike)}.\n"


def members(found: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties, those of our base classes too."""
    done = set()
    for cls in found.__mro__:
        if not cls.__module__.startswith("pfkey") or issubclass(cls, Exception):
            continue
        for member, value in vars(cls).items():
            value = getattr(value, "__func__", value)
            is_shown = inspect.isfunction(value) or isinstance(value, property)
            if not member.startswith("_") and is_shown and member not in done:
                done.add(member)
                yield member, value


def names_of(found: object) -> str:
    """A union's members."""
    return ", ".join(f"`{QUALIFIED.sub('', part.strip())}`" for part in str(found).split("|"))


def signature(found: Any) -> str:
    """The parameters and the result, with short names of types."""
    try:
        text = str(inspect.signature(found))
    except ValueError:  # an exception of Python's own making
        return ""
    text = re.sub(r"^\((self|cls)(, )?", "(", text)
    text = re.sub(r"<(\w+\.\w+): (-?\d+)>", r"\1", text)
    text = re.sub(r"b'(?:\\x00){16}'", "bytes(16)", QUALIFIED.sub("", text))
    text = re.sub(r"'([A-Z]\w+)'", r"\1", text)
    for union, name in UNIONS.items():
        text = text.replace(union, name)
    return text.removesuffix(" -> None")


def paragraphs(doc: str) -> Iterator[str]:
    """A docstring as Markdown: its sections become lists, its examples stay as they are."""
    lines = doc.splitlines()
    out: list[str] = []
    section = False
    for line in lines:
        if line.endswith(":") and line[:-1] in SECTIONS:
            out += [line, ""]
            section = True
        elif section and (entry := ENTRY.match(line)):
            names = ", ".join(f"`{n.strip()}`" for n in entry["names"].split(","))
            out.append(f"- {names}: {entry['text']}")
        elif section and line.startswith("     "):
            out.append("  " + line.strip())
        else:
            section = section and not line
            out.append(line)
    yield "\n".join(out).strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(main())
