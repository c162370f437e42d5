"""Key lengths, as the engine has told them in its reply to REGISTER (RFC 2367 section 3.1.7).

As in C there is one list of authentication algorithms, found under AH, and one of encryption
algorithms, found under ESP, for the whole process; of IPComp there is none.
"""

import os
import socket
import time

from pfkey.base import walk
from pfkey.const import ExtType, MsgType, SaType
from pfkey.errors import WireError
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.libipsec.errors import (
    EIPSEC_DO_GET_SUPP_LIST,
    EIPSEC_INVAL_ARGUMENT,
    EIPSEC_INVAL_KEYLEN,
    EIPSEC_INVAL_SATYPE,
    EIPSEC_NOT_SUPPORTED,
    EIPSEC_SYSTEM_ERROR,
    IpsecError,
    reports,
)
from pfkey.libipsec.sockets import Octets, recv, send
from pfkey.link import ANSWER_SECONDS
from pfkey.message import Header, Message, header

_SATYPES = (SaType.AH, SaType.ESP, SaType.X_IPCOMP)
_SATYPE_OF = {ExtType.SUPPORTED_AUTH: SaType.AH, ExtType.SUPPORTED_ENCRYPT: SaType.ESP}

# DEVIATION from the house's rule against state of a module: one list a process is the interface.
_lists: dict[int, tuple[SupportedAlgorithm, ...]] = {}


def _find(satype: int, alg_id: int) -> SupportedAlgorithm:
    if satype not in _SATYPES:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"SA type {satype}")
    if satype not in _lists:
        raise IpsecError(EIPSEC_DO_GET_SUPP_LIST)
    for algorithm in _lists[satype]:
        if algorithm.id == alg_id:
            return algorithm
    raise IpsecError(EIPSEC_NOT_SUPPORTED, f"algorithm {alg_id}")


def _satype(supported: int) -> SaType:
    for exttype, satype in _SATYPE_OF.items():
        if exttype == supported:
            return satype
    raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"extension type {supported}")


@reports
def ipsec_check_keylen(supported: int, alg_id: int, keylen: int) -> None:
    """Hold a key of `keylen` bits to the lists. Sends nothing.

    `supported` is ExtType.SUPPORTED_AUTH or ExtType.SUPPORTED_ENCRYPT. C prints the lengths on
    standard error when the key is of none; here they are in the error. `pfkey_recv_register` must
    have come before.
    """
    _check(_satype(supported), alg_id, keylen)


@reports
def ipsec_check_keylen2(satype: int, alg_id: int, keylen: int) -> None:
    """As `ipsec_check_keylen`, the list named by SaType.AH (authentication) or SaType.ESP."""
    _check(satype, alg_id, keylen)


def _check(satype: int, alg_id: int, keylen: int) -> None:
    found = _find(satype, alg_id)
    if not found.minbits <= keylen <= found.maxbits:
        raise IpsecError(
            EIPSEC_INVAL_KEYLEN, f"{keylen} bits, it takes {found.minbits} to {found.maxbits}"
        )


@reports
def ipsec_get_keylen(supported: int, alg_id: int) -> SupportedAlgorithm:
    """The row of an algorithm, `minbits` and `maxbits` among it, which C writes to a pointer."""
    return _find(_satype(supported), alg_id)


@reports
def pfkey_send_register(so: socket.socket, satype: int) -> int:
    """Sends REGISTER without extensions; returns its length in octets.

    SaType.UNSPEC asks for the lists only. The list of the type, or all, are forgotten until
    `pfkey_recv_register`.
    """
    if satype == SaType.UNSPEC:
        _lists.clear()
    elif satype in _SATYPES:
        _lists.pop(satype, None)
    else:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"SA type {satype}")
    return send(so, Message(type=MsgType.REGISTER, satype=satype, pid=os.getpid()))


@reports
def pfkey_recv_register(so: socket.socket, timeout: float = ANSWER_SECONDS) -> None:
    """Receive until the reply to our REGISTER comes, and keep its lists; others' are dropped.

    DEVIATION from C, which waits for ever, and takes a refusal for an empty list: both are
    EIPSEC_SYSTEM_ERROR here (test_a_refused_register_is_an_error, test_silence_is_an_error).
    """
    deadline = time.monotonic() + timeout
    patience = so.gettimeout()
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise IpsecError(EIPSEC_SYSTEM_ERROR, f"no reply to REGISTER in {timeout:g} s")
            so.settimeout(left if patience is None else min(left, patience))
            octets = recv(so)
            found = _header(octets)
            if found is not None and (found.type, found.pid) == (MsgType.REGISTER, os.getpid()):
                break
    finally:
        so.settimeout(patience)
    if found.errno:
        raise IpsecError(EIPSEC_SYSTEM_ERROR, os.strerror(found.errno))
    _keep(octets)


def _header(octets: bytes) -> Header | None:
    try:
        return header(octets, is_request=False)
    except WireError:
        return None


@reports
def pfkey_set_supported(msg: Octets) -> None:
    """Keep the lists of a reply to REGISTER that was received otherwise. Sends nothing.

    EIPSEC_INVAL_SATYPE, as in C, for a message that has anything else in it or is malformed.
    """
    _keep(msg.encode() if isinstance(msg, Message) else msg)


def _keep(octets: bytes) -> None:
    found: dict[int, tuple[SupportedAlgorithm, ...]] = {}
    try:
        for exttype, start, end in walk(octets):
            satype = _SATYPE_OF[ExtType(exttype)]
            found[satype] = Supported.decode(octets[start:end], start).algorithms
    except (WireError, KeyError, ValueError) as error:
        raise IpsecError(EIPSEC_INVAL_SATYPE, "more than lists of algorithms") from error
    _lists.update(found)
