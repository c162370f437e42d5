"""Policies as nft rules: plain text out, no system touched (RFC 4301 section 5).

A policy becomes one rule, or a few, in the `policy_*` chain of its direction, in match order, so
that the first match decides as in the SPD. The table's base chains lead there:

    cut        keeps connection tracking from joining the fragments that the data path sends, and
               from what it sends in clear
    output   → policy_out   (packets to others)   protect mark, pass, or drop
             → policy_own   (packets that routing never gives to a TUN: to this host's own
                             addresses, and to broadcast and multicast ones)
    late     → the same again, for packets whose mark others have overwritten since
    inbound  → policy_in    before reassembly and before routing
    transit  → policy_out   (packets to be forwarded, before routing; those from the TUN as well)
    leaving  → the same again for those that were not routed into the TUN; policy_own
               for broadcast and multicast
    ICMP errors before policy_out → policy_error (`keyd.shell.nft_errors`)
    natt       gives ESP in UDP to the data path and IKE to its daemon (`keyd.shell.nft_natt`)
    forward  → policy_fwd   (forwarded packets; empty, and so without effect, without fwd policies)
    guard      drops what bears the protect mark and leaves by another device than the TUN

A packet from one tunnel that an outbound policy sends into another passes the TUN twice. It cannot
do so for ever: each time the kernel forwards it into the TUN, it loses a hop.

A non-first fragment shows no ports, and over IPv6 its next header is a mere claim (RFC 8200
section 4.5: only the first fragment's counts). A rule that protects is therefore followed by one
for fragments, by address and, over IPv4, protocol: a superset, which fails closed. Inbound it
takes non-first fragments, outbound all, so that the data path can put them together. Rules that
let packets pass leave to those that follow what they cannot be sure of.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network

from keyd import doors
from keyd.model import PolicySpec
from keyd.shell import nft_errors, nft_natt, nft_sockets
from keyd.shell.holds import encode_comment
from keyd.shell.marks import Marks
from keyd.shell.nft_sockets import UNSTEERED
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, UNSPEC_PROTO, Dir, PolicyType
from pfkey.selector import Range, Selector

TABLE = "pfkey"
PRIORITY_STEER = -90  # after mangle (-150) and dstnat (-100): others' marks come first
PRIORITY_EARLY = -450  # before the reassembly of connection tracking (-400)
PRIORITY_LATE = 300  # after everybody's
PRIORITY_GUARD = -500  # the first after routing: what others do to marks there comes too late
POLICY_CHAINS = ("policy_out", "policy_own", nft_errors.CHAIN, "policy_in", "policy_fwd")
COUNTERS = (
    "in_polvio",  # clear packets that an inbound policy wants protected
    "in_own",  # of these, what the host sends to itself
    "in_discard",  # inbound packets that a discard policy selects
    "out_discard",  # outbound packets that a discard policy selects
    "out_own",  # packets to the host's own addresses whose policy demands protection
    "out_guard",  # packets under a policy that would have left in clear past the TUN
    "fwd_polvio",
    "fwd_discard",
    "hold_dropped",  # what a policy selects that a crashed predecessor left behind
)

_TCP, _UDP, _ICMP, _ICMPV6, _MH = 6, 17, 1, 58, 135
_WITH_PORTS = (_TCP, _UDP, 33, 132, 136)  # and DCCP, SCTP, UDP-Lite
_TYPE_AND_CODE = {
    ("ip", _ICMP): ("icmp type", "icmp code"),
    ("ip6", _ICMPV6): ("icmpv6 type", "icmpv6 code"),
    ("ip6", _MH): ("mh type", ""),
}
_IPSEC = f"{{ {IPPROTO_ESP}, {IPPROTO_AH}, {IPPROTO_COMP} }}"
# whole ones alone: nobody takes them in fragments (RFC 6980)
_NEIGHBOUR_DISCOVERY = (
    f"meta l4proto {_ICMPV6} ip6 hoplimit 255 exthdr frag missing icmpv6 type 133-137 accept"
)
# nft takes IPv6 tails of AH for extension headers and tells no protocol; the header itself does
_SEALED = (f"meta l4proto {_IPSEC}", f"frag nexthdr {IPPROTO_AH}")
_PRIVATE_UID = 0x38000000  # users from here on are nobody's, see `keyd.shell.plane_real`
_REFUSED_IN = "refused_in"  # the chain that drops and counts clear packets under `require`


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the fixed part of the table depends on.

    `bypass_uid` is the fsuid under which the data path makes its sockets: a random number, so
    that nobody else's bypass mark counts, and ours need not stand. `fragment_key`, of 32 bits and
    just as random, changes the identification of IPv6 fragments that come out of the TUN: a tail
    in clear that claims to be ESP must be let in, and without knowing the key it cannot join a
    head that was protected. `natt_port` is the sink of `keyd.shell.nft_natt`.
    """

    table: str = TABLE
    device: str = "pfkey0"
    marks: Marks = field(default_factory=Marks)
    bypass_uid: int
    fragment_key: int
    natt_port: int = 0

    @property
    def is_protect(self) -> str:
        """What selects packets that lead to the TUN."""
        return f"meta mark & {self.marks.mask:#010x} == {self.marks.protect:#010x}"

    @property
    def is_bypass(self) -> str:
        """What selects packets with the mark of the data path."""
        return f"meta mark & {self.marks.mask:#010x} == {self.marks.bypass:#010x}"

    @property
    def is_ours(self) -> str:
        """What selects packets that the data path itself sends."""
        is_private = self.bypass_uid >= _PRIVATE_UID
        return f"{'' if is_private else self.is_bypass + ' '}meta skuid {self.bypass_uid}"

    @property
    def _protect(self) -> str:
        m = self.marks
        return f"meta mark set meta mark & {m.others:#010x} | {m.protect:#010x} accept"

    def skeleton(self) -> list[str]:
        """Commands that fill an empty table with counters, chains and fixed rules."""
        m, t = self.marks, f"inet {self.table}"
        is_bypass, is_protect, is_ours = self.is_bypass, self.is_protect, self.is_ours
        entrances = (doors.device(self.device, door) for door in doors.ALL)
        from_tun = f"iifname {{ {', '.join(entrances)} }}"
        strip = f"meta mark set meta mark & {m.others:#010x}"
        exempt = (*(f"{is_bypass} {sealed} accept" for sealed in _SEALED), f"{is_ours} accept")
        sockets = nft_sockets.Hooks(m)
        decision = (
            _NEIGHBOUR_DISCOVERY,
            *sockets.out,
            f"fib daddr type {UNSTEERED} goto own",
            nft_errors.WAY,
            "jump policy_out",
            *sockets.out_after,
        )
        fixed = {
            **nft_sockets.FIXED,
            **nft_errors.fixed(self._protect),
            "own": ("jump policy_own", *sockets.out_after),
            _REFUSED_IN: ('iifname "lo" counter name in_own drop', "counter name in_polvio drop"),
        }
        chains = {
            "cut": (  # IPv4's sockets say it themselves (IP_NODEFRAG)
                f"type filter hook output priority {PRIORITY_EARLY}",
                f"{is_ours} exthdr frag exists notrack",
                # what goes out in clear was tracked on its way into the TUN
                f"{is_ours} meta l4proto != {_IPSEC} notrack",
            ),
            "output": (
                f"type route hook output priority {PRIORITY_STEER}",
                # a router's kernel announces there, without an address, which groups it is in
                f'oifname "{self.device}" ip6 saddr :: drop',
                *exempt,
                f"{is_bypass} {strip}",
                f"{is_protect} {strip}",
                *sockets.strip,
                *decision,
            ),
            "late": (
                f"type route hook output priority {PRIORITY_LATE}",
                f"{is_protect} accept",
                *sockets.steered,
                *exempt,
                *decision,
            ),
            "guard": (
                f"type filter hook postrouting priority {PRIORITY_GUARD}",
                f'{is_protect} oifname != "{self.device}" counter name out_guard drop',
                "jump guard_sockets",
            ),
            "inbound": (
                f"type filter hook prerouting priority {PRIORITY_EARLY}",
                f"{from_tun} ip6 nexthdr 44 @nh,352,32 set @nh,352,32 ^ {self.fragment_key:#010x}",
                f"{from_tun} ip6 nexthdr != 44 exthdr frag exists counter name in_discard drop",
                "jump sealed_sockets",
                f"{from_tun} accept",
                *(f"{sealed} fib daddr type local accept" for sealed in _SEALED),
                *nft_natt.accepts(),
                "jump socket_natt_in",
                _NEIGHBOUR_DISCOVERY,
                "jump socket_in",
                "jump policy_in",
                "jump socket_in_after",
            ),
            "transit": (
                f"type filter hook prerouting priority {PRIORITY_LATE}",
                f"{is_protect} {strip}",
                f"fib daddr type {UNSTEERED} accept",
                nft_errors.WAY,
                "goto policy_out",
            ),
            "leaving": (
                f"type filter hook forward priority {PRIORITY_LATE}",
                f"{is_protect} accept",
                f'oifname "{self.device}" accept',
                f"fib daddr type {UNSTEERED} goto policy_own",
                nft_errors.WAY,
                "goto policy_out",
            ),
            "natt": (
                f"type filter hook input priority {PRIORITY_LATE}",
                *nft_natt.redirects(self.natt_port),
                "jump socket_natt",
            ),
            "forward": (
                "type filter hook forward priority -1",
                f"{from_tun} accept",
                "goto policy_fwd",
            ),
        }
        commands = [f"add counter {t} {name}" for name in COUNTERS]
        for name, type in nft_natt.SETS.items():
            commands += (f"add set {t} {name} {{ type {type}; }}", f"flush set {t} {name}")
        commands += [f"add set {t} {what}" for what in nft_sockets.SETS]
        named = (*POLICY_CHAINS, *nft_sockets.CHAINS, *fixed)
        commands += [f"add chain {t} {name}" for name in named]
        commands += [f"add rule {t} {name} {rule}" for name, all in fixed.items() for rule in all]
        for name, (hook, *rules) in chains.items():
            commands.append(f"add chain {t} {name} {{ {hook}; policy accept; }}")
            commands += [f"add rule {t} {name} {rule}" for rule in rules]
        return commands

    def socket_rules(
        self, pairs: Iterable[SocketPair], groups: Iterable[SocketGroup]
    ) -> dict[str, list[str]]:
        """All rules for policies of sockets by chain, see `keyd.shell.nft_sockets`."""
        return nft_sockets.rules(pairs, groups, self.marks, self.device, self.natt_port)

    def policy_rules(self, spec: PolicySpec) -> dict[str, list[str]]:
        """The rules of one policy by chain; none where it can select nothing."""
        selection = _selection(spec.selector)
        if selection is None:
            return {}
        match spec.dir:
            case Dir.OUT:
                chains = {"policy_out": self._out(spec), "policy_own": _own(spec)}
            case Dir.IN:
                chains = {"policy_in": _in(spec, "in", f"goto {_REFUSED_IN}")}
            case Dir.FWD:
                chains = {"policy_fwd": _in(spec, "fwd", "counter name fwd_polvio drop")}
            case _:
                return {}
        rules: dict[str, list[str]] = {}
        for number, (chain, verdict) in enumerate(chains.items()):
            if not verdict:
                continue
            remark = "" if number else f' comment "{encode_comment(spec)}"'
            is_passed = verdict == "accept"
            doubt = selection.doubt(spec.dir) if is_passed else ""
            rules[chain] = [f"{selection.whole}{doubt} {verdict}{remark}"]
            fragments = selection.fragments(spec.dir)
            if fragments and spec.type == PolicyType.IPSEC and not is_passed:
                rules[chain].append(f"{fragments} {verdict}")
        if spec.dir == Dir.OUT:
            rules[nft_errors.CHAIN] = nft_errors.rules(spec)
        return rules

    def _out(self, spec: PolicySpec) -> str:
        if spec.is_hold:
            return "counter name hold_dropped drop"
        if spec.type == PolicyType.DISCARD:
            return "counter name out_discard drop"
        if spec.type == PolicyType.IPSEC:
            return self._protect
        return "accept"


