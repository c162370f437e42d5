"""When to send NAT keepalives: RFC 3948 section 4. The clock is handed in."""

from collections.abc import Callable

from keyd.packet import natt
from keyd.packet.association import OutSa

IDLE_SECONDS = 20
_Ends = tuple[bytes, bytes, int, int]


class Keepalives:
    """The SAs that send ESP in UDP, by the mapping that they share.

    Args:
        is_local: whether a packed address is one of this host's own. From others nothing is sent:
            the SAs of the other direction are here as well.
    """

    def __init__(self, is_local: Callable[[bytes], bool]) -> None:
        self._is_local = is_local
        self._sas: dict[int, OutSa] = {}
        self._sent: dict[_Ends, int] = {}

    def __len__(self) -> int:
        return len(self._sas)

    def insert(self, sa: OutSa) -> None:
        """Put one in, if it is of UDP at all."""
        if sa.is_encapsulated:
            self._sas[sa.spec.slot] = sa

    def remove(self, slot: int) -> None:
        """Take one out, if it is there."""
        self._sas.pop(slot, None)

    def due(self, now_us: int) -> list[bytes]:
        """An IP packet for each mapping over which nothing went for `IDLE_SECONDS`."""
        last: dict[_Ends, int] = {}
        for sa in self._sas.values():
            spec = sa.spec
            if not self._is_local(spec.src):
                continue
            ends = (spec.src, spec.far_end, spec.sport, spec.dport)
            last[ends] = max(last.get(ends, 0), sa.last_use_us)
        # a mapping that is new here gets its first one when it has been idle from now on
        sent = {ends: self._sent.get(ends, now_us) for ends in last}
        packets = []
        for ends, used in last.items():
            if now_us - max(used, sent[ends]) >= IDLE_SECONDS * 1_000_000:
                packets.append(natt.keepalive(*ends))
                sent[ends] = now_us
        self._sent = sent
        return packets
