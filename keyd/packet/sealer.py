"""Sealing: numbers are taken from an SA, and a stream of packets gets one more layer.

RFC 4303 section 3.3, RFC 4302 section 3.3. Numbers count as used before anything is sealed.
"""

from collections.abc import Callable

from keyd.packet import counters as count
from keyd.packet import ip, ip6
from keyd.packet.ah import AhSa
from keyd.packet.association import OutSa
from keyd.packet.drop import Drop
from keyd.packet.esp import EspSa
from keyd.packet.layers import Layer, Stream
from pfkey.const import IPPROTO_AH, IPPROTO_ESP


class Sealer:
    """Seals and fragments; counts what becomes of packets. See `Outbound` for the arguments."""

    def __init__(self, counters: memoryview, random: Callable[[int], bytes]) -> None:
        self._counters = counters
        self._random = random

    def seal(self, layer: Layer, stream: Stream, now_us: int) -> Stream:
        """One layer around all packets; those that its SA may not carry any more are counted."""
        sa, payloads = layer.sa, stream.payloads
        octets = 0 if layer.is_tunnel else len(stream.header)
        sizes = [octets + len(payload) for payload in payloads]
        passing = sa.within_limits(sizes)
        if passing < len(sizes):
            self._refused(sa, sizes, passing)
            payloads, sizes = payloads[:passing], sizes[:passing]
            stream = Stream(stream.header, stream.proto, payloads)
            if not passing:
                return stream
        total = sum(sizes)
        first = sa.take(passing, total, now_us)
        if sa.esp is not None:
            return self._encrypt(sa, sa.esp, stream, first, total)
        return self._authenticate(sa, sa.ah, stream, first, total) if sa.ah else stream

    def _refused(self, sa: OutSa, sizes: list[int], passing: int) -> None:
        """Count what an SA's lifetime, or the end of its sequence numbers, does not let pass."""
        row = count.EXPIRED
        if passing == sa.numbers_left:
            row = (count.OF_DROP if sa.ah is None else count.OF_AH_DROP)[Drop.WRAP]
        self._counters[row] += len(sizes) - passing

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
        return Stream(header, IPPROTO_ESP, sealed)

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
                counters[count.OF_AH_DROP[packet]] += len(payloads) - number
                break
            done.append(memoryview(packet)[octets:])
        counters[count.AH_OUTPUT] += len(done)
        counters[count.AH_OBYTES] += total
        return Stream(header, IPPROTO_AH, done)

    def fragments(self, packets: list[bytes], mtu: int) -> list[bytes]:
        """The packets, those that are too long as pieces."""
        pieces = []
        for packet in packets:
            if packet[0] >> 4 == 6:
                pieces += ip6.fragment(packet, mtu, int.from_bytes(self._random(4), "big"))
                continue
            if not ip.identification(packet):  # pieces need a common one; the kernel fills zeros
                ident = 1 + int.from_bytes(self._random(2), "big") % 0xFFFF
                octets = ip.header_length(packet)
                head = ip.rebuild(packet[:octets], packet[9], len(packet) - octets, ident=ident)
                packet = head + packet[octets:]
            pieces += ip.fragment(packet, mtu)
        return pieces
