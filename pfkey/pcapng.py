"""Capture files: pcapng. PF_KEY messages have link type USER0, IP packets RAW.

There is no link type for PF_KEY, so each packet is a message as it was (RFC 2367), with nothing
before it, under LINKTYPE_USER0. What it says stands beside it as the packet's comment, which
Wireshark shows; the interface's description says what the octets are. Byte order: the machine's, of
the file as of the messages. Times are microseconds since 1970.
"""

import struct
import sys

LINKTYPE_USER0 = 147
LINKTYPE_RAW = 101  # IPv4 or IPv6, as the first octet says
SNAP_OCTETS = 0  # no limit
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_OPT_END, _OPT_COMMENT = 0, 1
_SHB_USERAPPL = 4
_IF_NAME, _IF_DESCRIPTION = 2, 3
_EPB_FLAGS, _EPB_DROPCOUNT = 2, 4
_INBOUND, _OUTBOUND = 1, 2
_OPTION_OCTETS_MAX = 0xFFFF
_DESCRIPTION = (
    "PF_KEY v2 messages (RFC 2367), each from sadb_msg on, nothing before it,"
    f" {sys.byteorder}-endian; in: to the key engine"
)


def _pad(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def _option(code: int, value: bytes) -> bytes:
    return _pad(struct.pack("=HH", code, len(value)) + value)


def _text(code: int, text: str) -> bytes:
    """An option of text, cut where an option must end, at no half character."""
    cut = text.encode("utf-8", "replace")[:_OPTION_OCTETS_MAX].decode("utf-8", "ignore")
    return _option(code, cut.encode())


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("=I", len(body) + 12)
    return struct.pack("=I", kind) + length + body + length


def section(program: str) -> bytes:
    """What a file begins with, written by `program`."""
    fixed = struct.pack("=IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(_SECTION, fixed + _text(_SHB_USERAPPL, program) + _option(_OPT_END, b""))


def interface(name: str, description: str, linktype: int = LINKTYPE_RAW) -> bytes:
    """An interface; packets name it by its number, in the order of the file."""
    fixed = struct.pack("=HHI", linktype, 0, SNAP_OCTETS)
    names = _text(_IF_NAME, name) + _text(_IF_DESCRIPTION, description)
    return _block(_INTERFACE, fixed + names + _option(_OPT_END, b""))


def head(program: str) -> bytes:
    """What a file of messages begins with: the section and the one interface."""
    return section(program) + interface("pfkey", _DESCRIPTION, LINKTYPE_USER0)


def packet(
    octets: bytes, *, at: float, is_inbound: bool, comment: str, lost: int = 0, interface: int = 0
) -> bytes:  # fmt: skip
    """One message or packet.

    Args:
        octets: the message, or what was sent instead of one.
        at: seconds since 1970.
        is_inbound: whether it went to the key engine, or came in.
        comment: what it says.
        lost: how many are missing before it.
        interface: the number of its interface.
    """
    when = int(at * 1_000_000)
    fixed = struct.pack(
        "=IIIII", interface, when >> 32, when & 0xFFFFFFFF, len(octets), len(octets)
    )
    flags = struct.pack("=I", _INBOUND if is_inbound else _OUTBOUND)
    options = _text(_OPT_COMMENT, comment) + _option(_EPB_FLAGS, flags)
    if lost:
        options += _option(_EPB_DROPCOUNT, struct.pack("=Q", lost))
    return _block(_PACKET, fixed + _pad(octets) + options + _option(_OPT_END, b""))
