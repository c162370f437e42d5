"""A whole file of keys and policies, put in force in one step: at the start, and again on request.

1. `Draft`: the file's messages are tried on empty databases. What is refused there is a fault of
   the file, and nothing else has happened; what is left at the end is what the file asks for.
2. `Loading.keys`: the new SAs, in portions, between which others are answered.
3. `Loading.begin`: one change of policies, so that nft goes from what was to what shall be in one
   transaction. What the last load made and is asked for again stays untouched.
4. `Loading.finish`, when that is in force: SAs with other keys or limits, and those that go; in
   portions again. Or, if something was refused, what 2 has made goes.

`flush`, `spdflush` and the deletions of a file reach what others made as well, as under setkey,
and what they reserved. An SA of the file takes the place of a larval one of its name.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from keyd.engine.answers import policy_gone
from keyd.engine.effects import (
    ClientId,
    Effect,
    InstallSa,
    Log,
    Now,
    PoliciesChanged,
    RemoveSa,
    Send,
)
from keyd.engine.handle_x_spd import policy_key
from keyd.engine.parts import proto_filter, sa_key
from keyd.engine.sad import SaKey, SaRecord
from keyd.engine.spd import Key, PolicyRecord
from keyd.engine.state import Request, State
from keyd.model import PolicySpec, SaSpec
from pfkey.base import header
from pfkey.const import ExtType, MsgType, SaState
from pfkey.errors import SadbError
from pfkey.ext_address import Address
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import Policy
from pfkey.message import Message

PORTION = 100  # SAs: a few milliseconds
FILE = ClientId(0)  # the file as a client; others count from 1

Records = tuple[bytes, ...]  # requests, encoded


class Receiver(Protocol):
    """`keyd.engine.Engine`, as far as a file needs it."""

    def connect(self, client: ClientId) -> None:
        """A client is there."""

    def disconnect(self, client: ClientId) -> list[Effect]:
        """It is gone."""

    def receive(self, client: ClientId, record: bytes, now: Now) -> list[Effect]:
        """Answer it."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """SAs that a file ends, whoever made them; None is any."""

    proto: int | None = None
    spi: int | None = None
    src: bytes | None = None
    dst: bytes | None = None

    def reaches(self, sa: SaSpec) -> bool:
        """Whether this SA is among them."""
        return all(
            wanted in (None, found)
            for wanted, found in (
                (self.proto, sa.proto), (self.spi, sa.spi), (self.src, sa.src), (self.dst, sa.dst),
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What a file asks for, in its order: how each entry is made, and what it ends.

    `policy_sweeps` are directions and selectors; None is every policy.
    """

    sas: dict[SaKey, Records]
    policies: dict[Key, Records]
    sa_sweeps: tuple[Sweep, ...]
    policy_sweeps: tuple[Key | None, ...]


class Draft:
    """A file tried on an engine of its own, whose databases are empty at first."""

    def __init__(self, engine: Receiver, state: State, now: Now) -> None:
        engine.connect(FILE)
        self._engine = engine
        self._state = state
        self._now = now
        self._sas: dict[SaKey, Records] = {}
        self._policies: dict[Key, Records] = {}
        self._sa_sweeps: list[Sweep] = []
        self._policy_sweeps: list[Key | None] = []

    def carry_out(self, message: Message) -> None:
        """Carry out one request.

        Raises:
            SadbError: the engine refuses it, for the reason given.
        """
        match message.type:
            case MsgType.FLUSH:
                self._sa_sweeps.append(Sweep(proto_filter(message)))
            case MsgType.DELETE:
                key = sa_key(message)
                self._sa_sweeps.append(Sweep(key.proto, key.spi, None, key.dst))
            case MsgType.X_SPDFLUSH:
                self._policy_sweeps.append(None)
            case MsgType.X_SPDDELETE:
                self._policy_sweeps.append(policy_key(message))
        record = message.encode()
        _request(self._engine, record, self._now)
        match message.type:
            case MsgType.ADD:
                self._sas[sa_key(message)] = (record,)
            case MsgType.UPDATE:
                self._sas[sa_key(message)] += (record,)
            case MsgType.X_SPDADD | MsgType.X_SPDUPDATE:
                self._policies[policy_key(message)] = (record,)

    def end_all(self, sweep: Sweep) -> None:
        """`deleteall`: end all SAs of a kind."""
        self._sa_sweeps.append(sweep)
        for sa in [sa for sa in self._state.sad if sweep.reaches(sa.spec)]:
            _request(self._engine, _end_of_sa(sa), self._now)

    def wish(self) -> Wish:
        """What the file asks for, once all of it was carried out."""
        return Wish(
            {sa.key: self._sas[sa.key] for sa in self._state.sad},
            {policy.spec.key: self._policies[policy.spec.key] for policy in self._state.spd},
            tuple(self._sa_sweeps),
            tuple(self._policy_sweeps),
        )


