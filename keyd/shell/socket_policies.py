"""Policies of single sockets: descriptors come by the control socket, and are marked.

    set_policy   params {policies, uid, keep}: octets of ipsec_set_policy(3) as a list of
                 hexadecimal texts, obeyed one after the other; none: both directions are the SPD's
                 again. `uid` is null for a privileged caller, and a user's otherwise. With `keep` a
                 socket that has policies keeps them. {pair}
    get_policy   params {direction}: {policy}
    set_mark     params {mark}: a mark of the program's own, which does not take the policy away
    set_encap    params {encap, uid}: UDP_ENCAP of a UDP socket: it receives IKE, and we the ESP in
                 UDP that comes to it, whatever its address and port are. {pair}
    get_encap    params {}: {encap}
    set_group    params {policies, uid}, and the directory of a control group: all sockets that are
                 made in it have these policies, unless they have others of their own. {pair}

Nothing is kept for a socket: it is given the number of its pair of policies in its mark, and the
mark ends with it; who accepts or inherits the socket has it too.
"""

import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from errno import EINVAL, ENOBUFS, ENOPROTOOPT, EOPNOTSUPP, EPERM
from typing import Any

import trio

from keyd.engine.effects import Now
from keyd.engine.socket_policies import SocketPolicies
from keyd.shell import handed
from keyd.shell.census import Bearers, is_listed, is_udp, marks_in_use, raw_inodes
from keyd.shell.handed import SO_MARK, inet_socket, option, refused
from keyd.shell.marks import Marks
from keyd.shell.rpc import INVALID_PARAMS, RpcError
from keyd.shell.socket_groups import SocketGroups, reopened
from keyd.shell.socket_left import Left
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.errors import PfkeyError, SadbError, ShellError

LOG = logging.getLogger("keyd.shell")

GROUP_SECONDS = 5.0  # between two looks whether a group is empty

Find = Callable[[], SocketPair | None]
Commit = Callable[[Sequence[SocketPair], Sequence[SocketGroup]], Awaitable[None]]


