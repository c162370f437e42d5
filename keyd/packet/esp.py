"""ESP: RFC 4303 sections 2 and 3.3-3.4. Octets in, octets out, for one SA. Network order.

No lookup, no clock, no chance.

    SPI 4 | sequence 4 | IV | payload, pad 1 2 3 …, pad length 1, next header 1 | ICV
                            '------------------ encrypted ------------------'

Outbound: 1. pad, 2. encrypt, 3. ICV. Inbound: 1. lengths, 2. ICV, 3. decrypt, 4. pad octets. The
caller looks at `peek` first, checks the window before `open` and marks it after. Counter modes
(`pfkey.crypto.counter_modes`) do encryption and ICV in one; SPI and sequence are the AEADs' AAD.
Of an extended sequence number the lower half is sent and the ICV covers both (section 2.2.1).
"""

from collections.abc import Sequence
from hmac import compare_digest
from struct import Struct
from typing import ClassVar, Literal

from keyd.model import SaSpec
from keyd.packet.drop import Drop
from pfkey import crypto
from pfkey.const import KameFlag, SaFlag
from pfkey.errors import CryptoError

Octets = bytes | bytearray | memoryview
Opened = tuple[int, memoryview]
IvKind = Literal["random", "counter", "derived"]

HEADER_OCTETS = 8
TRAILER_OCTETS = 2  # pad length, next header
SEQ_MAX = 0xFFFF_FFFF
ESN_MAX = 0xFFFF_FFFF_FFFF_FFFF
PAD_MAX = 255
COUNTER_OCTETS = 8  # the IV of a counter mode
_HEADER = Struct("!II")
_HIGH = Struct("!I")
# KAME's way to say what pads are: 1 2 3 … (RFC 4303 2.4), zeros, or random octets
_COUNTED = tuple(bytes(range(1, n + 1)) for n in range(PAD_MAX + 1))
_ZEROS = tuple(bytes(n) for n in range(PAD_MAX + 1))
# as plain numbers: `&` with an IntFlag takes a microsecond
_ESN, _CYCSEQ = int(SaFlag.ESN), int(SaFlag.CYCSEQ)
_ZERO_PAD, _RANDOM_PAD = int(KameFlag.ZERO_PAD), int(KameFlag.RANDOM_PAD)


def peek(octets: Octets) -> tuple[int, int] | None:
    """(SPI, sequence number) of what may be an ESP packet; None when it is too short."""
    if len(octets) < HEADER_OCTETS:
        return None
    spi, seq = _HEADER.unpack_from(octets)
    return spi, seq


def cycles(spec: SaSpec) -> bool:
    """Whether numbers may begin again: asked for, and nobody checks them (RFC 4303 3.3.3)."""
    return bool(spec.flags & _CYCSEQ) and not spec.replay_packets


