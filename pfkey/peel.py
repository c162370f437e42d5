"""What is inside a protected packet, for those who have the keys (RFC 4303, RFC 4302).

A core: octets and SAs in, the layers and the innermost packet out. It looks and vouches for
nothing: an ICV is checked only where the cipher cannot be undone without it. Later fragments and
packets of unknown SAs come out as far as they can be read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pfkey import algorithms, crypto
from pfkey.addresses import render_address
from pfkey.algorithms import Kind
from pfkey.const import IPPROTO_AH, IPPROTO_ESP, SaType
from pfkey.entries import SadEntry
from pfkey.errors import CryptoError

_EXTENSIONS = (0, 43, 60)
_IPV4, _IPV6, _FRAGMENT = 4, 41, 44
_TCP, _UDP = 6, 17
_NATT_PORT = (4500).to_bytes(2, "big")
_LAYERS_MAX = 8
_NAMES = {IPPROTO_ESP: "ESP", IPPROTO_AH: "AH"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One header that protects: which protocol, and the two numbers that anybody can read."""

    proto: int
    spi: int
    sequence: int

    def __str__(self) -> str:
        return f"{_NAMES[self.proto]} spi {self.spi:#010x} sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class Peeled:
    """`src` to `payload` are of the innermost packet that could be read; `payload` follows its
    headers, in fragments too. `is_open`: nothing inside is hidden; `is_whole`: it is no fragment.
    """

    src: bytes
    dst: bytes
    proto: int
    payload: bytes
    layers: tuple[Layer, ...]
    is_open: bool
    is_whole: bool

    @property
    def is_piece(self) -> bool:
        """Whether it is a fragment of a protected packet."""
        proto = self.payload[0] if self.proto == _FRAGMENT and self.payload else self.proto
        return not self.is_whole and not self.layers and proto in _NAMES

    def carries(self, other: "Peeled") -> bool:
        """Whether this packet, of the wire, and one of pfkey0 hold the same octets.

        One of the wire may be a segment of what pfkey0 had in one piece, or the other way round.
        """
        if not self.is_open or (self.src, self.dst, self.proto) != (
            other.src, other.dst, other.proto,
        ):  # fmt: skip
            return False
        if not (self.is_whole and other.is_whole):
            return self.payload == other.payload
        if self.proto != _TCP or len(self.payload) < 20 or len(other.payload) < 20:
            # checksums may be completed on the way: ports, and what follows the checksum
            return self.payload[:2] + self.payload[8:] == other.payload[:2] + other.payload[8:]
        if self.payload[:4] != other.payload[:4]:
            return False
        (first, octets), (start, room) = _span(self.payload), _span(other.payload)
        here, there = (first - start) & 0xFFFFFFFF, (start - first) & 0xFFFFFFFF
        return here + octets <= room or there + room <= octets


def _span(segment: bytes) -> tuple[int, int]:
    """A TCP segment's sequence number, and how many octets it has."""
    return int.from_bytes(segment[4:8], "big"), len(segment) - (segment[12] >> 4) * 4


