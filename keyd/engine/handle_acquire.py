"""SADB_ACQUIRE (RFC 2367 section 3.1.6): the engine asks for an SA, an IKE daemon refuses one."""

import logging
from errno import EOPNOTSUPP
from ipaddress import ip_address

from keyd.engine.acquires import Asked
from keyd.engine.effects import Effect, EndWait, Log, Now
from keyd.engine.records import acquire_told
from keyd.engine.spd import PolicyRecord
from keyd.engine.state import Request, State
from keyd.model import Need
from pfkey.const import HEADER_OCTETS, SATYPE_OF_PROTO, Dir, Mode, PolicyType
from pfkey.errors import SadbError


def acquire(state: State, request: Request) -> list[Effect]:
    """A client cannot make the SA of this sequence number; nobody gets a reply.

    Without errno or sequence number it says nothing, as on Linux.
    DEVIATION from Linux, where the first one who gives up ends it for all: of two daemons the other
    may be doing it. Who was not asked, a second socket of a daemon, speaks for all
    (test_one_of_two_daemons_gives_up).

    Raises:
        SadbError: EOPNOTSUPP for more than a header.
    """
    if len(request.octets) > HEADER_OCTETS:
        raise SadbError(EOPNOTSUPP, "an ACQUIRE from a client is a header alone", "3.1.6")
    message, now = request.message, request.now.mono
    one = state.acquires.find_seq(message.seq, now) if message.errno else None
    if one is None or one.is_over:
        return []
    until = now + state.sysctl["net.key.blockacq_lifetime"]
    if not state.clients[request.client].registered:
        one.clients = frozenset()
    if not state.acquires.refuse(one, request.client, until):
        return []
    why = f"acquire-refused seq={one.seq} errno={message.errno} {_names(one.need)}"
    return [Log(logging.INFO, why), EndWait(one.need)]


def need(state: State, wanted: Need, packets: int, now: Now) -> list[Effect]:
    """Packets want an SA: ask the registered clients, or end the wait."""
    policy = _policy(state, wanted)
    if policy is None:  # it was changed meanwhile; the data path will ask anew
        return []
    if not state.clients.asked(SATYPE_OF_PROTO[wanted.proto]):
        return [EndWait(wanted)]
    if policy.flow is not None and not policy.flow.asks:
        return [EndWait(wanted)]
    one = state.acquires.find(wanted, now.mono)
    if one is not None:
        if one.is_over:
            return [EndWait(wanted)] if one.is_refused else []
        one.packets += packets
        if one.packets <= state.sysctl["net.key.blockacq_count"]:
            return []
    if state.acquires.may_send(policy.spec.id, now.mono):
        seconds = state.sysctl["net.key.blockacq_lifetime"]
        one = one or state.acquires.open(wanted, now.mono, seconds)
        if one is not None:
            return _ask(state, one, policy)
    if not state.acquires.complains(now.mono):
        return []
    return [Log(logging.WARNING, f"acquires-limited policy={policy.spec.id} {_names(wanted)}")]


def _ask(state: State, one: Asked, policy: PolicyRecord) -> list[Effect]:
    one.packets = 0
    one.clients = state.clients.asked(SATYPE_OF_PROTO[one.need.proto])
    proposal = state.proposals.encoded(one.need.proto, state.sysctl)
    told = acquire_told(one.need, one.seq, policy, proposal)
    log = Log(
        logging.INFO,
        f"acquire seq={one.seq} policy={policy.spec.id} asked={len(one.clients)}"
        f" {_names(one.need)}",
    )
    return [log, *state.clients.notice(told)]


def _policy(state: State, wanted: Need) -> PolicyRecord | None:
    """The policy in whose name it is wanted, if it still wants that."""
    record = state.spd.get_id(wanted.policy) or state.sockets.get_id(wanted.policy)
    if record is None or record.spec.dir != Dir.OUT or record.spec.type != PolicyType.IPSEC:
        return None
    for request in record.spec.requests:
        is_tunnel = request.mode == Mode.TUNNEL
        ends = (request.src, request.dst) == (wanted.src, wanted.dst) or not is_tunnel
        what = (request.proto, request.mode, request.reqid)
        if what == (wanted.proto, wanted.mode, wanted.reqid) and ends:
            return record
    return None


def _names(wanted: Need) -> str:
    satype = SATYPE_OF_PROTO[wanted.proto].name.removeprefix("X_").lower()
    ends = f"src={ip_address(wanted.src)} dst={ip_address(wanted.dst)}"
    return f"proto={satype} mode={wanted.mode.name.lower()} reqid={wanted.reqid} {ends}"
