"""Faults on purpose, to try what receivers make of them (net.inet.ipsec.test_*, from KAME).

`test_replay` sends one sequence number again and again, which a receiver with a replay window must
drop; `test_integrity` sends ICVs that do not hold. IVs and the counters of counter modes go on as
ever, and where the number makes the IV (des-deriv) it goes on too, so no key is any weaker for it;
and no number that was not sent yet is used up twice.
"""

from collections.abc import Callable

from keyd.packet import ip
from keyd.packet.association import OutSa
from keyd.packet.layers import Layer, Stream
from keyd.packet.sealer import Sealer
from keyd.packet.segment import Payload


class FaultySealer(Sealer):
    """Seals wrongly. `repeats` numbers, `spoils` ICVs."""

    def __init__(
        self,
        counters: memoryview,
        random: Callable[[int], bytes],
        drop: Callable[[int, int], None],
        *,
        repeats: bool,
        spoils: bool,
    ) -> None:
        super().__init__(counters, random, drop)
        self._repeats = repeats
        self._spoils = spoils

    def seal(self, layer: Layer, stream: Stream, now_us: int) -> list[Stream]:
        """One layer around all packets."""
        if self._may_repeat(layer.sa):
            sealed = self._one_by_one(layer, stream, now_us)
        else:
            sealed = super().seal(layer, stream, now_us)
        if not self._spoils:
            return sealed
        return [
            one._replace(payloads=[_spoilt(layer.sa, octets) for octets in one.payloads])
            for one in sealed
        ]

    def _take(self, sa: OutSa, packets: int, octets: int, now_us: int) -> int:
        take = sa.repeat if self._may_repeat(sa) else sa.take
        return take(packets, octets, now_us)

    def _may_repeat(self, sa: OutSa) -> bool:
        is_derived = sa.esp is not None and sa.esp.iv_kind == "derived"
        return self._repeats and sa.comp is None and not is_derived

    def _one_by_one(self, layer: Layer, stream: Stream, now_us: int) -> list[Stream]:
        """Each packet under the same number; identifications count up as ever."""
        header = stream.header
        done: list[Stream] = []
        is_v4 = header[0] >> 4 == 4
        ident = ip.identification(header) if is_v4 else 0
        if layer.sa.ah is not None and not 0 < ident <= 0xFFFF - len(stream.payloads):
            ident = 1  # AH covers them, and a raw socket would fill in a zero
        for number, payload in enumerate(stream.payloads):
            if is_v4:
                header = ip.rebuild(stream.header, stream.proto, 0, ident=ident + number & 0xFFFF)
            done += super().seal(layer, Stream(header, stream.proto, (payload,)), now_us)
        return done


def _spoilt(sa: OutSa, payload: Payload) -> bytes:
    """With one bit of its ICV turned over; as it is if it has none."""
    octets = bytearray(payload)
    if sa.ah is not None:
        octets[sa.ah.icv_at] ^= 1
    elif sa.esp is not None and sa.esp.has_authenticator:
        octets[-1] ^= 1
    return bytes(octets)
