"""What is not done yet, and is refused with EOPNOTSUPP and the reason in the log.

Nothing is accepted and ignored, so whatever a request may ask that engine or data path cannot
honour has its line here. Who builds one of these deletes its line.

DEVIATION from Linux, which skips extensions that a handler does not use, and unknown flags
(`test_what_cannot_be_honoured_is_refused`).
"""

from errno import EINVAL, EOPNOTSUPP

from keyd.engine.manners import LINUX_MANNERS, Kin, Manners
from pfkey.const import (
    ExtType,
    Mode,
    MsgType,
)
from pfkey.errors import SadbError
from pfkey.message import Message

# Message types that end in a refusal. The last five are the kernel's own, never a client's.
MESSAGES: dict[int, tuple[int, str]] = {
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

_MAPPED = bytes(10) + b"\xff\xff"
_ADDRESSES = {ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST}
_SA = {ExtType.SA, ExtType.X_SA2} | _ADDRESSES
_ADD = _SA | {
    ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT, ExtType.KEY_AUTH, ExtType.KEY_ENCRYPT,
    ExtType.IDENTITY_SRC, ExtType.IDENTITY_DST, ExtType.X_REPLAY_WINDOW,
    ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.X_NAT_T_OA,
}  # fmt: skip
_NATT = {
    Kin.KAME: frozenset((ExtType.X_NAT_T_OAI, ExtType.X_NAT_T_OAR)),
    Kin.OPENBSD: frozenset((ExtType.X_UDPENCAP,)),
}
# racoon says so in GETSPI, where it changes nothing, as on Linux
_UDP = {ExtType.X_NAT_T_TYPE, ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT}
_BY_ID = _ADDRESSES | {ExtType.X_POLICY, ExtType.X_SA2}
_SPD = _BY_ID | {ExtType.LIFETIME_HARD, ExtType.LIFETIME_SOFT}
# What a request of each type may carry; a known extension that is not here is refused.
EXTENSIONS: dict[int, set[ExtType]] = {
    MsgType.GETSPI: _SA | {ExtType.SPIRANGE} | _UDP,
    MsgType.ADD: _ADD,
    MsgType.UPDATE: _ADD,
    MsgType.DELETE: _SA,
    MsgType.GET: _SA | {ExtType.X_REPLAY_WINDOW},
    MsgType.REGISTER: set(),
    MsgType.FLUSH: set(),
    # our own extension, of whatever value, says that its sender knows of it
    MsgType.DUMP: {ExtType.X_FILTER, ExtType.X_REPLAY_WINDOW},
    MsgType.X_SPDADD: _SPD,
    MsgType.X_SPDUPDATE: _SPD,
    MsgType.X_SPDSETIDX: _SPD,
    MsgType.X_SPDDELETE: _SPD,
    MsgType.X_SPDDELETE2: _BY_ID,
    MsgType.X_SPDGET: _BY_ID,
    MsgType.X_SPDDUMP: set(),
    MsgType.X_MIGRATE: _ADDRESSES | {ExtType.X_POLICY, ExtType.X_KMADDRESS},
    MsgType.X_SPDFLUSH: set(),
}


def refuse(table: dict[int, str], value: int) -> None:
    """Refuse a value that has a line in the table.

    Raises:
        SadbError: EOPNOTSUPP and the reason.
    """
    if value in table:
        raise SadbError(EOPNOTSUPP, table[value])


def refuse_address(address: bytes, prefixlen: int = 128) -> None:
    """Refuse what no packet through the data path can bear: link-local and IPv4-mapped IPv6.

    Routing gives a packet with a link-local address to the one link that it names and never to a
    TUN device, so nothing under such a policy could be sealed, or be delivered once opened. For a
    prefix: if it holds nothing else. IPv4-mapped addresses stand for IPv4, whose packets a policy
    for IPv6 does not select.

    Raises:
        SadbError: EOPNOTSUPP for a link-local one, EINVAL for a mapped one.
    """
    if len(address) != 16:
        return
    if prefixlen >= 10 and address[0] == 0xFE and address[1] & 0xC0 == 0x80:
        why = "link-local addresses (fe80::/10) cannot be protected: no route leads them to the TUN"
        raise SadbError(EOPNOTSUPP, why)
    if prefixlen >= 96 and address[:12] == _MAPPED:
        raise SadbError(EINVAL, "::ffff:0:0/96 stands for IPv4: write the IPv4 address")


def refuse_message(message: Message, manners: Manners = LINUX_MANNERS) -> None:
    """Refuse a message by its type, or by an extension that its type makes no use of."""
    if message.type in MESSAGES:
        raise SadbError(*MESSAGES[message.type])
    allowed = manners.takes.get(message.type) or EXTENSIONS.get(message.type)
    if allowed is None:
        return
    if message.type in (MsgType.ADD, MsgType.UPDATE):
        allowed = allowed | _NATT.get(manners.kin, frozenset())
    known = manners.dialect.extensions
    for extension in message.extensions:
        if extension.exttype in known and extension.exttype not in allowed:
            kind = ExtType(extension.exttype)
            where = f"extension {kind.name} in {MsgType(message.type).name}"
            raise SadbError(EOPNOTSUPP, f"{where} is not done")