class Loading:
    """The loads of one daemon, one after the other: what the last one made is remembered.

    Attributes:
        is_refused: between `begin` and `finish`, whether nft refused the change of policies.
    """

    def __init__(self, engine: Receiver, state: State) -> None:
        self.is_refused = False
        self._engine = engine
        self._state = state
        self._before = self._wish = Wish({}, {}, (), ())
        self._made_sas: dict[SaKey, SaRecord] = {}
        self._made_policies: dict[Key, PolicySpec] = {}
        self._new: dict[SaKey, SaRecord] = {}
        self._change = PoliciesChanged()

    def keys(self, wish: Wish, clock: Callable[[], Now]) -> Iterator[list[Effect]]:
        """Make a file's new SAs: obey each portion, answer others, and take the next.

        Raises:
            SadbError: the database is too full; call `take_back`.
        """
        self._new = {}
        effects: list[Effect] = []
        for key in wish.sas:
            if key in self._state.sad:
                continue
            try:
                self._carry_out(wish.sas[key], clock(), effects)
            except SadbError:
                self._note_new(key)
                yield effects
                raise
            self._note_new(key)
            if len(self._new) % PORTION == 0:
                yield effects
                effects = []
        yield effects

    def _note_new(self, key: SaKey) -> None:
        if sa := self._state.sad.get(key):
            self._new[key] = sa

    def take_back(self, now: Now) -> list[Effect]:
        """End what `keys` has made."""
        effects: list[Effect] = []
        self._carry_out(self._ends_of_new(), now, effects)
        return effects

    def begin(self, wish: Wish, now: Now) -> list[Effect]:
        """Make a file's policies; when that is obeyed, take all that `finish` has.

        Raises:
            SadbError: the database is too full; no policy has changed; call `take_back`.
        """
        state = self._state
        kept = self._kept_policies(wish)
        requests: list[bytes] = []
        effects: list[Effect] = []
        if None in wish.policy_sweeps and state.spd.holds:  # which nothing else lifts
            kept, leaving = set(), [*state.spd]
            requests.append(Message(type=MsgType.X_SPDFLUSH).encode())
        else:
            leaving = self._leaving_policies(wish, kept)
            for policy in leaving:
                effects += self._end(policy, now)
        requests += chain.from_iterable(wish.policies[k] for k in wish.policies if k not in kept)
        try:
            self._carry_out(requests, now, effects)
        except SadbError:
            state.spd.revert(self._merge(effects, leaving))
            raise
        change = self._merge(effects, leaving)
        self._change, self.is_refused = change, False
        self._before, self._wish = self._wish, wish
        sends = [effect for effect in effects if isinstance(effect, Send)]
        first = [e for e in effects if not isinstance(e, Send | PoliciesChanged)]
        return [*first, *([change] if change.added or change.removed else []), *sends]

    def reverted(self, change: PoliciesChanged) -> None:
        """A change of policies was taken back: perhaps ours."""
        self.is_refused = self.is_refused or change is self._change

    def finish(self, clock: Callable[[], Now]) -> Iterator[list[Effect]]:
        """End and replace what is to go: obey each portion, answer others, and take the next.

        If the policies were refused, take back the rest.
        """
        wish, state = self._wish, self._state
        if self.is_refused:
            self._wish = self._before
            yield self.take_back(clock())
            return
        requests = self._last_requests(wish)
        while portion := list(islice(requests, PORTION)):
            effects: list[Effect] = []
            self._carry_out(chain.from_iterable(portion), clock(), effects)
            yield _installed_first(effects)
        self._made_sas = {key: sa for key in wish.sas if (sa := state.sad.get(key))}
        self._made_policies = {k: p.spec for k in wish.policies if (p := state.spd.get(k))}

    def _last_requests(self, wish: Wish) -> Iterator[list[bytes]]:
        """For each SA to be replaced or ended, as things are by then."""
        state = self._state
        for key, records in wish.sas.items():
            sa = state.sad.get(key)
            is_made = sa is not None and self._made_sas.get(key) is sa
            if key not in self._new and not (is_made and records == self._before.sas.get(key)):
                yield [*([] if sa is None else [_end_of_sa(sa)]), *records]
        for one in [*state.sad]:
            if one.state == SaState.DEAD or one.key in wish.sas:  # dead since we began to look
                continue
            is_made = self._made_sas.get(one.key) is one
            if is_made or any(sweep.reaches(one.spec) for sweep in wish.sa_sweeps):
                yield [_end_of_sa(one)]

    def _carry_out(self, requests: Iterable[bytes], now: Now, effects: list[Effect]) -> None:
        self._engine.connect(FILE)
        try:
            for record in requests:
                effects += _request(self._engine, record, now)
        finally:
            effects += self._engine.disconnect(FILE)

    def _ends_of_new(self) -> list[bytes]:
        get = self._state.sad.get
        return [_end_of_sa(sa) for key, sa in self._new.items() if get(key) is sa]

    def _is_made(self, policy: PolicyRecord) -> bool:
        """Whether it is the last load's, not another's of the same selector."""
        return self._made_policies.get(policy.spec.key) is policy.spec

    def _kept_policies(self, wish: Wish) -> set[Key]:
        """Those that stay untouched: up to the first that is new, changed or in another place."""
        places = {key: number for number, key in enumerate(self._wish.policies)}
        kept: set[Key] = set()
        last = -1
        for key, records in wish.policies.items():
            policy = self._state.spd.get(key)
            if policy is None or not self._is_made(policy) or places[key] < last:
                break
            if records != self._wish.policies[key]:
                break
            last = places[key]
            kept.add(key)
        return kept

    def _leaving_policies(self, wish: Wish, kept: set[Key]) -> list[PolicyRecord]:
        sweeps = set(wish.policy_sweeps)
        return [
            policy
            for policy in self._state.spd
            if (key := policy.spec.key) not in kept
            and (
                self._is_made(policy) or key in wish.policies or not sweeps.isdisjoint((None, key))
            )
        ]

    def _end(self, policy: PolicyRecord, now: Now) -> list[Effect]:
        """End a policy and tell everybody, as an SPDDELETE2 does: there may be thousands."""
        spec, clients = policy.spec, self._state.clients
        self._state.spd.remove(policy)
        self._state.acquires.forget_policies((spec.id,))
        named = (Policy(type=spec.type, dir=spec.dir, id=spec.id),)
        message = Message(type=MsgType.X_SPDDELETE2, extensions=named)
        request = Request(client=FILE, message=message, now=now, clients=clients, octets=b"")
        told = policy_gone(request, policy, MsgType.X_SPDDELETE2)
        return [PoliciesChanged((), (spec,)), *clients.all(told)]

    def _merge(self, effects: list[Effect], leaving: list[PolicyRecord]) -> PoliciesChanged:
        """All changes of policies as one, which can be reverted as one."""
        changes = [effect for effect in effects if isinstance(effect, PoliciesChanged)]
        change = PoliciesChanged(
            tuple(chain.from_iterable(one.added for one in changes)),
            tuple(chain.from_iterable(one.removed for one in changes)),
        )
        self._state.spd.note(change, tuple(leaving))
        return change


