"""ipsec_set_policy(3), ipsec_get_policylen, ipsec_dump_policy: octets and texts of libipsec."""

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import libipsec
from pfkey.ext_x_policy import Policy
from pfkey.libipsec import (
    IpsecError,
    ipsec_dump_policy,
    ipsec_dump_policy_withports,
    ipsec_get_policylen,
    ipsec_set_policy,
)
from tests.pfkey.strategies import policies

HEAD = struct.Struct("=HHHBxII")
REQUEST = struct.Struct("=HHBBxxI4x")


def sockaddr(text: str, port: int = 0) -> bytes:
    return struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(text) + bytes(8)


def sockaddr6(text: str) -> bytes:
    return struct.pack("=HHI", 10, 0, 0) + socket.inet_pton(socket.AF_INET6, text) + bytes(4)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("in bypass", HEAD.pack(2, 18, 4, 1, 0, 0x80000000)),
        ("out", HEAD.pack(2, 18, 0, 2, 0, 0)),
        ("fwd discard", HEAD.pack(2, 18, 0, 3, 0, 0x80000000)),
        (
            "out ipsec ah/transport//require",
            HEAD.pack(4, 18, 2, 2, 0, 0x80000000) + REQUEST.pack(16, 51, 1, 2, 0),
        ),
        (
            "out ipsec esp/transport//use ah/transport//require",
            HEAD.pack(6, 18, 2, 2, 0, 0x80000000) + REQUEST.pack(16, 50, 1, 1, 0)
            + REQUEST.pack(16, 51, 1, 2, 0),
        ),
        (
            "in ipsec esp/tunnel/20.0.0.1-20.0.0.2/unique:7",
            HEAD.pack(8, 18, 2, 1, 0, 0x80000000) + REQUEST.pack(48, 50, 2, 3, 7)
            + sockaddr("20.0.0.1") + sockaddr("20.0.0.2"),
        ),
        (
            "in ipsec esp/tunnel/2001:db8::1-2001:db8::2/require",
            HEAD.pack(11, 18, 2, 1, 0, 0x80000000) + REQUEST.pack(72, 50, 2, 2, 0)
            + sockaddr6("2001:db8::1") + sockaddr6("2001:db8::2"),
        ),
        (
            "out prio high + 10 ipsec esp/tunnel/10.1.1.1[500]-10.1.1.2[501]/require",
            HEAD.pack(8, 18, 2, 2, 0, 0x3FFFFFF6) + REQUEST.pack(48, 50, 2, 2, 0)
            + sockaddr("10.1.1.1", 500) + sockaddr("10.1.1.2", 501),
        ),
    ],
)  # fmt: skip
def test_a_policy_has_the_octets_of_libipsec(text: str, octets: bytes) -> None:
    assert ipsec_set_policy(text) == octets
    assert ipsec_get_policylen(octets) == len(octets)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "FEW_ARGUMENTS"),
        ("out ipsec esp", "FEW_ARGUMENTS"),
        ("out ipsec esp/", "FEW_ARGUMENTS"),
        ("sideways none", "INVAL_DIR"),
        ("in ipsec esp/transport/me-any/use", "INVAL_DIR"),
        ("out ipsec esp/tunnel//require", "INVAL_ADDRESS"),
        ("out ipsec esp/tunnel/a-b/require", "INVAL_ADDRESS"),
        ("out ipsec esp/tunnel/10.1.1.1-::1/require", "FAMILY_MISMATCH"),
        ("out ipsec esp/beet//require", "INVAL_MODE"),
        ("out ipsec tcp/transport//require", "INVAL_PROTO"),
        ("out ipsec esp/transport//maybe", "INVAL_LEVEL"),
        ("out prio 99999999999 none", "INVAL_PRIORITY_OFFSET"),
        ("out prio low + 1073741824 none", "INVAL_PRIORITY_BASE_OFFSET"),
        ("out forget", "INVAL_ARGUMENT"),
        ("out none esp/transport//use", "INVAL_POLICY"),
    ],
)
def test_a_wrong_policy_has_the_code_of_libipsec(text: str, code: str) -> None:
    with pytest.raises(IpsecError, match="at column") as caught:
        ipsec_set_policy(text)
    assert caught.value.code == getattr(libipsec, f"EIPSEC_{code}")


