"""SADB_DUMP (RFC 2367 section 3.1.10) and X_SPDDUMP: every record, paced by the reader.

The records are those there when the dump began, of SAs without those that go before their turn;
each is encoded when it comes.
"""

from collections.abc import Iterable, Iterator
from errno import EBUSY, EINVAL, ENOENT
from itertools import chain, islice

from keyd.engine.effects import Dump, Effect, Send
from keyd.engine.manners import Count, Kin, Manners
from keyd.engine.parts import proto_filter
from keyd.engine.records import policy_dump, sa_dump, sa_dump_told
from keyd.engine.sad import SaRecord
from keyd.engine.state import Request, State
from keyd.engine.told import Told
from pfkey.const import AF_INET, AF_INET6, Dir, Scope
from pfkey.errors import SadbError
from pfkey.ext_x_linux import Filter
from pfkey.selector import Range

_LENGTH = {AF_INET: 4, AF_INET6: 16}
# FreeBSD's scopes: whether what is here is of them. We have no interfaces' or sockets' policies.
_SCOPES: dict[int, bool] = {
    Scope.ANY: True, Scope.GLOBAL: True, Scope.IFNET: False, Scope.PCB: False
}  # fmt: skip


def dump(state: State, request: Request) -> list[Effect]:
    """Show all SAs, or those of one type or between some addresses, to the sender.

    Raises:
        SadbError: ENOENT when there is none; EINVAL for a wrong SA type or filter; EBUSY while
            an earlier dump to the same client goes on.
    """
    message = request.message
    _refuse_second(state, request)
    proto, wanted = proto_filter(message), message.filter
    if wanted is not None and max(wanted.splen, wanted.dplen) >= 128:
        raise SadbError(EINVAL, f"filter prefixes {wanted.splen}, {wanted.dplen} are too long")
    found = state.sad.slowly()
    if proto is not None:
        found = (sa for sa in found if sa.spec.proto == proto)
    if wanted is not None:
        found = (sa for sa in found if _passes(sa, wanted))
    first = next(found, None)
    if first is None:
        raise SadbError(ENOENT, "no SA to dump", "3.1.10")
    # who counts down, or shows others what it gets, must know all of them
    must_know = request.manners.counts is Count.DOWN or state.clients.has_promiscuous
    sas: Iterable[SaRecord] = [first, *found] if must_know else chain((first,), found)
    how = (message.pid, request.manners, message.seq)
    return _paced(state, request, sa_dump(state, sas, *how), sa_dump_told(state, sas, *how))


def spd_dump(state: State, request: Request) -> list[Effect]:
    """Show all policies to the sender: in, out, then fwd, each in the order of the match.

    Behind them those of sockets, one for all sockets that share it.
    Those for whose direction its dialect has no number are left out. FreeBSD's SA type says whose
    policies to show; OpenBSD shows flows, the newest first.

    DEVIATION from OpenBSD, which has this only in a sysctl, and a Unix socket has none
    (test_openbsd_flows_are_dumped_over_the_socket).

    Raises:
        SadbError: ENOENT when there is none; EINVAL for another scope; EBUSY while an earlier dump
            goes on.
    """
    _refuse_second(state, request)
    message, manners = request.message, request.manners
    ways = [way for way in (Dir.IN, Dir.OUT, Dir.FWD) if _has_way(manners, way)]
    policies = [p for way in ways for p in state.spd if p.spec.dir == way]
    if manners.kin is Kin.LINUX:
        policies += state.sockets.records()
    elif manners.kin is Kin.OPENBSD:
        policies.sort(key=lambda policy: policy.spec.id, reverse=True)
    if message.type in manners.dialect.not_satypes:
        if message.satype not in _SCOPES:
            raise SadbError(EINVAL, f"scope {message.satype} is none")
        policies = policies if _SCOPES[message.satype] else []
    if not policies:
        raise SadbError(ENOENT, "no policy to dump")
    how = (message.pid, manners, message.seq)
    own = (told.octets(manners) for told in policy_dump(policies, *how))
    private = (octets for octets in own if octets is not None)
    return _paced(state, request, private, policy_dump(policies, *how))


def _has_way(manners: Manners, way: Dir) -> bool:
    return way in (Dir.IN, Dir.OUT) or way in manners.dialect.dirs


def _refuse_second(state: State, request: Request) -> None:
    if state.clients[request.client].is_dumping:
        raise SadbError(EBUSY, "a dump to this client is going on; read it first")


def _paced(
    state: State, request: Request, private: Iterator[bytes], public: Iterator[Told]
) -> list[Effect]:
    """The dump, after what promiscuous clients may see of it.

    DEVIATION from Linux, where promiscuous sockets get as many records as their queues hold: they
    get the first `Limits.promiscuous_dump`, and without keys
    (test_promiscuous_clients_see_the_first_records_of_a_dump).
    """
    client = request.client
    state.clients[client].is_dumping = True
    copies: list[Send] = []
    if state.clients.has_promiscuous:
        for told in islice(public, state.limits.promiscuous_dump):
            copies += state.clients.copies(client, told)
    return [*copies, Dump(client, private)]


def _passes(sa: SaRecord, wanted: Filter) -> bool:
    """Linux's filter: by family, then by the first bits of source and destination.

    With no family named, the bits are compared whatever the SA's family is.
    """
    length = len(sa.spec.src)
    if wanted.family in _LENGTH and _LENGTH[wanted.family] != length:
        return False
    return all(
        Range(given[:length], min(bits, 8 * length)).covers(address)
        for given, bits, address in (
            (wanted.saddr, wanted.splen, sa.spec.src),
            (wanted.daddr, wanted.dplen, sa.spec.dst),
        )
    )
