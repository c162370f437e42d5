"""X_MIGRATE (Linux; RFC 4555's need): a policy's tunnels and its SAs move to other addresses.

The policy extension holds pairs of requests: what was, and what shall be. SAs keep their keys,
numbers and counts; packets that are on their way to the old address are lost.
"""

from dataclasses import replace
from errno import EEXIST, EINVAL, ELOOP, ENOBUFS, ENODATA
from typing import NamedTuple

from keyd.engine import unsupported
from keyd.engine.answers import migrated
from keyd.engine.effects import Effect, MoveSa, PoliciesChanged
from keyd.engine.handle_x_spd import REQUESTS_MAX, policy_key
from keyd.engine.parts import policy_of
from keyd.engine.sad import SaKey, SaRecord, describe
from keyd.engine.state import Request as ClientRequest
from keyd.engine.state import State
from keyd.model import PolicySpec, Request
from pfkey.const import Mode
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest


class Move(NamedTuple):
    """From one pair of addresses to another."""

    proto: int
    mode: int
    reqid: int  # 0: any
    old: tuple[bytes, bytes]
    new: tuple[bytes, bytes]


def migrate(state: State, request: ClientRequest) -> list[Effect]:
    """Move tunnels of a policy and the SAs, and tell everybody.

    DEVIATION from Linux, which moves one SA for each pair, the first it finds: all move that fit
    (test_old_and_new_sas_move_together). And whose answer has no sequence number or pid: it is the
    reply to who asked (test_migrate_is_echoed_to_all).

    Raises:
        SadbError: EINVAL, ELOOP and EOPNOTSUPP for what the request says; ENOENT for no such
            policy; ENODATA when no request of it is meant; EEXIST when an SA would take another's
            name.
    """
    message = request.message
    policy = state.spd.find(policy_key(message))
    moves = _moves(policy_of(message).requests)
    changed = _moved(policy.spec, moves)
    if changed is None:
        raise SadbError(ENODATA, "no request of the policy is meant")
    ends = {move.old[1] for move in moves}  # tells most of many SAs that they are not meant
    near = [sa for sa in state.sad if sa.spec.dst in ends]
    found = [(sa, move.new) for sa in near if (move := _meant(sa, moves)) is not None]
    _check(state, found)
    fresh = state.spd.replace(policy, changed)
    change = PoliciesChanged((fresh.spec,), (policy.spec,), request.refusal(ENOBUFS))
    state.spd.note(change, (policy,))
    state.acquires.forget_policies((policy.spec.id,))
    before = [sa.spec for sa, _ in found]
    state.sad.move(found)
    moved = [MoveSa(old, sa.spec) for old, (sa, _) in zip(before, found, strict=True)]
    return [change, *moved, *state.clients.all(migrated(request, fresh))]


def _moves(requests: tuple[IpsecRequest, ...]) -> list[Move]:
    if len(requests) > 2 * REQUESTS_MAX:
        raise SadbError(ELOOP, f"{len(requests) // 2} pairs, {REQUESTS_MAX} are the most")
    if not requests or len(requests) % 2:
        raise SadbError(EINVAL, f"{len(requests)} requests: they go in pairs, old and new")
    moves = [_move(*requests[at : at + 2]) for at in range(0, len(requests), 2)]
    if len({move[:4] for move in moves}) < len(moves):
        raise SadbError(EINVAL, "the same old addresses stand twice")
    return moves


def _move(old: IpsecRequest, new: IpsecRequest) -> Move:
    if (old.proto, old.mode, old.reqid) != (new.proto, new.mode, new.reqid):
        raise SadbError(EINVAL, "old and new differ in more than addresses")
    if old.mode not in (Mode.TRANSPORT, Mode.TUNNEL):
        raise SadbError(EINVAL, f"mode {old.mode} does not move: transport is 1, tunnel 2")
    if old.src is None or old.dst is None or new.src is None or new.dst is None:
        raise SadbError(EINVAL, "old and new need two addresses each, in transport mode too")
    if not any(new.src) or not any(new.dst):
        raise SadbError(EINVAL, "a new address is the unspecified one")
    for end in (new.src, new.dst):
        unsupported.refuse_address(end)
    return Move(old.proto, old.mode, old.reqid, (old.src, old.dst), (new.src, new.dst))


def _moved(spec: PolicySpec, moves: list[Move]) -> PolicySpec | None:
    """The policy with its tunnels' new ends; None when no request is meant."""
    requests = [_request(one, moves) for one in spec.requests]
    if not any(is_meant for is_meant, _ in requests):
        return None
    return replace(spec, requests=tuple(one for _, one in requests))


def _request(one: Request, moves: list[Move]) -> tuple[bool, Request]:
    """Whether a move means it, and what becomes of it; transport mode has no addresses."""
    for move in moves:
        is_kind = (one.proto, one.mode) == move[:2] and move.reqid in (0, one.reqid)
        if is_kind and one.mode == Mode.TRANSPORT:
            return True, one
        if is_kind and (one.src, one.dst) == move.old:
            return True, replace(one, src=move.new[0], dst=move.new[1])
    return False, one


def _meant(sa: SaRecord, moves: list[Move]) -> Move | None:
    """The first move that means an SA."""
    spec = sa.spec
    for move in moves:
        if (
            not sa.is_larval
            and spec.proto == move.proto
            and spec.mode in (Mode.ANY, move.mode)
            and move.reqid in (0, spec.reqid)
            and (spec.src, spec.dst) == move.old
        ):
            return move
    return None


def _check(state: State, found: list[tuple[SaRecord, tuple[bytes, bytes]]]) -> None:
    """No SA may take the name of one that stays, nor two the same."""
    leaving = {sa.key for sa, _ in found}
    taken: set[SaKey] = set()
    for sa, (_, dst) in found:
        key = SaKey(dst, sa.spec.proto, sa.spec.spi)
        if key in taken or (key in state.sad and key not in leaving):
            raise SadbError(EEXIST, f"SA {describe(key)} exists")
        taken.add(key)
