"""X_NAT_T_NEW_MAPPING (Linux): a peer behind a NAT has been given another address or port."""

from keyd.engine.answers import mapping
from keyd.engine.effects import Effect
from keyd.engine.sad import SaKey
from keyd.engine.state import State


def new_mapping(state: State, key: SaKey, ports: tuple[int, int], address: bytes) -> list[Effect]:
    """Tell the registered; what becomes of it is the IKE daemon's to decide.

    `key` names the inbound SA of ESP in UDP whose authentic packets come from elsewhere, `ports`
    are the peer's old and new one, `address` is its new address. As on Linux, the message's
    destination is that new source.
    """
    sa = state.sad.get(key)
    if sa is None or sa.is_larval:
        return []
    return [*state.clients.notice(mapping(sa, ports, address))]