def _own(spec: PolicySpec) -> str:
    """For packets to own addresses, where nothing can be sealed: `use` means clear."""
    if spec.is_hold:
        return _held(spec)
    if spec.type == PolicyType.DISCARD:
        return "counter name out_discard drop"
    return "counter name out_own drop" if spec.is_required else "accept"


def _in(spec: PolicySpec, prefix: str, refusal: str) -> str:
    if spec.is_hold:
        return _held(spec)
    if spec.type == PolicyType.DISCARD:
        return f"counter name {prefix}_discard drop"
    return refusal if spec.is_required else "accept"


def _held(spec: PolicySpec) -> str:
    """A held `use` stops nothing that it would have let pass in clear."""
    if spec.is_required or spec.type == PolicyType.DISCARD:
        return "counter name hold_dropped drop"
    return ""


@dataclass(frozen=True, slots=True)
class _Selection:
    """What selects a policy's packets: by address, by protocol, by ports (nft's words)."""

    addresses: str
    proto: str
    ports: str
    is_ipv6: bool

    @property
    def whole(self) -> str:
        """What selects packets that show all that the policy asks for."""
        return " ".join(part for part in (self.addresses, self.proto, self.ports) if part)

    def fragments(self, dir: Dir) -> str:
        """What selects fragments that could belong to such packets and do not show it."""
        if self.is_ipv6:
            which = "exthdr frag exists" if dir == Dir.OUT else "frag frag-off != 0"
            return f"{self.addresses} {which}" if self.proto or self.ports else ""
        which = f"ip frag-off & {0x3FFF if dir == Dir.OUT else 0x1FFF:#06x} != 0"
        return " ".join(filter(None, (self.addresses, self.proto, which))) if self.ports else ""

    def doubt(self, dir: Dir) -> str:
        """What keeps fragments from a rule that lets pass, where they may belong elsewhere."""
        if self.is_ipv6:
            # an outbound tail is believed to be what it says: it was made in this network
            is_sure = not self.ports and (dir == Dir.OUT or not self.proto)
            return "" if is_sure else " exthdr frag missing"
        return " ip frag-off & 0x3fff == 0" if self.ports and dir == Dir.OUT else ""


