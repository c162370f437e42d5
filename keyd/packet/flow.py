"""What the outbound pipeline remembers of a flow."""

from collections.abc import Sequence

from keyd.model import Need
from keyd.packet import datagram
from keyd.packet.layers import Chain, Layer
from keyd.packet.segment import Frame
from keyd.packet.tallies import Tally
from keyd.packet.troubles import Progress


class Flow:
    """What to do with a flow's packets: drop and count, seal, or, without layers, let out.

    `needs` are the SAs it lacks: with `drop` it cannot do without, else it can. `tally` is that of
    the policy that says so. `joins`: its fragments are put together first. `is_lasting`: it holds
    for all packets of the flow, not for one alone.
    `told_until`: when its source may have forgotten what fits. `told_trouble`: which trouble its
    source was told of, by its time.
    """

    __slots__ = (
        "chain", "drop", "is_lasting", "joins", "needs", "progress", "tally", "told_trouble",
        "told_until",
    )  # fmt: skip

    def __init__(
        self,
        tally: Tally,
        layers: Sequence[Layer] = (),
        drop: int = -1,
        *,
        needs: tuple[Need, ...] = (),
        joins: bool = False,
    ) -> None:
        self.chain = Chain(layers)
        self.drop = drop
        self.needs = needs
        self.tally = tally
        self.joins = joins
        self.is_lasting = True
        self.progress = Progress()
        self.told_trouble = 0.0
        self.told_until = 0.0


def flow_key(frame: Frame) -> bytes:
    """What is equal for the packets of one flow."""
    key = datagram.flow_key(frame.packet)
    # a later fragment shows no ports, which is not the same as port 0
    return key + b"f" if frame.is_fragment else key
