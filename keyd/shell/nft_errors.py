"""ICMP errors as nft rules: what they quote decides as well (RFC 4301 section 6).

An error about a packet that came protected quotes it, and leaves from an address that the policy
may not name: that of a gateway, or of a router behind it. So what quotes a packet whose answer an
outbound policy protects goes into the TUN, whatever the policies say of the error's own addresses,
and the outbound worker decides (`keyd.packet.outbound`). Asked are the addresses that are quoted,
in reverse; protocol and ports, which need not stand at a fixed place, are left to the worker.
"""

from keyd.model import PolicySpec
from pfkey.const import UNSPEC_PROTO, PolicyType
from pfkey.selector import Range

CHAIN = "policy_error"
_STEER = "steer_error"
WAY = "meta l4proto { 1, 58 } jump icmp_errors"  # what all other packets cost
ALL = (f"goto {_STEER}",)  # of more policies than can be asked one by one: the worker asks them
# behind the 8 octets of ICMP the quoted header: bits to its source and destination, their length
_PLACES = {4: (1, 160, 192, 32), 16: (58, 128, 256, 128)}


def fixed(protect: str) -> dict[str, tuple[str, ...]]:
    """Chains that stay as they are, by name; `protect` is a verdict."""
    return {
        "icmp_errors": (
            f"icmp type {{ 3, 4, 5, 11, 12 }} jump {CHAIN}",
            f"icmpv6 type 1-127 jump {CHAIN}",
        ),
        _STEER: (protect,),
    }


def rules(spec: PolicySpec) -> list[str]:
    """What an outbound policy says of errors about packets that its own would answer."""
    s = spec.selector
    if spec.is_hold:
        verdict = "counter name hold_dropped drop"
    elif spec.type == PolicyType.IPSEC:
        verdict = f"goto {_STEER}"
    elif s.proto == UNSPEC_PROTO and not s.has_ports:
        verdict = "return"
    else:
        return []
    proto, src, dst, bits = _PLACES[len(s.src.address)]
    asked = (_is_in(s.src, dst, bits), _is_in(s.dst, src, bits))
    return [" ".join((f"meta l4proto {proto}", *filter(None, asked), verdict))]


def _is_in(end: Range, at: int, bits: int) -> str:
    if not end.prefixlen:
        return ""
    mask = (1 << bits) - (1 << bits - end.prefixlen)
    value = int.from_bytes(end.address, "big") & mask
    shown = bits // 4 + 2
    if end.prefixlen == bits:
        return f"@th,{at},{bits} {value:#0{shown}x}"
    return f"@th,{at},{bits} & {mask:#0{shown}x} == {value:#0{shown}x}"
