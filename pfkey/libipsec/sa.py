"""libipsec's requests about SAs: each function sends one message and returns its length in octets.

Parameters stand in the order of C. An SPI is a plain number here, while C takes it in network
order. `seq` is the number of the ACQUIRE that is answered, or 0. Replies come by `pfkey_recv`.
"""

import os
import socket
from dataclasses import dataclass, field, replace

from pfkey.const import ExtType, MsgType, SaState, SaType
from pfkey.entries import Limits
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_sa2 import Sa2
from pfkey.libipsec.errors import (
    EIPSEC_INVAL_ALGS,
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_INVAL_SATYPE,
    EIPSEC_INVAL_SPI,
    EIPSEC_NO_ALGS,
    EIPSEC_NOT_SUPPORTED,
    IpsecError,
    reports,
)
from pfkey.libipsec.sockaddr import SockAddr, extension, pair
from pfkey.libipsec.sockets import send
from pfkey.libipsec.softrate import soft
from pfkey.message import Extension, Message

LIBIPSEC_OPT_NATT = 0x01
LIBIPSEC_OPT_FRAG = 0x02
LIBIPSEC_OPT_SEC_CTX = 0x04
# What a Linux build of libipsec says that it can do.
libipsec_opt = LIBIPSEC_OPT_NATT

_SPI_RESERVED_MAX = 255
_SPI_MAX = 0xFFFFFFFF
_BARE_SATYPES = (SaType.UNSPEC, SaType.AH, SaType.ESP, SaType.X_IPCOMP)


def _message(type: MsgType, satype: int, seq: int, *extensions: Extension) -> Message:
    return Message(type=type, satype=satype, seq=seq, pid=os.getpid(), extensions=extensions)


@reports
def pfkey_send_getspi(
    so: socket.socket,
    satype: int,
    mode: int,
    src: SockAddr,
    dst: SockAddr,
    min: int,
    max: int,
    reqid: int,
    seq: int,
) -> int:
    """Sends GETSPI: SA2, SRC, DST, and SPIRANGE if `min` is above 255 and `max` below 0xffffffff.

    EIPSEC_INVAL_SPI for a `min` of 1 to 255, which are reserved, or above `max`; 0 and any `max`
    leave the choice to the engine.
    """
    return _getspi(so, satype, mode, src, dst, (), min, max, reqid, seq)


@reports
def pfkey_send_getspi_nat(
    so: socket.socket,
    satype: int,
    mode: int,
    src: SockAddr,
    dst: SockAddr,
    natt_type: int,
    sport: int,
    dport: int,
    min: int,
    max: int,
    reqid: int,
    seq: int,
) -> int:
    """Sends GETSPI: SA2, SRC, DST, NAT_T_TYPE, NAT_T_SPORT, NAT_T_DPORT, [SPIRANGE].

    As `pfkey_send_getspi`; with a `natt_type` of 0 there are no NAT_T extensions and no ports.
    """
    if not natt_type and (sport or dport):
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, "ports without a NAT-T type")
    nat_t = _nat_t(natt_type, sport, dport) if natt_type else ()
    return _getspi(so, satype, mode, src, dst, nat_t, min, max, reqid, seq)


def _getspi(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr,
    nat_t: tuple[Extension, ...], min: int, max: int, reqid: int, seq: int,
) -> int:  # fmt: skip
    ends = pair(src, dst)
    if min > max or 0 < min <= _SPI_RESERVED_MAX:
        raise IpsecError(EIPSEC_INVAL_SPI, f"{min:#x} to {max:#x}")
    has_range = min > _SPI_RESERVED_MAX and max < _SPI_MAX
    spis = (SpiRange(min=min, max=max),) if has_range else ()
    sa2 = Sa2(mode=mode, reqid=reqid)
    return send(so, _message(MsgType.GETSPI, satype, seq, sa2, *ends, *nat_t, *spis))


def _nat_t(type: int, sport: int, dport: int) -> tuple[Extension, ...]:
    return (
        NatTType(type=type),
        NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=sport),
        NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=dport),
    )


