"""What is inside a protected packet, for those who have the keys: layer after layer.

A core: octets and SAs in, the layers and the innermost packet out. It looks and vouches for
nothing. Fragments and packets of unknown SAs come out as far as they can be read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pfkey import algorithms, unseal
from pfkey.addresses import render_address
from pfkey.algorithms import Kind
from pfkey.const import (
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    NATT_PORT,
    SATYPE_OF_PROTO,
    KameFlag,
    SaFlag,
    SaType,
)
from pfkey.entries import SadEntry

_EXTENSIONS = (0, 43, 60)
_IPV4, _IPV6, _FRAGMENT = 4, 41, 44
_TCP, _UDP = 6, 17
_TCP_OCTETS, _UDP_OCTETS, _FRAGMENT_OCTETS, _IPV6_OCTETS = 20, 8, 8, 16
_LAYERS_MAX = 8
_WELL_KNOWN = 256  # the CPIs below name algorithms (RFC 3173 section 3.3)
_NAMES = {IPPROTO_ESP: "ESP", IPPROTO_AH: "AH", IPPROTO_COMP: "IPComp"}
_LEAST = {IPPROTO_ESP: 12, IPPROTO_AH: 12, IPPROTO_COMP: 4}
_PROTOS: dict[int, int] = {satype: proto for proto, satype in SATYPE_OF_PROTO.items()}


@dataclass(frozen=True, slots=True)
class Layer:
    """One header that protects: which protocol, and the numbers that anybody can read.

    IPComp has a CPI for an SPI and no sequence number, as ESP and AH of before RFC 2401.
    """

    proto: int
    spi: int
    sequence: int | None

    def __str__(self) -> str:
        if self.proto == IPPROTO_COMP:
            return f"{_NAMES[self.proto]} cpi {self.spi:#06x}"
        number = "" if self.sequence is None else f" sequence {self.sequence}"
        return f"{_NAMES[self.proto]} spi {self.spi:#010x}{number}"


@dataclass(frozen=True, slots=True)
class Peeled:
    """`src` to `payload` are of the innermost packet that could be read; `payload` follows its
    headers, in fragments too. `is_open`: nothing inside is hidden; `is_whole`: it is no fragment;
    `offset`: a fragment's, in octets.
    """

    src: bytes
    dst: bytes
    proto: int
    payload: bytes
    layers: tuple[Layer, ...]
    is_open: bool
    is_whole: bool
    offset: int = 0

    @property
    def piece_of(self) -> int | None:
        """The protocol that a fragment is of; None for what is whole."""
        if self.is_whole or self.layers:
            return None
        return self.payload[0] if self.proto == _FRAGMENT and self.payload else self.proto

    def carries(self, other: "Peeled") -> bool:
        """Whether this packet, of the wire, and one of pfkey0 hold the same octets.

        One of the wire may be a segment of what pfkey0 had in one piece, or the other way round.
        """
        if not self.is_open or (self.src, self.dst) != (other.src, other.dst):
            return False
        if not self.is_whole:
            return self._is_cut_of(other)
        if self.proto != other.proto or not other.is_whole:
            return False
        if self.proto != _TCP or min(len(self.payload), len(other.payload)) < _TCP_OCTETS:
            # checksums may be completed on the way: ports, and what follows the checksum
            return self.payload[:2] + self.payload[8:] == other.payload[:2] + other.payload[8:]
        if self.payload[:4] != other.payload[:4]:
            return False
        (first, octets), (start, room) = _span(self.payload), _span(other.payload)
        here, there = (first - start) & 0xFFFFFFFF, (start - first) & 0xFFFFFFFF
        return here + octets <= room or there + room <= octets

    def _is_cut_of(self, other: "Peeled") -> bool:
        """Whether this fragment, cut before it was sealed, is of that packet, or fragment."""
        (proto, piece), (theirs, whole) = self._behind_fragment(), other._behind_fragment()
        at = self.offset - other.offset
        # at the beginning, a checksum may be completed
        unlike = 0 if self.offset else _TCP_OCTETS
        there = whole[at + unlike : at + len(piece)]
        return proto == theirs and at >= 0 and len(there) > 0 and there == piece[unlike:]

    def _behind_fragment(self) -> tuple[int, bytes]:
        """(protocol, payload) without IPv6's fragment header."""
        if self.proto == _FRAGMENT and len(self.payload) >= _FRAGMENT_OCTETS:
            return self.payload[0], self.payload[_FRAGMENT_OCTETS:]
        return self.proto, self.payload


def _span(segment: bytes) -> tuple[int, int]:
    """A TCP segment's sequence number, and how many octets it has."""
    return int.from_bytes(segment[4:8], "big"), len(segment) - (segment[12] >> 4) * 4