def _request(engine: Receiver, record: bytes, now: Now) -> list[Effect]:
    """Carry out one request; the effects, without the replies to the file itself."""
    effects = engine.receive(FILE, record, now)
    replies = [e for e in effects if isinstance(e, Send) and e.client == FILE]
    for reply in replies:
        if errno := header(reply.record, is_request=False).errno:
            reasons = [e.text.split(": ", 2)[-1] for e in effects if isinstance(e, Log)]
            raise SadbError(errno, reasons[-1] if reasons else "refused")
    return [effect for effect in effects if effect not in replies]


def _installed_first(effects: list[Effect]) -> list[Effect]:
    """An SA with a new key is there before the old one goes; into a slot it goes by itself."""
    installs = [effect for effect in effects if isinstance(effect, InstallSa)]
    slots = {install.sa.slot for install in installs}
    removals = [e for e in effects if isinstance(e, RemoveSa) and e.sa.slot not in slots]
    rest = [effect for effect in effects if not isinstance(effect, InstallSa | RemoveSa)]
    return [*installs, *removals, *rest]


def _end_of_sa(sa: SaRecord) -> bytes:
    ends = ((ExtType.ADDRESS_SRC, sa.spec.src), (ExtType.ADDRESS_DST, sa.spec.dst))
    places = [Address(exttype=t, address=a, prefixlen=8 * len(a)) for t, a in ends]
    named = Message(
        type=MsgType.DELETE, satype=sa.satype, extensions=(Sa(spi=sa.spec.spi), *places)
    )
    return named.encode()
