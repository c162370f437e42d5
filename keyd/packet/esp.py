"""ESP: RFC 4303 sections 2 and 3.3-3.4, without extended sequence numbers.

Octets in, octets out, for one SA; no lookup, no clock, no chance. Network order.

    SPI 4 | sequence 4 | IV | payload, pad 1 2 3 …, pad length 1, next header 1 | ICV
                            '------------------ encrypted ------------------'

Outbound: 1. pad, 2. encrypt, 3. ICV. Inbound: 1. lengths, 2. ICV, 3. decrypt, 4. pad octets. The
caller looks at `peek` first, checks the window before `open` and marks it after. Counter modes
(`pfkey.crypto.counter_modes`) do encryption and ICV in one; SPI and sequence are the AEADs' AAD.
"""

from collections.abc import Sequence
from hmac import compare_digest
from struct import Struct
from typing import Literal

from keyd.model import SaSpec
from keyd.packet.drop import Drop
from pfkey import crypto

Octets = bytes | bytearray | memoryview
Opened = tuple[int, memoryview]
IvKind = Literal["random", "counter"]

HEADER_OCTETS = 8
TRAILER_OCTETS = 2  # pad length, next header
SEQ_MAX = 0xFFFF_FFFF
PAD_MAX = 255
COUNTER_OCTETS = 8  # the IV of a counter mode
_HEADER = Struct("!II")
_PADS = tuple(bytes(range(1, n + 1)) for n in range(PAD_MAX + 1))


def peek(octets: Octets) -> tuple[int, int] | None:
    """(SPI, sequence number) of what may be an ESP packet; None when it is too short."""
    if len(octets) < HEADER_OCTETS:
        return None
    spi, seq = _HEADER.unpack_from(octets)
    return spi, seq


