"""What the outbound pipeline remembers of a flow."""

from keyd.model import Need
from keyd.packet import datagram
from keyd.packet.layers import Layer
from keyd.packet.segment import Frame


class Flow:
    """What to do with a flow's packets: drop and count, seal, or, without layers, let out.

    `needs` are the SAs it lacks: with `drop` it cannot do without, else it can. `policy` is the id
    of the policy that says so, 0 for none. `told_until`: when its source may have forgotten what
    fits.
    """

    __slots__ = ("drop", "layers", "needs", "policy", "takes_fragments", "told_until")

    def __init__(
        self,
        layers: tuple[Layer, ...] = (),
        drop: int = -1,
        *,
        needs: tuple[Need, ...] = (),
        takes_fragments: bool = False,
    ) -> None:
        self.layers = layers
        self.drop = drop
        self.needs = needs
        self.policy = 0
        self.takes_fragments = takes_fragments
        self.told_until = 0.0


def flow_key(frame: Frame) -> bytes:
    """What is equal for the packets of one flow."""
    key = datagram.flow_key(frame.packet)
    # a later fragment shows no ports, which is not the same as port 0
    return key + b"f" if frame.is_fragment else key
