"""From setkey's statements to PF_KEY messages, extensions in the order that setkey sends them.

`seq` is 0 and `pid` the sender's, as ever; reserved octets are zero.
"""

from collections.abc import Iterator

from pfkey import policy
from pfkey.const import (
    NATT_PORT,
    UDP_ENCAP_ESPINUDP,
    UNSPEC_PROTO,
    Dir,
    ExtType,
    MsgType,
    SaState,
    SaType,
)
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.setkey.statements import (
    NO_LIMITS,
    Context,
    DeleteAll,
    Host,
    SaStatement,
    SpdStatement,
    Statement,
    TableStatement,
)

WINDOW_SAID = 255  # the most that sadb_sa_replay can say


def register(pid: int) -> Message:
    """What -c and -f send first: it registers nothing and returns the algorithms."""
    return Message(type=MsgType.REGISTER, pid=pid)


def table(type: MsgType, pid: int, satype: int = 0) -> Message:
    """A message without extensions: FLUSH, DUMP, SPDFLUSH, SPDDUMP, PROMISC."""
    return Message(type=type, satype=satype, pid=pid)


def of_statement(statement: Statement, pid: int, *, has_fwd_copy: bool = False) -> list[Message]:
    """The messages of a statement, in order.

    `has_fwd_copy`: an `in` policy is followed by its copy for `fwd`, as Linux builds do (-r).
    `deleteall` is a dump here: `delete_of` makes the rest from each record. `exit` is nothing.
    """
    match statement:
        case SaStatement():
            return [_sa(statement, src, dst, pid) for src, dst in statement.pairs]
        case SpdStatement():
            messages = [_spd(statement, pid)]
            if has_fwd_copy and statement.policy.dir == Dir.IN:
                messages.append(_spd(statement, pid, is_copy=True))
            return messages
        case TableStatement():
            return [table(statement.type, pid, statement.satype)]
        case DeleteAll():
            return [table(MsgType.DUMP, pid, statement.satype)]
        case _:
            return []


def delete_of(statement: DeleteAll, record: Message, pid: int) -> Message | None:
    """The DELETE for a dumped SA, None if `deleteall` does not mean it."""
    src, dst, sa = record.src, record.dst, record.sa
    if src is None or dst is None or sa is None or record.errno:
        return None
    if (src.address, dst.address) != (statement.pair[0].address, statement.pair[1].address):
        return None
    return Message(
        type=MsgType.DELETE,
        satype=record.satype,
        pid=pid,
        extensions=(Sa(spi=sa.spi), *_addresses(*statement.pair)),
    )


def dump_sas(pid: int) -> Message:
    """DUMP, by one who knows of the extension for windows that sadb_sa_replay cannot say."""
    knows = Word(exttype=ExtType.X_REPLAY_WINDOW, value=0)
    return Message(type=MsgType.DUMP, pid=pid, extensions=(knows,))


def _sa(s: SaStatement, src: Host, dst: Host, pid: int) -> Message:
    sa = Sa(
        spi=s.spi, replay=min(s.replay, WINDOW_SAID), state=SaState.LARVAL,
        auth=s.auth, encrypt=s.encrypt, flags=s.flags,
    )  # fmt: skip
    sa2 = Sa2(mode=s.mode, reqid=s.reqid)
    addresses = _addresses(src, dst)
    extensions: list[Extension] = []
    if s.type == MsgType.GETSPI and s.spi:
        extensions += [SpiRange(min=s.spi, max=s.spi), sa, sa2, *addresses]
    elif s.type in (MsgType.ADD, MsgType.UPDATE):
        extensions += [*_keys(s), *_lifetimes(s), *_context(s.context), sa, sa2]
        if s.is_natt:
            extensions.append(NatTType(type=UDP_ENCAP_ESPINUDP))
            if s.natt_oa is not None:
                extensions.append(_address(ExtType.X_NAT_T_OA, s.natt_oa))
        extensions += addresses
        if s.is_natt:
            sport, dport = src.port or NATT_PORT, dst.port or NATT_PORT
            extensions.append(NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=sport))
            extensions.append(NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=dport))
        if s.replay > WINDOW_SAID:
            extensions.append(Word(exttype=ExtType.X_REPLAY_WINDOW, value=s.replay))
    elif s.type == MsgType.GETSPI:
        extensions += [sa2, *addresses]
    else:
        extensions += [sa, sa2, *addresses]
    return Message(type=s.type, satype=s.satype, pid=pid, extensions=tuple(extensions))


def _keys(s: SaStatement) -> Iterator[Extension]:
    """Null encryption still sends a key of no bits; null authentication sends none."""
    if s.satype == SaType.ESP and s.encrypt:
        key = s.encrypt_key or b""
        yield Key(exttype=ExtType.KEY_ENCRYPT, bits=8 * len(key), key=key)
    if s.auth_key:
        yield Key(exttype=ExtType.KEY_AUTH, bits=8 * len(s.auth_key), key=s.auth_key)


def _lifetimes(s: SaStatement) -> Iterator[Extension]:
    for exttype, limits in ((ExtType.LIFETIME_HARD, s.hard), (ExtType.LIFETIME_SOFT, s.soft)):
        # DEVIATION from setkey: every kernel refuses one of the two without the other, so the
        # missing one goes along as "no limit" (test_one_lifetime_brings_the_other_as_unlimited).
        if s.hard != NO_LIMITS or s.soft != NO_LIMITS:
            yield Lifetime(exttype=exttype, octets=limits.octets, addtime=limits.seconds)


def _context(context: Context | None) -> Iterator[Extension]:
    if context is not None:
        yield SecCtx(doi=context.doi, alg=context.algorithm, context=context.text)


def _address(
    exttype: ExtType, host: Host, prefixlen: int | None = None, proto: int = UNSPEC_PROTO
) -> Address:
    return Address(
        exttype=exttype,
        address=host.address,
        prefixlen=8 * len(host.address) if prefixlen is None else prefixlen,
        proto=proto,
        port=host.port,
        scope_id=host.scope_id,
    )


def _addresses(src: Host, dst: Host) -> tuple[Address, Address]:
    return _address(ExtType.ADDRESS_SRC, src), _address(ExtType.ADDRESS_DST, dst)


def _spd(s: SpdStatement, pid: int, *, is_copy: bool = False) -> Message:
    return Message(
        type=s.type,
        pid=pid,
        extensions=(
            policy.forwarded(s.policy) if is_copy else s.policy,
            _address(ExtType.ADDRESS_SRC, s.src.host, s.src.prefixlen, s.proto),
            _address(ExtType.ADDRESS_DST, s.dst.host, s.dst.prefixlen, s.proto),
            *_context(s.context),
        ),
    )