class Peeler:
    """Takes layers off with the keys of some SAs."""

    def __init__(self, entries: Iterable[SadEntry] = ()) -> None:
        self._sas = {
            (e.dst, IPPROTO_AH if e.satype == SaType.AH else IPPROTO_ESP, e.spi): e for e in entries
        }

    def peel(self, packet: bytes) -> Peeled | None:
        """The layers of an IP packet, from the outside in; None for what is no IP packet."""
        layers: list[Layer] = []
        head = _header(packet)
        if head is None:
            return None
        src, dst, proto, payload, is_whole = head
        is_open = True
        while is_open and is_whole and len(layers) < _LAYERS_MAX:
            if proto in (_IPV4, _IPV6) and layers:
                inner = _header(payload)
                if inner is None:
                    break
                src, dst, proto, payload, is_whole = inner
                continue
            if proto == _UDP and not layers and _NATT_PORT in (payload[:2], payload[2:4]):
                if payload[8:12] in (b"", bytes(4)):  # RFC 3948: IKE, or nothing
                    break
                proto, payload = IPPROTO_ESP, payload[8:]
            if proto not in _NAMES or len(payload) < 12:
                break
            at = 4 if proto == IPPROTO_AH else 0
            spi = int.from_bytes(payload[at : at + 4], "big")
            layers.append(Layer(proto, spi, int.from_bytes(payload[at + 4 : at + 8], "big")))
            if proto == IPPROTO_AH:
                proto, payload = payload[0], payload[(payload[1] + 2) * 4 :]
                continue
            entry = self._sas.get((render_address(dst), proto, spi))
            opened = _open(entry, payload) if entry else None
            if opened is None:
                is_open = False
                break
            proto, payload = opened
        return Peeled(src, dst, proto, payload, tuple(layers), is_open, is_whole)


def _header(packet: bytes) -> tuple[bytes, bytes, int, bytes, bool] | None:
    """(source, destination, protocol, payload, whether it is no fragment) of an IP packet."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        end = int.from_bytes(packet[2:4], "big") or len(packet)
        is_whole = not int.from_bytes(packet[6:8], "big") & 0x3FFF
        payload = packet[(packet[0] & 15) * 4 : end]
        return packet[12:16], packet[16:20], packet[9], payload, is_whole
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    size = int.from_bytes(packet[4:6], "big")
    payload, proto = packet[40 : 40 + size] if size else packet[40:], packet[6]
    while proto in _EXTENSIONS and len(payload) >= 8:
        proto, payload = payload[0], payload[(payload[1] + 1) * 8 :]
    return packet[8:24], packet[24:40], proto, payload, proto != _FRAGMENT


def _open(entry: SadEntry, payload: bytes) -> tuple[int, bytes] | None:
    """(next header, what is inside) of an ESP packet; None where the keys do not open it."""
    key, auth_key = entry.encrypt_key or b"", entry.auth_key or b""
    try:
        if entry.encrypt in crypto.COUNTER_IV:
            combined = crypto.combined(entry.encrypt, key, entry.auth, auth_key)
            plain = combined.open(payload[8:16], payload[16:], payload[:8])
        else:
            cipher = crypto.cipher(entry.encrypt, key)
            end = len(payload) - crypto.integrity(entry.auth, auth_key).icv_octets
            start = 8 + cipher.iv_octets
            plain = cipher.open(payload[8:start], payload[start:end])
    except (CryptoError, ValueError):
        return None
    if not plain or len(plain) < 2 or plain[-2] + 2 > len(plain):
        return None
    return plain[-1], bytes(plain[: len(plain) - 2 - plain[-2]])


def wireshark(entries: Iterable[SadEntry]) -> str:
    """The ESP SAs in the form of Wireshark's table `esp_sa`; what it does not know is left out."""
    lines = ['# Wireshark\'s preference "ESP SAs": this file as esp_sa in its configuration\n']
    for entry in entries:
        if entry.satype != SaType.ESP:
            continue
        cipher = algorithms.by_number(Kind.ENCRYPT, entry.encrypt)
        auth = algorithms.by_number(Kind.AUTH, entry.auth)
        names = [row.tshark if row else "NULL" for row in (cipher, auth)]
        if not names[0] or (auth and not names[1]):
            lines.append(f"# spi {entry.spi:#010x}: Wireshark does not know its algorithms\n")
            continue
        keys = [f"0x{key.hex()}" if key else "" for key in (entry.encrypt_key, entry.auth_key)]
        family = "IPv6" if ":" in entry.dst else "IPv4"
        words = (family, entry.src, entry.dst, f"0x{entry.spi:08x}", names[0], keys[0], names[1],
                 keys[1])  # fmt: skip
        lines.append(",".join(f'"{word}"' for word in words) + "\n")
    return "".join(lines)
