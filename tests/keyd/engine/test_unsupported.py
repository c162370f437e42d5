"""What is not done yet: refused with EOPNOTSUPP and the reason, never ignored."""

from dataclasses import replace
from errno import EINVAL, EOPNOTSUPP
from logging import WARNING

import pytest

from pfkey.const import ExtType, Level, Mode, MsgType, PolicyType, SaType
from pfkey.ext_address import Address
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sens import Sensitivity
from pfkey.ext_x_linux import SecCtx
from pfkey.ext_x_natt import NatTType
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message
from tests.keyd.engine.desk import (
    HERE,
    THERE,
    A,
    B,
    Desk,
    add,
    message,
    policy,
    src,
)  # fmt: skip

LINK_LOCAL = b"\xfe\x80" + bytes(13) + b"\1"
MAPPED = bytes(10) + b"\xff\xff" + HERE
GLOBAL, OTHER = b"\x20\x01\x0d\xb8" + bytes(12), b"\x20\x01\x0d\xb8" + b"\1" * 12
CONTEXT = SecCtx(doi=1, alg=1, context=b"a:b:c\0\0\0")
AGE = Lifetime(exttype=ExtType.LIFETIME_CURRENT, addtime=1)


def step(
    proto: int = 50, mode: int = Mode.TRANSPORT, level: int = Level.USE,
    ends: tuple[bytes, bytes] = (HERE, THERE),
) -> IpsecRequest:  # fmt: skip
    src, dst = ends if mode == Mode.TUNNEL else (None, None)
    return IpsecRequest(proto=proto, mode=mode, level=level, src=src, dst=dst)


def between(request: Message, here: bytes, there: bytes, bits: int = 128) -> Message:
    """The request about other addresses."""
    ends = (
        Address(exttype=ExtType.ADDRESS_SRC, address=here, prefixlen=bits),
        Address(exttype=ExtType.ADDRESS_DST, address=there, prefixlen=bits),
    )
    rest = [e for e in request.extensions if not isinstance(e, Address)]
    return replace(request, extensions=(*rest, *ends))


EXTRA: list[Extension] = [
    Address(exttype=ExtType.ADDRESS_PROXY, address=HERE, prefixlen=32),
    CONTEXT,
    AGE,
]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (message(MsgType.EXPIRE), "EXPIRE"),
        (message(MsgType.X_PCHANGE), "PCHANGE"),
        (message(MsgType.X_SPDACQUIRE), "SPDACQUIRE"),
        (message(MsgType.X_SPDEXPIRE), "SPDEXPIRE"),
        (message(MsgType.X_NAT_T_NEW_MAPPING), "NEW_MAPPING"),
        (add(NatTType(type=1)), "drafts before RFC 3948"),
        (add(sa2=Sa2(mode=Mode.BEET)), "BEET SAs"),
        (add(flags=0x01000000), "0x1000000"),
        (between(add(), LINK_LOCAL, GLOBAL), "link-local"),
        (between(add(), GLOBAL, LINK_LOCAL), "link-local"),
        *((add(extra), ExtType(extra.exttype).name) for extra in EXTRA),
        (policy(requests=(step(mode=Mode.BEET),)), "BEET requests"),
        (between(policy(), LINK_LOCAL, GLOBAL, 10), "link-local"),
        (between(policy(), GLOBAL, LINK_LOCAL, 64), "link-local"),
        (between(policy(way=1), LINK_LOCAL, LINK_LOCAL), "link-local"),
        (between(message(MsgType.GETSPI, satype=SaType.ESP), LINK_LOCAL, LINK_LOCAL), "link-local"),
        (policy(requests=(step(mode=Mode.TUNNEL, ends=(GLOBAL, LINK_LOCAL)),)), "link-local"),
        (policy(requests=(step(mode=Mode.TUNNEL, ends=(LINK_LOCAL, GLOBAL)),)), "link-local"),
        (replace(policy(), extensions=(*policy().extensions, CONTEXT)), "X_SEC_CTX"),
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


def test_ipv6_is_taken_and_tunnels_carry_either_family_in_either() -> None:
    desk = Desk(A)
    four, six = (HERE, THERE), (GLOBAL, OTHER)
    assert desk.errno(between(add(), *six)) == 0
    assert [(sa.src, sa.dst) for sa in desk.engine.sas()] == [six]
    tunnel = (step(mode=Mode.TUNNEL, ends=six), step(mode=Mode.TUNNEL, ends=four))
    for way in (1, 2):
        assert desk.errno(between(policy(way=way, requests=tunnel), *six)) == 0
        assert desk.errno(policy(way=way, requests=tunnel)) == 0
    for spec in desk.engine.policies():
        assert [(r.src, r.dst) for r in spec.requests] == [six, four]


@pytest.mark.parametrize("kind", [PolicyType.NONE, PolicyType.DISCARD])
def test_link_local_addresses_can_be_let_pass_and_discarded(kind: PolicyType) -> None:
    desk = Desk(A)
    assert desk.errno(between(policy(kind=kind, requests=()), LINK_LOCAL, bytes(16), 10)) == 0


def test_prefixes_that_hold_more_than_link_local_addresses_are_taken() -> None:
    desk = Desk(A)
    assert desk.errno(between(policy(), bytes(16), bytes(16), 0)) == 0
    assert desk.errno(between(policy(), LINK_LOCAL, LINK_LOCAL, 9)) == 0


@pytest.mark.parametrize(
    "request_",
    [
        between(add(), MAPPED, GLOBAL),
        between(message(MsgType.GETSPI, satype=SaType.ESP), GLOBAL, MAPPED),
        between(policy(), GLOBAL, MAPPED, 96),
        policy(requests=(step(mode=Mode.TUNNEL, ends=(MAPPED, MAPPED)),)),
    ],
)
def test_ipv4_in_ipv6s_clothes_is_refused_for_no_policy_would_select_its_packets(
    request_: Message,
) -> None:
    desk = Desk(A)
    (log,) = desk.logs(request_)
    assert "IPv4" in log.text
    assert desk.errno(request_) == EINVAL
    assert not desk.engine.sas()
    assert not desk.engine.policies()


def test_sensitivity_is_refused() -> None:
    label = Sensitivity(dpd=1, sens_level=1, integ_level=1)
    assert Desk(A).errno(add(label)) == EOPNOTSUPP


def test_extension_types_unknown_to_linux_mean_nothing_as_there() -> None:
    octets = bytearray(add().encode())
    octets += b"\x01\x00\x63\x00\x00\x00\x00\x00"
    octets[4:6] = (len(octets) // 8).to_bytes(2, "little")
    assert Desk(A).errno(bytes(octets)) == 0


def test_sa2_in_a_policy_says_nothing_as_iked_sends_it() -> None:
    request = policy()
    desk = Desk(A)
    assert desk.errno(replace(request, extensions=(Sa2(), *request.extensions))) == 0
