"""Every extension there is, and who reads it: by our numbers, and by those of a dialect."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pfkey.base import Unknown
from pfkey.const import ExtType
from pfkey.dialect import DIALECTS, Dialect
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_supported import Supported
from pfkey.ext_x_bsd import (
    Counter,
    Credential,
    Iface,
    IfHwOffload,
    Protocol,
    Rdomain,
    Replay,
    Tag,
)
from pfkey.ext_x_linux import Filter, KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTFrag, NatTPort, NatTType
from pfkey.ext_x_policy import Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word

Extension: TypeAlias = (
    Sa | Lifetime | Address | Key | Ident | Sensitivity | Proposal | Supported | SpiRange
    | KmPrivate | Policy | Sa2 | NatTType | NatTPort | NatTFrag | SecCtx | KmAddress | Filter
    | Word | Protocol | Credential | Tag | Rdomain | Replay | Counter | Iface | IfHwOffload
    | Unknown
)  # fmt: skip
Decoder: TypeAlias = Callable[[bytes, int, Dialect], Extension]

_E = ExtType
_BY_CLASS: tuple[tuple[Decoder, tuple[ExtType, ...]], ...] = (
    (Sa.decode, (_E.SA, _E.X_OPENBSD_SA2)),
    (Lifetime.decode, (
        _E.LIFETIME_CURRENT, _E.LIFETIME_HARD, _E.LIFETIME_SOFT, _E.X_LFT_CUR_SW_OFFL,
        _E.X_LFT_CUR_HW_OFFL, _E.X_LIFETIME_LASTUSE,
    )),
    (Address.decode, (
        _E.ADDRESS_SRC, _E.ADDRESS_DST, _E.ADDRESS_PROXY, _E.X_NAT_T_OA, _E.X_NAT_T_OAI,
        _E.X_NAT_T_OAR, _E.X_NEW_ADDRESS_SRC, _E.X_NEW_ADDRESS_DST, _E.X_SRC_MASK, _E.X_DST_MASK,
        _E.X_SRC_FLOW, _E.X_DST_FLOW, _E.X_DST2,
    )),
    (Key.decode, (_E.KEY_AUTH, _E.KEY_ENCRYPT)),
    (Ident.decode, (_E.IDENTITY_SRC, _E.IDENTITY_DST)),
    (Sensitivity.decode, (_E.SENSITIVITY,)),
    (Proposal.decode, (_E.PROPOSAL,)),
    (Supported.decode, (_E.SUPPORTED_AUTH, _E.SUPPORTED_ENCRYPT, _E.X_SUPPORTED_COMP)),
    (SpiRange.decode, (_E.SPIRANGE,)),
    (KmPrivate.decode, (_E.X_KMPRIVATE,)),
    (Policy.decode, (_E.X_POLICY,)),
    (Sa2.decode, (_E.X_SA2,)),
    (NatTType.decode, (_E.X_NAT_T_TYPE,)),
    (NatTPort.decode, (_E.X_NAT_T_SPORT, _E.X_NAT_T_DPORT, _E.X_UDPENCAP)),
    (NatTFrag.decode, (_E.X_NAT_T_FRAG,)),
    (SecCtx.decode, (_E.X_SEC_CTX,)),
    (KmAddress.decode, (_E.X_KMADDRESS,)),
    (Filter.decode, (_E.X_FILTER,)),
    (Word.decode, (
        _E.X_REPLAY_WINDOW, _E.X_SA_REPLAY, _E.X_OPENBSD_POLICY, _E.X_TAP, _E.X_MTU,
    )),
    (Protocol.decode, (_E.X_PROTOCOL, _E.X_FLOW_TYPE, _E.X_SATYPE2)),
    (Credential.decode, (
        _E.X_LOCAL_CREDENTIALS, _E.X_REMOTE_CREDENTIALS, _E.X_LOCAL_AUTH, _E.X_REMOTE_AUTH,
    )),
    (Tag.decode, (_E.X_TAG,)),
    (Rdomain.decode, (_E.X_RDOMAIN,)),
    (Replay.decode, (_E.X_REPLAY,)),
    (Counter.decode, (_E.X_COUNTER,)),
    (Iface.decode, (_E.X_IFACE,)),
    (IfHwOffload.decode, (_E.X_IF_HW_OFFL,)),
)  # fmt: skip
DECODERS: Mapping[int, Decoder] = {
    int(exttype): decoder for decoder, exttypes in _BY_CLASS for exttype in exttypes
}
# By the dialect's name and its own numbers.
BY_DIALECT: Mapping[str, Mapping[int, Decoder]] = {
    name: {number: DECODERS[ours] for number, ours in dialect.extensions.named.items()}
    for name, dialect in DIALECTS.items()
}
