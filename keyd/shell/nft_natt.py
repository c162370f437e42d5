"""ESP in UDP as nft rules: it is told from IKE by its first octets (RFC 3948 section 2.2).

An IKE daemon that knows nothing of us has a socket at port 4500, or nobody has. Behind an
operator's filter, datagrams there that are no IKE are given another port, `sink`, at which nobody
reads but the workers' raw sockets; the daemon gets the rest. So

- who says `policy drop; udp dport 4500 accept` lets both in;
- policies that want packets protected do not take ESP in UDP for clear packets.

All of it is about destinations and ports that an SA names, kept in sets, and about sockets that
have set UDP_ENCAP, known by their marks (`keyd.shell.nft_sockets`); of others nothing is touched.
"""

from ipaddress import ip_address

from keyd.model import SaSpec
from pfkey.const import Mode

SETS = {
    "natt4": "ipv4_addr . inet_service",
    "natt6": "ipv6_addr . inet_service",
    "natt_tails4": "ipv4_addr . ipv4_addr",
    "natt_tails6": "ipv6_addr . ipv6_addr",
}
Element = tuple[str, str]  # of which set, and what

_IP = {4: "ip", 6: "ip6"}
_IS_ESP = ("@th,64,32 != 0", "udp length 9")  # or a keepalive, of a single octet
_LOCAL = "fib daddr type local"


def elements(sa: SaSpec) -> tuple[Element, ...]:
    """What an SA has in the sets: of an outbound one too, which selects nothing that is ours.

    Later fragments show no ports. A tail joins a head that was let in, and heads show what they
    are; but heads that came out of a tunnel were let in as well. So tails are let in between hosts
    that have transport mode SAs, out of which no fragments come.
    """
    if not sa.encap:
        return ()
    version = 4 if len(sa.dst) == 4 else 6
    src, dst = ip_address(sa.origin or sa.src), ip_address(sa.dst)
    found = [(f"natt{version}", f"{dst} . {sa.dport}")]
    if sa.mode != Mode.TUNNEL:
        found.append((f"natt_tails{version}", f"{src} . {dst}"))
    return tuple(found)


def changes(table: str, before: frozenset[Element], after: frozenset[Element]) -> list[str]:
    """Commands that make the sets' elements these."""
    commands = []
    for verb, some in (("delete", before - after), ("add", after - before)):
        for name in SETS:
            found = sorted(what for of, what in some if of == name)
            if found:
                commands.append(f"{verb} element {table} {name} {{ {', '.join(found)} }}")
    return commands


def accepts() -> list[str]:
    """Rules for what comes in, before policies are asked."""
    rules = [
        f"{ip} daddr . udp dport @natt{v} {which} {_LOCAL} accept"
        for v, ip in _IP.items()
        for which in _IS_ESP
    ]
    return [
        *rules,
        "ip protocol udp ip frag-off & 0x1fff != 0 ip saddr . ip daddr @natt_tails4 accept",
        "frag nexthdr udp frag frag-off != 0 ip6 saddr . ip6 daddr @natt_tails6 accept",
    ]


def redirects(sink: int) -> list[str]:
    """Rules of a chain at the input hook, behind everybody's filters.

    The checksum goes: a zero must stay one, and what a device was to finish cannot be mended.
    """
    return [
        f"{ip} daddr . udp dport @natt{v} {which} {_to(sink)}"
        for v, ip in _IP.items()
        for which in _IS_ESP
    ]


def socket_accepts(whose: str) -> list[str]:
    """As `accepts`, for the sockets that `whose` selects."""
    return [f"meta l4proto udp {which} {_LOCAL} {whose} accept" for which in _IS_ESP]


def socket_redirects(whose: str, sink: int) -> list[str]:
    """As `redirects`, for the sockets that `whose` selects."""
    return [f"meta l4proto udp {which} {whose} {_to(sink)}" for which in _IS_ESP]


def _to(sink: int) -> str:
    return f"udp dport set {sink} udp checksum set 0 accept"
