"""The messages that clients send, made from plain values: one function for each type.

Extensions stand in the order of libipsec. `seq` and `pid` are left to `Conversation.stamp`.
Addresses are text, SPIs plain numbers, times seconds; what is no address, name or range is refused
with MisuseError before anything is sent.
"""

from pfkey.addresses import address_extension, pair
from pfkey.algorithms import ROWS, Kind, by_name
from pfkey.const import (
    AF_INET,
    AF_INET6,
    UNSPEC_PROTO,
    Dir,
    ExtType,
    MsgType,
    PolicyType,
    SaType,
)
from pfkey.entries import NatT, SadEntry, SpdEntry
from pfkey.errors import MisuseError, UnsupportedAlgorithmError
from pfkey.ext_sa import Sa
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import Filter, KmAddress
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message

FILTER_BITS_MAX = 127  # Linux's own limit, on either family


def cipher(name: str) -> int:
    """The number of an encryption algorithm, such as `aes-cbc` or `aes-gcm-16`.

    Raises:
        UnsupportedAlgorithmError: no algorithm has that name; it lists those that are.
    """
    return _algorithm(Kind.ENCRYPT, name)


def authenticator(name: str) -> int:
    """The number of an authentication algorithm, such as `hmac-sha256`.

    Raises:
        UnsupportedAlgorithmError: no algorithm has that name; it lists those that are.
    """
    return _algorithm(Kind.AUTH, name)


def compressor(name: str) -> int:
    """The number of a compression algorithm, such as `deflate`.

    Raises:
        UnsupportedAlgorithmError: no algorithm has that name; it lists those that are.
    """
    return _algorithm(Kind.COMPRESS, name)


def _algorithm(kind: Kind, name: str) -> int:
    row = by_name(kind, name)
    if row is None:
        known = ", ".join(one for row in ROWS if row.kind == kind for one in row.names)
        raise UnsupportedAlgorithmError(f"no algorithm {name!r}: {kind} has {known}")
    return row.number


def register(satype: int = SaType.UNSPEC) -> Message:
    """REGISTER (RFC 2367 section 3.1.7); UNSPEC only asks for the algorithms."""
    return Message(type=MsgType.REGISTER, satype=satype)


def getspi(
    satype: int,
    src: str,
    dst: str,
    *,
    spis: tuple[int, int] | None = None,
    mode: int = 0,
    reqid: int = 0,
    nat_t: NatT | None = None,
) -> Message:
    """GETSPI (RFC 2367 section 3.1.1); `spis` are the lowest and the highest that will do.

    Raises:
        MisuseError: an address is none, or the range is empty.
    """
    extensions: list[Extension] = [Sa2(mode=mode, reqid=reqid), *pair(src, dst)]
    if nat_t is not None:
        extensions += nat_t.extensions()
    if spis is not None:
        low, high = spis
        if not 0 < low <= high <= 0xFFFFFFFF:
            raise MisuseError(f"SPIs {low:#x} to {high:#x} are no range of 32-bit numbers")
        extensions.append(SpiRange(min=low, max=high))
    return Message(type=MsgType.GETSPI, satype=satype, extensions=tuple(extensions))


def sa(type: MsgType, entry: SadEntry) -> Message:
    """ADD or UPDATE (RFC 2367 sections 3.1.2, 3.1.3).

    Raises:
        MisuseError: an address is none, or the families differ.
    """
    return Message(type=type, satype=entry.satype, extensions=entry.extensions())


def sa_name(type: MsgType, satype: int, src: str, dst: str, spi: int) -> Message:
    """DELETE or GET (RFC 2367 sections 3.1.4, 3.1.5).

    Raises:
        MisuseError: an address is none, or the families differ.
    """
    return Message(type=type, satype=satype, extensions=(Sa(spi=spi), *pair(src, dst)))


def bare(type: MsgType, satype: int = SaType.UNSPEC) -> Message:
    """A message without extensions: FLUSH, SPDFLUSH, SPDDUMP."""
    return Message(type=type, satype=satype)


