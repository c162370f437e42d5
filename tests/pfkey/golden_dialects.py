"""Messages behind tests/golden/netbsd-*, freebsd-* and openbsd-*: each system's own forms.

Made by hand; the octets in the files are those of `tests.pfkey.tabled`, read over field by field.
"""

from datetime import UTC

from pfkey import text
from pfkey.const import (
    Dir,
    ExtType,
    FlowType,
    IdentType,
    KameFlag,
    Level,
    Mode,
    MsgType,
    OpenbsdFlag,
    PolicyType,
    SaFlag,
    SaState,
    SaType,
    Scope,
)
from pfkey.dialect import DIALECTS, Dialect
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_prop import Comb, Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_supported import Supported, SupportedAlgorithm
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
from pfkey.ext_x_natt import NatTFrag, NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.setkey import dump
from tests.pfkey.golden import NOW, end, packed

NULL, SHA256, AES, CHACHA, GCM16, GMAC128 = 11, 5, 12, 25, 20, 11
_E = ExtType
_AUTH = Key(exttype=_E.KEY_AUTH, bits=256, key=bytes(range(32)))
_AES = Key(exttype=_E.KEY_ENCRYPT, bits=128, key=bytes(range(16)))
_CHACHA = Key(exttype=_E.KEY_ENCRYPT, bits=288, key=bytes(range(36)))
_CURRENT = Lifetime(
    exttype=_E.LIFETIME_CURRENT, allocations=5, octets=500, addtime=1700000000, usetime=1700000010
)


def _ends(src: str, dst: str, prefixlen: int | None = None, proto: int = 0) -> tuple[Address, ...]:
    return (
        end(_E.ADDRESS_SRC, src, prefixlen, proto=proto),
        end(_E.ADDRESS_DST, dst, prefixlen, proto=proto),
    )


