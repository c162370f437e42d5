"""Raw sockets: some for each IP version, opened by the control process while it has the rights.

| socket    | protocol | does |
|-----------|----------|------|
| esp_in    | 50       | receives ESP, and keeps the kernel from answering "protocol unreachable" |
| ah        | 51       | the same for AH |
| comp      | 108      | the same for IPComp |
| esp_out   | 50       | sends sealed packets, hears the ICMP errors about them (IPv4), no more |
| clear_out | 255      | sends what `use` lets out in clear |
| bare4     | 4        | receives packets in packets, for IPComp leaves what does not shrink |
| bare6     | 41       | the same |
| udp       | 17       | receives ESP in UDP, as `keyd.shell.nft_rules` tells it from IKE |
| icmp_udp  | 17       | IPv4 alone: hears the ICMP errors about ESP in UDP, receives nothing |
| icmp      | 58       | IPv6 alone: hears the ICMPv6 errors about sealed packets |

Senders write whole packets (IP_HDRINCL, IPV6_HDRINCL) and carry the bypass mark. No socket takes
part in the kernel's path MTU discovery (IP_PMTUDISC_OMIT, IPV6_PMTUDISC_OMIT): in transport mode
a path MTU learned for the inner packets goes by the same address, and would make the kernel
refuse or cut the outer ones; and any one raw socket of the protocol that does take part, be it a
mere receiver, has the kernel believe every ICMP error that quotes ESP, forged ones as well. Over
IPv6 the same is true of a socket with an error queue, whatever it says about discovery: hence a
socket of its own for ICMPv6.

A mark alone opens nft's guard for ESP only; clear packets pass because their socket belongs to
`bypass_uid`, and so do sealed ones whose mark somebody else's rule has overwritten.

`keyd.shell.batches` moves packets through them.
"""

import ctypes
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP
from pfkey.doctor import has_ipv6
from pfkey.errors import ShellError

BATCH = 64
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_BUFFER = 8 << 20
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER = 26
_SO_MARK = 36
_IP_MTU_DISCOVER = 10
_IP_RECVERR = 11
_IP_NODEFRAG = 22
_IPV6_MTU_DISCOVER = 23
_IPV6_HDRINCL = 36
_PMTUDISC_OMIT = 5  # of either version
# what makes up a header again: destination, hop limit, class and label, extension headers
_IPV6_FLOWINFO = 11
_HEADER_OPTIONS = (
    socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, _IPV6_FLOWINFO,
    socket.IPV6_RECVHOPOPTS, socket.IPV6_RECVRTHDR, socket.IPV6_RECVDSTOPTS,
)  # fmt: skip
_MSG_DONTWAIT = 0x40
_ERROR = struct.Struct("=IBBBxII")  # sock_extended_err
_ORIGIN_ICMP = 2
_ICMPV6 = struct.Struct("!BBHI")

