"""Shell: the options that give a socket policies, and its mark, which says them.

The value is read from the caller's memory, once; the socket is taken from the caller and handed to
pfkeyd with the policy; pfkeyd marks it, and then the caller is answered. Such a call does not go on
into the kernel after it was looked at: what another thread changes meanwhile changes nothing. Three
sorts do go on, where nothing depends on what was looked at: a mark of a privileged program on a
socket that can bear no policy, or where there is no pfkeyd; what begins a connection, whose group
decides about it; and UDP_ENCAP where pfkeyd cannot do it, for the kernel then does what it can.
"""

import struct
from collections.abc import Callable
from errno import EINVAL, EIO, EMSGSIZE, ENETDOWN, ENOPROTOOPT, EOPNOTSUPP, EPERM
from socket import AF_INET, AF_INET6, IPPROTO_UDP, SOL_SOCKET, socket
from typing import Any

from pfkey.const import UDP_ENCAP_ESPINUDP, UDP_ENCAP_ESPINUDP_NON_IKE
from pfkey.errors import SadbError
from pfkey.run import xfrm
from pfkey.run.caller import Caller
from pfkey.run.daemons import Daemons
from pfkey.run.filter import (
    IP_IPSEC_POLICY,
    IP_XFRM_POLICY,
    IPV6_IPSEC_POLICY,
    IPV6_XFRM_POLICY,
    SO_MARK,
    SOL_UDP,
    UDP_ENCAP,
    Abi,
)
from pfkey.run.group import Group
from pfkey.run.link import Record
from pfkey.run.memory import Memory, take_socket
from pfkey.run.notify import Call, Listener

_SO_PROTOCOL, _SO_DOMAIN = 38, 39
_PAGE = 4096  # Linux takes no longer policy
_POLICY_OCTETS, _DIRECTION_AT = 16, 6  # of sadb_x_policy
_INT_OCTETS = 4
_XFRM = (IP_XFRM_POLICY, IPV6_XFRM_POLICY)
_FAMILY = {
    IP_IPSEC_POLICY: AF_INET, IP_XFRM_POLICY: AF_INET,
    IPV6_IPSEC_POLICY: AF_INET6, IPV6_XFRM_POLICY: AF_INET6,
}  # fmt: skip