class Peeler:
    """Takes layers off with the keys of some SAs."""

    def __init__(self, entries: Iterable[SadEntry] = ()) -> None:
        self._sas: dict[tuple[str, int, int], SadEntry] = {}
        self._ports = {NATT_PORT}  # that ESP in UDP goes from or to
        self._highs: dict[tuple[str, int, int], int] = {}  # upper halves of extended numbers
        for entry in entries:
            proto, spi = _PROTOS.get(entry.satype, IPPROTO_ESP), entry.spi
            self._sas[entry.dst, proto, spi] = entry
            if proto == IPPROTO_COMP and spi < _WELL_KNOWN:  # KAME sends the algorithm's number
                self._sas[entry.dst, proto, entry.encrypt] = entry
            if entry.nat_t is not None:
                self._ports |= {entry.nat_t.src_port, entry.nat_t.dst_port}

    def peel(self, packet: bytes) -> Peeled | None:
        """The layers of an IP packet, from the outside in; None for what is no IP packet."""
        layers: list[Layer] = []
        head = _header(packet)
        if head is None:
            return None
        src, dst, proto, payload, is_whole, offset = head
        is_open = True
        while is_whole and len(layers) < _LAYERS_MAX:
            if proto in (_IPV4, _IPV6) and layers:
                inner = _header(payload)
                if inner is None:
                    break
                src, dst, proto, payload, is_whole, offset = inner
                continue
            if proto == _UDP and not layers and self._is_natt(payload):
                proto, payload = IPPROTO_ESP, payload[_UDP_OCTETS:]
            if proto not in _NAMES or len(payload) < _LEAST[proto]:
                break
            name = (render_address(dst), proto, _spi(proto, payload))
            entry = self._sas.get(name)
            layers.append(_layer(name, payload, entry))
            opened = self._opened(name, payload, entry)
            if opened is None:
                is_open = False
                break
            proto, payload = opened
            if len(src) == _IPV6_OCTETS:  # destination options may stand inside
                proto, payload = _past_extensions(proto, payload)
        return Peeled(src, dst, proto, payload, tuple(layers), is_open, is_whole, offset)

    def is_piece(self, peeled: Peeled, start: bytes) -> bool:
        """Whether it is a fragment of a sealed datagram, which begins with `start`."""
        proto = peeled.piece_of
        return proto in _NAMES or (proto == _UDP and self._is_natt(start))

    def _is_natt(self, payload: bytes) -> bool:
        """Whether a UDP datagram holds ESP, and not IKE or nothing (RFC 3948 2.2, 2.3)."""
        ports = {int.from_bytes(payload[at : at + 2], "big") for at in (0, 2)}
        return not self._ports.isdisjoint(ports) and payload[8:12] not in (b"", bytes(4))

    def _opened(
        self, name: tuple[str, int, int], payload: bytes, entry: SadEntry | None
    ) -> unseal.Inside | None:
        proto = name[1]
        if proto == IPPROTO_AH:
            return unseal.of_ah(payload)
        if entry is None:
            return None
        if proto == IPPROTO_COMP:
            return unseal.of_ipcomp(entry, payload)
        # the upper half is not sent: it is what it was or, after a wrap, one more
        known = self._highs.get(name, entry.sequence >> 32)
        for high in (known, known + 1) if entry.flags & SaFlag.ESN else (0,):
            opened = unseal.of_esp(entry, payload, high & 0xFFFFFFFF)
            if opened is not None:
                self._highs[name] = high
                return opened
        return None


def _spi(proto: int, payload: bytes) -> int:
    """What names the SA: an SPI, or the CPI of IPComp."""
    if proto == IPPROTO_COMP:
        return int.from_bytes(payload[2:4], "big")
    at = 4 if proto == IPPROTO_AH else 0
    return int.from_bytes(payload[at : at + 4], "big")


def _layer(name: tuple[str, int, int], payload: bytes, entry: SadEntry | None) -> Layer:
    _, proto, spi = name
    if proto == IPPROTO_COMP or unseal.is_old(entry):
        return Layer(proto, spi, None)
    at = 8 if proto == IPPROTO_AH else 4
    return Layer(proto, spi, int.from_bytes(payload[at : at + 4], "big"))


def _past_extensions(proto: int, payload: bytes) -> tuple[int, bytes]:
    """(protocol, payload) behind hop-by-hop options, routing headers, destination options."""
    while proto in _EXTENSIONS and len(payload) >= 8:
        proto, payload = payload[0], payload[(payload[1] + 1) * 8 :]
    return proto, payload


def _header(packet: bytes) -> tuple[bytes, bytes, int, bytes, bool, int] | None:
    """(source, destination, protocol, payload, whether it is no fragment, a fragment's offset) of
    an IP packet."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        end = int.from_bytes(packet[2:4], "big") or len(packet)
        word = int.from_bytes(packet[6:8], "big") & 0x3FFF
        payload = packet[(packet[0] & 15) * 4 : end]
        return packet[12:16], packet[16:20], packet[9], payload, not word, (word & 0x1FFF) * 8
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    size = int.from_bytes(packet[4:6], "big")
    proto, payload = _past_extensions(packet[6], packet[40 : 40 + size] if size else packet[40:])
    is_whole = proto != _FRAGMENT
    offset = 0 if is_whole else int.from_bytes(payload[2:4], "big") & 0xFFF8
    return packet[8:24], packet[24:40], proto, payload, is_whole, offset


def wireshark(entries: Iterable[SadEntry]) -> str:
    """The ESP SAs in the form of Wireshark's table `esp_sa`; what it does not know is left out."""
    lines = ['# Wireshark\'s preference "ESP SAs": this file as esp_sa in its configuration\n']
    for entry in entries:
        if entry.satype != SaType.ESP:
            continue
        cipher = algorithms.by_number(Kind.ENCRYPT, entry.encrypt)
        auth = algorithms.by_number(Kind.AUTH, entry.auth)
        names = [row.tshark if row else "NULL" for row in (cipher, auth)]
        is_odd = entry.flags & (KameFlag.OLD | KameFlag.DERIV)  # where its IV stands
        if not names[0] or (auth and not names[1]) or is_odd:
            lines.append(f"# spi {entry.spi:#010x}: Wireshark does not know its algorithms\n")
            continue
        keys = [f"0x{key.hex()}" if key else "" for key in (entry.encrypt_key, entry.auth_key)]
        family = "IPv6" if ":" in entry.dst else "IPv4"
        words = (family, entry.src, entry.dst, f"0x{entry.spi:08x}", names[0], keys[0], names[1],
                 keys[1])  # fmt: skip
        lines.append(",".join(f'"{word}"' for word in words) + "\n")
    return "".join(lines)
