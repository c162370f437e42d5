"""What clients are told, before it is in anybody's words."""

from collections.abc import Callable
from typing import Protocol

from keyd.engine.manners import Kin, Manners
from pfkey.dialect import Dialect
from pfkey.errors import WireError
from pfkey.message import Message
from pfkey.neutral import spoken

Builder = Callable[[Dialect, bool], bytes | None]


class Build(Protocol):
    """Builds a message as one system words it; None where that system tells nothing."""

    def __call__(self, manners: Manners, /, *, keys: bool) -> bytes | None:
        """With or without keys."""


class Told:
    """One message for any number of clients, built once for each system that is among them.

    `type` and `satype` say who may want to hear it. With `has_keys` there are two forms of it.
    """

    __slots__ = ("_build", "_has_keys", "_private", "_public", "satype", "type")

    def __init__(self, type: int, satype: int, build: Build, *, has_keys: bool = False) -> None:
        self.type = type
        self.satype = satype
        self._build = build
        self._has_keys = has_keys
        self._public: dict[Manners, bytes | None] = {}
        self._private: dict[Manners, bytes | None] = {}

    def octets(self, manners: Manners, *, keys: bool = False) -> bytes | None:
        """The record for a client of these manners; None if it hears nothing of this."""
        keys = keys and self._has_keys
        built = self._private if keys else self._public
        if manners in built:
            return built[manners]
        try:
            octets = self._build(manners, keys=keys)
        except WireError:  # it has no word for it
            octets = None
        built[manners] = octets
        return octets


def told_by_kin(
    type: int,
    satype: int,
    *,
    linux: Builder,
    kame: Builder | None = None,
    openbsd: Builder | None = None,
    has_keys: bool = False,
) -> Told:
    """What systems of one kin word alike; None: they do not tell it."""

    def build(manners: Manners, *, keys: bool) -> bytes | None:
        if manners.kin is Kin.LINUX:
            return linux(manners.dialect, keys)
        builder = kame if manners.kin is Kin.KAME else openbsd
        return None if builder is None else builder(manners.dialect, keys)

    return Told(type, satype, build, has_keys=has_keys)


def told_alike(message: Message) -> Told:
    """A message that all systems word alike, as near as each can say it."""

    def build(manners: Manners, *, keys: bool) -> bytes | None:
        return spoken(message, manners.dialect, is_nearest=True).encode(manners.dialect)

    return Told(message.type, message.satype, build)