def _selection(selector: Selector) -> _Selection | None:
    """The selector in nft's words; None where it can select nothing."""
    ip = "ip" if len(selector.src.address) == 4 else "ip6"
    addresses = [
        f"{ip} {side} {_network(end)}"
        for side, end in (("saddr", selector.src), ("daddr", selector.dst))
        if end.prefixlen
    ] or [f"meta nfproto {'ipv4' if ip == 'ip' else 'ipv6'}"]
    number, sport, dport = selector.proto, selector.src.port, selector.dst.port
    proto = ""
    if number != UNSPEC_PROTO:
        proto = f"meta l4proto {number}"
    elif selector.has_ports:
        proto = f"meta l4proto {{ {', '.join(map(str, _WITH_PORTS))} }}"
    names = ("", "")
    if number == UNSPEC_PROTO or number in _WITH_PORTS:
        names = ("th sport", "th dport")
    elif (ip, number) in _TYPE_AND_CODE and sport <= 255 and dport <= 255:
        names = _TYPE_AND_CODE[ip, number]  # Linux: type in the source's port, code in the other's
    ports = []
    for name, port in zip(names, (sport, dport), strict=True):
        if port and not name:
            return None
        if port:
            ports.append(f"{name} {port}")
    return _Selection(" ".join(addresses), proto, " ".join(ports), ip == "ip6")


def _network(end: Range) -> str:
    return str(ip_network((end.address, end.prefixlen), strict=False))
