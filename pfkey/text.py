"""The one human rendering of SAs, policies and messages: setkey -D, -DP, -x, logs, monitor.

The first two are libipsec's, octet for octet, so that what reads setkey's output keeps working.
Times are seconds since 1970; `zone` None means local time.
"""

import ipaddress
from datetime import UTC, datetime, tzinfo

from pfkey import policy as policies
from pfkey import protocols
from pfkey.algorithms import Kind, by_number
from pfkey.const import ExtType, Mode, OpenbsdFlag, SaState, SaType, Scope
from pfkey.dialect import FREEBSD, LINUX, digits
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_x_bsd import Replay
from pfkey.ext_x_natt import NatTFrag, NatTPort
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.flows import flow, is_flow
from pfkey.kdebug import message
from pfkey.message import Message

__all__ = [
    "SHORT_HEADER", "algorithm", "flow", "groups", "hexdump", "is_dead", "is_flow",
    "is_per_socket", "message", "policy", "sa", "sa_line", "satype", "second", "stamp",
]  # fmt: skip

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SATYPES: dict[int, str] = {
    SaType.AH: "ah",
    SaType.ESP: "esp",
    SaType.X_IPCOMP: "ipcomp",
    SaType.X_TCPSIGNATURE: "tcp",
    SaType.X_IPIP: "ipip",
}
STATES = ("larval", "mature", "dying", "dead")
NO_TIME = " " * 20
SHORT_HEADER = "time p   s spi      ltime   src -> dst\n"


