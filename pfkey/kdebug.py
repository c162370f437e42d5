"""A message field by field, as setkey -x and -v print it (kdebug_sadb), in any dialect.

Byte order: none; the values are shown in decimal unless marked 0x. Numbers and lengths are those
of the wire: lengths count 64-bit words, those of an ipsecrequest octets.
"""

from pfkey.base import Unknown
from pfkey.const import ExtType, IdentType, MsgType
from pfkey.dialect import Dialect
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported, registry
from pfkey.ext_x_bsd import (
    Counter,
    Credential,
    Iface,
    IfHwOffload,
    Protocol,
    Rdomain,
    Replay,
    Tag,
)
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTFrag, NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import FORMATS, Word
from pfkey.message import Extension, Message
from pfkey.sockaddr import encode_sockaddr

_TYPES = {int(number): number.name for number in MsgType if number}
_HIDDEN = "  (not shown)\n"


def type_name(number: int) -> str:
    """`SPDADD` for 14; digits for what has no name."""
    return _TYPES.get(number, str(number)).removeprefix("X_")


def message(found: Message, *, show_keys: bool = True, has_names: bool = False) -> str:
    """All of a message: the header, then each extension in the order of the wire.

    `has_names` puts the type's name beside its number, which setkey does not do.
    """
    dialect = found.dialect
    length = len(found.encode(dialect)) // 8
    name = f" ({type_name(found.type)})" if has_names else ""
    satype = found.satype
    if found.type not in dialect.not_satypes:
        satype = dialect.satypes.theirs(satype)
    out = [
        f"sadb_msg{{ version=2 type={dialect.messages.theirs(found.type)}{name}"
        f" errno={dialect.errnos.theirs(found.errno)} satype={satype}\n"
        f"  len={length} reserved={found.reserved} seq={found.seq} pid={found.pid} }}\n"
    ]
    inside = dialect.of_satype(found.satype)
    for extension in found.extensions:
        words = len(extension.encode(inside)) // 8
        out.append(f"sadb_ext{{ len={words} type={dialect.exttype(extension.exttype)} }}\n")
        out.append(_extension(extension, show_keys, inside))
    return "".join(out)


def _hex(octets: bytes, indent: str = "  ") -> str:
    """Rows of 32 octets in groups of four."""
    groups = [octets[at : at + 4].hex() for at in range(0, len(octets), 4)]
    rows = [" ".join(groups[at : at + 8]) for at in range(0, len(groups), 8)]
    return "".join(f"{indent}{row}\n" for row in rows)


def _text(octets: bytes) -> str:
    return octets.rstrip(b"\0").decode("ascii", "backslashreplace")


def _sockaddr(address: bytes, port: int, dialect: Dialect) -> str:
    length, family = len(encode_sockaddr(address)), dialect.families[len(address)]
    return f"sockaddr{{ len={length} family={family} port={port}\n{_hex(address)}}}\n"


def _extension(e: Extension, show_keys: bool, dialect: Dialect) -> str:
    match e:
        case Sa():
            return (
                f"sadb_sa{{ spi={e.spi} replay={-(-e.replay // dialect.window_unit)}"
                f" state={int(e.state)}\n  auth={dialect.auth.theirs(e.auth)}"
                f" encrypt={dialect.encrypt.theirs(e.encrypt)}"
                f" flags=0x{dialect.flags_out(e.flags):08x} }}\n"
            )
        case Lifetime():
            return (
                f"sadb_lifetime{{ alloc={e.allocations}, bytes={e.octets}\n"
                f"  addtime={e.addtime}, usetime={e.usetime} }}\n"
            )
        case Address():
            fields = f"proto={e.proto} prefixlen={e.prefixlen} reserved=0x0000"
            if dialect.address:
                fields = "reserved=0x00000000"
            return f"sadb_address{{ {fields} }}\n" + _sockaddr(e.address, e.port, dialect)
        case Key():
            key = _hex(e.key) if show_keys else _HIDDEN
            return f"sadb_key{{ bits={e.bits} reserved=0\n  key=\n{key if e.key else ''}}}\n"
        case Ident():
            return _ident(e, dialect)
        case Proposal():
            return _proposal(e, dialect)
        case Supported():
            theirs = registry(e.exttype, dialect).theirs
            rows = "".join(
                f"  {{ id={theirs(a.id)} ivlen={a.ivlen} min={a.minbits} max={a.maxbits} }}\n"
                for a in e.algorithms
            )
            return f"sadb_sup{{\n{rows}}}\n"
        case SpiRange():
            return f"sadb_spirange{{ min={e.min} max={e.max} }}\n"
        case Sa2():
            return (
                f"sadb_x_sa2{{ mode={dialect.modes.theirs(e.mode)} reqid={e.reqid}\n"
                f"  reserved1=0 reserved2=0 sequence={e.sequence} }}\n"
            )
        case Policy():
            scope = f" scope={e.scope}" if dialect.has_scope else ""
            head = (
                f"sadb_x_policy{{ type={e.type} dir={dialect.dirs.theirs(e.dir)}{scope}"
                f" id={e.id:x} priority={e.priority} }}\n"
            )
            return head + "".join(_request(r, dialect) for r in e.requests)
        case NatTType():
            return f"sadb_x_nat_t_type{{ type={e.type} }}\n"
        case NatTPort():
            name = "udpencap" if e.exttype == ExtType.X_UDPENCAP else "nat_t_port"
            return f"sadb_x_{name}{{ port={e.port} }}\n"
        case Word():
            fmt, field = FORMATS[e.exttype]
            return f"{fmt.name}{{ {field}={e.value} }}\n"
        case Sensitivity() | KmPrivate() | SecCtx() | KmAddress() | Filter() | Unknown():
            return _rare(e, dialect)
        case _:
            return _of_the_bsds(e, show_keys, dialect)