class EspSa:
    """One SA, ready to seal or to open. Not for two threads.

    Attributes:
        iv_octets: how many octets of IV `seal` and `seal_many` want for each packet.
        iv_kind: what these must be. "random": fresh and unforeseeable. "counter": a number in
            network order that was never handed in under this key and never will be again,
            not after a restart either; it need not be secret.
        has_authenticator: False when nothing vouches for the octets that `open` returns.

    Raises:
        CryptoError: the keys do not fit, or this machine cannot do the algorithm.
    """

    __slots__ = (
        "_align",
        "_cipher",
        "_combined",
        "_integrity",
        "_overhead",
        "_trailers",
        "has_authenticator",
        "icv_octets",
        "iv_kind",
        "iv_octets",
        "spec",
    )

    def __init__(self, spec: SaSpec) -> None:
        self.spec = spec
        self._combined: crypto.Combined | None = None
        self.iv_kind: IvKind = "random"
        if spec.encrypt in crypto.COUNTER_IV:
            self._combined = crypto.combined(
                spec.encrypt, spec.encrypt_key, spec.auth, spec.auth_key
            )
            self._cipher = crypto.cipher(0, b"")
            self._integrity = crypto.integrity(0, b"")
            self.iv_kind = "counter"
            self.iv_octets = COUNTER_OCTETS
            self.icv_octets = self._combined.icv_octets
        else:
            self._cipher = crypto.cipher(spec.encrypt, spec.encrypt_key)
            self._integrity = crypto.integrity(spec.auth, spec.auth_key)
            self.iv_octets = self._cipher.iv_octets
            self.icv_octets = self._integrity.icv_octets
        self.has_authenticator = self.icv_octets > 0
        self._align = max(self._cipher.block_octets, 4)  # RFC 4303 2.4: at least 32 bits
        self._overhead = HEADER_OCTETS + self.iv_octets + self.icv_octets
        self._trailers: dict[tuple[int, int], bytes] = {}

    def __repr__(self) -> str:
        return f"EspSa({self.spec!r})"

    def sealed_size(self, payload_octets: int) -> int:
        """The octets of the whole ESP packet, SPI to ICV, around a payload."""
        inner = payload_octets + TRAILER_OCTETS
        return self._overhead + inner + -inner % self._align

    def max_payload(self, room_octets: int) -> int:
        """The largest payload whose ESP packet fits; 0 or less when none does."""
        inner = room_octets - self._overhead
        return inner - inner % self._align - TRAILER_OCTETS

    def seal(self, seq: int, payload: Octets, next_header: int, iv: bytes) -> bytes:
        """The ESP packet. `iv` is sent as it is; it must be as `iv_kind` says, and used once.

        Raises:
            ValueError: the sequence number is none; what is used up may not wrap (3.3.3).
        """
        if not 0 <= seq <= SEQ_MAX:
            raise ValueError(f"sequence number {seq} does not fit 32 bits")
        plain = b"".join((payload, self._trailer(len(payload), next_header)))
        head = _HEADER.pack(self.spec.spi, seq)
        if self._combined is not None:
            return b"".join((head, iv, self._combined.seal(iv, plain, head)))
        octets = b"".join((head, iv, self._cipher.seal(iv, plain)))
        return octets + self._integrity.icv(octets)

    def seal_many(
        self, first_seq: int, payloads: Sequence[Octets], next_header: int, ivs: bytes
    ) -> list[bytes]:
        """The ESP packets of a batch, with consecutive numbers, at one call of the cipher.

        `ivs` has `iv_octets` octets per payload. Random ones are the seeds of the IVs that are
        sent, not the IVs themselves: see `pfkey.crypto.ciphers`. Counters are sent as they are.

        Raises:
            ValueError: as `seal`, for any of the numbers; or `ivs` is too short or too long.
        """
        if not payloads:
            return []
        if not 0 <= first_seq <= SEQ_MAX + 1 - len(payloads):
            raise ValueError(
                f"sequence numbers {first_seq} to {first_seq + len(payloads) - 1} "
                "do not fit 32 bits"
            )
        size = self.iv_octets
        if len(ivs) != size * len(payloads):
            raise ValueError(f"{len(ivs)} octets for {len(payloads)} IVs of {size}")
        if self._combined is not None:
            return [
                self.seal(seq, payload, next_header, ivs[at : at + size])
                for seq, at, payload in zip(
                    range(first_seq, first_seq + len(payloads)),
                    range(0, len(ivs), size),
                    payloads,
                    strict=True,
                )
            ]
        parts: list[Octets] = []
        lengths: list[int] = []
        at = 0
        for payload in payloads:
            trailer = self._trailer(len(payload), next_header)
            parts += (ivs[at : at + size], payload, trailer)
            lengths.append(size + len(payload) + len(trailer))
            at += size
        body = memoryview(self._cipher.seal_chain(b"".join(parts)))
        icv, spi, pack, join = self._integrity.icv, self.spec.spi, _HEADER.pack, b"".join
        packets = []
        at = 0
        for seq, length in enumerate(lengths, first_seq):
            octets = join((pack(spi, seq), body[at : at + length]))
            packets.append(octets + icv(octets))
            at += length
        return packets

    def open(self, octets: Octets) -> Opened | Drop:
        """(next header, payload) of an ESP packet, or why it is none. Never raises.

        Without an authenticator the pad octets are all that speaks for the result.
        """
        length = len(octets) - self._overhead
        if length < TRAILER_OCTETS:
            return Drop.HDROPS if len(octets) < HEADER_OCTETS else Drop.BADILEN
        if length % self._align:
            return Drop.BADILEN
        view = memoryview(octets)
        end = len(octets) - self.icv_octets
        iv_octets = self.iv_octets
        if self._combined is not None:
            start = HEADER_OCTETS + iv_octets
            iv, sealed = view[HEADER_OCTETS:start], view[start:]
            opened = self._combined.open(iv, sealed, view[:HEADER_OCTETS])
            return Drop.BADAUTH if opened is None else _stripped(opened, 0)
        if self.has_authenticator and not self._integrity.verify(view[end:], view[:end]):
            return Drop.BADAUTH
        return _stripped(self._cipher.open_chain(view[HEADER_OCTETS:end]), iv_octets)

    def _trailer(self, payload_octets: int, next_header: int) -> bytes:
        pad = -(payload_octets + TRAILER_OCTETS) % self._align
        trailer = self._trailers.get((pad, next_header))
        if trailer is None:
            trailer = self._trailers[pad, next_header] = _PADS[pad] + bytes((pad, next_header))
        return trailer


def _stripped(plain: bytes, at: int) -> Opened | Drop:
    """(next header, payload) of a decrypted packet whose payload begins at `at`.

    The same work for every pad length: the last 255 octets are compared with themselves, the pad
    in them replaced by what it should be. A length that leads out of the packet is compared like
    the rest and then refused with the same reason.
    """
    pad = plain[-2]
    window = plain[max(at, len(plain) - TRAILER_OCTETS - PAD_MAX) : -TRAILER_OCTETS]
    outside = pad > len(window)
    expected = window[: len(window) - pad * (not outside)] + _PADS[pad * (not outside)]
    if not compare_digest(window, expected) or outside:
        return Drop.BADENC
    return plain[-1], memoryview(plain)[at : len(plain) - TRAILER_OCTETS - pad]
