"""Security associations with their numbers: what the pipelines look up, seal and open with.

RFC 4301 section 4.4.2. The numbers live in the state file, in the part of the one worker that may
change them. An SA is of ESP, AH or IPComp; each has `max_payload`, and the rest is the pipelines'.
"""

from collections.abc import Sequence

from keyd.model import SaSpec, Settings
from keyd.packet import ah, esp, ipcomp
from keyd.packet.ah import AhSa
from keyd.packet.counters import DROPS_OF, EDGE, FIRST_USE, IV, LAST_USE, OCTETS, PACKETS
from keyd.packet.drop import Drop
from keyd.packet.esp import ESN_MAX, SEQ_MAX, EspSa
from keyd.packet.esp_old import esp_sa
from keyd.packet.ipcomp import CompSa
from keyd.packet.natt import UDP_OCTETS
from keyd.packet.replay import Window
from keyd.packet.tunnel import DfBit, Knobs
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, UDP_ENCAP_ESPINUDP, KameFlag, SaFlag
from pfkey.errors import CryptoError


class _Sa:
    """What both directions share.

    Args:
        part: EDGE to IV of `keyd.packet.counters`.
        since: (packets, octets) counted before this SA's life, and when it began, in µs.
    """

    __slots__ = (
        "_max_octets", "_max_packets", "_part", "_since", "ah", "comp", "esp", "is_encapsulated",
        "knobs", "spec",
    )  # fmt: skip

    def __init__(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        self.spec = spec
        self.ah: AhSa | None = None
        self.comp: CompSa | None = None
        self.esp: EspSa | None = None
        if spec.proto == IPPROTO_AH:
            self.ah = AhSa(spec)
        elif spec.proto == IPPROTO_COMP:
            self.comp = CompSa(spec)
        else:
            self.esp = esp_sa(spec)
        if spec.encap not in (0, UDP_ENCAP_ESPINUDP) or (spec.encap and self.esp is None):
            raise CryptoError(f"encapsulation {spec.encap} of protocol {spec.proto} cannot be done")
        self.is_encapsulated = bool(spec.encap)
        self.tune(Settings())
        self._part = part
        packets, octets, self._since = since
        self._max_packets = packets + spec.hard_packets if spec.hard_packets else 0
        self._max_octets = octets + spec.hard_bytes if spec.hard_bytes else 0

    @property
    def drops(self) -> dict[Drop, int]:
        """The counters of its protocol by reason."""
        return DROPS_OF[self.spec.proto]

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings; what the SA's own flags say goes before."""
        spec = self.spec
        ecn = settings.ecn if len(spec.src) == 4 else settings.ecn6
        self.knobs = Knobs(
            has_ecn=ecn > 0 and not spec.flags & SaFlag.NOECN,
            has_dscp=ecn >= 0,
            takes_dscp=bool(spec.flags & SaFlag.DECAP_DSCP),
            dfbit=DfBit.CLEAR if spec.flags & SaFlag.NOPMTUDISC else DfBit(settings.dfbit),
        )
        if self.ah is not None:
            self.ah.clears_tos = settings.ah_cleartos
            self.ah.offset_mask = settings.ah_offsetmask

    def _count(self, packets: int, octets: int, now_us: int) -> None:
        part = self._part
        part[PACKETS] += packets
        part[OCTETS] += octets
        if part[FIRST_USE] < self._since or not part[FIRST_USE]:
            part[FIRST_USE] = now_us
        part[LAST_USE] = now_us


class OutSa(_Sa):
    """An outbound SA. EDGE is the next unused number, 0 when all are used; IV the next counter."""

    __slots__ = ("_seq_max",)

    def __init__(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        super().__init__(spec, part, since)
        sealer = self.ah or self.esp
        self._seq_max = sealer.seq_max if sealer is not None else ESN_MAX

    @property
    def last_use_us(self) -> int:
        """When it sealed last, in µs; 0 for never."""
        return int(self._part[LAST_USE])

    @property
    def numbers_left(self) -> int:
        """How many sequence numbers are unused."""
        edge = int(self._part[EDGE])
        return self._seq_max + 1 - edge if edge else 0

    def has_sent(self, low: int) -> bool:
        """Whether a packet with this sequence number, as it is sent, may have left."""
        edge = int(self._part[EDGE]) or ESN_MAX
        return low < edge and (low > 0 or edge > SEQ_MAX)

    def max_payload(self, room_octets: int, version: int) -> int:
        """The largest payload that fits behind an IP header of a version; 0 or less for none."""
        if self.esp is not None:
            return self.esp.max_payload(room_octets - UDP_OCTETS * self.is_encapsulated)
        # what IPComp does not shrink it leaves as it is
        return room_octets - (self.ah.overhead(version) if self.ah is not None else 0)

    def within_limits(self, octets: Sequence[int]) -> int:
        """How many packets of these sizes may still pass: the one that reaches a limit is last.

        The limits are those of the SA's lifetime, and the end of its sequence numbers.
        """
        number = len(octets)
        edge = int(self._part[EDGE])
        if not edge or number > self._seq_max + 1 - edge:
            number = self.numbers_left
        if not (self._max_packets or self._max_octets):
            return number
        packets, sent = self._part[PACKETS], self._part[OCTETS]
        for index, size in enumerate(octets[:number]):
            if self._max_packets and packets + index >= self._max_packets:
                return index
            if self._max_octets and sent >= self._max_octets:
                return index
            sent += size
        return number

    def take(self, packets: int, octets: int, now_us: int) -> int:
        """The first of so many consecutive sequence numbers, of which `numbers_left` has enough.

        They count as used from here on, whatever becomes of the packets and of this process.
        """
        first = int(self._part[EDGE])
        self._part[EDGE] = first + packets & ESN_MAX  # 2^64, behind the last, is 0
        self._count(packets, octets, now_us)
        return first

    def repeat(self, packets: int, octets: int, now_us: int) -> int:
        """The last sequence number once more, for `keyd.packet.faults`; the first if none was."""
        if self._part[EDGE] <= 1:
            return self.take(1, octets, now_us)
        self._count(packets, octets, now_us)
        return int(self._part[EDGE]) - 1

    def take_counters(self, packets: int, start: int) -> bytes:
        """IVs for a counter mode: consecutive numbers, used up from here on.

        `start` is where a key begins that has no number yet: a number of 64 bits drawn by
        chance, so that what is forgotten with the state file does not come again.
        """
        first = int(self._part[IV]) or start or 1
        # 0 says "not begun": the word skips it, and so does the number
        self._part[IV] = (first + packets) & ESN_MAX or 1
        return b"".join(((first + n) & ESN_MAX).to_bytes(8, "big") for n in range(packets))


class InSa(_Sa):
    """An inbound SA and its window. EDGE is the highest authentic sequence number.

    `is_plain`: packets show the whole number, so that `number` need not be asked. `peer` is where
    those of ESP in UDP came from, as the control process was told last.
    """

    __slots__ = ("_is_extended", "_is_old", "is_plain", "peer", "window")

    def __init__(self, spec: SaSpec, part: memoryview, since: tuple[int, int, int]) -> None:
        super().__init__(spec, part, since)
        self._is_extended = bool(spec.flags & SaFlag.ESN)
        self._is_old = bool(spec.flags & KameFlag.OLD)
        self.is_plain = not (self._is_extended or self._is_old)
        edge = int(part[EDGE])
        # A worker that was restarted takes what is at the edge or below for seen. An SA that was
        # added again begins anew (RFC 4303 3.4.3), even under a key that was there before: the
        # peers that number from 1 after each load of their file would never get through. The
        # upper half of an extended number is not sent, so it goes on where it was.
        if part[LAST_USE] < self._since:
            edge = edge & ~SEQ_MAX if self._is_extended else 0
        # what shows no numbers has nothing to be seen twice; daemons ask for a window all the same
        is_bare = self._is_old or self.comp is not None
        self.window = Window(0 if is_bare else spec.replay_packets, edge)
        self.peer = (spec.origin or spec.src, spec.sport)

    def number(self, low: int) -> int:
        """The sequence number of a packet that shows this one; -1 for none that can be.

        Of an extended number packets show the lower half; those of RFC 1825's day show none.
        """
        if self._is_extended:
            return self.window.infer(low)
        return 0 if self._is_old else low

    @property
    def has_authenticator(self) -> bool:
        """False when nothing vouches for what is opened."""
        if self.esp is not None:
            return self.esp.has_authenticator
        return self.ah is not None

    def is_used_up(self) -> bool:
        """Whether a hard limit is reached."""
        part = self._part
        return bool(
            (self._max_packets and part[PACKETS] >= self._max_packets)
            or (self._max_octets and part[OCTETS] >= self._max_octets)
        )

    def note(self, seq: int, octets: int, now_us: int) -> None:
        """An authentic packet: move the window, count it."""
        self.window.mark(seq)
        self._part[EDGE] = self.window.edge
        self._count(1, octets, now_us)

    def keep_window(self, other: "InSa") -> None:
        """Go on with the window of an earlier object of the same SA."""
        if other.window.size == self.window.size:
            self.window = other.window
        ours, theirs = self.spec, other.spec
        if (theirs.origin, theirs.sport) == (ours.origin, ours.sport):
            self.peer = other.peer


def peek(proto: int, octets: bytes | memoryview) -> tuple[int, int] | None:
    """(SPI or CPI, sequence number) of what may be a packet of a protocol; None when too short."""
    if proto == IPPROTO_AH:
        return ah.peek(octets)
    return ipcomp.peek(octets) if proto == IPPROTO_COMP else esp.peek(octets)