def _ident(e: Ident, dialect: Dialect) -> str:
    side = "src" if e.exttype == ExtType.IDENTITY_SRC else "dst"
    head = f"sadb_ident_{side}{{ type={dialect.idents.theirs(e.kind)} id={e.id}"
    if e.kind == IdentType.X_ADDR:
        return f"{head} }}\n" + _sockaddr(e.address, e.port, dialect)
    return f'{head} str="{_text(e.text)}" }}\n'


def _rare(
    e: Sensitivity | KmPrivate | SecCtx | KmAddress | Filter | Unknown, dialect: Dialect
) -> str:
    match e:
        case SecCtx():
            return (
                f"sadb_x_sec_ctx{{ doi={e.doi} alg={e.alg} len={len(e.context)}"
                f' str="{_text(e.context)}" }}\n'
            )
        case KmAddress():
            pair = _sockaddr(e.local, e.local_port, dialect)
            return f"sadb_x_kmaddress{{ }}\n{pair}" + _sockaddr(e.remote, e.remote_port, dialect)
        case Filter():
            return (
                f"sadb_x_filter{{ family={e.family} splen={e.splen} dplen={e.dplen}\n"
                f"{_hex(e.saddr)}{_hex(e.daddr)}}}\n"
            )
        case Sensitivity():
            return (
                f"sadb_sens{{ dpd={e.dpd} sens_level={e.sens_level}"
                f" integ_level={e.integ_level} }}\n"
            )
        case _:
            return f"sadb_unknown{{\n{_hex(e.encode(dialect))}}}\n"


def _of_the_bsds(
    e: NatTFrag | Protocol | Credential | Tag | Rdomain | Replay | Counter | Iface | IfHwOffload,
    show_keys: bool,
    dialect: Dialect,
) -> str:
    match e:
        case NatTFrag():
            return f"sadb_x_nat_t_frag{{ fraglen={e.octets} }}\n"
        case Protocol():
            proto = e.proto
            if e.exttype == ExtType.X_SATYPE2:
                proto = dialect.satypes.theirs(proto)
            return f"sadb_protocol{{ proto={proto} direction={e.direction} flags={e.flags} }}\n"
        case Credential():
            data = _hex(e.secret) if show_keys else _HIDDEN
            return f"sadb_x_cred{{ type={e.kind}\n  data=\n{data if e.secret else ''}}}\n"
        case Tag():
            return f'sadb_x_tag{{ taglen={len(e.text) + 1} str="{_text(e.text)}" }}\n'
        case Rdomain():
            return f"sadb_x_rdomain{{ dom1={e.before} dom2={e.after} }}\n"
        case Replay():
            return f"sadb_x_replay{{ count={e.count} }}\n"
        case Iface():
            return f"sadb_x_iface{{ unit={e.unit} direction={e.direction} }}\n"
        case IfHwOffload():
            return f'sadb_x_if_hw_offl{{ flags=0x{e.flags:08x} if="{_text(e.name)}" }}\n'
        case Counter():
            return (
                f"sadb_x_counter{{ ipackets={e.ipackets} opackets={e.opackets}\n"
                f"  ibytes={e.ibytes} obytes={e.obytes} idrops={e.idrops} odrops={e.odrops}\n"
                f"  idecompbytes={e.idecompbytes} ouncompbytes={e.ouncompbytes} }}\n"
            )


def _proposal(e: Proposal, dialect: Dialect) -> str:
    num = f"num={len(e.combs)} " if dialect.proposal else ""
    out = [f"sadb_prop{{ {num}replay={e.replay}\n"]
    out += [
        f"sadb_comb{{ auth={dialect.auth.theirs(c.auth)}"
        f" encrypt={dialect.encrypt.theirs(c.encrypt)} flags=0x{c.flags:04x}\n"
        f"  auth_minbits={c.auth_minbits} auth_maxbits={c.auth_maxbits}\n"
        f"  encrypt_minbits={c.encrypt_minbits} encrypt_maxbits={c.encrypt_maxbits}\n"
        f"  soft_alloc={c.soft_allocations} hard_alloc={c.hard_allocations}\n"
        f"  soft_bytes={c.soft_bytes} hard_bytes={c.hard_bytes}\n"
        f"  soft_addtime={c.soft_addtime} hard_addtime={c.hard_addtime}\n"
        f"  soft_usetime={c.soft_usetime} hard_usetime={c.hard_usetime} }}\n"
        for c in e.combs
    ]
    return "".join(out) + "}\n"


def _request(r: IpsecRequest, dialect: Dialect) -> str:
    head = (
        f"{{ len={len(r.encode(dialect))} proto={r.proto} mode={dialect.modes.theirs(r.mode)}"
        f" level={r.level} reqid={r.reqid}"
    )
    if r.src is None or r.dst is None:
        return head + " }\n"
    pair = _sockaddr(r.src, r.src_port, dialect) + _sockaddr(r.dst, r.dst_port, dialect)
    return f"{head}\n{pair}}}\n"