class Sockets:
    """Answers all of them. Run `run` in a task of its own.

    Args:
        commit: makes nft, routes and workers follow all pairs and groups, or raises ShellError.
    """

    def __init__(
        self,
        policies: SocketPolicies,
        *,
        commit: Commit,
        marks: Marks,
        left: Left,
        clock: Callable[[], Now],
    ) -> None:
        self._policies = policies
        self._commit = commit
        self._marks = marks
        self._left = left
        self._clock = clock
        self._one = trio.Lock()
        self._bearers: dict[int, Bearers] = {}
        self._groups = SocketGroups()

    def restore(self) -> tuple[tuple[SocketPair, ...], tuple[SocketGroup, ...]]:
        """What a predecessor left: sockets may bear the numbers, and processes be in the groups."""
        now = self._clock()
        pairs, groups = self._left.read()
        try:
            self._policies.adopt(pairs, now)
            for group in groups:
                self._restore_group(group, now)
        except (PfkeyError, ValueError, KeyError, TypeError) as error:
            LOG.error("socket-policies-lost path=%s reason=%s", self._left.path, error)
        for pair in self._policies:
            self._bearers[pair.number] = Bearers(has_others=True, since=now.mono)
        return tuple(self._policies), tuple(self._groups)

    def _restore_group(self, one: dict[str, Any], now: Now) -> None:
        octets = [bytes.fromhex(policy) for policy in one["policies"]]
        with reopened(one) as fd:
            if fd is None:
                return
            pair = self._policies.set(None, octets, uid=one["uid"], now=now)
            if pair is not None:
                self._groups.add(fd, pair.number, one["uid"], one["policies"], now.mono)

    async def run(self) -> None:
        """Forget groups that nobody is in any more, until cancelled."""
        while True:
            await trio.sleep(GROUP_SECONDS)
            if empty := self._groups.empty(self._clock().mono):
                async with self._one:
                    for inode in empty:
                        self._groups.remove(inode)
                    await self._follow()

    async def set(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Give a socket policies.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        octets, uid = handed.policies(params.get("policies")), handed.user(params.get("uid"))
        keeps = params.get("keep", False)
        if not isinstance(keeps, bool):
            raise RpcError(INVALID_PARAMS, "keep must be true or false")
        with inet_socket(fd) as sock:
            async with self._one:
                current = self._marks.pair(option(sock, SO_MARK))
                if keeps and self._policies.keeps(current, uid):
                    return {"pair": current}
                has_ports = is_listed(sock)
                number = await self._pair(current, octets, uid, has_ports=has_ports)
                return {"pair": await self._bear(sock, current, number, uid)}

    async def _bear(
        self, sock: socket.socket, current: int | None, number: int | None, uid: int | None
    ) -> int | None:
        """Give a socket the number of a pair that is in force, or none."""
        mark = option(sock, SO_MARK)
        _set_mark(sock, self._marks.with_pair(mark, number))
        LOG.debug("socket-policy uid=%s pair=%s", uid, number)
        if number is not None:
            self._bearers.setdefault(number, Bearers()).add(sock, self._clock().mono)
        if current is not None and current != number:
            bearers = self._bearers.get(current)
            if bearers is not None and bearers.leave(sock) and current not in self._groups.pairs:
                await self._give_up({current})
        return number

    async def _pair(
        self, current: int | None, octets: list[bytes], uid: int | None, *, has_ports: bool = True
    ) -> int | None:
        """The number of a pair that is in force; None: no policies."""

        def find() -> SocketPair | None:
            return self._policies.set(
                current, octets, uid=uid, now=self._clock(), has_ports=has_ports
            )

        return await self._in_force(find, uid)

    async def _in_force(self, find: Find, uid: int | None) -> int | None:
        before = tuple(self._policies)
        pair = await self._find(find, uid)
        if pair is not None and pair not in before:
            await self._make(pair)
        return None if pair is None else pair.number

    async def _find(self, find: Find, uid: int | None) -> SocketPair | None:
        """What is found, perhaps when there is room again."""
        try:
            try:
                return find()
            except SadbError as error:
                if error.errno != ENOBUFS or not await self._collect():
                    raise
                return find()
        except SadbError as error:
            LOG.info("socket-policy-refused uid=%s reason=%s", uid, error)
            raise refused(error.errno, str(error)) from None

    async def _make(self, pair: SocketPair) -> None:
        """Bring a new pair into force before any socket bears its number."""
        try:
            await self._force()
        except ShellError as error:
            LOG.error("socket-policy-not-made pair=%d reason=%s", pair.number, error)
            await self._give_up({pair.number})
            raise refused(EOPNOTSUPP, str(error)) from None
        LOG.info("socket-policy-made pair=%d privileged=%s", pair.number, pair.is_privileged)

    async def _give_up(self, numbers: Iterable[int]) -> None:
        """Take away pairs that no socket bears."""
        for number in numbers:
            self._policies.remove(number)
            self._bearers.pop(number, None)
            LOG.info("socket-policy-gone pair=%d", number)
        await self._follow()

    async def _force(self) -> None:
        """Bring everything into force, and tell a successor of it."""
        await self._commit(tuple(self._policies), tuple(self._groups))
        self._left.write(self._policies.to_json(), self._groups.to_json())

    async def _follow(self) -> None:
        """The same when something has gone: what cannot be taken away is in nobody's way."""
        with contextlib.suppress(ShellError):
            await self._force()

    async def _collect(self) -> bool:
        """Look for pairs that no socket bears any more; whether there were some."""
        now = self._clock().mono
        old = {n: bearers for n, bearers in self._bearers.items() if bearers.may_be_gone(now)}
        if not old:
            return False
        try:
            marks, raw = await trio.to_thread.run_sync(lambda: (marks_in_use(), raw_inodes()))
        except OSError as error:
            LOG.error("socket-census-failed reason=%s", error)
            return False
        borne = {self._marks.pair(mark) for mark in marks}
        borne |= self._groups.pairs
        gone = {n for n, bearers in old.items() if n not in borne and not bearers.raw & raw}
        await self._give_up(gone)
        return bool(gone)

    async def group(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Give all sockets that are made in a control group policies.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        octets, uid = handed.policies(params.get("policies")), handed.user(params.get("uid"))
        if fd is None or not handed.is_cgroup(fd):
            raise RpcError(INVALID_PARAMS, "the directory of a control group is needed")
        if uid is not None and os.fstat(fd).st_uid != uid:
            raise refused(EPERM, f"that control group is not user {uid}'s")
        async with self._one:
            if not self._groups.has_room(fd, uid):
                raise refused(ENOBUFS, "there are too many groups with policies")
            number = await self._pair(None, octets, uid)
            if number is None:
                raise refused(EINVAL, "these policies ask for nothing")
            self._bearers.setdefault(number, Bearers()).has_others = True
            texts = [one.hex() for one in octets]
            if not self._groups.add(fd, number, uid, texts, self._clock().mono):
                return {"pair": number}
            try:
                await self._force()
            except ShellError as error:
                self._groups.remove(os.fstat(fd).st_ino)
                await self._follow()
                raise refused(EOPNOTSUPP, str(error)) from None
        return {"pair": number}

    async def get(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Tell a socket's policy.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        direction = params.get("direction")
        if not isinstance(direction, int) or isinstance(direction, bool):
            raise RpcError(INVALID_PARAMS, "direction must be a whole number")
        with inet_socket(fd) as sock:
            number = self._marks.pair(option(sock, SO_MARK))
        try:
            return {"policy": self._policies.get(number, direction).hex()}
        except SadbError as error:
            raise refused(error.errno, str(error)) from None

    async def encapsulate(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Set a socket's UDP_ENCAP, or clear it.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        uid, is_encap = handed.user(params.get("uid")), params.get("encap")
        if not isinstance(is_encap, bool):
            raise RpcError(INVALID_PARAMS, "encap must be true or false")
        with inet_socket(fd) as sock:
            if not is_udp(sock):
                raise refused(ENOPROTOOPT, "UDP_ENCAP is for UDP")
            async with self._one:
                current = self._marks.pair(option(sock, SO_MARK))

                def find() -> SocketPair | None:
                    return self._policies.encapsulate(current, is_encap, uid=uid, now=self._clock())

                number = await self._in_force(find, uid)
                return {"pair": await self._bear(sock, current, number, uid)}

    async def get_encap(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Tell whether a socket has set UDP_ENCAP.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        with inet_socket(fd) as sock:
            number = self._marks.pair(option(sock, SO_MARK))
        return {"encap": self._policies.is_encap(number)}

    async def mark(self, fd: int | None, params: dict[str, Any]) -> dict[str, Any]:
        """Give a socket a mark of the program's own.

        Raises:
            RpcError: with the errno that the caller is to see.
        """
        given = params.get("mark")
        if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 1 << 32:
            raise RpcError(INVALID_PARAMS, "mark must be a number of 32 bits")
        with inet_socket(fd) as sock:
            async with self._one:
                _set_mark(sock, self._marks.merged(option(sock, SO_MARK), given))
        return {}


def _set_mark(sock: socket.socket, mark: int) -> None:
    try:
        # Python's own numbers are signed, and half of the marks would be too large for it
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", mark))
    except OSError as error:
        raise refused(error.errno or EPERM, f"SO_MARK: {error.strerror}") from None
