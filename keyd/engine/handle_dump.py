"""SADB_DUMP (RFC 2367 section 3.1.10) and X_SPDDUMP: every record, paced by the reader.

The records are those there when the dump began; each is encoded when its turn comes.
"""

from collections.abc import Iterator
from errno import EBUSY, EINVAL, ENOENT
from itertools import islice

from keyd.engine.effects import Dump, Effect, Send
from keyd.engine.parts import proto_filter
from keyd.engine.records import policy_dump, sa_dump
from keyd.engine.sad import SaRecord
from keyd.engine.state import Request, State
from pfkey.const import AF_INET, AF_INET6, Dir
from pfkey.errors import SadbError
from pfkey.ext_x_linux import Filter
from pfkey.selector import Range

_LENGTH = {AF_INET: 4, AF_INET6: 16}


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
    sas = [
        sa
        for sa in state.sad
        if proto in (None, sa.spec.proto) and (wanted is None or _passes(sa, wanted))
    ]
    if not sas:
        raise SadbError(ENOENT, "no SA to dump", "3.1.10")
    own = state.clients[request.client].knows_own
    private = sa_dump(state, sas, message.pid, keys=True, own=own)
    return _paced(state, request, private, sa_dump(state, sas, message.pid, keys=False))


def spd_dump(state: State, request: Request) -> list[Effect]:
    """Show all policies to the sender: in, out, then fwd, each in the order of the match.

    Raises:
        SadbError: ENOENT when there is none; EBUSY while an earlier dump goes on.
    """
    _refuse_second(state, request)
    policies = [p for way in (Dir.IN, Dir.OUT, Dir.FWD) for p in state.spd if p.spec.dir == way]
    if not policies:
        raise SadbError(ENOENT, "no policy to dump")
    pid = request.message.pid
    return _paced(state, request, policy_dump(policies, pid), policy_dump(policies, pid))


def _refuse_second(state: State, request: Request) -> None:
    if state.clients[request.client].is_dumping:
        raise SadbError(EBUSY, "a dump to this client is going on; read it first")


def _paced(
    state: State, request: Request, private: Iterator[bytes], public: Iterator[bytes]
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
        for record in islice(public, state.limits.promiscuous_dump):
            copies += state.clients.copies(client, record, record)
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