def _limits(seconds: int) -> tuple[Lifetime, ...]:
    return (
        Lifetime(exttype=_E.LIFETIME_HARD, addtime=seconds),
        Lifetime(exttype=_E.LIFETIME_SOFT, addtime=seconds * 4 // 5),
    )


def _esp(type: MsgType, *extensions: Extension, satype: int = SaType.ESP) -> Message:
    return Message(type=type, satype=satype, seq=3, pid=77, extensions=extensions)


_REQUEST = IpsecRequest(
    proto=50, mode=Mode.TUNNEL, level=Level.UNIQUE, reqid=12, src=packed("2001:db8::1"),
    dst=packed("2001:db8::2"),
)  # fmt: skip
NETBSD: dict[str, Message] = {
    "sa-natt": _esp(
        MsgType.DUMP,
        Sa(spi=0x1000, replay=32, state=SaState.MATURE, auth=SHA256, encrypt=AES,
           flags=KameFlag.CYCSEQ),
        Sa2(mode=Mode.TUNNEL, reqid=16385, sequence=42),
        *_limits(3600), _CURRENT, *_ends("10.0.0.1", "10.0.0.2", proto=255), _AUTH, _AES,
        NatTType(type=2), NatTPort(exttype=_E.X_NAT_T_SPORT, port=4500),
        NatTPort(exttype=_E.X_NAT_T_DPORT, port=4501), NatTFrag(octets=552),
        end(_E.X_NAT_T_OAI, "192.168.1.5"), end(_E.X_NAT_T_OAR, "192.168.2.6"),
    ),
    "policy": Message(
        type=MsgType.X_SPDDUMP, seq=1, pid=77, reserved=2,
        extensions=(
            *_ends("2001:db8:1::", "2001:db8:2::", 48, proto=6),
            Policy(type=PolicyType.IPSEC, dir=Dir.OUT, id=16, requests=(_REQUEST,), scope=0x80),
        ),
    ),
    "register": _esp(
        MsgType.REGISTER,
        Supported(exttype=_E.SUPPORTED_AUTH, algorithms=(
            SupportedAlgorithm(SHA256, 0, 256, 256), SupportedAlgorithm(251, 0, 0, 2048),
        )),
        Supported(exttype=_E.SUPPORTED_ENCRYPT, algorithms=(
            SupportedAlgorithm(AES, 16, 128, 256), SupportedAlgorithm(NULL, 0, 0, 2048),
        )),
    ),
    "refusal": Message(
        type=MsgType.ADD, satype=SaType.AH, errno=97, seq=3, pid=77,  # EAFNOSUPPORT
        extensions=(
            Sa(spi=256, replay=16, auth=SHA256),
            Ident(exttype=_E.IDENTITY_SRC, kind=IdentType.X_ADDR, id=7,
                  address=packed("10.0.0.1"), port=500),
            *_ends("10.0.0.1", "10.0.0.2"), _AUTH,
        ),
    ),
    "own-window": _esp(
        MsgType.ADD,
        Sa(spi=0x2000, replay=2040, encrypt=NULL),
        Word(exttype=_E.X_REPLAY_WINDOW, value=4096),
        *_ends("10.0.0.1", "10.0.0.2"),
    ),
}  # fmt: skip
FREEBSD: dict[str, Message] = {
    "sa-offload": _esp(
        MsgType.GET,
        Sa(spi=0x1001, replay=2040, state=SaState.MATURE, encrypt=CHACHA,
           flags=KameFlag.CYCSEQ | SaFlag.ESN),
        Sa2(mode=Mode.TRANSPORT, reqid=7), Word(exttype=_E.X_SA_REPLAY, value=4096),
        *_limits(3600), _CURRENT, *_ends("2001:db8::1", "2001:db8::2", proto=255), _CHACHA,
        Lifetime(exttype=_E.X_LFT_CUR_SW_OFFL, allocations=2, octets=200),
        Lifetime(exttype=_E.X_LFT_CUR_HW_OFFL, allocations=3, octets=300),
        IfHwOffload(name=b"mce0", flags=1),
    ),
    "policy": Message(
        type=MsgType.X_SPDDUMP, satype=0, seq=1, pid=77, reserved=1,
        extensions=(
            *_ends("10.1.0.0", "10.2.0.0", 16, proto=255),
            Policy(type=PolicyType.IPSEC, dir=Dir.IN, id=3, priority=0x40000000,
                   scope=Scope.GLOBAL,
                   requests=(IpsecRequest(proto=51, mode=Mode.TRANSPORT, level=Level.REQUIRE),)),
            _CURRENT, Lifetime(exttype=_E.LIFETIME_HARD, addtime=3600, usetime=600),
        ),
    ),
    "policy-socket": Message(
        type=MsgType.X_SPDDUMP, seq=0, pid=77, reserved=1,
        extensions=(
            *_ends("10.1.0.1", "10.2.0.1", proto=17),
            Policy(type=PolicyType.BYPASS, dir=Dir.OUT, id=5, scope=Scope.PCB),
        ),
    ),
    "acquire": Message(
        type=MsgType.ACQUIRE, satype=SaType.ESP, seq=9,
        extensions=(
            *_ends("10.0.0.1", "10.0.0.2", proto=255),
            Policy(type=PolicyType.IPSEC, dir=Dir.OUT, id=3),
            Proposal(replay=32, combs=(Comb(
                auth=SHA256, encrypt=AES, auth_minbits=256, auth_maxbits=256,
                encrypt_minbits=128, encrypt_maxbits=256, soft_addtime=64000, hard_addtime=80000,
            ),)),
        ),
    ),
    "update-move": _esp(
        MsgType.UPDATE,
        Sa(spi=0x1001, state=SaState.MATURE), *_ends("10.0.0.1", "10.0.0.2"),
        end(_E.X_NEW_ADDRESS_SRC, "10.9.0.1"), end(_E.X_NEW_ADDRESS_DST, "10.9.0.2"),
    ),
    "sa-tcp": _esp(
        MsgType.DUMP,
        Sa(spi=0x1000, state=SaState.MATURE, auth=252), Sa2(mode=1), _CURRENT,
        *_ends("10.0.0.1", "10.0.0.2", proto=255),
        Key(exttype=_E.KEY_AUTH, bits=64, key=b"password"), satype=SaType.X_TCPSIGNATURE,
    ),
}  # fmt: skip
_FLOW = (
    end(_E.ADDRESS_SRC, "192.0.2.1"), end(_E.ADDRESS_DST, "192.0.2.2"),
    Ident(exttype=_E.IDENTITY_SRC, kind=IdentType.FQDN, text=b"here.example"),
    Ident(exttype=_E.IDENTITY_DST, kind=IdentType.X_ASN1_DN, text=b"/C=NL/CN=there"),
    end(_E.X_SRC_MASK, "255.255.255.0"), end(_E.X_DST_MASK, "255.255.0.0", port=0xFFFF),
    Protocol(exttype=_E.X_PROTOCOL, proto=6),
    Protocol(exttype=_E.X_FLOW_TYPE, proto=FlowType.REQUIRE, direction=2, flags=1),
    end(_E.X_SRC_FLOW, "10.1.1.0"), end(_E.X_DST_FLOW, "10.2.0.0", port=80),
)  # fmt: skip
OPENBSD: dict[str, Message] = {
    "sa-udpencap": _esp(
        MsgType.GET,
        Sa(spi=0x1002, replay=64, state=SaState.MATURE, auth=GMAC128, encrypt=GCM16,
           flags=OpenbsdFlag.TUNNEL | OpenbsdFlag.UDPENCAP | SaFlag.ESN | SaFlag.PFS),
        _CURRENT, *_limits(3600), *_ends("192.0.2.1", "192.0.2.2"), _CHACHA,
        NatTPort(exttype=_E.X_UDPENCAP, port=4500),
        Lifetime(exttype=_E.X_LIFETIME_LASTUSE, usetime=1700000050), Tag(text=b"VPN"),
        Word(exttype=_E.X_TAP, value=1),
        Counter(ipackets=5, ibytes=500, idrops=1, idecompbytes=700),
        Rdomain(before=0, after=2), Word(exttype=_E.X_MTU, value=1400), Replay(count=42),
        Iface(unit=3, direction=1),
    ),
    "flow": Message(type=MsgType.X_SPDDUMP, satype=SaType.ESP, seq=1, pid=77, extensions=_FLOW),
    "addflow": Message(
        type=MsgType.X_ADDFLOW, satype=SaType.ESP, seq=1, pid=77,
        extensions=(
            end(_E.X_SRC_MASK, "ffff:ffff::"), end(_E.X_DST_MASK, "ffff:0:ffff::"),
            Protocol(exttype=_E.X_FLOW_TYPE, proto=FlowType.BYPASS, direction=1),
            end(_E.X_SRC_FLOW, "2001:db8::"), end(_E.X_DST_FLOW, "2001:0:db8::"),
        ),
    ),
    "acquire": Message(
        type=MsgType.ACQUIRE, satype=SaType.ESP, seq=9,
        extensions=(
            *_ends("192.0.2.1", "192.0.2.2"), *_FLOW[2:4],
            Proposal(replay=64, combs=(
                Comb(auth=GMAC128, encrypt=GCM16, encrypt_minbits=160, encrypt_maxbits=288),
                Comb(auth=SHA256, encrypt=AES, auth_minbits=256, auth_maxbits=256,
                     encrypt_minbits=128, encrypt_maxbits=256),
            )),
        ),
    ),
    "askpolicy": Message(
        type=MsgType.X_ASKPOLICY, seq=9, pid=77,
        extensions=(Word(exttype=_E.X_OPENBSD_POLICY, value=9),),
    ),
    "grpspis": _esp(
        MsgType.X_GRPSPIS,
        Sa(spi=0x1002), end(_E.ADDRESS_DST, "192.0.2.2"), Sa(spi=2, exttype=_E.X_OPENBSD_SA2),
        end(_E.X_DST2, "192.0.2.2"), Protocol(exttype=_E.X_SATYPE2, proto=SaType.X_IPCOMP),
    ),
    "register": Message(
        type=MsgType.REGISTER, satype=SaType.X_IPCOMP, seq=1, pid=77,
        extensions=(
            Supported(exttype=_E.X_SUPPORTED_COMP, algorithms=(SupportedAlgorithm(2),)),
        ),
    ),
    "credentials": _esp(
        MsgType.GET,
        Sa(spi=0x1003, state=SaState.MATURE, encrypt=AES), _CURRENT,
        *_ends("192.0.2.1", "192.0.2.2"),
        Credential(exttype=_E.X_LOCAL_CREDENTIALS, kind=1, secret=b"certificate\0\0\0\0\0"),
        Credential(exttype=_E.X_LOCAL_AUTH, kind=1, secret=b"mekmitasdigoat\0\0"),
    ),
}  # fmt: skip
ALL: dict[str, tuple[Dialect, Message]] = {
    f"{system}-{name}": (DIALECTS[system], message)
    for system, messages in (("netbsd", NETBSD), ("freebsd", FREEBSD), ("openbsd", OPENBSD))
    for name, message in messages.items()
}


def shown(record: Message) -> str:
    """What a text file holds: the fields, then the entry as `setkey FILE` prints it."""
    entry = dump.entry(record, now=NOW, zone=UTC)
    return text.message(record, has_names=True) + "---\n" + entry
