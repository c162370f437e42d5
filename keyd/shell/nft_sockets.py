"""Policies of single sockets as nft rules: plain text out, no system touched.

A socket bears the number of its pair of policies in its mark (`keyd.shell.marks`). The base chains
of `keyd.shell.nft_rules` lead here:

    socket_mark      gives a packet its socket's mark, where somebody else's rule or the program
                     itself has given it another
    socket_group     gives one that has none, or a weaker one, the mark of the group of its
                     socket's maker
    socket_out       before the SPD: what privileged pairs say of packets that leave
    socket_out_after behind the SPD: what other pairs say, where the SPD said nothing
    guard_sockets    a packet that a pair steers leaves by the pair's device, and nothing else does
    socket_in        before the SPD: what privileged pairs say of packets in clear that come in
    socket_in_after  behind it: what others say
    sealed_sockets   of packets that were opened, and enter by a TUN device (`keyd.doors`)
    socket_natt_in   lets in ESP in UDP for sockets that have set UDP_ENCAP,
    socket_natt      and gives it to the data path (`keyd.shell.nft_natt`)

Inbound the packet's socket is looked up by its ports, so it must show them: a later fragment does
not. Where the first one is dropped the others have nothing to be joined with. Where it is let in,
they are left to the SPD. In the midst of a TCP handshake there is no socket yet to be found: where
a listener lets in clear segments, its answer notes for whom. A socket that is bound to no address
is found for what is on its way to others, too: of that nothing is said here.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from keyd import doors
from keyd.model import PolicySpec
from keyd.shell import nft_natt
from keyd.shell.marks import Marks
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, Level, PolicyType

UNSTEERED = "{ local, broadcast, anycast, multicast }"
CHAINS = (
    "socket_mark", "socket_group", "socket_out", "socket_out_after", "guard_sockets", "socket_in",
    "socket_in_after", "sealed_sockets", "socket_natt_in", "socket_natt",
)  # fmt: skip
FIXED = {
    "socket_polvio": ("counter name in_polvio drop",),
    "socket_discard": ("counter name in_discard drop",),
    "socket_unknown": ("counter name hold_dropped drop",),
}
_OTHERS, _OURS = "fib daddr type unicast", "fib daddr type != unicast"  # whose packets these are
_LATER_FRAGMENTS = ("ip frag-off & 0x1fff != 0 return", "frag frag-off != 0 return")
_GREETED = {"4": "ip", "6": "ip6"}  # sets of those in the midst of a handshake
_GREETED_LIMITS = "size 4096; flags dynamic,timeout; timeout 30s"
SETS = tuple(
    f"socket_greeted{n} {{ type ipv{n}_addr . inet_service . ipv{n}_addr . inet_service;"
    f" {_GREETED_LIMITS}; }}"
    for n in _GREETED
)
_GREET = tuple(
    f"tcp flags & (syn | ack) == (syn | ack) update @socket_greeted{n}"
    f" {{ {ip} daddr . tcp dport . {ip} saddr . tcp sport }}"
    for n, ip in _GREETED.items()
)
_IS_GREETED = tuple(
    f"{ip} saddr . tcp sport . {ip} daddr . tcp dport @socket_greeted{n} accept"
    for n, ip in _GREETED.items()
)
_CARRIES: dict[int, set[int]] = {  # what has protected all that enters by a door
    doors.MAIN: {IPPROTO_ESP},
    doors.AH: {IPPROTO_AH},
    doors.ESP_AH: {IPPROTO_ESP, IPPROTO_AH},
    doors.COMP: set(),
}


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the base chains have for sockets' sake.

    Of it nothing costs much without any pair, nor does it take a kernel that looks up sockets
    (CONFIG_NFT_SOCKET): where there is none, it is the first pair that is refused.
    """

    marks: Marks

    @property
    def _first(self) -> str:
        return f"{self.marks.socket(0):#010x}"

    @property
    def _steered(self) -> str:
        m = self.marks
        return f"meta mark & {m.mask:#010x} >= {m.steered(0):#010x}"

    @property
    def strip(self) -> tuple[str, ...]:
        """Only a pair's own rule steers to its device."""
        return (f"{self._steered} meta mark set meta mark & {self.marks.others:#010x}",)

    @property
    def steered(self) -> tuple[str, ...]:
        """What has been decided already."""
        return (f"{self._steered} accept",)

    @property
    def out(self) -> tuple[str, ...]:
        """Before the SPD."""
        mask = f"{self.marks.mask:#010x}"
        return (
            "jump socket_mark",
            "jump socket_group",
            f"meta mark & {mask} >= {self._first} jump socket_out",
        )

    @property
    def out_after(self) -> tuple[str, ...]:
        """Behind the SPD, where it said nothing."""
        return (f"meta mark & {self.marks.mask:#010x} >= {self._first} jump socket_out_after",)