@dataclass(slots=True, kw_only=True)
class SendSaArgs:
    """What `pfkey_send_add2` and `pfkey_send_update2` send; C's struct pfkey_send_sa_args.

    Attributes:
        so: the socket.
        satype: SaType.ESP, SaType.AH or SaType.X_IPCOMP.
        mode: Mode.
        src, dst: the ends of the SA.
        spi: a plain number.
        reqid: ties the SA to policies.
        wsize: the replay window, in packets on Linux.
        keymat: the encryption key and behind it the authentication key.
        e_type, e_keylen: the encryption algorithm, and the octets of its key; of IPComp the
            compression algorithm.
        a_type, a_keylen: the authentication algorithm, and the octets of its key.
        flags: SaFlag.
        l_alloc, l_bytes, l_addtime, l_usetime: hard limits; `pfkey_set_softrate` makes the soft.
        seq: sadb_msg_seq.
        l_natt_type, l_natt_sport, l_natt_dport, l_natt_oa: ESP in UDP, if the type is not 0.
        l_natt_frag: the fragment size of BSD; not 0 is refused, for Linux has no such extension.
        ctxdoi, ctxalg, ctxstr: the security context, if the string is not None.
    """

    so: socket.socket
    satype: int
    src: SockAddr
    dst: SockAddr
    spi: int
    mode: int = 0
    reqid: int = 0
    wsize: int = 0
    keymat: bytes = field(default=b"", repr=False)
    e_type: int = 0
    e_keylen: int = 0
    a_type: int = 0
    a_keylen: int = 0
    flags: int = 0
    l_alloc: int = 0
    l_bytes: int = 0
    l_addtime: int = 0
    l_usetime: int = 0
    seq: int = 0
    l_natt_type: int = 0
    l_natt_sport: int = 0
    l_natt_dport: int = 0
    l_natt_oa: SockAddr | None = None
    l_natt_frag: int = 0
    ctxdoi: int = 0
    ctxalg: int = 0
    ctxstr: bytes | None = None


pfkey_send_sa_args = SendSaArgs


@reports
def pfkey_send_add2(sa_parms: SendSaArgs) -> int:
    """Sends ADD: SA, SA2, SRC, DST, [KEY_ENCRYPT], [KEY_AUTH], HARD, SOFT, [SEC_CTX], [NAT_T…].

    The NAT_T extensions are TYPE, SPORT, DPORT and, if given, OA, whose prefix length is 16 on IPv4
    and 32 on IPv6, as in C: the octets of its sockaddr. EIPSEC_NO_ALGS, EIPSEC_INVAL_ALGS and
    EIPSEC_INVAL_SATYPE where algorithms and SA type do not go together.
    """
    return _send_sa(MsgType.ADD, sa_parms)


@reports
def pfkey_send_update2(sa_parms: SendSaArgs) -> int:
    """Sends UPDATE: SA, SA2, SRC, DST and the rest of `pfkey_send_add2`."""
    return _send_sa(MsgType.UPDATE, sa_parms)


def _send_sa(type: MsgType, a: SendSaArgs) -> int:
    ends = pair(a.src, a.dst)
    _check_algorithms(a)
    keys: list[Extension] = []
    if len(a.keymat) != a.e_keylen + a.a_keylen or min(a.e_keylen, a.a_keylen) < 0:
        raise IpsecError(
            EIPSEC_INVAL_ARGUMENT,
            f"keymat has {len(a.keymat)} octets, e_keylen and a_keylen are"
            f" {a.e_keylen} and {a.a_keylen}",
        )
    if a.e_type and a.satype != SaType.X_IPCOMP:
        key = a.keymat[: a.e_keylen]
        keys.append(Key(exttype=ExtType.KEY_ENCRYPT, bits=8 * len(key), key=key))
    if a.a_type:
        key = a.keymat[a.e_keylen :]
        keys.append(Key(exttype=ExtType.KEY_AUTH, bits=8 * len(key), key=key))
    hard = Limits(a.l_alloc, a.l_bytes, a.l_addtime, a.l_usetime)
    message = _message(
        type, a.satype, a.seq,
        Sa(spi=a.spi, replay=a.wsize, state=SaState.LARVAL, auth=a.a_type, encrypt=a.e_type,
           flags=a.flags),
        Sa2(mode=a.mode, reqid=a.reqid),
        *ends, *keys,
        hard.extension(ExtType.LIFETIME_HARD), soft(hard).extension(ExtType.LIFETIME_SOFT),
        *_context(a), *_encapsulation(a),
    )  # fmt: skip
    return send(a.so, message)


