"""The policies of a socket, as engine, data path and steering see them.

They are not kept for each socket: a socket bears the number of a *pair*, one policy for each
direction, in its mark, and all sockets with the same pair bear the same number.
"""

from dataclasses import dataclass
from typing import Any, Self

from keyd.model import PolicySpec
from pfkey.const import UNSPEC_PROTO, PolicyType
from pfkey.selector import Range, Selector

# What a socket's policy selects is the socket's; the selector says nothing.
ANYTHING = Selector(Range(bytes(4), 0, 0), Range(bytes(4), 0, 0), UNSPEC_PROTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketPair:
    """A policy for each direction; None: the SPD decides.

    A privileged pair wins over the SPD; another is asked where the SPD says nothing. With
    `is_encap` its sockets are those of IKE daemons who asked for UDP_ENCAP: what is no IKE there
    is the data path's.
    """

    number: int
    out: PolicySpec | None = None
    inward: PolicySpec | None = None
    is_privileged: bool = True
    is_encap: bool = False

    @property
    def policies(self) -> tuple[PolicySpec, ...]:
        """Those that are there."""
        return tuple(policy for policy in (self.inward, self.out) if policy is not None)

    @property
    def seals(self) -> bool:
        """Whether packets of such sockets are sealed by a policy of their own."""
        return self.out is not None and self.out.type == PolicyType.IPSEC

    @property
    def opens(self) -> bool:
        """Whether a policy of their own says what must protect the packets for them."""
        return self.inward is not None and self.inward.type == PolicyType.IPSEC

    @property
    def has_device(self) -> bool:
        """Whether there is a TUN device for what only this pair has sealed or let in."""
        return self.seals or self.opens

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker's channel."""
        return {
            "number": self.number,
            "out": self.out.to_json() if self.out else None,
            "in": self.inward.to_json() if self.inward else None,
            "privileged": self.is_privileged,
            "encap": self.is_encap,
        }

    @classmethod
    def from_json(cls, o: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            number=o["number"],
            out=PolicySpec.from_json(o["out"]) if o["out"] else None,
            inward=PolicySpec.from_json(o["in"]) if o["in"] else None,
            is_privileged=o["privileged"],
            is_encap=o["encap"],
        )
