"""The key engine, sans-IO: a record in, effects out.

Every rule of who hears what, which errno and which order lives in the handlers; here is only
their table and the way of a record:

1. the header is read: what has none is answered, as far as a header can be made of it;
2. promiscuous clients get a copy, as it came but without keys;
3. the message is decoded in its client's dialect, said in the one way of `pfkey.neutral`, and given
   to its handler, which changes the databases;
4. effects: first the changes, then copies, then replies, each in its hearer's dialect. A refusal
   goes to the sender.
"""

import logging
import sys
from collections.abc import Callable, Container, Iterable
from errno import EINVAL, ENOSYS, EOPNOTSUPP
from heapq import nsmallest
from typing import Any

from keyd.engine import unsupported
from keyd.engine.acquires import Acquires
from keyd.engine.clients import Clients
from keyd.engine.effects import ClientId, Dump, Effect, Log, Now, PoliciesChanged, Send
from keyd.engine.handle_acquire import acquire, need
from keyd.engine.handle_add import add
from keyd.engine.handle_delete import delete
from keyd.engine.handle_dump import dump, spd_dump
from keyd.engine.handle_expire import expire
from keyd.engine.handle_flush import flush
from keyd.engine.handle_get import get
from keyd.engine.handle_getspi import getspi
from keyd.engine.handle_promisc import promisc
from keyd.engine.handle_register import register
from keyd.engine.handle_update import update
from keyd.engine.handle_x_flow import add_flow, ask_policy, delete_flow
from keyd.engine.handle_x_group import group
from keyd.engine.handle_x_mapping import new_mapping
from keyd.engine.handle_x_migrate import migrate
from keyd.engine.handle_x_spd import spd_add, spd_delete, spd_delete_id, spd_flush, spd_get
from keyd.engine.handle_x_spdexpire import spd_expire
from keyd.engine.lifetimes import Schedule
from keyd.engine.load import Draft, Loading
from keyd.engine.manners import Kin, Manners
from keyd.engine.policy_counts import counted
from keyd.engine.proposal import Proposals
from keyd.engine.refusal import copy_of_request, refusal
from keyd.engine.reqids import Reqids
from keyd.engine.sad import Sad, SaKey
from keyd.engine.socket_policies import SocketPolicies
from keyd.engine.spd import Spd
from keyd.engine.state import Limits, Request, State
from keyd.engine.sysctl import Sysctls
from keyd.engine.tuning import adopt, refuse_if_off, retune, sysctl, tune, untune
from keyd.model import Need, PolicySpec, PolicyUse, SaSpec, Settings, Usage
from pfkey.const import HEADER_OCTETS, UNIT_OCTETS, MsgType
from pfkey.errors import SadbError, WireError
from pfkey.message import Header, Message, error_reply, header
from pfkey.neutral import understood

__all__ = ["Engine", "Limits"]

