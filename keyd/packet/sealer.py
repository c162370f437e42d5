"""Sealing: numbers are taken from an SA, and a stream of packets gets one more layer.

RFC 4303 section 3.3, RFC 4302 section 3.3, RFC 3173 section 2. Numbers count as used before
anything is sealed.
"""

from collections.abc import Callable

from keyd.packet import counters as count
from keyd.packet import datagram, ip, ip6, natt
from keyd.packet.ah import AhSa
from keyd.packet.association import OutSa
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.packet.ipcomp import LEAST_OCTETS, CompSa, Patience
from keyd.packet.layers import Layer, Stream
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP


class Sealer:
    """Seals and fragments; counts what becomes of packets.

    Args:
        counters, random: as of `keyd.packet.trunk.Trunk`.
        drop: is told in which counter how many packets end.
    """

    def __init__(
        self,
        counters: memoryview,
        random: Callable[[int], bytes],
        drop: Callable[[int, int], None],
    ) -> None:
        self._counters = counters
        self._random = random
        self._drop = drop

    def seal(self, layer: Layer, stream: Stream, now_us: int) -> list[Stream]:
        """One layer around all packets; those that its SA may not carry any more are counted.

        Several streams come of one where IPComp shrinks some of the packets and others not.
        """
        sa, payloads = layer.sa, stream.payloads
        octets = 0 if layer.is_tunnel else len(stream.header)
        sizes = [octets + len(payload) for payload in payloads]
        passing = sa.within_limits(sizes)
        if passing < len(sizes):
            row = sa.drops[Drop.WRAP] if passing == sa.numbers_left else count.EXPIRED
            self._drop(row, len(sizes) - passing)
            payloads, sizes = payloads[:passing], sizes[:passing]
            stream = Stream(stream.header, stream.proto, payloads)
            if not passing:
                return []
        total = sum(sizes)
        first = self._take(sa, passing, total, now_us)
        if sa.esp is not None:
            return [self._encrypt(sa, sa.esp, stream, first, total)]
        if sa.ah is not None:
            return [self._authenticate(sa, sa.ah, stream, first, total)]
        if sa.comp is not None:
            return self._compress(sa.comp, layer.patience or Patience(), stream, octets)
        return []

    def _encrypt(self, sa: OutSa, esp: EspSa, stream: Stream, first: int, total: int) -> Stream:
        header, proto, payloads = stream
        number = len(payloads)
        if esp.iv_kind == "counter":
            ivs = self._unused(sa, number)
        else:
            ivs = self._random(esp.iv_octets * number)
        pads = self._random(esp.pad_octets * number) if esp.pad_octets else b""
        sealed = esp.seal_many(first, payloads, proto, ivs, pads)
        self._counters[count.ESP_OUTPUT] += len(sealed)
        self._counters[count.OBYTES] += total
        if sa.is_encapsulated:
            spec = sa.spec
            if spec.via:
                header = datagram.readdressed(header, spec.via)
            datagrams = [natt.encapsulated(header, one, spec.sport, spec.dport) for one in sealed]
            return Stream(header, natt.UDP, datagrams)
        return Stream(header, IPPROTO_ESP, sealed)

    def _take(self, sa: OutSa, packets: int, octets: int, now_us: int) -> int:
        return sa.take(packets, octets, now_us)

    def _unused(self, sa: OutSa, number: int) -> bytes:
        return sa.take_counters(number, int.from_bytes(self._random(8), "big"))

    def _authenticate(self, sa: OutSa, ah: AhSa, stream: Stream, first: int, total: int) -> Stream:
        """AH covers the header that is sent, so its identifications are settled here."""
        counters = self._counters
        header, proto, payloads = stream
        is_v4 = header[0] >> 4 == 4
        ident = ip.identification(header) if is_v4 else 1
        if not ident or ident + len(payloads) > 0xFFFF:  # a raw socket would fill in a zero
            ident = 1 + int.from_bytes(self._random(2), "big") % (0xFFFF - len(payloads))
            header = ip.rebuild(header, proto, 0, ident=ident)
        done: list[memoryview] = []
        octets, size = len(header), ah.iv_octets
        ivs = self._unused(sa, len(payloads)) if size else b""
        for number, payload in enumerate(payloads):
            if is_v4:
                head = b"".join((header[:4], (ident + number).to_bytes(2, "big"), header[6:]))
            else:
                head = header
            iv = ivs[number * size : (number + 1) * size]
            packet = ah.seal(head, payload, first + number, proto, iv)
            if isinstance(packet, Drop):
                # the identification counts by position: nothing after this one may move up
                self._drop(sa.drops[packet], len(payloads) - number)
                break
            done.append(memoryview(packet)[octets:])
        counters[count.AH_OUTPUT] += len(done)
        counters[count.AH_OBYTES] += total
        return Stream(header, IPPROTO_AH, done)

    def _compress(
        self, comp: CompSa, patience: Patience, stream: Stream, octets: int
    ) -> list[Stream]:
        """Runs of packets that shrank and of such that are sent as they are."""
        counters = self._counters
        header, proto, payloads = stream
        done: list[Stream] = []
        run: list[bytes | bytearray | memoryview] = []
        for number, payload in enumerate(payloads):
            sealed = None
            if len(payload) < LEAST_OCTETS:
                counters[count.IPCOMP_MINLEN] += 1
            elif patience.tries():
                sealed = comp.seal(payload, proto)
                patience.note(sealed is not None)
            if sealed is not None:
                counters[count.IPCOMP_OUTPUT] += 1
                counters[count.IPCOMP_OBYTES] += octets + len(payload)
            elif len(payload) >= LEAST_OCTETS:
                counters[count.IPCOMP_USELESS] += 1
            now = proto if sealed is None else IPPROTO_COMP
            if not done or done[-1].proto != now:
                run = []
                done.append(Stream(_counted(header, number), now, run))
            run.append(payload if sealed is None else sealed)
        return done

    def fragments(self, packets: list[bytes], mtu: int) -> list[bytes]:
        """The packets, those that are too long as pieces; what cannot be cut is counted."""
        pieces: list[bytes] = []
        for packet in packets:
            try:
                pieces += self._pieces(packet, mtu)
            except ValueError:  # headers as long as a small MTU
                self._drop(count.OUT_INVAL, 1)
        return pieces

    def _pieces(self, packet: bytes, mtu: int) -> list[bytes]:
        if packet[0] >> 4 == 6:
            return ip6.fragment(packet, mtu, int.from_bytes(self._random(4), "big"))
        if not ip.identification(packet):  # pieces need a common one; the kernel fills zeros
            ident = 1 + int.from_bytes(self._random(2), "big") % 0xFFFF
            octets = ip.header_length(packet)
            head = ip.rebuild(packet[:octets], packet[9], len(packet) - octets, ident=ident)
            packet = head + packet[octets:]
        return ip.fragment(packet, mtu)


def _counted(header: bytes, number: int) -> bytes:
    """The header with the identification of the packet that comes so many after the first."""
    if not number or header[0] >> 4 != 4:
        return header
    ident = ip.identification(header) + number & 0xFFFF
    return ip.rebuild(header, header[9], 0, ident=ident)
