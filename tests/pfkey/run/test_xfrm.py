"""IP_XFRM_POLICY's octets, against the kernel's own header."""

import struct
import subprocess
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.const import AF_INET, AF_INET6, Dir, Level, Mode, PolicyType
from pfkey.errors import SadbError
from pfkey.ext_x_policy import IpsecRequest
from pfkey.run import xfrm

SOURCE = r"""
#include <netinet/in.h>
#include <linux/xfrm.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
int main(void)
{
    struct { struct xfrm_userpolicy_info info; struct xfrm_user_tmpl tmpl; } all;
    memset(&all, 0, sizeof all);
    all.info.priority = 0x01020304;
    all.info.dir = XFRM_POLICY_OUT;
    all.info.action = XFRM_POLICY_ALLOW;
    all.tmpl.id.proto = IPPROTO_ESP;
    all.tmpl.id.daddr.a4 = htonl(0x14010101);
    all.tmpl.saddr.a4 = htonl(0x0a010101);
    all.tmpl.family = AF_INET;
    all.tmpl.reqid = 7;
    all.tmpl.mode = XFRM_MODE_TUNNEL;
    for (size_t i = 0; i < sizeof all; i++)
        printf("%02x", ((unsigned char *)&all)[i]);
    printf(" %zu\n", sizeof all.info);
    return 0;
}
"""


def info(direction: int = 1, action: int = 0) -> bytes:
    return bytes(152) + struct.pack("=IIBBBB4x", 0, 0, direction, action, 0, 0)


def template(mode: int = 0, family: int = AF_INET, reqid: int = 0, optional: int = 0) -> bytes:
    return struct.pack(
        "=16s4xB3xH2x16sIBBB13x", b"d" * 16, 50, family, b"s" * 16, reqid, mode, 0, optional
    )


def test_a_policy_of_the_kernels_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(SOURCE)
    subprocess.run(["cc", "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    shown = subprocess.run([tmp_path / "x"], capture_output=True, text=True, check=True).stdout
    octets, size = shown.split()
    assert int(size) == len(info())
    policy = xfrm.policy(bytes.fromhex(octets))
    assert (policy.type, policy.dir, policy.priority) == (PolicyType.IPSEC, Dir.OUT, 0x01020304)
    assert policy.requests == (
        IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.UNIQUE, reqid=7,
                     src=bytes((10, 1, 1, 1)), dst=bytes((20, 1, 1, 1))),
    )  # fmt: skip
    policy = xfrm.policy(bytes.fromhex(octets)[: int(size)])
    assert (policy.type, policy.dir, policy.requests) == (PolicyType.BYPASS, Dir.OUT, ())


@pytest.mark.parametrize(
    ("octets", "kind", "direction"),
    [
        (info(0), PolicyType.BYPASS, Dir.IN),
        (info(1, 1), PolicyType.DISCARD, Dir.OUT),
        (info(1, 1) + template(), PolicyType.DISCARD, Dir.OUT),
        (info() + template(), PolicyType.IPSEC, Dir.OUT),
        (info() + template(optional=1), PolicyType.IPSEC, Dir.OUT),
    ],
)
def test_actions_are_the_languages_types(octets: bytes, kind: int, direction: int) -> None:
    policy = xfrm.policy(octets)
    assert (policy.type, policy.dir) == (kind, direction)


def test_an_optional_template_is_level_use_and_a_tunnel_has_its_ends() -> None:
    policy = xfrm.policy(info() + template(optional=1) + template(mode=1, family=AF_INET6))
    assert [r.level for r in policy.requests] == [Level.USE, Level.REQUIRE]
    assert [r.src for r in policy.requests] == [None, b"s" * 16]
    assert xfrm.policy(info() + template(mode=1)).requests[0].dst == b"d" * 4


@pytest.mark.parametrize(
    ("octets", "errno"),
    [
        (b"", EINVAL),
        (info()[:-1], EINVAL),
        (info(direction=2), EINVAL),
        (info(action=2), EINVAL),
        (info() + 7 * template(), EINVAL),
        (info() + template(mode=1, family=7), EINVAL),
        (info() + template(mode=2), EOPNOTSUPP),
        (info() + template(reqid=3, optional=1), EOPNOTSUPP),
    ],
)
def test_what_cannot_be_said_in_pf_key_is_refused(octets: bytes, errno: int) -> None:
    with pytest.raises(SadbError) as refused:
        xfrm.policy(octets)
    assert refused.value.errno == errno


@given(st.binary(max_size=168 + 65))
def test_any_octets_are_a_policy_or_refused(octets: bytes) -> None:
    try:
        encoded = xfrm.policy(octets).encode()
    except SadbError:
        return
    assert len(encoded) % 8 == 0
