"""What is fuzzed: each target takes any octets, and an exception that leaves it is a fault.

A target returns what came of the octets. Octets of which something new came are near others of
which something newer may: `python -m tests.fuzz` mutates them further.
"""

import array
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from keyd.model import Need, Usage
from keyd.packet import counters, icmp
from keyd.packet.segment import PLAIN
from keyd.shell import channel, load, rpc
from keyd.shell.daemon import clock, make_engine
from keyd.shell.holds import decode_comment, encode_comment
from keyd.shell.reports import Reports
from pfkey import hot, hot_events, policy, text
from pfkey.base import error_reply
from pfkey.const import Dir, ExtType, Mode
from pfkey.dialect import DIALECTS, LINUX, Dialect
from pfkey.entries import SadEntry
from pfkey.errors import PolicyError, WireError
from pfkey.ext_x_policy import Policy
from pfkey.hot_parts import Place
from pfkey.message import Message
from pfkey.setkey import grammar, messages
from pfkey.setkey.lexer import Feed, Source
from tests.fuzz.mutate import BLIND, MESSAGE, Mutation
from tests.keyd.engine import test_dialects, test_hostile, test_key_model, test_model
from tests.keyd.engine.desk import A, B, C, Desk
from tests.support import packets, pipelines

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "golden"
_DIALECTS = tuple(DIALECTS.values())
ENGINE = make_engine(lambda _: Usage())
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads what others wrote; `words` are put between the octets of others."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], Hashable]
    ways: Sequence[Mutation] = BLIND
    words: tuple[bytes, ...] = ()


def _why(error: Exception) -> str:
    return _NUMBERS.sub("N", str(error))


def _message(dialect: Dialect, octets: bytes) -> Hashable:
    """A record in a dialect: refused with a reason, or read, shown and built again."""
    with suppress(WireError):
        error_reply(octets, 22, dialect)
    for quick in (hot.SaRecord.decode, hot.PolicyRecord.decode):
        record = quick(octets, dialect)
        if record is not None:
            assert record.message(dialect).extensions == Message.decode(octets, dialect).extensions
    with suppress(WireError):
        Message.decode(octets, dialect, is_request=True)
    try:
        message = Message.decode(octets, dialect)
    except WireError as error:
        return _why(error)
    assert message.encode(dialect) == octets
    text.message(message)
    with suppress(WireError):
        SadEntry.of(message)
    again = Message.decode(replace(message).encode(dialect), dialect)
    assert again == message, "built from its values it says something else"
    return message.type, *(extension.exttype for extension in message.extensions)


def _events(octets: bytes) -> Hashable:
    """A record to a client that listens."""
    found: list[Hashable] = []
    for kind in (hot_events.Acquire, hot_events.Expire):
        record = kind.decode(octets)
        found.append(record is not None)
        if record is not None:
            assert record.message() == Message.decode(octets)
    return tuple(found)


def _steps(octets: bytes) -> Iterator[tuple[int, int, bytes]]:
    """A conversation: who, after how many seconds, which record; each after its length."""
    at = 0
    while at + 4 <= len(octets):
        who, seconds = octets[at], octets[at + 1]
        size = int.from_bytes(octets[at + 2 : at + 4], "little")
        yield who, seconds, octets[at + 4 : at + 4 + size]
        at += 4 + size


def conversation(*records: bytes, dialect: Dialect = LINUX) -> bytes:
    """The inverse: two clients of a dialect in turns, a second between them, as they come."""
    number = _DIALECTS.index(dialect)
    begin = b"".join(bytes((0x80 + n, number, 0, 0)) for n in range(2))
    return begin + b"".join(
        bytes((n % 2, 1)) + len(record).to_bytes(2, "little") + record
        for n, record in enumerate(records)
    )


def _engine(octets: bytes) -> Hashable:
    """A conversation with the engine: no exception, each slot once, the order of the match kept."""
    desk = Desk(A, B, C)
    desk.used = {slot: Usage(3, 4, 5.0, 6.0) for slot in range(8)}
    spoken = dict.fromkeys((A, B, C), LINUX)
    for who, seconds, record in _steps(octets):
        client = (A, B, C)[who % 3]
        if who & 0x80:
            desk.engine.disconnect(client)
            spoken[client] = _DIALECTS[seconds % len(_DIALECTS)]
            desk.engine.connect(client, spoken[client].name)
        if who & 0x40:
            ends = (bytes((10, 0, 0, seconds % 3)), bytes((10, 0, 0, 9)))
            for spec in desk.engine.policies()[:1]:
                need = Need(
                    policy=spec.id, proto=50, mode=Mode.TRANSPORT, reqid=0, src=ends[0],
                    dst=ends[1],
                )  # fmt: skip
                desk.need(need, 1 + seconds)
        for effect in desk.effects(record, client):
            test_hostile.obey(desk, effect, is_refused=bool(who & 0x20), dialect=spoken[client])
        desk.tick(seconds)
    slots = [sa.slot for sa in desk.engine.sas()]
    assert len(set(slots)) == len(slots)
    ranks = [(p.priority, p.order) for p in desk.engine.policies() if not p.is_default]
    assert ranks == sorted(ranks)
    stats = desk.engine.stats()
    return tuple(min(stats[name], 3) for name in ("sas", "larvals", "policies", "acquires"))