@pytest.mark.parametrize(
    ("given", "plain", "ports"),
    [
        ("out ipsec esp/transport//require", "out prio def ipsec esp/transport//require", None),
        ("in", "in discard", None),
        (
            "in prio high - 7 ipsec esp/tunnel/20.0.0.1-20.0.0.2/unique:12",
            "in prio high - 7 ipsec esp/tunnel/20.0.0.1-20.0.0.2/unique:12",
            "in prio high - 7 ipsec esp/tunnel/20.0.0.1[0]-20.0.0.2[0]/unique:12",
        ),
        (
            "out ipsec ah/tunnel/10.1.1.1[500]-10.1.1.2[4500]/unique:20000",
            "out prio def ipsec ah/tunnel/10.1.1.1-10.1.1.2/unique#20000",
            "out prio def ipsec ah/tunnel/10.1.1.1[500]-10.1.1.2[4500]/unique#20000",
        ),
    ],
)
def test_a_policy_is_shown_as_libipsec_shows_it(given: str, plain: str, ports: str | None) -> None:
    octets = ipsec_set_policy(given)
    assert ipsec_dump_policy(octets) == plain
    assert ipsec_dump_policy(octets, "\n\t") == plain.replace(" esp/", "\n\tesp/").replace(
        " ah/", "\n\tah/"
    )
    assert ipsec_dump_policy_withports(octets) == (ports or plain)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"", "INVAL_SADBMSG"),
        (HEAD.pack(2, 5, 2, 2, 0, 0), "INVAL_EXTTYPE"),
        (HEAD.pack(3, 18, 2, 2, 0, 0), "INVAL_SADBMSG"),
        (HEAD.pack(2, 18, 2, 6, 0, 0), "INVAL_DIR"),
        (HEAD.pack(2, 18, 5, 2, 0, 0), "INVAL_POLICY"),
        (HEAD.pack(4, 18, 2, 2, 0, 0) + REQUEST.pack(16, 6, 1, 1, 0), "INVAL_PROTO"),
        (HEAD.pack(4, 18, 2, 2, 0, 0) + REQUEST.pack(16, 50, 3, 1, 0), "INVAL_MODE"),
        (HEAD.pack(4, 18, 2, 2, 0, 0) + REQUEST.pack(16, 50, 1, 4, 0), "INVAL_LEVEL"),
        (HEAD.pack(4, 18, 2, 2, 0, 0) + REQUEST.pack(24, 50, 1, 1, 0), "INVAL_SADBMSG"),
    ],
)
def test_what_cannot_be_shown_has_the_code_of_libipsec(octets: bytes, code: str) -> None:
    with pytest.raises(IpsecError) as caught:
        ipsec_dump_policy(octets)
    assert caught.value.code == getattr(libipsec, f"EIPSEC_{code}")


def test_requests_of_another_type_are_not_shown() -> None:
    octets = HEAD.pack(4, 18, 1, 5, 0, 0) + REQUEST.pack(16, 6, 9, 9, 0)
    assert ipsec_dump_policy(octets) == "out(socket) none"


def test_the_length_of_nothing_is_none() -> None:
    with pytest.raises(IpsecError):
        ipsec_get_policylen(b"")


@given(st.binary(max_size=80) | policies().map(Policy.encode))
def test_any_octets_are_shown_or_refused(octets: bytes) -> None:
    for show in (ipsec_dump_policy, ipsec_dump_policy_withports):
        with contextlib.suppress(IpsecError):
            assert show(octets)