class EspSa:
    """One SA, ready to seal or to open. Not for two threads.

    Attributes:
        iv_octets: how many octets of IV `seal` and `seal_many` want for each packet.
        iv_kind: what these must be. "random": fresh and unforeseeable. "counter": a number in
            network order that was never handed in under this key and never will be again,
            not after a restart either; it need not be secret. "derived": none are wanted, the
            sequence number makes the IV, and so may never come twice under this key.
        pad_octets: how many random octets of padding `seal` and `seal_many` want for each packet.
        seq_max: the last sequence number. An SA that cycles counts on, and sends lower halves.
        has_authenticator: False when nothing vouches for the octets that `open` returns.

    Raises:
        CryptoError: the keys do not fit, or this machine cannot do the algorithm.
    """

    __slots__ = (
        "_align", "_checked_pads", "_cipher", "_combined", "_integrity", "_is_extended",
        "_overhead", "_pads", "_trailers", "has_authenticator", "icv_octets", "iv_kind",
        "iv_octets", "pad_octets", "seq_max", "spec",
    )  # fmt: skip
    header_octets: ClassVar[int] = HEADER_OCTETS

    def __init__(self, spec: SaSpec) -> None:
        self.spec = spec
        self._combined: crypto.Combined | None = None
        self.iv_kind: IvKind = "random"
        icv = spec.icv_bits // 8
        if spec.encrypt in crypto.COUNTER_IV:
            self._combined = crypto.combined(
                spec.encrypt, spec.encrypt_key, spec.auth, spec.auth_key, icv
            )
            self._cipher = crypto.cipher(0, b"")
            self._integrity = crypto.integrity(0, b"")
            self.iv_kind = "counter"
            self.iv_octets = COUNTER_OCTETS
            self.icv_octets = self._combined.icv_octets
        else:
            self._cipher = crypto.cipher(spec.encrypt, spec.encrypt_key)
            self._integrity = crypto.integrity(spec.auth, spec.auth_key, icv)
            self.iv_octets = self._cipher.iv_octets
            self.icv_octets = self._integrity.icv_octets
            if self._integrity.iv_octets:
                raise CryptoError(f"authentication algorithm {spec.auth} is for AH alone")
        self.has_authenticator = self.icv_octets > 0
        self._is_extended = bool(spec.flags & _ESN)
        may_cycle = self.iv_kind == "random" and cycles(spec)
        self.seq_max = ESN_MAX if self._is_extended or may_cycle else SEQ_MAX
        self._align = max(self._cipher.block_octets, 4)  # RFC 4303 2.4: at least 32 bits
        self._overhead = self.header_octets + self.iv_octets + self.icv_octets
        self._pads = _ZEROS if spec.flags & _ZERO_PAD else _COUNTED
        self.pad_octets = self._align - 1 if spec.flags & _RANDOM_PAD else 0
        self._checked_pads: tuple[bytes, ...] | None = None if self.pad_octets else self._pads
        self._trailers: dict[tuple[int, int], bytes] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"

    def sealed_size(self, payload_octets: int) -> int:
        """The octets of the whole ESP packet, SPI to ICV, around a payload."""
        inner = payload_octets + TRAILER_OCTETS
        return self._overhead + inner + -inner % self._align

    def max_payload(self, room_octets: int) -> int:
        """The largest payload whose ESP packet fits; 0 or less when none does."""
        inner = room_octets - self._overhead
        return inner - inner % self._align - TRAILER_OCTETS

    def seal(
        self, seq: int, payload: Octets, next_header: int, iv: bytes = b"", pad: bytes = b""
    ) -> bytes:
        """The ESP packet. `iv` is sent as it is; it must be as `iv_kind` says, and used once.

        Raises:
            ValueError: the sequence number is none; what is used up may not wrap (3.3.3).
        """
        if not 0 <= seq <= self.seq_max:
            raise ValueError(f"sequence number {seq} exceeds {self.seq_max:#x}")
        plain = b"".join((payload, self._trailer(len(payload), next_header, pad)))
        head = _HEADER.pack(self.spec.spi, seq & SEQ_MAX)
        high = (_HIGH.pack(seq >> 32),) if self._is_extended else ()
        if self._combined is not None:
            return b"".join((head, iv, self._combined.seal(iv, plain, head, *high)))
        octets = b"".join((head, iv, self._cipher.seal(iv, plain)))
        return octets + self._integrity.icv(octets, *high)

    def seal_many(
        self,
        first_seq: int,
        payloads: Sequence[Octets],
        next_header: int,
        ivs: bytes = b"",
        pads: bytes = b"",
    ) -> list[bytes]:
        """The ESP packets of a batch, with consecutive numbers, at one call of the cipher.

        `ivs` has `iv_octets` octets per payload. Random ones are the seeds of the IVs that are
        sent, not the IVs themselves: see `pfkey.crypto.ciphers`. Counters are sent as they are.
        `pads` has `pad_octets` per payload.

        Raises:
            ValueError: as `seal`, for any of the numbers; or `ivs` is too short or too long.
        """
        if not payloads:
            return []
        last = first_seq + len(payloads) - 1
        if not 0 <= first_seq <= last <= self.seq_max:
            raise ValueError(f"sequence numbers {first_seq} to {last} exceed {self.seq_max:#x}")
        size = self.iv_octets
        if len(ivs) != size * len(payloads):
            raise ValueError(f"{len(ivs)} octets for {len(payloads)} IVs of {size}")
        if self._combined is not None or self.pad_octets:
            return self._seal_each(first_seq, payloads, next_header, ivs, pads)
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
        is_extended = self._is_extended
        packets = []
        at = 0
        for seq, length in enumerate(lengths, first_seq):
            octets = join((pack(spi, seq & SEQ_MAX), body[at : at + length]))
            if is_extended:
                packets.append(octets + icv(octets, _HIGH.pack(seq >> 32)))
            else:
                packets.append(octets + icv(octets))
            at += length
        return packets

    def _seal_each(
        self, first_seq: int, payloads: Sequence[Octets], next_header: int, ivs: bytes, pads: bytes
    ) -> list[bytes]:
        size, pad = self.iv_octets, self.pad_octets
        return [
            self.seal(
                first_seq + n, payload, next_header,
                ivs[n * size : (n + 1) * size], pads[n * pad : (n + 1) * pad],
            )
            for n, payload in enumerate(payloads)
        ]  # fmt: skip

    def open(self, octets: Octets, high: int = 0) -> Opened | Drop:
        """(next header, payload) of an ESP packet, or why it is none. Never raises.

        `high` is the upper half of an extended sequence number, as the window infers it. Without
        an authenticator the pad octets are all that speaks for the result.
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
            upper = _HIGH.pack(high) if self._is_extended else b""
            opened = self._combined.open(
                view[HEADER_OCTETS:start], view[start:], view[:HEADER_OCTETS], upper
            )
            return Drop.BADAUTH if opened is None else stripped(opened, 0, self._checked_pads)
        if self.has_authenticator:
            verify = self._integrity.verify
            holds = (
                verify(view[end:], view[:end], _HIGH.pack(high))
                if self._is_extended
                else verify(view[end:], view[:end])
            )
            if not holds:
                return Drop.BADAUTH
        plain = self._cipher.open_chain(view[HEADER_OCTETS:end])
        return stripped(plain, iv_octets, self._checked_pads)

    def _trailer(self, payload_octets: int, next_header: int, chance: bytes = b"") -> bytes:
        pad = -(payload_octets + TRAILER_OCTETS) % self._align
        if self.pad_octets:
            if len(chance) != self.pad_octets:
                raise ValueError(f"{len(chance)} octets of padding instead of {self.pad_octets}")
            return chance[:pad] + bytes((pad, next_header))
        trailer = self._trailers.get((pad, next_header))
        if trailer is None:
            trailer = self._pads[pad] + bytes((pad, next_header))
            self._trailers[pad, next_header] = trailer
        return trailer


def stripped(plain: bytes, at: int, pads: tuple[bytes, ...] | None) -> Opened | Drop:
    """(next header, payload) of a decrypted packet whose payload begins at `at`.

    `pads` are the right ones by length; None when any octets are right. The same work for every
    pad length: the last 255 octets are compared with themselves, the pad in them replaced by what
    it should be. A length that leads out of the packet is compared like the rest and then refused
    with the same reason.
    """
    pad = plain[-2]
    window = plain[max(at, len(plain) - TRAILER_OCTETS - PAD_MAX) : -TRAILER_OCTETS]
    outside = pad > len(window)
    if pads is not None:
        expected = window[: len(window) - pad * (not outside)] + pads[pad * (not outside)]
        outside = not compare_digest(window, expected) or outside
    if outside:
        return Drop.BADENC
    return plain[-1], memoryview(plain)[at : len(plain) - TRAILER_OCTETS - pad]
