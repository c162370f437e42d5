"""ESP of before RFC 2406, for peers that have nothing else. Octets in network order.

`esp-old` (flag OLD): RFC 1827 with the transforms of its day, DES-CBC (RFC 1829) and NULL.

    SPI 4 | IV 8, or 4 (flag IV4B) | payload, padding, pad length 1, next header 1

An IV of 32 bits is followed by its complement to make 64 (RFC 1829 section 2). There is neither
sequence number nor ICV: whoever can send can repeat, and nothing vouches for what is opened.

`des-deriv` (flag DERIV): today's packet without an IV; the sequence number and its complement are
the IV (draft-ietf-ipsec-ciph-des-derived). So a number must never come twice under one key.
"""

from collections.abc import Sequence
from struct import Struct
from typing import ClassVar

from keyd.model import SaSpec
from keyd.packet.drop import Drop
from keyd.packet.esp import (
    ESN_MAX,
    HEADER_OCTETS,
    SEQ_MAX,
    TRAILER_OCTETS,
    EspSa,
    Octets,
    Opened,
    stripped,
)  # fmt: skip
from pfkey.const import KameFlag

_OLD, _IV4B, _DERIV = int(KameFlag.OLD), int(KameFlag.IV4B), int(KameFlag.DERIV)
_SPI = Struct("!I")
_HEADER = Struct("!II")
_COMPLEMENT = 0xFFFF_FFFF


def esp_sa(spec: SaSpec) -> EspSa:
    """The ESP that an SA's flags ask for. Raises CryptoError as `EspSa` does."""
    if spec.flags & _OLD:
        return OldEspSa(spec)
    return DerivedEspSa(spec) if spec.flags & _DERIV else EspSa(spec)


class OldEspSa(EspSa):
    """RFC 1827. Numbers are taken and not sent; what pads hold is nobody's business (RFC 1829)."""

    __slots__ = ()
    header_octets: ClassVar[int] = 4

    def __init__(self, spec: SaSpec) -> None:
        super().__init__(spec)
        if self.iv_octets and spec.flags & _IV4B:
            self.iv_octets = 4
            self._overhead = self.header_octets + self.iv_octets
        self._checked_pads = None
        self.seq_max = ESN_MAX

    def seal(
        self, seq: int, payload: Octets, next_header: int, iv: bytes = b"", pad: bytes = b""
    ) -> bytes:
        """See `EspSa`."""
        plain = b"".join((payload, self._trailer(len(payload), next_header, pad)))
        sealed = self._cipher.seal(_whole(iv), plain)
        return b"".join((_SPI.pack(self.spec.spi), iv, sealed))

    def seal_many(
        self,
        first_seq: int,
        payloads: Sequence[Octets],
        next_header: int,
        ivs: bytes = b"",
        pads: bytes = b"",
    ) -> list[bytes]:
        """See `EspSa`."""
        return self._seal_each(first_seq, payloads, next_header, ivs, pads)

    def open(self, octets: Octets, high: int = 0) -> Opened | Drop:
        """See `EspSa`."""
        length = len(octets) - self._overhead
        if length < TRAILER_OCTETS or length % self._align:
            return Drop.HDROPS if len(octets) < HEADER_OCTETS else Drop.BADILEN
        view = memoryview(octets)
        start = self.header_octets + self.iv_octets
        plain = self._cipher.open(_whole(view[self.header_octets : start]), view[start:])
        return stripped(plain, 0, None)


class DerivedEspSa(EspSa):
    """Today's ESP with the IV made of the sequence number."""

    __slots__ = ()

    def __init__(self, spec: SaSpec) -> None:
        super().__init__(spec)
        self._overhead -= self.iv_octets
        self.iv_octets = 0
        self.iv_kind = "derived"
        self.seq_max = SEQ_MAX  # the IVs would cycle with the numbers

    def seal(
        self, seq: int, payload: Octets, next_header: int, iv: bytes = b"", pad: bytes = b""
    ) -> bytes:
        """See `EspSa`."""
        if not 0 <= seq <= self.seq_max:
            raise ValueError(f"sequence number {seq} exceeds {self.seq_max:#x}")
        head = _HEADER.pack(self.spec.spi, seq)
        plain = b"".join((payload, self._trailer(len(payload), next_header, pad)))
        octets = head + self._cipher.seal(_whole(head[4:]), plain)
        return octets + self._integrity.icv(octets)

    def seal_many(
        self,
        first_seq: int,
        payloads: Sequence[Octets],
        next_header: int,
        ivs: bytes = b"",
        pads: bytes = b"",
    ) -> list[bytes]:
        """See `EspSa`."""
        return self._seal_each(first_seq, payloads, next_header, ivs, pads)

    def open(self, octets: Octets, high: int = 0) -> Opened | Drop:
        """See `EspSa`."""
        length = len(octets) - self._overhead
        if length < TRAILER_OCTETS:
            return Drop.HDROPS if len(octets) < HEADER_OCTETS else Drop.BADILEN
        if length % self._align:
            return Drop.BADILEN
        view = memoryview(octets)
        end = len(octets) - self.icv_octets
        if self.has_authenticator and not self._integrity.verify(view[end:], view[:end]):
            return Drop.BADAUTH
        plain = self._cipher.open(_whole(view[4:HEADER_OCTETS]), view[HEADER_OCTETS:end])
        return stripped(plain, 0, self._checked_pads)


def _whole(iv: bytes | memoryview) -> bytes | memoryview:
    """An IV of 64 bits; one of 32 is followed by its complement."""
    if len(iv) != 4:
        return iv
    return bytes(iv) + (int.from_bytes(iv, "big") ^ _COMPLEMENT).to_bytes(4, "big")
