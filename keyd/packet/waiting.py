"""Packets that wait for an SA, and the needs of theirs that the engine is told of.

Outbound only (RFC 4301 section 5.1). A flow's first packets wait while an IKE daemon makes their
SA; then they are sent, in their order, or dropped and counted (`queue_dropped`). Everything is
bounded: octets in all, per policy and per flow, flows, and time; in all pipelines together
(`keyd.packet.trunk`). A flow that is full loses its oldest packet; when all is full, newcomers are
turned away, so that a storm under one policy finds an end and cannot drive out the packets of
another.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from keyd.model import Need, PolicySpec, Request, Settings
from keyd.packet import counters as count
from keyd.packet import tunnel
from keyd.packet.tallies import Tallies
from pfkey.const import Mode

OCTETS_MAX = 4 << 20
POLICY_OCTETS_MAX = 1 << 20
FLOW_OCTETS_MAX = 160 << 10  # two super-packets
PACKET_OCTETS = 512  # what one costs besides its own octets
FLOWS_MAX = 4096
REPORT_SECONDS = 0.1  # between two reports of one need
REPORTS_PER_SECOND = 50  # of one policy
NEEDS_MAX = 512  # of one policy that are remembered
SHARES_MAX = 256

Pair = tuple[bytes, bytes]


class _Line:
    """The packets of one flow."""

    __slots__ = ("needs", "octets", "packets", "policy", "until")

    def __init__(self, needs: tuple[Need, ...], until: float) -> None:
        self.needs = needs
        self.policy = needs[0].policy
        self.until = until
        self.packets: deque[bytes] = deque()
        self.octets = 0


class Room:
    """How much waits in all pipelines together, and which needs are to be told."""

    def __init__(self) -> None:
        self.needs = Needs()
        self.flows = 0
        self.octets = 0
        self.of_policy: dict[int, int] = {}  # octets

    def account(self, policy: int, octets: int) -> None:
        """So much more waits under a policy."""
        self.octets += octets
        left = self.of_policy.get(policy, 0) + octets
        if left:
            self.of_policy[policy] = left
        else:
            self.of_policy.pop(policy, None)


class Waiting:
    """A pipeline's flows that wait, by the flow cache's keys, the oldest first.

    Attributes:
        needs: what the engine is to be told.
    """

    def __init__(self, counters: memoryview, tallies: Tallies, room: Room) -> None:
        self.needs = room.needs
        self._room = room
        self._counters = counters
        self._tallies = tallies
        self._settings = Settings()
        self._lines: dict[bytes, _Line] = {}
        self._by_pair: dict[Pair, dict[bytes, None]] = {}
        self._ripe: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def is_asking(self) -> bool:
        """Whether anybody makes SAs, so that waiting makes sense."""
        return self._settings.is_asking

    def tune(self, settings: Settings) -> None:
        """Follow a change of settings; when nobody makes SAs any more, drop all."""
        self._settings = settings
        if not settings.is_asking:
            for key in list(self._lines):
                self._give_up(key)

    def put(self, key: bytes, needs: tuple[Need, ...], packet: bytes, now: float) -> None:
        """Let a packet wait, if there is room; its flow's first packet says how long."""
        line = self._lines.get(key)
        cost = len(packet) + PACKET_OCTETS
        while line and line.packets and line.octets + cost > FLOW_OCTETS_MAX:
            self._drop(line)
        policy = needs[0].policy
        if (
            (line is None and self._room.flows >= FLOWS_MAX)
            or self._room.octets + cost > OCTETS_MAX
            or self._room.of_policy.get(policy, 0) + cost > POLICY_OCTETS_MAX
        ):
            self._count(policy, 1)
            return
        if line is None:
            line = self._lines[key] = _Line(needs, now + self._settings.wait_seconds)
            self._room.flows += 1
            self._index(key, line)
        line.packets.append(packet)
        self._account(line, cost)

    def stir(self, pair: Pair) -> None:
        """There is another SA between these addresses: flows that want one are to be looked at."""
        self._ripe.update(self._by_pair.get(pair, {}))

    def stir_all(self) -> None:
        """The policies are others: all flows are to be looked at."""
        self._ripe.update(dict.fromkeys(self._lines))

    def ripe(self) -> Iterator[tuple[bytes, bytes]]:
        """The flows to look at, each with its first packet; then `take` it, or `keep` it."""
        while self._ripe:
            key = next(iter(self._ripe))
            del self._ripe[key]
            yield key, self._lines[key].packets[0]

    def keep(self, key: bytes, needs: tuple[Need, ...]) -> None:
        """A flow goes on waiting, for what it still lacks."""
        line = self._lines[key]
        self._forget(key, line)
        octets = line.octets
        self._account(line, -octets)
        line.needs, line.policy = needs, needs[0].policy
        self._account(line, octets)
        self._index(key, line)

    def take(self, key: bytes) -> Iterable[bytes]:
        """All packets of a flow, which waits no longer."""
        line = self._lines.pop(key)
        self._room.flows -= 1
        self._forget(key, line)
        self._ripe.pop(key, None)
        self._account(line, -line.octets)
        return line.packets

    def end(self, need: Need) -> None:
        """An SA will not come: drop what needs it."""
        pair = (need.src, need.dst)
        for key in [k for k in self._by_pair.get(pair, ()) if need in self._lines[k].needs]:
            self._give_up(key)

    def patience(self, now: float) -> float | None:
        """In how many seconds `expire` or `needs` have something to do; None: neither."""
        times = [self.needs.patience(now), self._oldest(now)]
        return min((time for time in times if time is not None), default=None)

    def _oldest(self, now: float) -> float | None:
        return max(0.0, next(iter(self._lines.values())).until - now) if self._lines else None

    def expire(self, now: float) -> None:
        """Drop the flows whose time is over."""
        while self._oldest(now) == 0:
            self._give_up(next(iter(self._lines)))

    def _drop(self, line: _Line) -> None:
        self._account(line, -len(line.packets.popleft()) - PACKET_OCTETS)
        self._count(line.policy, 1)

    def _give_up(self, key: bytes) -> None:
        policy = self._lines[key].policy
        self._count(policy, len(list(self.take(key))))

    def _count(self, policy: int, packets: int) -> None:
        self._counters[count.TUN_SEGMENTS] += packets
        self._counters[count.QUEUE_DROPPED] += packets
        self._tallies.drop(policy, count.QUEUE_DROPPED, packets)

    def _account(self, line: _Line, octets: int) -> None:
        line.octets += octets
        self._room.account(line.policy, octets)

    def _index(self, key: bytes, line: _Line) -> None:
        for need in line.needs:
            self._by_pair.setdefault((need.src, need.dst), {})[key] = None

    def _forget(self, key: bytes, line: _Line) -> None:
        for pair in {(need.src, need.dst) for need in line.needs}:
            keys = self._by_pair[pair]
            del keys[key]
            if not keys:
                del self._by_pair[pair]