def _local(seconds: float, zone: tzinfo | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    except (ValueError, OverflowError, OSError):
        return None


def time(seconds: int, zone: tzinfo | None = None) -> str:
    """`Nov 14 22:13:20 2023`; 20 blanks for 0; digits for what no calendar has."""
    if not seconds:
        return NO_TIME
    at = _local(seconds, zone)
    if at is None:
        return str(seconds)
    return f"{MONTHS[at.month - 1]} {at.day:2d} {at:%H:%M:%S} {at.year}"


def stamp(now: float, zone: tzinfo | None = None) -> str:
    """The line before a message in setkey -x: `22:13:20.123456 `."""
    at = _local(now, zone)
    return f"{at:%H:%M:%S.%f} \n" if at else f"{now:.6f} \n"


def algorithm(kind: Kind, number: int) -> str:
    """An algorithm's name, or its number in digits."""
    row = by_number(kind, number)
    return row.name if row else digits(number)


def satype(record: Message) -> str:
    """`esp`; digits for an SA type that nobody writes SAs of."""
    return SATYPES.get(record.satype, digits(record.satype))


def second(record: Message) -> Sa2 | None:
    """SA2, or what tells the same on OpenBSD, which has none: a flag and X_REPLAY."""
    association = record.sa
    if association is None or record.dialect.has_policies:
        return record.sa2
    is_tunnel = association.flags & OpenbsdFlag.TUNNEL
    count = record.ext(ExtType.X_REPLAY)
    return Sa2(
        mode=Mode.TUNNEL if is_tunnel else Mode.TRANSPORT,
        sequence=count.count & 0xFFFF_FFFF if isinstance(count, Replay) else 0,
    )


def hexdump(octets: bytes) -> str:
    """Rows of 16 octets with their offset, as setkey -xH prints them."""
    return "".join(
        f"{at:08x}: " + "".join(f"{octet:02x} " for octet in octets[at : at + 16]) + "\n"
        for at in range(0, len(octets), 16)
    )


def groups(octets: bytes) -> str:
    """Groups of four octets, 32 octets a row, a blank before each group, as keys are printed."""
    shown = [" " + octets[at : at + 4].hex() for at in range(0, len(octets), 4)]
    return "\n".join("".join(shown[at : at + 8]) for at in range(0, len(shown), 8))


def _key(key: Key, show_keys: bool) -> str:
    if not show_keys and key.key:
        return f" ({key.bits} bits, not shown)"
    return groups(key.key)


def _ip(address: Address, port: int | None) -> str:
    text = str(ipaddress.ip_address(address.address))
    if port is None:
        return text
    return f"{text}[{port or 'any'}]"


def is_dead(record: Message) -> bool:
    """Whether this is an SA that setkey -D shows only with -a."""
    return record.sa is not None and record.sa.state == SaState.DEAD


def sa(
    record: Message,
    *,
    now: float,
    zone: tzinfo | None = None,
    has_ports: bool = False,
    show_keys: bool = True,
) -> str:
    """An SA as setkey -D prints it, from a DUMP, GET or any message that carries one.

    Args:
        record: the message.
        now: seconds since 1970, for `current:` and `diff:`.
        zone: of the times.
        has_ports: whether ports follow the addresses (-p); with NAT traversal they always do.
        show_keys: whether keys are printed.
    """
    src, dst, association, sa2 = record.src, record.dst, record.sa, second(record)
    natt = record.nat_t_type is not None and record.nat_t_type.type != 0
    out: list[str] = []
    for address, natt_port, name in (
        (src, record.nat_t_sport, "ADDRESS_SRC"), (dst, record.nat_t_dport, "ADDRESS_DST"),
    ):  # fmt: skip
        if address is None:
            return "".join(out) + f"no {name} extension.\n"
        port = natt_port.port if natt and natt_port is not None else address.port
        out.append(_ip(address, port if natt or has_ports else None) + " ")
    if association is None or sa2 is None:
        return "".join(out) + f"\nno {'SA2' if association else 'SA'} extension.\n"
    is_udp = natt or association.flags & OpenbsdFlag.UDPENCAP
    out.append(
        f"\n\t{'esp-udp' if is_udp else satype(record)} mode={policies.mode_name(sa2.mode)}"
        f" spi={association.spi}(0x{association.spi:08x}) reqid={sa2.reqid}(0x{sa2.reqid:08x})\n"
    )
    if is_udp:
        out += _nat_traversal(record)
    if record.satype == SaType.X_IPCOMP:
        out.append(f"\tC: {algorithm(Kind.COMPRESS, association.encrypt)} ")  # and no newline
    elif record.satype == SaType.ESP:
        cipher = algorithm(Kind.ENCRYPT, association.encrypt)
        key = record.key_encrypt
        out.append(f"\tE: {cipher} {_key(key, show_keys) if key else ''}\n")
    if record.key_auth is not None:
        name = algorithm(Kind.AUTH, association.auth)
        out.append(f"\tA: {name} {_key(record.key_auth, show_keys)}\n")
    state = int(association.state)
    dialect = record.dialect
    out.append(
        f"\tseq=0x{sa2.sequence:08x} replay={-(-association.replay // dialect.window_unit)}"
        f" flags=0x{dialect.flags_out(association.flags):08x}"
        f" state={STATES[state] if state < len(STATES) else state} \n"
    )
    for exttype in (ExtType.X_SA_REPLAY, ExtType.X_REPLAY_WINDOW):
        window = record.ext(exttype)
        if isinstance(window, Word):
            out.append(f"\treplay window: {window.value} packets\n")
    if record.current is not None:
        out.append(_lifetimes(record, record.current, int(now), zone))
    out += _context(record)
    out.append(f"\tsadb_seq={record.seq} pid={record.pid} refcnt={record.reserved}\n")
    return "".join(out)


def _nat_traversal(record: Message) -> list[str]:
    """What else is there to say about ESP in UDP."""
    out = []
    for exttype in (ExtType.X_NAT_T_OA, ExtType.X_NAT_T_OAI, ExtType.X_NAT_T_OAR):
        original = record.ext(exttype)
        if isinstance(original, Address):
            name = exttype.name.removeprefix("X_NAT_T_")
            out.append(f"\tNAT {name}={_ip(original, None)}\n")
    port, fragment = record.ext(ExtType.X_UDPENCAP), record.ext(ExtType.X_NAT_T_FRAG)
    if isinstance(port, NatTPort):
        out.append(f"\tUDP port={port.port}\n")
    if isinstance(fragment, NatTFrag):
        out.append(f"\tNAT-T fragments={fragment.octets}(bytes)\n")
    return out


def _lifetimes(record: Message, current: Lifetime, now: int, zone: tzinfo | None) -> str:
    none = Lifetime(exttype=ExtType.LIFETIME_HARD)
    hard, soft = record.hard or none, record.soft or none
    diff = max(0, now - current.addtime) if current.addtime else 0
    return (
        f"\tcreated: {time(current.addtime, zone)}\tcurrent: {time(now, zone)}\n"
        f"\tdiff: {diff}(s)\thard: {hard.addtime}(s)\tsoft: {soft.addtime}(s)\n"
        f"\tlast: {time(current.usetime, zone)}\thard: {hard.usetime}(s)"
        f"\tsoft: {soft.usetime}(s)\n"
        f"\tcurrent: {current.octets}(bytes)\thard: {hard.octets}(bytes)"
        f"\tsoft: {soft.octets}(bytes)\n"
        f"\tallocated: {current.allocations}\thard: {hard.allocations}"
        f"\tsoft: {soft.allocations}\n"
    )


def _context(record: Message) -> list[str]:
    context = record.sec_ctx
    if context is None:
        return []
    text = context.context.rstrip(b"\0").decode("ascii", "backslashreplace")
    return [
        f"\tsecurity context doi: {context.doi}\n",
        f"\tsecurity context algorithm: {context.alg}\n",
        f"\tsecurity context length: {len(context.context)}\n",
        f"\tsecurity context: {text}\n",
    ]


def sa_line(record: Message, *, now: float, zone: tzinfo | None = None) -> str:
    """An SA in one line under SHORT_HEADER, for setkey -Dl; '' if the message has none.

    The columns: minute and second, protocol, first letter of the state, SPI, what is left of the
    hard lifetime in seconds, addresses.
    """
    src, dst, association = record.src, record.dst, record.sa
    if src is None or dst is None or association is None:
        return ""
    left = ""
    if record.hard and record.current and record.hard.addtime:
        left = str(max(0, record.current.addtime + record.hard.addtime - int(now)))
    at = _local(now, zone)
    clock = f"{at:%M%S}" if at else ""
    proto = satype(record)[:3]
    state = int(association.state)
    letter = STATES[state][0] if state < SaState.DEAD else "x" if state == SaState.DEAD else "?"
    return (
        f"{clock:4} {proto:3} {letter} {association.spi:08x} {left:7}"
        f" {_ip(src, None)} -> {_ip(dst, None)}\n"
    )


def is_per_socket(record: Message) -> bool:
    """Whether this policy belongs to one socket: Linux tells by the number, FreeBSD the scope."""
    if record.policy is None:
        return False
    if record.dialect is LINUX:
        return record.policy.id % 8 >= 3
    return record.dialect is FREEBSD and record.policy.scope == Scope.PCB


def _selector(address: Address, has_port: bool) -> str:
    text = str(ipaddress.ip_address(address.address))
    if address.prefixlen != 8 * len(address.address):
        text += f"/{address.prefixlen}"
    if has_port:
        text += f"[{address.port or 'any'}]"
    return text


def _upper(src: Address, dst: Address) -> str:
    text = protocols.name(src.proto)
    if src.port or dst.port:
        if src.proto in protocols.TYPED:
            return f"{text} {src.port},{dst.port}"
        if src.proto == protocols.GRE:
            return f"{text} {src.port << 16 | dst.port}"
    return text


def policy(
    record: Message, *, zone: tzinfo | None = None, has_tunnel_ports: bool | None = None
) -> str:
    """A policy as setkey -DP prints it, from an SPDDUMP, SPDGET or SPDADD message; or a flow.

    Args:
        record: the message.
        zone: of the times.
        has_tunnel_ports: whether tunnel ends show their ports; None: where they have any.
    """
    if is_flow(record):
        return flow(record)
    src, dst, found = record.src, record.dst, record.policy
    if found is None:
        return "no X_POLICY extension.\n"
    if is_per_socket(record):
        out = ["(per-socket policy) "]
    elif src is None or dst is None:
        out = ["(no selector, probably per-socket policy) "]
    else:
        has_ports = src.proto not in (*protocols.TYPED, protocols.GRE)
        out = [
            f"{_selector(src, has_ports)} {_selector(dst, has_ports)} {_upper(src, dst)}",
        ]
    out.append("\n\t" + policies.render(found, "\n\t", has_ports=has_tunnel_ports) + "\n")
    if record.current is not None:
        out.append(
            f"\tcreated: {time(record.current.addtime, zone)}"
            f"  lastused: {time(record.current.usetime, zone)}\n"
        )
    if record.hard is not None:
        out.append(f"\tlifetime: {record.hard.addtime}(s) validtime: {record.hard.usetime}(s)\n")
    out += _context(record)
    out.append(f"\tspid={found.id} seq={record.seq} pid={record.pid}\n\trefcnt={record.reserved}\n")
    return "".join(out)
