"""What the data path has done under a policy since it was made: told about once a second.

Only what workers handle is here. What nft decides alone (`none`, `discard`, what came in clear
and had to be sealed) is in the totals.
"""

from typing import TYPE_CHECKING, Any

from keyd.model import PolicyUse
from keyd.packet.own import describe

if TYPE_CHECKING:
    from keyd.engine.spd import PolicyRecord

Drops = dict[str, dict[str, int]]


class PolicyCounts:
    """Packets that passed, with their octets, and those that were dropped, by counter."""

    __slots__ = ("_drops", "octets", "packets")

    def __init__(self) -> None:
        self.packets = 0
        self.octets = 0
        self._drops: dict[tuple[str, str], int] = {}

    def add(self, use: PolicyUse) -> None:
        """What was done since the last time."""
        self.packets += use.packets
        self.octets += use.octets
        for name, packets in use.drops:
            self._drops[name] = self._drops.get(name, 0) + packets

    @property
    def drops(self) -> Drops:
        """Packets by group and name, as all counters are."""
        groups: Drops = {}
        for (group, name), packets in self._drops.items():
            groups.setdefault(group, {})[name] = packets
        return groups


def counted(policy: "PolicyRecord", *, is_per_socket: bool) -> dict[str, Any]:
    """A policy and its counts, in the form of `pfkey stat --policies --json`."""
    spec, counts = policy.spec, policy.counts
    return {
        "id": spec.id,
        "policy": f"per-socket -P {spec.dir.name.lower()}" if is_per_socket else describe(spec),
        "type": spec.type.name.lower(),
        "packets": counts.packets,
        "octets": counts.octets,
        "drops": counts.drops,
        "created": int(policy.created.wall),
        "last_use": int(policy.used.wall) if policy.used else 0,
    }