def _setkey(octets: bytes) -> Hashable:
    """A file: faults with a place in it, or messages that the engine takes or refuses."""
    words = octets.decode("utf-8", "surrogateescape")
    statements, faults = grammar.parse(words, "file")
    source = Source("file", words)
    for fault in faults:
        assert 1 <= fault.line <= words.count("\n") + 1
        source.caret(fault)
    Feed("stdin").feed(words)
    for statement in statements:
        for message in messages.of_statement(statement, 7, has_fwd_copy=True):
            assert Message.decode(message.encode()) == message
    with suppress(load.FaultsError):
        load.carry_out(Path("file"), statements, ENGINE.draft(clock()))
    return tuple(_why(fault)[:40] for fault in faults[:3]), len(statements)


def _parsed(words: str) -> Policy | PolicyError:
    try:
        return policy.parse(words)
    except PolicyError as error:
        return error


def _policy(octets: bytes) -> Hashable:
    """A policy's words: refused with a place in them, or rendered to words that mean the same."""
    words = octets.decode("utf-8", "surrogateescape")
    found = _parsed(words)
    if isinstance(found, PolicyError):
        assert 0 <= found.column <= len(words)
        return _why(found)[-40:]
    if found.priority:  # else it is a direction alone, for spddelete
        assert policy.parse(policy.render(found)) == found
    return len(found.requests)


_STEPS: tuple[tuple[tuple[pipelines.Step, ...], bytes, bytes], ...] = tuple(
    (steps, src, dst)
    for src, dst, g, h in (
        (packets.A, packets.B, pipelines.G, pipelines.H),
        (packets.A6, packets.B6, pipelines.G6, pipelines.H6),
    )
    for steps in (
        ((50, Mode.TRANSPORT, src, dst),),
        ((51, Mode.TRANSPORT, src, dst),),
        ((50, Mode.TUNNEL, g, h),),
        ((51, Mode.TUNNEL, g, h),),
    )
)


def _counted(values: "array.array[int]") -> Hashable:
    return tuple(row for row, n in zip(counters.ROWS, values, strict=True) if n)


def _pair(which: int) -> pipelines.Pair:
    steps, src, dst = _STEPS[which % len(_STEPS)]
    return pipelines.Pair(steps, src, dst)


def _outbound(octets: bytes) -> Hashable:
    """What comes out of the TUN device, under the policy that the first octet names."""
    if not octets:
        return None
    pair = _pair(octets[0])
    for packet in pair.send(octets[1:]):
        pair.into.process(packet, pipelines.NOW)
    list(pair.into.flush())
    return _counted(pair.out_values), _counted(pair.in_values)


def _inbound(octets: bytes) -> Hashable:
    """What comes from the wire, of which the first octet tells how it was meant to be sealed."""
    if not octets:
        return None
    pair = _pair(octets[0])
    pair.receive([octets[1:]])
    icmp.quoted(octets[1:])
    return _counted(pair.in_values)


def _packets() -> Iterator[tuple[int, bytes, bytes]]:
    """(policy, what goes in, what is on the wire)."""
    for which, (_, src, dst) in enumerate(_STEPS):
        for proto, payload in (
            (6, packets.tcp(b"data" * 20)), (17, packets.udp(b"data" * 500)),
            (44, bytes((17, 0, 0, 1, 0, 0, 0, 9)) + packets.udp(b"fragment")),
        ):  # fmt: skip
            inner = pipelines.whole(src, dst, proto, payload)
            for packet in _pair(which).send(PLAIN + inner):
                yield which, PLAIN + inner, packet


def _control(octets: bytes) -> Hashable:
    """A call to the control socket."""
    try:
        call = rpc.decode(octets)
    except rpc.RpcError as error:
        rpc.encode_error(None, error)
        return error.message
    rpc.decode(rpc.encode_result(call.id, {}).replace(b'"result"', b'"method":"x","params"'))
    return call.method[:20], len(call.params), call.wants_reply


def _report(octets: bytes) -> Hashable:
    """What a worker says, which may be anybody's by then."""
    try:
        record = channel.decode(octets)
    except (ValueError, TypeError) as error:
        return type(error).__name__
    Reports(ENGINE, clock, _never).take(record)
    return tuple(sorted(record))[:6]


async def _never(_: object) -> None:
    raise AssertionError("nobody runs it")


def _comment(octets: bytes) -> Hashable:
    """A comment in a table that somebody left behind."""
    found = decode_comment(octets.decode("latin-1"))
    if found is not None:
        decode_comment(encode_comment(found))
    return found is not None