def dump(satype: int = SaType.UNSPEC, *, src: str = "", dst: str = "") -> Message:
    """DUMP (RFC 2367 section 3.1.10), on Linux of SAs from and to prefixes only.

    Raises:
        MisuseError: a prefix is none, or is a whole IPv6 address, which Linux does not take.
    """
    if not src and not dst:
        return bare(MsgType.DUMP, satype)
    ends = []
    for given, other in ((src, dst), (dst, src)):
        address, bits = _prefix(given) if given else (_prefix(other)[0], 0)
        ends.append((address, bits))
    (saddr, splen), (daddr, dplen) = ends
    if len(saddr) != len(daddr):
        raise MisuseError(f"{src} and {dst}: one is IPv4, the other IPv6")
    wanted = Filter(
        family=AF_INET if len(saddr) == 4 else AF_INET6, saddr=saddr.ljust(16, b"\0"),
        daddr=daddr.ljust(16, b"\0"), splen=splen, dplen=dplen,
    )  # fmt: skip
    return Message(type=MsgType.DUMP, satype=satype, extensions=(wanted,))


def _prefix(text: str) -> tuple[bytes, int]:
    found = address_extension(ExtType.ADDRESS_SRC, text)
    if found.prefixlen > FILTER_BITS_MAX:
        raise MisuseError(f"{text}: a filter has at most {FILTER_BITS_MAX} bits")
    return found.address, found.prefixlen


def acquire_failed(satype: int, seq: int, errno: int) -> Message:
    """ACQUIRE from a key manager that gives up (RFC 2367 section 3.1.6): a header, no reply.

    Raises:
        MisuseError: `errno` or `seq` is 0, which the engine would ignore.
    """
    if not 0 < errno < 256 or not seq:
        raise MisuseError(f"errno {errno} and seq {seq}: neither may be 0, errno is 8 bits")
    return Message(type=MsgType.ACQUIRE, satype=satype, errno=errno, seq=seq)


def promisc(is_on: bool) -> Message:
    """X_PROMISC (RFC 2367 section 3.1.11): hear every message, or no longer."""
    return Message(type=MsgType.X_PROMISC, satype=int(is_on))


def spd(type: MsgType, entry: SpdEntry) -> Message:
    """X_SPDADD, X_SPDUPDATE or X_SPDSETIDX.

    Raises:
        MisuseError: an address is none, or the families differ.
    """
    return Message(type=type, extensions=entry.extensions())


def spddelete(
    src: str,
    dst: str,
    direction: int,
    *,
    proto: int = UNSPEC_PROTO,
    src_port: int = 0,
    dst_port: int = 0,
) -> Message:
    """X_SPDDELETE: by selector and direction.

    Raises:
        MisuseError: an address is none, or the families differ.
    """
    policy = Policy(type=PolicyType.DISCARD, dir=direction)  # the type is not looked at
    entry = SpdEntry(
        src=src, dst=dst, policy=policy, proto=proto, src_port=src_port, dst_port=dst_port
    )
    return spd(MsgType.X_SPDDELETE, entry)


def policy_name(type: MsgType, number: int) -> Message:
    """X_SPDGET or X_SPDDELETE2: by the engine's number."""
    policy = Policy(type=PolicyType.DISCARD, dir=Dir.ANY, id=number)
    return Message(type=type, extensions=(policy,))


def migrate(entry: SpdEntry, *, local: str = "", remote: str = "") -> Message:
    """X_MIGRATE: the policy's requests are pairs, as they are and as they shall be.

    `local` and `remote` are where the key manager talks from and to afterwards.

    Raises:
        MisuseError: an address is none, only one of the two is given, or the requests are no pairs.
    """
    if len(entry.policy.requests) % 2 or not entry.policy.requests:
        raise MisuseError("MIGRATE takes pairs of requests: as it is, as it shall be")
    if bool(local) != bool(remote):
        raise MisuseError("local and remote go together")
    ends: tuple[Extension, ...] = ()
    if local:
        own, peer = pair(local, remote)
        ends = (KmAddress(local=own.address, remote=peer.address),)
    return Message(type=MsgType.X_MIGRATE, extensions=(*ends, *entry.extensions()))
