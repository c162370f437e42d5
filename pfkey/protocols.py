"""Upper-layer protocols: names by number as Debian's /etc/protocols spells them, and back.

A table of our own, so that the same policy reads the same on every machine.
"""

from collections.abc import Mapping
from types import MappingProxyType

ICMP = 1
TCP = 6
UDP = 17
GRE = 47
ICMPV6 = 58
MOBILITY_HEADER = 135
TYPED = (ICMP, ICMPV6, MOBILITY_HEADER)  # type and code travel in the port fields

# fmt: off
NAMES: Mapping[int, str] = MappingProxyType({
    0: "ip", 1: "icmp", 2: "igmp", 4: "ipencap", 6: "tcp", 8: "egp", 9: "igp", 17: "udp",
    33: "dccp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp",
    51: "ah", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 88: "eigrp", 89: "ospf",
    94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp",
    132: "sctp", 135: "mobility-header", 136: "udplite", 137: "mpls-in-ip",
})
# fmt: on

# `ip4`, `icmp6` and `mh` are setkey's own words.
NUMBERS: Mapping[str, int] = MappingProxyType(
    {name: number for number, name in NAMES.items()} | {"ip4": 4, "icmp6": 58, "icmpv6": 58}
    | {"mh": 135}
)  # fmt: skip


def name(number: int) -> str:
    """The protocol's name, or its number in digits: 255, any, has no name there."""
    return NAMES.get(number, str(number))
