"""A refusal, and a copy of a request: what is told of a client's own octets."""

from dataclasses import replace

from keyd.engine.manners import Manners
from keyd.engine.public import without_keys
from keyd.engine.told import Told
from pfkey.base import Header, error_reply, header
from pfkey.ext_key import Key
from pfkey.message import Message
from pfkey.neutral import spoken


def refusal(
    record: bytes, type: int, manners: Manners, errno: int, *, is_sound: bool = True
) -> Told:
    """That a request was refused: in its own system's form, and a header alone for others.

    `is_sound` says that the request could be decoded.
    """
    base = header(record, manners.dialect)
    alone = Header(base.type, base.satype, 0, base.seq, base.pid)

    def build(hearer: Manners, *, keys: bool) -> bytes:
        dialect, number = hearer.dialect, hearer.errno(type, errno)
        if dialect is not manners.dialect:
            return error_reply(alone, number, dialect)
        shown = record
        if dialect.echoes_request and not keys:
            shown = without_keys(record, is_sound=is_sound, dialect=dialect)
        return error_reply(shown, number, dialect)

    return Told(base.type, base.satype, build, has_keys=True)


def copy_of_request(record: bytes, message: Message | None, type: int, manners: Manners) -> Told:
    """A request for promiscuous clients; `message` is what it says, None if it says nothing."""

    def build(hearer: Manners, *, keys: bool) -> bytes | None:
        dialect = hearer.dialect
        if dialect is manners.dialect:
            if keys:
                return record
            return without_keys(record, is_sound=message is not None, dialect=dialect)
        if message is None:
            return None
        return spoken(_without_keys(message), dialect, is_nearest=True).encode(dialect)

    return Told(type, 0, build, has_keys=True)


def _without_keys(message: Message) -> Message:
    hidden = tuple(
        replace(one, key=bytes(len(one.key))) if isinstance(one, Key) else one
        for one in message.extensions
    )
    return replace(message, extensions=hidden)
