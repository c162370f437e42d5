"""The outbound SAs of the data path, and which of them serves a policy's request.

RFC 4301 section 4.4.2, outbound: an SA is looked for by its addresses, protocol, mode and reqid.
"""

from keyd.model import Request, Settings
from keyd.packet.association import OutSa
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Mode

_PROTOS = frozenset((IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP))

Pair = tuple[bytes, bytes]


class OutSad:
    """All outbound SAs, by slot, by the addresses they are between, and by those on their packets.

    The latter differ where the peer of ESP in UDP has moved.
    """

    def __init__(self) -> None:
        self._by_slot: dict[int, OutSa] = {}
        self._by_pair: dict[Pair, list[OutSa]] = {}
        self._by_way: dict[Pair, list[OutSa]] = {}
        self._settings = Settings()

    def install(self, sa: OutSa) -> None:
        """Put in an SA, or replace the one with its slot."""
        self.remove(sa.spec.slot)
        sa.tune(self._settings)
        self._by_slot[sa.spec.slot] = sa
        pair = self._by_pair.setdefault((sa.spec.src, sa.spec.dst), [])
        pair.append(sa)
        pair.sort(key=self._preference)
        self._by_way.setdefault((sa.spec.src, sa.spec.far_end), []).append(sa)

    def remove(self, slot: int) -> None:
        """Take out the SA with this slot, if it is there."""
        sa = self._by_slot.pop(slot, None)
        if sa is not None:
            for index, far in ((self._by_pair, sa.spec.dst), (self._by_way, sa.spec.far_end)):
                pair = (sa.spec.src, far)
                index[pair].remove(sa)
                if not index[pair]:
                    del index[pair]

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings."""
        self._settings = settings
        for sa in self._by_slot.values():
            sa.tune(settings)
        for pair in self._by_pair.values():
            pair.sort(key=self._preference)

    def choose(self, request: Request, src: bytes, dst: bytes) -> OutSa | None:
        """The first SA, in the order of preference, that serves a request."""
        if request.proto not in _PROTOS or request.mode == Mode.BEET:
            return None
        mode = request.mode or Mode.TRANSPORT
        for sa in self._by_pair.get((src, dst), ()):
            spec = sa.spec
            if (
                spec.proto == request.proto
                and spec.mode in (Mode.ANY, mode)
                and request.reqid in (0, spec.reqid)
            ):
                return sa
        return None

    def sender(self, pair: Pair, spi: int, seq: int) -> OutSa | None:
        """The SA of this SPI that sent this sequence number in a packet with these addresses."""
        for sa in self._by_way.get(pair, ()):
            if sa.spec.spi == spi and sa.has_sent(seq):
                return sa
        return None

    def _preference(self, sa: OutSa) -> tuple[bool, int]:
        """NetBSD's: the newest, past its soft limit only for want of others; or turned round."""
        spec = sa.spec
        if self._settings.prefers_old_sa:
            return (not spec.is_dying, spec.order)
        return (spec.is_dying, -spec.order)
