"""A message field by field, as setkey -x and -v print it (kdebug_sadb).

Byte order: none; the values are shown in decimal unless marked 0x. Lengths count 64-bit words,
those of an ipsecrequest octets, as on the wire.
"""

from pfkey.base import Unknown
from pfkey.const import AF_INET, AF_INET6, ExtType, MsgType
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message

_TYPES = {int(number): number.name for number in MsgType if number}


def type_name(number: int) -> str:
    """`SPDADD` for 14; digits for what has no name."""
    return _TYPES.get(number, str(number)).removeprefix("X_")


def message(found: Message, *, show_keys: bool = True, has_names: bool = False) -> str:
    """All of a message: the header, then each extension in the order of the wire.

    `has_names` puts the type's name beside its number, which setkey does not do.
    """
    length = len(found.encode()) // 8
    name = f" ({type_name(found.type)})" if has_names else ""
    out = [
        f"sadb_msg{{ version=2 type={found.type}{name} errno={found.errno}"
        f" satype={found.satype}\n"
        f"  len={length} reserved={found.reserved} seq={found.seq} pid={found.pid} }}\n"
    ]
    for extension in found.extensions:
        words = len(extension.encode()) // 8
        out.append(f"sadb_ext{{ len={words} type={extension.exttype} }}\n")
        out.append(_extension(extension, show_keys))
    return "".join(out)


def _hex(octets: bytes, indent: str = "  ") -> str:
    """Rows of 32 octets in groups of four."""
    groups = [octets[at : at + 4].hex() for at in range(0, len(octets), 4)]
    rows = [" ".join(groups[at : at + 8]) for at in range(0, len(groups), 8)]
    return "".join(f"{indent}{row}\n" for row in rows)


def _sockaddr(address: bytes, port: int) -> str:
    family, length = (AF_INET, 16) if len(address) == 4 else (AF_INET6, 28)
    return f"sockaddr{{ len={length} family={family} port={port}\n{_hex(address)}}}\n"


def _extension(e: Extension, show_keys: bool) -> str:
    match e:
        case Sa():
            return (
                f"sadb_sa{{ spi={e.spi} replay={e.replay} state={int(e.state)}\n"
                f"  auth={e.auth} encrypt={e.encrypt} flags=0x{e.flags:08x} }}\n"
            )
        case Lifetime():
            return (
                f"sadb_lifetime{{ alloc={e.allocations}, bytes={e.octets}\n"
                f"  addtime={e.addtime}, usetime={e.usetime} }}\n"
            )
        case Address():
            return (
                f"sadb_address{{ proto={e.proto} prefixlen={e.prefixlen} reserved=0x0000 }}\n"
                + _sockaddr(e.address, e.port)
            )
        case Key():
            key = _hex(e.key, "  ") if show_keys else "  (not shown)\n"
            return f"sadb_key{{ bits={e.bits} reserved=0\n  key=\n{key if e.key else ''}}}\n"
        case Ident():
            side = "src" if e.exttype == ExtType.IDENTITY_SRC else "dst"
            text = e.text.rstrip(b"\0").decode("ascii", "backslashreplace")
            return f'sadb_ident_{side}{{ type={e.kind} id={e.id} str="{text}" }}\n'
        case Proposal():
            return _proposal(e)
        case Supported():
            rows = "".join(
                f"  {{ id={a.id} ivlen={a.ivlen} min={a.minbits} max={a.maxbits} }}\n"
                for a in e.algorithms
            )
            return f"sadb_sup{{\n{rows}}}\n"
        case SpiRange():
            return f"sadb_spirange{{ min={e.min} max={e.max} }}\n"
        case Sa2():
            return (
                f"sadb_x_sa2{{ mode={e.mode} reqid={e.reqid}\n"
                f"  reserved1=0 reserved2=0 sequence={e.sequence} }}\n"
            )
        case Policy():
            head = f"sadb_x_policy{{ type={e.type} dir={e.dir} id={e.id:x} priority={e.priority} }}"
            return head + "\n" + "".join(_request(r) for r in e.requests)
        case NatTType():
            return f"sadb_x_nat_t_type{{ type={e.type} }}\n"
        case NatTPort():
            return f"sadb_x_nat_t_port{{ port={e.port} }}\n"
        case _:
            return _rare(e)


def _rare(
    e: Sensitivity | KmPrivate | SecCtx | KmAddress | Filter | Unknown,
) -> str:
    match e:
        case SecCtx():
            text = e.context.rstrip(b"\0").decode("ascii", "backslashreplace")
            return (
                f'sadb_x_sec_ctx{{ doi={e.doi} alg={e.alg} len={len(e.context)} str="{text}" }}\n'
            )
        case KmAddress():
            pair = _sockaddr(e.local, e.local_port) + _sockaddr(e.remote, e.remote_port)
            return f"sadb_x_kmaddress{{ }}\n{pair}"
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
            return f"sadb_unknown{{\n{_hex(e.encode())}}}\n"


def _proposal(e: Proposal) -> str:
    out = [f"sadb_prop{{ replay={e.replay}\n"]
    out += [
        f"sadb_comb{{ auth={c.auth} encrypt={c.encrypt} flags=0x{c.flags:04x}\n"
        f"  auth_minbits={c.auth_minbits} auth_maxbits={c.auth_maxbits}\n"
        f"  encrypt_minbits={c.encrypt_minbits} encrypt_maxbits={c.encrypt_maxbits}\n"
        f"  soft_alloc={c.soft_allocations} hard_alloc={c.hard_allocations}\n"
        f"  soft_bytes={c.soft_bytes} hard_bytes={c.hard_bytes}\n"
        f"  soft_addtime={c.soft_addtime} hard_addtime={c.hard_addtime}\n"
        f"  soft_usetime={c.soft_usetime} hard_usetime={c.hard_usetime} }}\n"
        for c in e.combs
    ]
    return "".join(out) + "}\n"


def _request(r: IpsecRequest) -> str:
    head = f"{{ len={len(r.encode())} proto={r.proto} mode={r.mode} level={r.level} reqid={r.reqid}"
    if r.src is None or r.dst is None:
        return head + " }\n"
    return head + "\n" + _sockaddr(r.src, r.src_port) + _sockaddr(r.dst, r.dst_port) + "}\n"