def _machine(machine: type[RuleBasedStateMachine], octets: bytes) -> Hashable:
    """Any requests in any order, as a number decides, against a model of the databases."""
    number = int.from_bytes(octets[:8].ljust(8, b"\0"), "big")
    run_state_machine_as_test(
        seed(number)(lambda: machine()),  # type: ignore[arg-type]
        settings=settings(
            max_examples=5, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    return None


def _golden(dialect: str) -> tuple[bytes, ...]:
    found = [bytes.fromhex(path.read_text()) for path in sorted(GOLDEN.glob(f"{dialect}-*.hex"))]
    ours = (bytes.fromhex(path.read_text()) for path in sorted(GOLDEN.glob("policy-*.hex")))
    return tuple(found or (*ours, *test_hostile.SEEDS))


_POLICIES = (
    "out ipsec esp/transport//require",
    "in prio high + 5 ipsec ah/tunnel/10.0.0.1-10.0.0.2/unique:7",
    "fwd priority -9 none",
    "in discard",
    "out ipsec esp/transport//use ah/transport/me-any/default",
)
_JSON = tuple(
    b'Infinity -1 1e999 NaN null true [] {} [[[[ 99999999999999999999999 "\\ud800" : ,'.split()
)
_WORDS = tuple(
    b"-P -E -A -C -R -m -u -r -f -ctx -lh -bs -4 -6n tunnel transport 0x 0x0 4294967296 :: ; # [ ] "
    b"in out fwd ipsec none discard use require unique: prio high + - / // spdupdate update "
    b"esp-udp ah-old ipcomp deflate nocyclic-seq 0xffffffffff tcp icmp gre fe80::1%lo".split()
)
_EVENTS = (
    hot_events.Acquire(
        satype=3, seq=1, src=Place(bytes(4), 32), dst=Place(bytes(4), 32), policy_id=9,
        priority=1, policy_type=2, dir=2, proposal=b"",
    ).encode(),
    hot_events.Expire(
        satype=3, spi=9, src=Place(bytes(16), 128), dst=Place(bytes(16), 128),
        fired=ExtType.LIFETIME_SOFT,
    ).encode(),
)  # fmt: skip
_FILES = (
    (GOLDEN / "faq.conf").read_bytes(),
    b'add -4n 10.0.0.1[500] 10.0.0.2 esp 0x100 -m tunnel -u 5 -r 32 -lh 60 -bs 9 -E aes-cbc "0123'
    b'456789abcdef" -A hmac-sha2-256 0x' + b"ab" * 32 + b";\n# end\nflush esp; spddump;\n",
    b"spdadd ::1/128 fe80::/10[any] icmp6 128,0 -P in prio low ipsec esp/transport//use;\nexit;",
    b"getspi 1.1.1.1 2.2.2.2 ah 5; deleteall 1.1.1.1 2.2.2.2 esp; spddelete ::/0 ::/0 any -P out;",
)
_CALLS = tuple(
    b'{"jsonrpc":"2.0","id":%d,"method":"%s","params":{%s}}' % (n, method, params)
    for n, (method, params) in enumerate((
        (b"status", b""), (b"sysctl", b'"name":"net.key.debug","value":1'),
        (b"subscribe", b'"show_keys":true'), (b"log_level", b'"level":"debug"'),
    ))
)  # fmt: skip
_REPORTS = (
    b'{"op":"used","policies":[[9,1,84,[[2,1]]]]}', b'{"op":"used","policies":[[1e999,0,0,[]]]}',
    b'{"op":"log","level":20,"text":"words"}',
    channel.encode({"op": "need", "packets": 1, "need": Need(
        policy=9, proto=50, mode=Mode.TRANSPORT, reqid=0, src=bytes(4), dst=bytes(4)).to_json()}),
)  # fmt: skip
_COMMENTS = tuple(
    encode_comment(pipelines.policy(steps, way, src, dst)).encode()
    for (steps, src, dst) in _STEPS
    for way in (Dir.IN, Dir.OUT)
)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        *(
            Target(f"message-{name}", _golden(name), partial(_message, dialect), MESSAGE)
            for name, dialect in DIALECTS.items()
        ),
        Target("event", _EVENTS, _events, MESSAGE),
        Target(
            "engine",
            (
                conversation(*test_hostile.SEEDS),
                *(
                    conversation(*test_dialects.SEEDS[name], dialect=dialect)
                    for name, dialect in DIALECTS.items()
                ),
                *(
                    conversation(octets, dialect=dialect)
                    for name, dialect in DIALECTS.items()
                    for octets in test_dialects.SEEDS[name]
                ),
            ),
            _engine,
        ),
        Target("setkey", _FILES, _setkey, words=_WORDS),
        Target("policy", tuple(words.encode() for words in _POLICIES), _policy, words=_WORDS),
        Target("outbound", tuple(bytes((n,)) + octets for n, octets, _ in _packets()), _outbound),
        Target("inbound", tuple(bytes((n,)) + octets for n, _, octets in _packets()), _inbound),
        Target("control", _CALLS, _control, words=_JSON),
        Target("report", _REPORTS, _report, words=_JSON),
        Target("comment", _COMMENTS, _comment),
        Target("databases", (bytes(8),), partial(_machine, test_model.Databases)),
        Target("keys", (bytes(8),), partial(_machine, test_key_model.KeyManagement)),
    )
}
