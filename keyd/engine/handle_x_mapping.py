"""X_NAT_T_NEW_MAPPING (Linux): a peer behind a NAT has been given another address or port."""

from dataclasses import replace

from keyd.engine.answers import mapping
from keyd.engine.effects import Effect, InstallSa
from keyd.engine.sad import SaKey, SaRecord
from keyd.engine.state import State


def new_mapping(state: State, key: SaKey, ports: tuple[int, int], address: bytes) -> list[Effect]:
    """Send where the peer is now, and tell the registered.

    `key` names the inbound SA of ESP in UDP whose authentic packets come from elsewhere, `ports`
    are the peer's old and new one, `address` is its new address. As on Linux, the message's
    destination is that new source.

    DEVIATION from Linux, which leaves the SAs to the IKE daemon: those that send to the peer
    follow it at once, for keys by hand have no daemon (RFC 7296 section 2.23;
    test_what_sends_to_a_peer_follows_it). Their names stay.
    """
    sa = state.sad.get(key)
    if sa is None or sa.is_larval or not sa.spec.encap:
        return []
    notice = mapping(sa, ports, address)
    origin = b"" if address == sa.spec.src else address
    sa.spec = replace(sa.spec, sport=ports[1], origin=origin)
    changes: list[Effect] = [InstallSa(sa.spec)]
    for other in state.sad.in_udp(sa.spec.dst, sa.spec.src):
        if _leads_back(sa, other, ports[0]):
            via = b"" if address == other.spec.dst else address
            other.spec = replace(other.spec, dport=ports[1], via=via)
            changes.append(InstallSa(other.spec))
    return [*changes, *state.clients.notice(notice)]


def _leads_back(sa: SaRecord, other: SaRecord, port: int) -> bool:
    """Whether an SA sends to where the peer of another was, at that port: many share a NAT."""
    ours, theirs = sa.spec, other.spec
    return theirs.encap == ours.encap and (theirs.sport, theirs.dport) == (ours.dport, port)
