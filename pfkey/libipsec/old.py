"""libipsec's older ways to ADD and UPDATE, with every value as a parameter, in the order of C.

`pfkey_send_add2` and `pfkey_send_update2` say what each means and what is sent.
"""

import socket

from pfkey.libipsec.sa import SendSaArgs, pfkey_send_add2, pfkey_send_update2
from pfkey.libipsec.sockaddr import SockAddr


def pfkey_send_add(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int, reqid: int,
    wsize: int, keymat: bytes, e_type: int, e_keylen: int, a_type: int, a_keylen: int, flags: int,
    l_alloc: int, l_bytes: int, l_addtime: int, l_usetime: int, seq: int,
) -> int:  # fmt: skip
    """Sends ADD: `pfkey_send_add2` without NAT-T and security context."""
    return pfkey_send_add_nat(
        so, satype, mode, src, dst, spi, reqid, wsize, keymat, e_type, e_keylen, a_type, a_keylen,
        flags, l_alloc, l_bytes, l_addtime, l_usetime, seq, 0, 0, 0, None, 0,
    )  # fmt: skip


def pfkey_send_add_nat(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int, reqid: int,
    wsize: int, keymat: bytes, e_type: int, e_keylen: int, a_type: int, a_keylen: int, flags: int,
    l_alloc: int, l_bytes: int, l_addtime: int, l_usetime: int, seq: int, l_natt_type: int,
    l_natt_sport: int, l_natt_dport: int, l_natt_oa: SockAddr | None, l_natt_frag: int,
) -> int:  # fmt: skip
    """Sends ADD: `pfkey_send_add2` without security context."""
    return pfkey_send_add2(
        SendSaArgs(
            so=so, satype=satype, mode=mode, src=src, dst=dst, spi=spi, reqid=reqid, wsize=wsize,
            keymat=keymat, e_type=e_type, e_keylen=e_keylen, a_type=a_type, a_keylen=a_keylen,
            flags=flags, l_alloc=l_alloc, l_bytes=l_bytes, l_addtime=l_addtime,
            l_usetime=l_usetime, seq=seq, l_natt_type=l_natt_type, l_natt_sport=l_natt_sport,
            l_natt_dport=l_natt_dport, l_natt_oa=l_natt_oa, l_natt_frag=l_natt_frag,
        )
    )  # fmt: skip


def pfkey_send_update(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int, reqid: int,
    wsize: int, keymat: bytes, e_type: int, e_keylen: int, a_type: int, a_keylen: int, flags: int,
    l_alloc: int, l_bytes: int, l_addtime: int, l_usetime: int, seq: int,
) -> int:  # fmt: skip
    """Sends UPDATE: `pfkey_send_update2` without NAT-T and security context."""
    return pfkey_send_update_nat(
        so, satype, mode, src, dst, spi, reqid, wsize, keymat, e_type, e_keylen, a_type, a_keylen,
        flags, l_alloc, l_bytes, l_addtime, l_usetime, seq, 0, 0, 0, None, 0,
    )  # fmt: skip


def pfkey_send_update_nat(
    so: socket.socket, satype: int, mode: int, src: SockAddr, dst: SockAddr, spi: int, reqid: int,
    wsize: int, keymat: bytes, e_type: int, e_keylen: int, a_type: int, a_keylen: int, flags: int,
    l_alloc: int, l_bytes: int, l_addtime: int, l_usetime: int, seq: int, l_natt_type: int,
    l_natt_sport: int, l_natt_dport: int, l_natt_oa: SockAddr | None, l_natt_frag: int,
) -> int:  # fmt: skip
    """Sends UPDATE: `pfkey_send_update2` without security context."""
    return pfkey_send_update2(
        SendSaArgs(
            so=so, satype=satype, mode=mode, src=src, dst=dst, spi=spi, reqid=reqid, wsize=wsize,
            keymat=keymat, e_type=e_type, e_keylen=e_keylen, a_type=a_type, a_keylen=a_keylen,
            flags=flags, l_alloc=l_alloc, l_bytes=l_bytes, l_addtime=l_addtime,
            l_usetime=l_usetime, seq=seq, l_natt_type=l_natt_type, l_natt_sport=l_natt_sport,
            l_natt_dport=l_natt_dport, l_natt_oa=l_natt_oa, l_natt_frag=l_natt_frag,
        )
    )  # fmt: skip