def wanted_doors(pairs: Iterable[SocketPair]) -> set[int]:
    """The doors besides the main one that there must be."""
    found = {doors.of_pair(pair.number) for pair in pairs if pair.has_device}
    if any(pair.inward is not None and pair.inward.is_required for pair in pairs):
        found |= set(doors.ALL) - {doors.MAIN}
    return found


def rules(
    pairs: Iterable[SocketPair], groups: Iterable[SocketGroup], marks: Marks, device: str,
    natt_port: int = 0,
) -> dict[str, list[str]]:  # fmt: skip
    """All rules for these pairs and the groups of processes that have some, by chain.

    ESP in UDP goes to `natt_port`.
    """
    pairs, groups = tuple(pairs), tuple(groups)
    greets = False
    found: dict[str, list[str]] = {name: [] for name in CHAINS}
    clear: dict[str, dict[int, str]] = {"socket_in": {}, "socket_in_after": {}}
    if pairs:
        own = f"socket mark & {marks.mask:#010x}"
        found["socket_mark"].append(f"{own} < {marks.socket(0):#010x} return")
    for pair in pairs:
        mark = marks.socket(pair.number)
        wears = f"meta mark & {marks.mask:#010x} == {mark:#010x}"
        found["socket_mark"].append(
            f"socket mark & {marks.mask:#010x} == {mark:#010x} meta mark set"
            f" meta mark & {marks.others:#010x} | {mark:#010x}"
        )
        after = "" if pair.is_privileged else "_after"
        if pair.is_privileged and pair.inward is not None and _in(pair.inward) == "accept":
            found["socket_out"] += [f"{wears} {rule}" for rule in _GREET]
            greets = True
        found[f"socket_out{after}"] += [f"{wears} {rule}" for rule in _out(pair, marks)]
        found["socket_out"].append(f"{wears} return")
        if pair.inward is not None:
            clear[f"socket_in{after}"][mark] = _in(pair.inward)
        clear["socket_in"].setdefault(mark, "return")
        found["guard_sockets"] += _guard(pair, marks, device)
    if pairs:  # a number that nobody knows is one whose policy was lost
        unknown = {marks.socket(number) for number in range(marks.pairs)} - set(clear["socket_in"])
        clear["socket_in"] |= dict.fromkeys(sorted(unknown), "goto socket_unknown")
        found["socket_out"].append("goto socket_unknown")
    for chain, verdicts in clear.items():
        if verdicts:
            found[chain] = [f"{_OTHERS} return", *_LATER_FRAGMENTS, _by_socket(marks, verdicts)]
    weaker = _Weaker(pairs, marks)
    for group in groups:
        mark = marks.socket(group.pair)
        found["socket_group"].append(
            f"{_is_of(group)} meta mark & {marks.mask:#010x} {weaker.than(group)}"
            f" meta mark set meta mark & {marks.others:#010x} | {mark:#010x}"
        )
        for chain, verdicts in clear.items():
            if verdicts.get(mark, "return") != "return":  # before a weaker mark has its say
                found[chain].insert(-1, f"{weaker.bears(group)} {verdicts[mark]}")
    if greets:
        found["socket_in"] = [*_IS_GREETED, *found["socket_in"]]
    found["sealed_sockets"] = _sealed(pairs, groups, marks, device)
    if encap := [f"{marks.socket(pair.number):#010x}" for pair in pairs if pair.is_encap]:
        whose = f"socket mark & {marks.mask:#010x} {{ {', '.join(encap)} }}"
        found["socket_natt_in"] = [*_LATER_FRAGMENTS, *nft_natt.socket_accepts(whose)]
        found["socket_natt"] = nft_natt.socket_redirects(whose, natt_port)
    found["guard_sockets"] += [  # nobody reads there
        f'oifname "{doors.device(device, door)}" counter name out_guard drop'
        for door in doors.ALL[1:]
        if door in wanted_doors(pairs)
    ]
    return found


def _is_of(group: SocketGroup) -> str:
    return f'socket cgroupv2 level {group.level} "{group.path}"'