class Needs:
    """What the engine is to be told: each need at once, then at most once in `REPORT_SECONDS`.

    Each policy has its share of reports, so that a storm under one does not silence another.
    """

    def __init__(self) -> None:
        self._shares: dict[int, _Share] = {}
        self._busy: dict[int, None] = {}  # the policies of which something is to be told

    def note(self, needs: Iterable[Need], now: float) -> None:
        """A packet lacks these SAs."""
        for need in needs:
            share = self._shares.get(need.policy)
            if share is None:
                if len(self._shares) >= SHARES_MAX:
                    self._shares.clear()
                    self._busy.clear()
                share = self._shares[need.policy] = _Share(now)
            share.note(need)
            self._busy[need.policy] = None

    def take(self, now: float) -> dict[Need, int]:
        """What is to be told now: how many packets lack what."""
        due: dict[Need, int] = {}
        for policy in list(self._busy):
            share = self._shares[policy]
            share.take(now, due)
            if not share.has_more:
                del self._busy[policy]
        return due

    def patience(self, now: float) -> float | None:
        """In how many seconds there is something to tell; None: not before another packet."""
        return min((self._shares[policy].patience(now) for policy in self._busy), default=None)


class _Share:
    """The needs of one policy."""

    __slots__ = ("_again", "_fresh", "_known", "_second", "_told")

    def __init__(self, now: float) -> None:
        self._known: dict[Need, list[float]] = {}  # when last told, packets since
        self._fresh: dict[Need, None] = {}  # never told
        self._again: dict[Need, None] = {}
        self._second = now
        self._told = 0

    @property
    def has_more(self) -> bool:
        return bool(self._fresh or self._again)

    def note(self, need: Need) -> None:
        entry = self._known.get(need)
        if entry is None:
            if len(self._known) >= NEEDS_MAX:
                self._known = {n: e for n, e in self._known.items() if e[1]}
            if len(self._known) >= NEEDS_MAX:
                return  # told when its flow goes on once the storm is over
            entry = self._known[need] = [0.0, 0]
            self._fresh[need] = None
        elif need not in self._fresh:
            self._again[need] = None
        entry[1] += 1

    def take(self, now: float, due: dict[Need, int]) -> None:
        if not 0 <= now - self._second < 1:  # a clock that was set back must not silence us
            self._second, self._told = now, 0
        for waiting in (self._fresh, self._again):
            while waiting and self._told < REPORTS_PER_SECOND:
                need = next(iter(waiting))
                entry = self._known[need]
                if waiting is self._again and 0 <= now - entry[0] < REPORT_SECONDS:
                    break
                del waiting[need]
                due[need] = int(entry[1])
                entry[:] = now, 0
                self._told += 1

    def patience(self, now: float) -> float:
        if self._fresh or self._told >= REPORTS_PER_SECOND:
            return max(0.0, self._second + 1 - now)
        oldest = next(iter(self._again))
        return max(0.0, self._known[oldest][0] + REPORT_SECONDS - now)


def need_of(policy: PolicySpec, request: Request, src: bytes, dst: bytes) -> Need:
    """What a policy's request wants between two addresses."""
    return Need(
        policy=policy.id, proto=request.proto, mode=request.mode or Mode.TRANSPORT,
        reqid=request.reqid, src=src, dst=dst,
    )  # fmt: skip


def can_be_met(need: Need, is_local: Callable[[bytes], bool]) -> bool:
    """Whether asking makes sense: nobody negotiates with this host itself, nor with a group.

    Nor between link-local addresses of IPv6, for which no SA is taken.
    """
    if len(need.dst) == 4:
        return need.dst[0] < 0xE0 and not is_local(need.dst)
    ends = (need.src, need.dst)
    return not any(map(tunnel.cannot_be_a_source, ends)) and not is_local(need.dst)