# Classic BPF: (code, jump if true, jump if false, operand)
_LOAD_OCTET, _IF_AT_LEAST, _IF_EQUAL, _RETURN = 0x30, 0x35, 0x15, 0x06
_LOAD_HALF, _LOAD_HALF_BEHIND, _X_IS_HEADER_OCTETS = 0x28, 0x48, 0xB1
_Program = tuple[tuple[int, int, int, int], ...]
_NOTHING: _Program = ((_RETURN, 0, 0, 0),)
_QUOTED = (
    IPPROTO_ESP,
    IPPROTO_AH,
    socket.IPPROTO_UDP,
    44,
    0,
    43,
    60,
)  # or an extension header, which may lead there
# an ICMPv6 error (types below 128) whose quotation, behind 8 octets, may be of a sealed packet
_ERRORS_ABOUT_US: _Program = (
    (_LOAD_OCTET, 0, 0, 0),
    (_IF_AT_LEAST, len(_QUOTED) + 1, 0, 128),
    (_LOAD_OCTET, 0, 0, _ICMPV6.size + 6),
    *((_IF_EQUAL, len(_QUOTED) - n, 0, proto) for n, proto in enumerate(_QUOTED)),
    *_NOTHING,
    (_RETURN, 0, 0, 0x40000),
)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class RawSockets:
    """Those of one IP version."""

    esp_in: socket.socket
    ah: socket.socket
    comp: socket.socket
    esp_out: socket.socket
    clear_out: socket.socket
    bare4: socket.socket
    bare6: socket.socket
    udp: socket.socket
    icmp_udp: socket.socket | None = None
    icmp: socket.socket | None = None

    @property
    def receiving(self) -> dict[str, socket.socket]:
        """What the worker "in" is given, by name."""
        named = {"esp_in": self.esp_in, "ah": self.ah, "comp": self.comp, "udp": self.udp}
        return {**named, "bare4_": self.bare4, "bare6_": self.bare6}

    @property
    def sending(self) -> dict[str, socket.socket]:
        """What the worker "out" is given, by name."""
        named = {"esp_out": self.esp_out, "clear_out": self.clear_out}
        some = {"icmp_udp": self.icmp_udp, "icmp": self.icmp}
        return {**named, **{name: sock for name, sock in some.items() if sock is not None}}

    def close(self) -> None:
        """Close all."""
        for sock in (*self.receiving.values(), *self.sending.values()):
            sock.close()


def open_raw(
    *, mark: int = 0x4C000000, bypass_uid: int | None = None, natt_port: int = 0
) -> dict[int, RawSockets]:
    """The sockets by IP version: 4, and 6 where the kernel has it.

    `natt_port` is the port to which nft sends ESP in UDP; 0 for none.
    Needs CAP_NET_RAW, and CAP_SETUID for `bypass_uid`.

    Raises:
        ShellError: a right is missing.
    """
    found: dict[int, RawSockets] = {}
    try:
        for version in FAMILIES:
            if version == 4 or has_ipv6():
                found[version] = _open(version, mark, bypass_uid, natt_port)
    except PermissionError:
        for sockets in found.values():
            sockets.close()
        raise ShellError(
            "raw sockets are not permitted", "run as root, or with CAP_NET_RAW and CAP_NET_ADMIN"
        ) from None
    return found


def _open(version: int, mark: int, uid: int | None, natt_port: int) -> RawSockets:
    opened: list[socket.socket] = []

    def one(make: Callable[..., socket.socket], *args: int | None) -> socket.socket:
        opened.append(make(version, *args))
        return opened[-1]

    try:
        esp_in, ah, comp = (one(_receiver, p) for p in (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP))
        bare4, bare6 = one(_receiver, socket.IPPROTO_IPIP), one(_receiver, socket.IPPROTO_IPV6)
        udp = one(_receiver, socket.IPPROTO_UDP)
        _filter(udp, _to_port(version, natt_port))
        esp_out = one(_owned_sender, IPPROTO_ESP, mark, uid)
        _filter(esp_out, _NOTHING)
        if version == 4:
            esp_out.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        icmp_udp = one(_listener, socket.IPPROTO_UDP) if version == 4 else None
        clear_out = one(_owned_sender, socket.IPPROTO_RAW, mark, uid)
        icmp = one(_raw, socket.IPPROTO_ICMPV6) if version == 6 else None
        if icmp is not None:
            _filter(icmp, _ERRORS_ABOUT_US)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return RawSockets(esp_in, ah, comp, esp_out, clear_out, bare4, bare6, udp, icmp_udp, icmp)


def _raw(version: int, proto: int) -> socket.socket:
    sock = socket.socket(FAMILIES[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, proto)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_OMIT)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_OMIT)
    return sock