class _Weaker:
    """Which marks of sockets do not stand against the policies of a group: those that say none,
    and a user's in a group of the privileged.
    """

    def __init__(self, pairs: Iterable[SocketPair], marks: Marks) -> None:
        self._pairs = {pair.number: pair for pair in pairs}
        self._marks = marks

    def than(self, group: SocketGroup) -> str:
        """What they are compared with."""
        of_group = self._pairs.get(group.pair)
        is_privileged = of_group is not None and of_group.is_privileged
        weak = [
            f"{self._marks.socket(pair.number):#010x}"
            for pair in self._pairs.values()
            if not pair.policies or (is_privileged and not pair.is_privileged)
        ]
        first = self._marks.socket(0)
        return (
            f"{{ 0x00000000-{first - 1:#010x}, {', '.join(weak)} }}" if weak else f"< {first:#010x}"
        )

    def bears(self, group: SocketGroup) -> str:
        """A socket of the group that bears one of them."""
        return f"{_is_of(group)} socket mark & {self._marks.mask:#010x} {self.than(group)}"


def _by_socket(marks: Marks, verdicts: dict[int, str]) -> str:
    said = ", ".join(f"{mark:#010x} : {verdict}" for mark, verdict in verdicts.items())
    return f"socket mark & {marks.mask:#010x} vmap {{ {said} }}"


def _out(pair: SocketPair, marks: Marks) -> list[str]:
    """What becomes of a packet that wears the pair's mark."""
    policy = pair.out
    if policy is None:
        return []
    if policy.type == PolicyType.DISCARD:
        return ["counter name out_discard drop"]
    if policy.type != PolicyType.IPSEC:
        return ["accept"]
    own = "counter name out_own drop" if policy.is_required else "accept"
    steered = marks.steered(pair.number)
    return [
        f"fib daddr type {UNSTEERED} {own}",
        f"meta mark set meta mark & {marks.others:#010x} | {steered:#010x} accept",
    ]


def _guard(pair: SocketPair, marks: Marks, device: str) -> list[str]:
    if not pair.has_device:
        return []
    name, steered = doors.device(device, doors.of_pair(pair.number)), marks.steered(pair.number)
    is_steered = f"meta mark & {marks.mask:#010x} == {steered:#010x}"
    return [
        *([f'oifname "{name}" {is_steered} accept'] if pair.seals else []),
        f'oifname "{name}" counter name out_guard drop',
        *([f"{is_steered} counter name out_guard drop"] if pair.seals else []),
    ]


def _in(policy: PolicySpec) -> str:
    """What becomes of a packet in clear."""
    if policy.type == PolicyType.DISCARD:
        return "goto socket_discard"
    return "goto socket_polvio" if policy.is_required else "accept"


def _sealed(
    pairs: Iterable[SocketPair], groups: Iterable[SocketGroup], marks: Marks, device: str
) -> list[str]:
    """Who may have what was opened, by the door it enters."""
    found = []
    wanted = wanted_doors(pairs)
    weaker = _Weaker(pairs, marks)
    for pair in pairs:
        if pair.has_device:
            name = f'iifname "{doors.device(device, doors.of_pair(pair.number))}"'
            mark = f"socket mark & {marks.mask:#010x} == {marks.socket(pair.number):#010x}"
            of_group = [
                f"{name} {weaker.bears(group)} accept"
                for group in groups
                if group.pair == pair.number
            ]
            found += [
                f"{name} {_OTHERS} counter name in_polvio drop",
                *([f"{name} {mark} accept", *of_group] if pair.opens else []),
                f"{name} counter name in_polvio drop",
            ]
    for door, carries in _CARRIES.items():
        if door != doors.MAIN and door not in wanted:
            continue
        verdicts = {
            marks.socket(pair.number): verdict
            for pair in pairs
            if (verdict := _in_sealed(pair.inward, carries))
        }
        name = f'iifname "{doors.device(device, door)}"'
        if verdicts:
            found.append(f"{name} {_OURS} {_by_socket(marks, verdicts)}")
        for group in groups:
            if verdict := verdicts.get(marks.socket(group.pair), ""):
                found.append(f"{name} {_OURS} {weaker.bears(group)} {verdict}")
        if door != doors.MAIN:
            found.append(f"{name} accept")
    return found


def _in_sealed(policy: PolicySpec | None, carries: set[int]) -> str:
    """What keeps a packet that was protected by these from a socket; nothing, if it may have it."""
    if policy is None or policy.type not in (PolicyType.DISCARD, PolicyType.IPSEC):
        return ""
    if policy.type == PolicyType.DISCARD:
        return "goto socket_discard"
    required = {request.proto for request in policy.requests if request.level != Level.USE}
    lacks = required & {IPPROTO_ESP, IPPROTO_AH} - carries
    return "goto socket_polvio" if lacks else ""