class SocketOptions:
    """setsockopt(2) and getsockopt(2) of the supervised programs."""

    def __init__(self, listener: Listener, daemons: Daemons, group: Group | None = None) -> None:
        self._listener = listener
        self._daemons = daemons
        self._group = group

    def serve(self, abi: Abi, call: Call) -> None:
        """Answer a call, now or when pfkeyd has.

        Raises:
            OSError: what the caller is to be told.
        """
        caller = self._daemons.caller(call)
        name = call.argument(2)
        if call.number == abi.getsockopt and call.argument(1) == SOL_UDP:
            self._get_encap(call, caller)
        elif call.number == abi.getsockopt:
            self._get(call, caller, name)
        elif call.argument(1) == SOL_SOCKET and name == SO_MARK:
            self._mark(call, caller)
        elif call.argument(1) == SOL_UDP:
            self._encap(call, caller)
        else:
            self._set(call, caller, name)

    # ---------------------------------------------------------------- policies

    def _set(self, call: Call, caller: Caller, name: int) -> None:
        octets = self._value(call)
        is_privileged = self._daemons.is_privileged(caller)
        if self._group is not None and not self._group.may_change(is_privileged=is_privileged):
            raise OSError(EPERM, "the policy was given by whoever runs this program")
        if name in _XFRM and octets:
            if not is_privileged:  # Linux's own option is for the privileged alone
                raise OSError(EPERM, "no CAP_NET_ADMIN")
            try:
                octets = xfrm.policy(octets).encode()
            except SadbError as error:
                raise OSError(error.errno, str(error)) from None
        sock = self._socket(call, name)
        uid = None if is_privileged else caller.euid
        policies = [octets.hex()] if octets else []
        self._ask(call, caller, "set_policy", {"policies": policies, "uid": uid}, sock)

    def _value(self, call: Call) -> bytes:
        """What the caller gives; nothing, which clears both directions, as on Linux."""
        address, octets = call.arguments[3], call.argument(4)
        if not address and not octets:
            return b""
        if not 0 < octets <= _PAGE:
            raise OSError(EMSGSIZE, "length")
        with Memory(call.tid) as memory:
            value = memory.read(address, octets)
        self._check(call)
        return value

    def _get(self, call: Call, caller: Caller, name: int) -> None:
        """As on NetBSD: the buffer says the direction. Linux has no such option to read."""
        if name in _XFRM:
            raise OSError(ENOPROTOOPT, "not to be read")
        at, length_at = call.arguments[3], call.arguments[4]
        with Memory(call.tid) as memory:
            (room,) = struct.unpack("=i", memory.read(length_at, 4))
            if room < _POLICY_OCTETS:
                raise OSError(EINVAL, "room")
            direction = memory.read(at, _POLICY_OCTETS)[_DIRECTION_AT]
        sock = self._socket(call, name)

        def give(record: Record) -> None:
            octets = bytes.fromhex(record.values["policy"])[:room]
            with Memory(call.tid) as memory:
                self._check(call)
                memory.write(at, octets)
                memory.write(length_at, struct.pack("=i", len(octets)))

        self._ask(call, caller, "get_policy", {"direction": direction}, sock, give)

    # ---------------------------------------------------------------- marks

    def _mark(self, call: Call, caller: Caller) -> None:
        """A program's own mark does not take away what the policy has in it."""
        if call.argument(4) < _INT_OCTETS:
            raise OSError(EINVAL, "length")
        with Memory(call.tid) as memory:
            (mark,) = struct.unpack("=I", memory.read(call.arguments[3], _INT_OCTETS))
        sock = self._socket(call, None)
        if sock.getsockopt(SOL_SOCKET, _SO_DOMAIN) not in (AF_INET, AF_INET6):
            sock.close()
            self._listener.let_go(call)
        elif not (caller.is_net_admin or caller.is_net_raw):
            sock.close()
            raise OSError(EPERM, "neither CAP_NET_ADMIN nor CAP_NET_RAW")
        elif self._may_bear_policy(caller, sock):
            self._ask(call, caller, "set_mark", {"mark": mark}, sock)
        else:  # no policy is in danger
            sock.close()
            self._listener.let_go(call)

    def _may_bear_policy(self, caller: Caller, sock: socket) -> bool:
        try:
            daemon = self._daemons.of(caller)
        except OSError:  # nobody could have given it one
            return False
        return daemon.is_here or bool(sock.getsockopt(SOL_SOCKET, SO_MARK))

    # ---------------------------------------------------------------- UDP_ENCAP

    def _encap(self, call: Call, caller: Caller) -> None:
        """ESP in UDP is pfkeyd's from now on, and the kernel takes none of it from the socket."""
        with Memory(call.tid) as memory:
            if call.argument(4) < _INT_OCTETS:
                raise OSError(EINVAL, "length")
            (value,) = struct.unpack("=i", memory.read(call.arguments[3], _INT_OCTETS))
        if value == UDP_ENCAP_ESPINUDP_NON_IKE:  # of drafts long gone, whose packets look otherwise
            raise OSError(ENOPROTOOPT, "UDP_ENCAP_ESPINUDP_NON_IKE")
        sock = self._udp_socket(call)
        if sock is None:
            return
        try:  # what the kernel alone knows, and nothing for what is ours
            sock.setsockopt(SOL_UDP, UDP_ENCAP, 0 if value == UDP_ENCAP_ESPINUDP else value)
        except OSError:
            sock.close()
            raise
        uid = None if self._daemons.is_privileged(caller) else caller.euid
        params = {"encap": value == UDP_ENCAP_ESPINUDP, "uid": uid}
        self._ask(call, caller, "set_encap", params, sock, or_kernel=True)

    def _get_encap(self, call: Call, caller: Caller) -> None:
        at, length_at = call.arguments[3], call.arguments[4]
        sock = self._udp_socket(call)
        if sock is None:
            return
        kernels = sock.getsockopt(SOL_UDP, UDP_ENCAP)

        def give(record: Record) -> None:
            value = struct.pack("=i", UDP_ENCAP_ESPINUDP if record.values["encap"] else kernels)
            with Memory(call.tid) as memory:
                self._check(call)
                (room,) = struct.unpack("=i", memory.read(length_at, _INT_OCTETS))
                if room < 0:
                    raise OSError(EINVAL, "room")
                memory.write(length_at, struct.pack("=i", min(room, _INT_OCTETS)))
                memory.write(at, value[:room])

        self._ask(call, caller, "get_encap", {}, sock, give, or_kernel=True)

    def _udp_socket(self, call: Call) -> socket | None:
        """The caller's; None: the call has gone on, for it is none, or we may not take it."""
        try:
            sock = self._socket(call, None)
        except OSError:
            self._listener.let_go(call)
            return None
        if sock.getsockopt(SOL_SOCKET, _SO_PROTOCOL) == IPPROTO_UDP and (
            sock.getsockopt(SOL_SOCKET, _SO_DOMAIN) in _FAMILY.values()
        ):
            return sock
        sock.close()
        self._listener.let_go(call)
        return None

    # ---------------------------------------------------------------- a policy for all sockets

    def join(self, call: Call) -> None:
        """What begins a connection goes on when the socket bears the policy of all.

        The group decides about what such sockets send and receive. What the kernel sends in the
        place of a socket, in a handshake and after its end, has the mark alone.

        Raises:
            OSError: what the caller is to be told.
        """
        sock = self._socket(call, None)
        if self._group is None or sock.getsockopt(SOL_SOCKET, _SO_DOMAIN) not in _FAMILY.values():
            sock.close()
            self._listener.let_go(call)
            return

        def answered(record: Record | None) -> None:
            sock.close()
            self._listener.let_go(call)

        params = {**self._group.params, "keep": True}
        try:
            self._daemons.of(self._daemons.caller(call)).call("set_policy", params, sock, answered)
        except OSError:
            answered(None)

    # ---------------------------------------------------------------- common

    def _socket(self, call: Call, name: int | None) -> socket:
        """The caller's socket, which must be of the option's family."""
        sock = take_socket(call.tid, call.argument(0))
        try:
            self._check(call)
            family = sock.getsockopt(SOL_SOCKET, _SO_DOMAIN)
            if name is not None and family != _FAMILY[name]:
                raise OSError(EOPNOTSUPP, "an option of the other family")
        except OSError:
            sock.close()
            raise
        return sock

    def _check(self, call: Call) -> None:
        if not self._listener.is_valid(call):
            raise OSError(EPERM, "the caller is gone")

    def _ask(
        self,
        call: Call,
        caller: Caller,
        method: str,
        params: dict[str, Any],
        sock: socket,
        give: Callable[[Record], None] = lambda record: None,
        *,
        or_kernel: bool = False,
    ) -> None:
        """Have pfkeyd do it, or the kernel instead; `give` is for what the caller is to see."""

        def answered(record: Record | None) -> None:
            sock.close()
            if or_kernel and (record is None or record.is_refusal):
                self._listener.let_go(call)
                return
            try:
                if record is None:
                    raise OSError(ENETDOWN, "pfkeyd is gone")
                if record.is_refusal:
                    raise OSError(int(record.values.get("data", {}).get("errno", EIO)), "refused")
                give(record)
            except OSError as error:
                self._listener.refuse(call, error.errno or EIO)
            else:
                self._listener.finish(call)

        try:
            self._daemons.of(caller).call(method, params, sock, answered)
        except OSError as error:
            if or_kernel:
                answered(None)
                return
            sock.close()
            # a kernel without PF_KEY has no such options
            raise OSError(EOPNOTSUPP, error.strerror) from None