def _receiver(version: int, proto: int) -> socket.socket:
    sock = _raw(version, proto)
    if version == 6:
        for option in _HEADER_OPTIONS:
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
    _room(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
    return sock


def _listener(version: int, proto: int) -> socket.socket:
    """What hears the ICMP errors about packets of a protocol over IPv4, whoever sent them."""
    sock = _raw(version, proto)
    _filter(sock, _NOTHING)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)  # they quote whole headers then
    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    return sock


def _to_port(version: int, port: int) -> _Program:
    """Datagrams to a port. A filter over IPv4 sees the IP header, one over IPv6 does not."""
    load: _Program = ((_LOAD_HALF, 0, 0, 2),)
    if version == 4:
        load = ((_X_IS_HEADER_OCTETS, 0, 0, 0), (_LOAD_HALF_BEHIND, 0, 0, 2))
    return (*load, (_IF_EQUAL, 0, 1, port), (_RETURN, 0, 0, 0x40000), *_NOTHING)


def _sender(version: int, proto: int, mark: int) -> socket.socket:
    sock = _raw(version, proto)
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        # conntrack would join our fragments; over IPv6 nft keeps it from them
        sock.setsockopt(socket.IPPROTO_IP, _IP_NODEFRAG, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    _room(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
    return sock


def _owned_sender(version: int, proto: int, mark: int, uid: int | None) -> socket.socket:
    """A sender that nft's `meta skuid` knows: it looks at the creator's fsuid."""
    if uid is None:
        return _sender(version, proto, mark)
    before = _libc.setfsuid(uid)
    try:
        if _libc.setfsuid(-1) != uid:
            raise ShellError(f"cannot make a socket as user {uid}", "run as root")
        return _sender(version, proto, mark)
    finally:
        _libc.setfsuid(before)


def _filter(sock: socket.socket, instructions: _Program) -> None:
    """Let in what the program returns a length for. An error queue is not filtered."""
    octets = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    program = ctypes.create_string_buffer(octets, len(octets))
    head = struct.pack("@HP", len(instructions), ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    drain(sock)


def _room(sock: socket.socket, force: int, plain: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
    except PermissionError:  # in a user namespace: what net.core allows
        sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)


def drain(sock: socket.socket) -> int:
    """Throw away what has arrived, a bounded lot at a time; how many packets that were."""
    count = 0
    for _ in range(16 * BATCH):
        try:
            sock.recv(1, _MSG_DONTWAIT)
        except BlockingIOError:
            break
        except OSError:  # a pending error of the socket; reading it clears it
            continue
        count += 1
    return count


@dataclass(frozen=True, slots=True)
class IcmpError:
    """One ICMP error. `quoted` begins with the IP header we sent."""

    type: int
    code: int
    mtu: int
    quoted: bytes


def errors(sock: socket.socket) -> list[IcmpError]:
    """Take all errors off the queue of a sender; those without ICMP behind them are left out."""
    found = []
    for _ in range(BATCH):
        try:
            quoted, ancillary, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE | _MSG_DONTWAIT)
        except OSError:
            break
        for level, kind, data in ancillary:
            if (level, kind) != (socket.IPPROTO_IP, _IP_RECVERR) or len(data) < _ERROR.size:
                continue
            _, origin, icmp_type, code, info, _ = _ERROR.unpack_from(data)
            if origin == _ORIGIN_ICMP:
                found.append(IcmpError(icmp_type, code, info, quoted))
    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # and the error left for the next send
    return found


def errors6(sock: socket.socket) -> list[IcmpError]:
    """Take what has come to a socket for ICMPv6 errors; the kernel has checked the checksum."""
    found = []
    for _ in range(BATCH):
        try:
            octets = sock.recv(2048, _MSG_DONTWAIT)
        except OSError:  # nothing more, or one with a wrong checksum
            break
        if len(octets) >= _ICMPV6.size:
            icmp_type, code, _, mtu = _ICMPV6.unpack_from(octets)
            found.append(IcmpError(icmp_type, code, mtu, octets[_ICMPV6.size :]))
    return found
