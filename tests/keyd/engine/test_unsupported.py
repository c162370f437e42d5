"""What is not done yet: refused with EOPNOTSUPP and the reason, never ignored."""

from dataclasses import replace
from errno import ENOPROTOOPT, EOPNOTSUPP
from logging import WARNING

import pytest

from keyd.engine import HANDLERS
from keyd.engine.unsupported import MESSAGES
from pfkey.const import ExtType, Level, Mode, MsgType
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sens import Sensitivity
from pfkey.ext_spirange import SpiRange
from pfkey.ext_x_linux import SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    THERE,
    A,
    B,
    Desk,
    add,
    dst,
    hard,
    message,
    policy,
    src,
)  # fmt: skip

V6 = bytes(15) + b"\1"
CONTEXT = SecCtx(doi=1, alg=1, context=b"a:b:c\0\0\0")
AGE = Lifetime(exttype=ExtType.LIFETIME_CURRENT, addtime=1)


def step(proto: int = 50, mode: int = Mode.TRANSPORT, level: int = Level.USE) -> IpsecRequest:
    tunnel = mode == Mode.TUNNEL
    return IpsecRequest(
        proto=proto, mode=mode, level=level, src=HERE if tunnel else None,
        dst=THERE if tunnel else None,
    )  # fmt: skip


def v6(request: Message) -> Message:
    ends = (
        Address(exttype=ExtType.ADDRESS_SRC, address=V6, prefixlen=128),
        Address(exttype=ExtType.ADDRESS_DST, address=V6, prefixlen=128),
    )
    rest = [e for e in request.extensions if not isinstance(e, Address)]
    return replace(request, extensions=(*rest, *ends))


def ident(exttype: int) -> Ident:
    return Ident(exttype=exttype, kind=2, id=0, text=b"host.example")


EXTRA: list[Extension] = [
    NatTType(type=2),
    NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500),
    NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=4500),
    Address(exttype=ExtType.X_NAT_T_OA, address=HERE, prefixlen=32),
    Address(exttype=ExtType.ADDRESS_PROXY, address=HERE, prefixlen=32),
    ident(ExtType.IDENTITY_SRC),
    ident(ExtType.IDENTITY_DST),
    CONTEXT,
    AGE,
]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (message(MsgType.GETSPI, src(), dst(), SpiRange(min=256, max=999), satype=ESP), "larval"),
        (message(MsgType.EXPIRE), "EXPIRE"),
        (message(MsgType.X_PCHANGE), "PCHANGE"),
        (message(MsgType.X_SPDACQUIRE), "SPDACQUIRE"),
        (message(MsgType.X_SPDEXPIRE), "SPDEXPIRE"),
        (message(MsgType.X_NAT_T_NEW_MAPPING), "NEW_MAPPING"),
        (add(sa2=Sa2(mode=Mode.BEET)), "BEET SAs"),
        (add(flags=0x01000000), "0x1000000"),
        (v6(add()), "IPv6"),
        *((add(extra), ExtType(extra.exttype).name) for extra in EXTRA),
        (policy(requests=(step(mode=Mode.BEET),)), "BEET requests"),
        (policy(requests=(step(level=Level.UNIQUE),)), "unique"),
        (v6(policy()), "IPv6"),
        (replace(policy(), extensions=(*policy().extensions, CONTEXT)), "X_SEC_CTX"),
        (replace(policy(), extensions=(*policy().extensions, hard())), "LIFETIME_HARD"),
        (message(MsgType.FLUSH, src()), "ADDRESS_SRC in FLUSH"),
        (message(MsgType.X_SPDDUMP, AGE), "LIFETIME_CURRENT in X_SPDDUMP"),
    ],
)
def test_what_cannot_be_honoured_is_refused(request_: Message, reason: str) -> None:
    desk = Desk(A, B)
    (log,) = desk.logs(request_)
    assert log.level == WARNING
    assert reason in log.text
    assert desk.errno(request_) == EOPNOTSUPP
    assert desk.engine.sas() == ()
    assert desk.engine.policies() == ()


def test_every_message_type_has_a_handler_or_a_reason() -> None:
    assert set(HANDLERS) | set(MESSAGES) == set(MsgType) - {MsgType.RESERVED}
    assert not set(HANDLERS) & set(MESSAGES)


def test_sensitivity_is_refused() -> None:
    label = Sensitivity(dpd=1, sens_level=1, integ_level=1)
    assert Desk(A).errno(add(label)) == EOPNOTSUPP


def test_migrate_is_the_errno_of_a_kernel_without_it() -> None:
    assert Desk(A).errno(message(MsgType.X_MIGRATE)) == ENOPROTOOPT


def test_extension_types_unknown_to_linux_mean_nothing_as_there() -> None:
    octets = bytearray(add().encode())
    octets += b"\x01\x00\x63\x00\x00\x00\x00\x00"
    octets[4:6] = (len(octets) // 8).to_bytes(2, "little")
    assert Desk(A).errno(bytes(octets)) == 0


def test_sa2_in_a_policy_says_nothing_as_iked_sends_it() -> None:
    request = policy()
    desk = Desk(A)
    assert desk.errno(replace(request, extensions=(Sa2(), *request.extensions))) == 0
