"""libipsec's requests about policies: each function sends one message and returns its length.

Parameters stand in the order of C: `prefs` and `prefd` are prefix lengths in bits, `proto` is the
upper protocol (255 any), `policy` the octets of sadb_x_policy, as `ipsec_set_policy` makes them,
whose length C takes beside it. Ports are those of the addresses. Lengths are octets.
"""

import os
import socket

from pfkey.base import Unknown
from pfkey.const import Dir, ExtType, MsgType, PolicyType
from pfkey.entries import Limits
from pfkey.errors import WireError
from pfkey.ext_x_linux import KmAddress
from pfkey.ext_x_policy import Policy
from pfkey.libipsec.errors import (
    EIPSEC_FAMILY_MISMATCH,
    EIPSEC_INVAL_ARGUMENT,
    IpsecError,
    reports,
)
from pfkey.libipsec.sockaddr import SockAddr, extension, pair
from pfkey.libipsec.sockets import send
from pfkey.message import Extension, Message

_BARE_POLICY_OCTETS = 16


def _message(type: MsgType, seq: int, *extensions: Extension) -> Message:
    return Message(type=type, seq=seq, pid=os.getpid(), extensions=extensions)


def _policy(octets: bytes, *, is_bare: bool = False) -> Unknown:
    """The policy's own octets, once they have been read as one."""
    if is_bare and len(octets) != _BARE_POLICY_OCTETS:
        raise IpsecError(
            EIPSEC_INVAL_ARGUMENT, f"a policy without requests takes 16 octets, not {len(octets)}"
        )
    try:
        Policy.decode(octets)
    except WireError as error:
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"no sadb_x_policy: {error.rule}") from error
    return Unknown(exttype=ExtType.X_POLICY, octets=octets)


def _send(
    so: socket.socket, type: MsgType, src: SockAddr, prefs: int, dst: SockAddr, prefd: int,
    proto: int, ltime: int, vtime: int, policy: Unknown, seq: int,
) -> int:  # fmt: skip
    ends = pair(src, dst, prefs, prefd, proto)
    hard = Limits(addtime=ltime, usetime=vtime).extension(ExtType.LIFETIME_HARD)
    return send(so, _message(type, seq, *ends, hard, policy))


@reports
def pfkey_send_spdadd(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDADD: SRC, DST, LIFETIME_HARD without limits, POLICY."""
    found = _policy(policy)
    return _send(so, MsgType.X_SPDADD, src, prefs, dst, prefd, proto, 0, 0, found, seq)


@reports
def pfkey_send_spdadd2(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    ltime: int, vtime: int, policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDADD: SRC, DST, LIFETIME_HARD, POLICY.

    `ltime` limits the policy's age, `vtime` the time without use, in seconds; 0 does not.
    """
    found = _policy(policy)
    return _send(so, MsgType.X_SPDADD, src, prefs, dst, prefd, proto, ltime, vtime, found, seq)


@reports
def pfkey_send_spdupdate(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDUPDATE: SRC, DST, LIFETIME_HARD without limits, POLICY."""
    found = _policy(policy)
    return _send(so, MsgType.X_SPDUPDATE, src, prefs, dst, prefd, proto, 0, 0, found, seq)


@reports
def pfkey_send_spdupdate2(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    ltime: int, vtime: int, policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDUPDATE: SRC, DST, LIFETIME_HARD, POLICY; times as in `pfkey_send_spdadd2`."""
    found = _policy(policy)
    return _send(so, MsgType.X_SPDUPDATE, src, prefs, dst, prefd, proto, ltime, vtime, found, seq)


@reports
def pfkey_send_spddelete(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDDELETE: SRC, DST, LIFETIME_HARD without limits, POLICY of 16 octets."""
    found = _policy(policy, is_bare=True)
    return _send(so, MsgType.X_SPDDELETE, src, prefs, dst, prefd, proto, 0, 0, found, seq)


@reports
def pfkey_send_spdsetidx(
    so: socket.socket, src: SockAddr, prefs: int, dst: SockAddr, prefd: int, proto: int,
    policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_SPDSETIDX: SRC, DST, LIFETIME_HARD without limits, POLICY of 16 octets."""
    found = _policy(policy, is_bare=True)
    return _send(so, MsgType.X_SPDSETIDX, src, prefs, dst, prefd, proto, 0, 0, found, seq)


@reports
def pfkey_send_spddelete2(so: socket.socket, spid: int) -> int:
    """Sends X_SPDDELETE2: POLICY with the number `spid`."""
    return _send_number(so, MsgType.X_SPDDELETE2, spid)


@reports
def pfkey_send_spdget(so: socket.socket, spid: int) -> int:
    """Sends X_SPDGET: POLICY with the number `spid`."""
    return _send_number(so, MsgType.X_SPDGET, spid)


def _send_number(so: socket.socket, type: MsgType, spid: int) -> int:
    policy = Policy(type=PolicyType.DISCARD, dir=Dir.ANY, id=spid)
    return send(so, _message(type, 0, policy))


@reports
def pfkey_send_spdflush(so: socket.socket) -> int:
    """Sends X_SPDFLUSH without extensions."""
    return send(so, _message(MsgType.X_SPDFLUSH, 0))


@reports
def pfkey_send_spddump(so: socket.socket) -> int:
    """Sends X_SPDDUMP without extensions. The last reply has sadb_msg_seq 0."""
    return send(so, _message(MsgType.X_SPDDUMP, 0))


@reports
def pfkey_send_migrate(
    so: socket.socket, local: SockAddr, remote: SockAddr, src: SockAddr, prefs: int,
    dst: SockAddr, prefd: int, proto: int, policy: bytes, seq: int,
) -> int:  # fmt: skip
    """Sends X_MIGRATE: KMADDRESS, SRC, DST, POLICY.

    `local` and `remote` are where the key manager talks from and to afterwards. The requests of
    the policy are pairs, as they are and as they shall be.
    """
    ends = pair(src, dst, prefs, prefd, proto)
    own, peer = (extension(ExtType.ADDRESS_SRC, one) for one in (local, remote))
    if own.family != peer.family:
        raise IpsecError(EIPSEC_FAMILY_MISMATCH, f"{own.text}, {peer.text}")
    kmaddress = KmAddress(
        local=own.address, remote=peer.address, local_port=own.port, remote_port=peer.port
    )
    return send(so, _message(MsgType.X_MIGRATE, seq, kmaddress, *ends, _policy(policy)))
