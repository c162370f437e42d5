"""What is not done yet, and is refused with EOPNOTSUPP and the reason in the log.

Nothing is accepted and ignored, so whatever a request may ask that engine or data path cannot
honour has its line here. Who builds one of these deletes its line.

DEVIATION from Linux, which skips extensions that a handler does not use, and unknown flags
(`test_what_cannot_be_honoured_is_refused`).
"""

from errno import ENOPROTOOPT, EOPNOTSUPP

from pfkey.const import (
    AF_INET6,
    ExtType,
    Level,
    Mode,
    MsgType,
)
from pfkey.errors import SadbError
from pfkey.message import Message

# Message types that end in a refusal. The last five are the kernel's own, never a client's.
MESSAGES: dict[int, tuple[int, str]] = {
    MsgType.GETSPI: (EOPNOTSUPP, "larval SAs are not done yet; choose an SPI and ADD"),
    MsgType.X_MIGRATE: (ENOPROTOOPT, "MIGRATE is not done"),
    MsgType.EXPIRE: (EOPNOTSUPP, "EXPIRE goes from the engine to clients"),
    MsgType.X_PCHANGE: (EOPNOTSUPP, "X_PCHANGE is obsolete"),
    MsgType.X_SPDACQUIRE: (EOPNOTSUPP, "X_SPDACQUIRE is obsolete"),
    MsgType.X_SPDEXPIRE: (EOPNOTSUPP, "X_SPDEXPIRE goes from the engine to clients"),
    MsgType.X_NAT_T_NEW_MAPPING: (EOPNOTSUPP, "NEW_MAPPING goes from the engine to clients"),
}
SA_MODES: dict[int, str] = {
    Mode.BEET: "BEET SAs are not done",
}
REQUEST_MODES: dict[int, str] = {
    Mode.BEET: "BEET requests are not done",
}
LEVELS: dict[int, str] = {Level.UNIQUE: "level unique is not done yet"}
FAMILIES: dict[int, str] = {AF_INET6: "IPv6 is not done yet"}

_ADDRESSES = {ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST}
_SA = {ExtType.SA, ExtType.X_SA2} | _ADDRESSES
_ADD = _SA | {
    ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT, ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT,
}  # fmt: skip
_SPD = _ADDRESSES | {ExtType.X_POLICY, ExtType.X_SA2}  # iked sends an empty SA2
# What a request of each type may carry; a known extension that is not here is refused.
EXTENSIONS: dict[int, set[ExtType]] = {
    MsgType.ADD: _ADD,
    MsgType.UPDATE: _ADD,
    MsgType.DELETE: _SA,
    MsgType.GET: _SA,
    MsgType.REGISTER: set(),
    MsgType.FLUSH: set(),
    MsgType.DUMP: {ExtType.X_FILTER},
    MsgType.X_SPDADD: _SPD,
    MsgType.X_SPDUPDATE: _SPD,
    MsgType.X_SPDSETIDX: _SPD,
    MsgType.X_SPDDELETE: _SPD,
    MsgType.X_SPDDELETE2: _SPD,
    MsgType.X_SPDGET: _SPD,
    MsgType.X_SPDDUMP: set(),
    MsgType.X_SPDFLUSH: set(),
}


def refuse(table: dict[int, str], value: int) -> None:
    """Refuse a value that has a line in the table.

    Raises:
        SadbError: EOPNOTSUPP and the reason.
    """
    if value in table:
        raise SadbError(EOPNOTSUPP, table[value])


def refuse_message(message: Message) -> None:
    """Refuse a message by its type, or by an extension that its type makes no use of."""
    if message.type in MESSAGES:
        raise SadbError(*MESSAGES[message.type])
    allowed = EXTENSIONS.get(message.type)
    if allowed is None:
        return
    for exttype in ExtType:
        if exttype not in allowed and message.ext(exttype) is not None:
            name = MsgType(message.type).name
            raise SadbError(EOPNOTSUPP, f"extension {exttype.name} in {name} is not done")