HANDLERS: dict[int, Callable[[State, Request], list[Effect]]] = {
    MsgType.GETSPI: getspi,
    MsgType.UPDATE: update,
    MsgType.ADD: add,
    MsgType.DELETE: delete,
    MsgType.GET: get,
    MsgType.ACQUIRE: acquire,
    MsgType.REGISTER: register,
    MsgType.FLUSH: flush,
    MsgType.DUMP: dump,
    MsgType.X_PROMISC: promisc,
    MsgType.X_SPDUPDATE: spd_add,
    MsgType.X_SPDADD: spd_add,
    MsgType.X_SPDDELETE: spd_delete,
    MsgType.X_SPDGET: spd_get,
    MsgType.X_SPDDUMP: spd_dump,
    MsgType.X_SPDFLUSH: spd_flush,
    MsgType.X_SPDSETIDX: spd_add,
    MsgType.X_SPDDELETE2: spd_delete_id,
    MsgType.X_MIGRATE: migrate,
    MsgType.X_ADDFLOW: add_flow,
    MsgType.X_DELFLOW: delete_flow,
    MsgType.X_GRPSPIS: group,
    MsgType.X_ASKPOLICY: ask_policy,
}
# A refusal whose errno alone leaves the user guessing is in the log as it is usually read.
_LEVELS = {EOPNOTSUPP: logging.WARNING, ENOSYS: logging.WARNING, EINVAL: logging.INFO}
COUNTED_MAX = 128
# sadb_msg_len of a header alone.
_NO_BODY = (HEADER_OCTETS // UNIT_OCTETS).to_bytes(2, sys.byteorder)


class Engine:
    """SAD, SPD and PF_KEY's rules; the shell hands in records and the clock and obeys.

    Args:
        supported: `(kind, number)` of the algorithms that this machine does.
        usage: what the data path did with the SA of a slot.
        pick: a number in [low, high], both included; random in the daemon.
        is_own: whether an address is this host's; asked only where a message leaves it open.
        limits: how much to keep.
    """

    def __init__(
        self,
        *,
        supported: Container[tuple[str, int]],
        usage: Callable[[int], Usage],
        pick: Callable[[int, int], int],
        is_own: Callable[[bytes], bool] = lambda _: False,
        limits: Limits | None = None,
    ) -> None:
        bounds = limits or Limits()
        reqids = Reqids()
        self._state = State(
            clients=Clients(bounds.clients), sad=Sad(bounds.sas, bounds.larvals, reqids),
            spd=Spd(bounds.policies, reqids), reqids=reqids, schedule=Schedule(), limits=bounds,
            sockets=SocketPolicies(reqids, bounds.socket_pairs), sysctl=Sysctls(),
            acquires=Acquires(bounds.acquires), proposals=Proposals(supported), usable=supported,
            usage=usage, pick=pick, is_own=is_own,
        )  # fmt: skip
        self.loading = Loading(self, self._state)
        self._requests = 0
        self._refused = 0
        self._expired = {True: 0, False: 0}

    def connect(self, client: ClientId, dialect: str = "linux") -> None:
        """Take a client, which speaks like a program of this system (`pfkey.dialect.DIALECTS`).

        Raises:
            SadbError: ENOBUFS when there are too many; the shell closes the connection.
        """
        self._state.clients.connect(client, dialect)

    def disconnect(self, client: ClientId) -> list[Effect]:
        """Forget a client; what it put into the databases stays."""
        self._state.clients.disconnect(client)
        self._state.acquires.leave(client)
        return retune(self._state)

    def receive(self, client: ClientId, record: bytes, now: Now) -> list[Effect]:
        """Answer one record of a connected client, whatever its octets are."""
        if client not in self._state.clients:
            return []
        self._requests += 1
        manners = self._state.clients[client].manners
        try:
            base = header(record, manners.dialect)
        except WireError as error:
            return self._answer_no_message(client, record, error)
        try:
            message = _decode(record, base, manners)
        except SadbError as error:
            copies = self._copies(client, record, base, None)
            return self._refuse(client, record, base, copies, error, is_sound=False)
        if message.uses_own:
            manners = self._state.clients.knows_own(client)
        copies = self._copies(client, record, base, message)
        request = Request(
            client=client, message=message, now=now, clients=self._state.clients,
            octets=record, manners=manners, copies=copies,
        )  # fmt: skip
        try:
            if manners.kin is not Kin.LINUX:
                manners.check(message)
            unsupported.refuse_message(message, manners)
            refuse_if_off(self._state, message.type)
            effects = HANDLERS[message.type](self._state, request)
        except SadbError as error:
            return self._refuse(client, record, base, copies, error)
        changes = [effect for effect in effects if not isinstance(effect, Send | Dump)]
        return [*self._debug(request), *changes, *copies, *effects[len(changes) :]]

    def need(self, wanted: Need, packets: int, now: Now) -> list[Effect]:
        """The data path lacks an SA; so many packets have asked for it since it last said so."""
        return need(self._state, wanted, packets, now)

    def new_mapping(self, key: SaKey, ports: tuple[int, int], address: bytes) -> list[Effect]:
        """The peer of an SA of ESP in UDP has moved: see `keyd.engine.handle_x_mapping`."""
        return new_mapping(self._state, key, ports, address)

    def registrations(self, client: ClientId) -> tuple[tuple[int, ...], bool, bool]:
        """The SA types a client registered for, whether it hears everything, and our own too."""
        if client not in self._state.clients:
            return (), False, False
        known = self._state.clients[client]
        return tuple(sorted(known.registered)), known.is_promiscuous, known.manners.knows_own

    def restore(
        self, client: ClientId, satypes: Iterable[int], *, is_promiscuous: bool, now: Now,
        knows_own: bool = False,
    ) -> list[Effect]:  # fmt: skip
        """Register a client for what it had registered with a predecessor, without a word.

        `knows_own`: it had used an extension of our own, so it is told such.
        """
        if knows_own:
            self._state.clients.knows_own(client)
        wanted = [Message(type=MsgType.REGISTER, satype=satype) for satype in satypes]
        if is_promiscuous:
            wanted.append(Message(type=MsgType.X_PROMISC, satype=1))
        effects: list[Effect] = []
        dialect = self._state.clients[client].manners.dialect
        for message in wanted:
            if message.type in dialect.not_satypes or message.satype in dialect.satypes:
                effects += self.receive(client, message.encode(dialect), now)
        return [effect for effect in effects if not isinstance(effect, Send)]

    def draft(self, now: Now) -> Draft:
        """Empty databases, to try a file on for `loading.begin`; they may go to another thread.

        The knobs are as they are here.
        """
        state = self._state
        twin = Engine(
            supported=state.usable, usage=lambda _: Usage(), pick=state.pick,
            is_own=state.is_own, limits=state.limits,
        )  # fmt: skip
        twin._state.sysctl = state.sysctl.copy()
        return Draft(twin, twin._state, now)

    def tick(self, now: Now) -> list[Effect]:
        """Age and end SAs and policies whose time is over; call it at `next_deadline`."""
        effects: list[Effect] = []
        for sa, is_hard in self._state.schedule.due(now, self._state.usage):
            self._expired[is_hard] += 1
            effects += expire(self._state, sa, is_hard=is_hard)
        return effects + spd_expire(self._state, now)

    def used(self, uses: Iterable[PolicyUse], now: Now) -> None:
        """The data path has had packets under these policies, within the last second or so."""
        for use in uses:
            policy = self._state.spd.get_id(use.policy) or self._state.sockets.get_id(use.policy)
            if policy is not None:
                policy.used = now
                policy.counts.add(use)

    def counted(self, after: int) -> list[dict[str, Any]]:
        """What was done under the policies whose ids follow this one, by id; some of many.

        Those of sockets are among them.
        """
        of_sockets = self._state.sockets.records()
        later = (p for some in (self._state.spd, of_sockets) for p in some if p.spec.id > after)
        found = nsmallest(COUNTED_MAX, later, key=lambda policy: policy.spec.id)
        return [counted(policy, is_per_socket=policy in of_sockets) for policy in found]

    def next_deadline(self) -> float | None:
        """When to call `tick`, in monotonic seconds; a past time: at once; None: no need."""
        deadlines = (self._state.schedule.next_deadline(), self._state.spd.times.next_deadline())
        return min((when for when in deadlines if when is not None), default=None)

    def dump_done(self, client: ClientId) -> None:
        """The client's dump is sent, or cannot be."""
        if client in self._state.clients:
            self._state.clients[client].is_dumping = False

    def adopt(self, holds: Iterable[PolicySpec]) -> None:
        """Keep what a crashed predecessor left as holds (see `keyd.engine.spd`)."""
        left = tuple(holds)
        self._state.spd.adopt(spec for spec in left if not spec.is_default)
        adopt(self._state, (spec for spec in left if spec.is_default))

    def revert(self, change: PoliciesChanged) -> None:
        """Undo a change of the SPD that steering could not make; then obey its `on_failure`."""
        self._state.spd.revert(change)
        self.loading.reverted(change)
        untune(self._state, change)

    def policies(self) -> tuple[PolicySpec, ...]:
        """All policies in the order of the match, holds first."""
        return self._state.spd.policies()

    def sas(self) -> tuple[SaSpec, ...]:
        """All SAs that have keys, the oldest first."""
        return tuple(sa.spec for sa in self._state.sad if not sa.is_larval)

    def sysctl(self, name: str) -> int:
        """The value of a knob of `keyd.engine.sysctl`.

        Raises:
            SadbError: ENOENT for a name that is none.
        """
        return sysctl(self._state, name)

    def tune(self, name: str, value: int) -> list[Effect]:
        """Turn a knob.

        Raises:
            SadbError: ENOENT for a name that is none, EPERM for one that can only be read, EINVAL
                for a value out of its range, EBUSY for switching off what is in use.
        """
        return tune(self._state, name, value)

    def settings(self) -> Settings:
        """What the data path is to know beside SAs and policies."""
        return self._state.told

    @property
    def sockets(self) -> SocketPolicies:
        """The policies of single sockets."""
        return self._state.sockets

    def stats(self) -> dict[str, int]:
        """What there is, and what has happened since the start."""
        clients = list(self._state.clients)
        return {
            "sas": len(self._state.sad),
            "larvals": self._state.sad.larvals,
            "policies": len(self._state.spd),
            "socket_policies": len(list(self._state.sockets)),
            "holds": len(self._state.spd.holds),
            "acquires": len(self._state.acquires),
            "acquires_limited": self._state.acquires.limited,
            "clients": len(clients),
            "registered": sum(bool(client.registered) for client in clients),
            "promiscuous": sum(client.is_promiscuous for client in clients),
            "dumps": sum(client.is_dumping for client in clients),
            "requests": self._requests,
            "refused": self._refused,
            "expired_hard": self._expired[True],
            "expired_soft": self._expired[False],
        }

    def _debug(self, request: Request) -> list[Effect]:
        """What net.key.debug logs of a request that was done; refusals are logged anyway."""
        if not self._state.sysctl["net.key.debug"]:
            return []
        m, name = request.message, MsgType(request.message.type).name
        what = f"client={request.client} satype={m.satype} seq={m.seq} pid={m.pid}"
        return [Log(logging.INFO, f"request type={name} {what}")]

    def _copies(
        self, client: ClientId, record: bytes, base: Header, message: Message | None
    ) -> tuple[Send, ...]:
        clients = self._state.clients
        if not clients.has_promiscuous:
            return ()
        told = copy_of_request(record, message, base.type, clients[client].manners)
        return tuple(clients.copies(client, told, is_request=True, seq=base.pid))

    def _refuse(
        self, client: ClientId, record: bytes, base: Header, copies: Iterable[Send],
        error: SadbError, *, is_sound: bool = True,
    ) -> list[Effect]:  # fmt: skip
        self._refused += 1
        clients = self._state.clients
        is_debugging = bool(self._state.sysctl["net.key.debug"])
        level = _LEVELS.get(error.errno, logging.INFO if is_debugging else logging.DEBUG)
        name = MsgType(base.type).name
        log = Log(level, f"refused client={client} type={name}: {error}")
        manners = clients[client].manners
        told = refusal(record, base.type, manners, error.errno, is_sound=is_sound)
        return [log, *copies, *clients.one(client, told)]

    def _answer_no_message(self, client: ClientId, record: bytes, error: WireError) -> list[Effect]:
        """Answer what is no message.

        DEVIATION from the systems, where send() itself fails: here it cannot, and who waits for a
        reply must get one, with zeros for what the header lacks
        (test_what_is_no_message_is_answered).
        """
        self._refused += 1
        head = record[:HEADER_OCTETS].ljust(HEADER_OCTETS, b"\0")
        dialect = self._state.clients[client].manners.dialect
        reply = error_reply(head[:4] + _NO_BODY + head[6:], error.errno, dialect)
        return [Log(logging.DEBUG, f"refused client={client}: {error}"), Send(client, reply)]


def _decode(record: bytes, base: Header, manners: Manners) -> Message:
    """A request in the one way, whatever its dialect.

    Raises:
        WireError: it is no sound message.
    """
    if manners.kin is Kin.LINUX:
        return Message.decode(record)
    if base.type == MsgType.X_PROMISC and len(record) > HEADER_OCTETS:  # a message in a message
        return Message(type=base.type, satype=base.satype, seq=base.seq, pid=base.pid)
    return understood(Message.decode(record, manners.dialect, is_request=True))