def _check_algorithms(a: SendSaArgs) -> None:
    match a.satype:
        case SaType.ESP:
            if not a.e_type:
                raise IpsecError(EIPSEC_NO_ALGS, "ESP takes an encryption algorithm, such as null")
        case SaType.AH:
            if a.e_type:
                raise IpsecError(EIPSEC_INVAL_ALGS, "AH does not encrypt")
            if not a.a_type:
                raise IpsecError(EIPSEC_NO_ALGS, "AH takes an authentication algorithm")
        case SaType.X_IPCOMP:
            if not a.e_type:
                raise IpsecError(EIPSEC_INVAL_ALGS, "IPComp takes a compression algorithm")
            if a.a_type:
                raise IpsecError(EIPSEC_NO_ALGS, "IPComp does not authenticate")
        case _:
            raise IpsecError(EIPSEC_INVAL_SATYPE, str(a.satype))


def _context(a: SendSaArgs) -> tuple[Extension, ...]:
    if a.ctxstr is None:
        return ()
    return (SecCtx(doi=a.ctxdoi, alg=a.ctxalg, context=a.ctxstr),)


def _encapsulation(a: SendSaArgs) -> tuple[Extension, ...]:
    if a.l_natt_frag:
        raise IpsecError(EIPSEC_NOT_SUPPORTED, "Linux has no NAT_T_FRAG; l_natt_frag must be 0")
    if not a.l_natt_type:
        if a.l_natt_sport or a.l_natt_dport or a.l_natt_oa is not None:
            raise IpsecError(EIPSEC_INVAL_ARGUMENT, "NAT-T without its type")
        return ()
    if a.satype == SaType.AH:
        raise IpsecError(EIPSEC_NO_ALGS, "AH does not travel in UDP")
    found = _nat_t(a.l_natt_type, a.l_natt_sport, a.l_natt_dport)
    if a.l_natt_oa is None:
        return found
    original = extension(ExtType.X_NAT_T_OA, a.l_natt_oa)
    octets = 16 if len(original.address) == 4 else 32
    return (*found, replace(original, prefixlen=octets))


@reports
def pfkey_send_delete(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int
) -> int:
    """Sends DELETE: SA, SRC, DST. `mode` is not sent, as in C."""
    return _send_name(so, MsgType.DELETE, satype, src, dst, spi)


@reports
def pfkey_send_get(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int
) -> int:
    """Sends GET: SA, SRC, DST. `mode` is not sent, as in C."""
    return _send_name(so, MsgType.GET, satype, src, dst, spi)


def _send_name(
    so: socket.socket, type: MsgType, satype: int, src: SockAddr, dst: SockAddr, spi: int
) -> int:
    return send(so, _message(type, satype, 0, Sa(spi=spi), *pair(src, dst)))


@reports
def pfkey_send_delete_all(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr
) -> int:
    """Sends DELETE: SRC, DST, which on BSD means all SAs between them. Linux replies EINVAL.

    `mode` is not sent, as in C.
    """
    return send(so, _message(MsgType.DELETE, satype, 0, *pair(src, dst)))


@reports
def pfkey_send_flush(so: socket.socket, satype: int) -> int:
    """Sends FLUSH without extensions; SaType.UNSPEC is all."""
    return _send_bare(so, MsgType.FLUSH, satype)


@reports
def pfkey_send_dump(so: socket.socket, satype: int) -> int:
    """Sends DUMP without extensions; SaType.UNSPEC is all. The last reply has sadb_msg_seq 0."""
    return _send_bare(so, MsgType.DUMP, satype)


@reports
def pfkey_send_promisc_toggle(so: socket.socket, flag: int) -> int:
    """Sends X_PROMISC without extensions: hear every message (not 0), or no longer (0)."""
    return send(so, _message(MsgType.X_PROMISC, int(bool(flag)), 0))


def _send_bare(so: socket.socket, type: MsgType, satype: int) -> int:
    if satype not in _BARE_SATYPES:
        raise IpsecError(EIPSEC_INVAL_SATYPE, str(satype))
    return send(so, _message(type, satype, 0))
