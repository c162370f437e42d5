"""Policies of single sockets (`setsockopt` of IP_IPSEC_POLICY), by pairs that sockets share.

As on NetBSD: `ipsec` and `entrust` are for everybody, `bypass` for the privileged, and so are
`none` and `discard`, which NetBSD refuses and Linux takes. The policy of a privileged caller wins
over the SPD; another's is asked where the SPD says nothing.

DEVIATION from Linux, where only the privileged may set any, `entrust` lets pass in clear, and each
socket with level unique gets request ids of its own: here sockets with equal policies share them
(test_sockets_with_equal_policies_share_a_pair).

A pair also says whether its sockets asked for UDP_ENCAP, which takes no privilege and is no policy:
there may be a pair that says nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from errno import EINVAL, ENOBUFS, EOPNOTSUPP, EPERM
from typing import Any

from keyd.engine.bundle import bundle
from keyd.engine.effects import Now
from keyd.engine.rates import Rates
from keyd.engine.reqids import Reqids
from keyd.engine.spd import ID_STEP, PolicyRecord
from keyd.model import PolicySpec
from keyd.socket_pair import ANYTHING, SocketPair
from pfkey.const import UNIT_OCTETS, Dir, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest, Policy

USER_PAIRS = 8  # pairs that one user without privileges may cause to be there
USER_SECONDS = 2.0  # and how long it takes until one more may be made, after twice as many
_SOCKET_CODES = {Dir.IN: 3, Dir.OUT: 4}  # the low bits of an id, as on Linux
_FREE_FOR_ALL = (PolicyType.IPSEC, PolicyType.ENTRUST)

_Given = tuple[int, tuple[IpsecRequest, ...]]


@dataclass(slots=True)
class _Entry:
    """A pair, what was given for each direction, and whose it was first."""

    pair: SocketPair
    given: dict[Dir, _Given]
    uid: int | None


class SocketPolicies:
    """All pairs."""

    def __init__(self, reqids: Reqids, limit: int) -> None:
        self._reqids = reqids
        self._limit = limit
        self._entries: dict[int, _Entry] = {}
        self._policies: dict[tuple[Dir, int, tuple[IpsecRequest, ...], bool], PolicyRecord] = {}
        self._records: dict[int, PolicyRecord] = {}  # the same ones by id
        self._made = Rates(USER_PAIRS * 2, USER_SECONDS)
        self._last_id = 0
        self._next = 0

    def __iter__(self) -> Iterator[SocketPair]:
        return (entry.pair for entry in self._entries.values())

    def records(self) -> list[PolicyRecord]:
        """For SPDDUMP: those of direction in, then those of direction out."""
        found = self._records.values()
        return sorted(found, key=lambda record: (record.spec.dir, record.spec.id))

    def get_id(self, policy_id: int) -> PolicyRecord | None:
        """The policy of this id, if there is one."""
        return self._records.get(policy_id)

    def set(
        self,
        current: int | None,
        policies: Sequence[bytes],
        *,
        uid: int | None,
        now: Now,
        has_ports: bool = True,
    ) -> SocketPair | None:
        """The pair of a socket that had the pair `current` and is given other policies.

        Args:
            policies: the octets that ipsec_set_policy(3) makes, one after the other; none: the SPD
                decides in both directions.
            uid: of a user without privileges; None: the caller has them.
            has_ports: whether the socket is found by the ports of what comes in.

        Raises:
            SadbError: EINVAL for what is no policy; EPERM without privilege; ENOBUFS when there
                are too many, or too many were made by a user; EOPNOTSUPP for an inbound policy
                of a raw socket, which nobody could hold packets to.
        """
        entry = self._entry(current)
        if uid is not None and entry is not None and entry.pair.is_privileged:
            raise SadbError(EPERM, "what a privileged caller has set, another may not change")
        given = dict(entry.given) if entry is not None and policies else {}
        for policy in map(decode, policies):
            if uid is not None and policy.type not in _FREE_FOR_ALL:
                raise SadbError(EPERM, f"policy type {policy.type} takes privileges")
            direction = Dir(policy.dir)
            given.pop(direction, None)
            if policy.type != PolicyType.ENTRUST:
                given[direction] = (policy.type, policy.requests)
        if Dir.IN in given and not has_ports:
            raise SadbError(EOPNOTSUPP, "inbound policies are for sockets of TCP and UDP")
        is_encap = entry is not None and entry.pair.is_encap
        return self._paired(given, uid, now, is_privileged=uid is None, is_encap=is_encap)

    def encapsulate(
        self, current: int | None, is_encap: bool, *, uid: int | None, now: Now
    ) -> SocketPair | None:
        """The pair of a socket that had the pair `current` and sets UDP_ENCAP, or clears it.

        Its policies stay. `uid` is as for `set`, and may change what a privileged caller has set.

        Raises:
            SadbError: ENOBUFS.
        """
        entry = self._entry(current)
        if entry is None:
            return self._paired({}, uid, now, is_privileged=False, is_encap=is_encap)
        is_privileged = entry.pair.is_privileged
        return self._paired(entry.given, uid, now, is_privileged=is_privileged, is_encap=is_encap)

    def is_encap(self, current: int | None) -> bool:
        """Whether a socket has set UDP_ENCAP."""
        entry = self._entry(current)
        return entry is not None and entry.pair.is_encap

    def keeps(self, current: int | None, uid: int | None) -> bool:
        """Whether a socket has policies that stay when this user would give it some."""
        entry = self._entry(current)
        if entry is None or not entry.given:
            return False
        return uid is not None or entry.pair.is_privileged

    def _entry(self, number: int | None) -> _Entry | None:
        return None if number is None else self._entries.get(number)

    def get(self, current: int | None, direction: int) -> bytes:
        """A socket's policy in one direction, as octets.

        Raises:
            SadbError: EINVAL for another direction.
        """
        if direction not in (Dir.IN, Dir.OUT):
            raise SadbError(EINVAL, f"direction {direction}: in is 1, out 2")
        entry = self._entry(current)
        kind, requests = (
            entry.given.get(Dir(direction), _ENTRUST) if entry is not None else _ENTRUST
        )
        return Policy(type=kind, dir=direction, requests=requests).encode()

    def remove(self, number: int) -> None:
        """Forget a pair that no socket has, or that could not be made."""
        self._entries.pop(number, None)
        used = {policy.id for entry in self._entries.values() for policy in entry.pair.policies}
        for key, record in tuple(self._policies.items()):
            policy = record.spec
            if policy.id not in used:
                del self._policies[key], self._records[policy.id]
                for request in policy.requests:
                    self._reqids.release(request.reqid)

    def to_json(self) -> list[dict[str, Any]]:
        """All pairs, for a successor; see `adopt`."""
        return [
            {
                "number": number,
                "uid": entry.uid,
                "privileged": entry.pair.is_privileged,
                "encap": entry.pair.is_encap,
                "given": [
                    Policy(type=kind, dir=direction, requests=requests).encode().hex()
                    for direction, (kind, requests) in entry.given.items()
                ],
            }
            for number, entry in self._entries.items()
        ]

    def adopt(self, left: list[dict[str, Any]], now: Now) -> None:
        """Make the pairs of a predecessor anew: sockets still bear their numbers.

        Raises:
            SadbError, KeyError, TypeError, ValueError: this is nothing that `to_json` gave.
        """
        for one in left:
            policies = [decode(bytes.fromhex(octets)) for octets in one["given"]]
            given = {Dir(p.dir): (p.type, p.requests) for p in policies}
            number, uid = one["number"], one["uid"]
            is_privileged, is_encap = one.get("privileged", uid is None), one.get("encap", False)
            if not 0 <= number < self._limit or number in self._entries or not (given or is_encap):
                raise ValueError("a pair's number or policies")
            if not (isinstance(uid, int | None) and is_privileged in (True, False)):
                raise ValueError("a pair's user")
            if is_encap not in (True, False):
                raise ValueError("a pair's UDP_ENCAP")
            self._make(number, given, uid, now, is_privileged=is_privileged, is_encap=is_encap)

    def _paired(
        self, given: dict[Dir, _Given], uid: int | None, now: Now, *, is_privileged: bool,
        is_encap: bool,
    ) -> SocketPair | None:  # fmt: skip
        """The pair that says this; None: it would say nothing."""
        if not given and not is_encap:
            return None
        wanted = (given, bool(given) and is_privileged, is_encap)
        for entry in self._entries.values():
            if (entry.given, entry.pair.is_privileged, entry.pair.is_encap) == wanted:
                return entry.pair
        number = self._free(uid, now.mono)
        return self._make(number, given, uid, now, is_privileged=wanted[1], is_encap=is_encap)

    def _free(self, uid: int | None, now: float) -> int:
        """A number for a new pair, which costs a transaction of nft and perhaps a device."""
        owned = sum(entry.uid == uid for entry in self._entries.values())
        if uid is not None and owned >= USER_PAIRS:
            raise SadbError(ENOBUFS, f"user {uid} has {owned} different socket policies")
        if uid is not None and not self._made.may(uid, now):
            raise SadbError(ENOBUFS, f"user {uid} makes socket policies too fast")
        for step in range(self._limit):
            number = (self._next + step) % self._limit
            if number not in self._entries:
                self._next = number + 1  # one that was given up comes last
                return number
        raise SadbError(ENOBUFS, f"there are {self._limit} different socket policies")

    def _make(
        self, number: int, given: dict[Dir, _Given], uid: int | None, now: Now, *,
        is_privileged: bool, is_encap: bool,
    ) -> SocketPair:  # fmt: skip
        specs = {way: self._spec(way, *what, is_privileged, now) for way, what in given.items()}
        pair = SocketPair(
            number=number, out=specs.get(Dir.OUT), inward=specs.get(Dir.IN),
            is_privileged=is_privileged, is_encap=is_encap,
        )  # fmt: skip
        self._entries[number] = _Entry(pair, given, uid)
        return pair

    def _spec(
        self,
        direction: Dir,
        kind: int,
        given: tuple[IpsecRequest, ...],
        is_privileged: bool,
        now: Now,
    ) -> PolicySpec:
        """One policy, which all pairs with its like share."""
        key = (direction, kind, given, is_privileged)
        if key not in self._policies:
            requests = bundle(self._reqids, Policy(type=kind, dir=direction, requests=given))
            for request in requests:
                self._reqids.hold(request.reqid)
            self._last_id += 1
            spec = PolicySpec(
                id=self._last_id * ID_STEP + _SOCKET_CODES[direction], dir=direction,
                type=PolicyType(kind), selector=ANYTHING, requests=requests,
            )  # fmt: skip
            self._policies[key] = self._records[spec.id] = PolicyRecord(spec, now)
        return self._policies[key].spec


_ENTRUST: _Given = (PolicyType.ENTRUST, ())


def decode(octets: bytes) -> Policy:
    """The octets that ipsec_set_policy(3) makes; whatever type the extension claims.

    Raises:
        SadbError: EINVAL.
    """
    if len(octets) < UNIT_OCTETS:
        raise SadbError(EINVAL, f"{len(octets)} octets are no policy")
    # iked says 12 there, and kernels do not look
    policy = Policy.decode(octets[:2] + _EXTTYPE + octets[4:])
    if policy.dir not in _SOCKET_CODES:
        raise SadbError(EINVAL, f"direction {policy.dir}: in is 1, out 2")
    if policy.type not in list(PolicyType):
        raise SadbError(EINVAL, f"policy type {policy.type} is none")
    if policy.type != PolicyType.IPSEC:
        policy = replace(policy, requests=())
    return policy


_EXTTYPE = Policy(type=0, dir=0).encode()[2:4]
