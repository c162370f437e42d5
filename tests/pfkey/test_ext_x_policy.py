"""sadb_x_policy and its requests, as Linux reads them (lengths in octets inside)."""

import pytest

from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.errors import WireError
from pfkey.ext_x_policy import IpsecRequest, Policy

V4 = (bytes([20, 0, 0, 1]), bytes([20, 0, 0, 2]))
V6 = (bytes(15) + b"\1", bytes(15) + b"\2")


def policy(requests: bytes) -> bytes:
    body = requests + bytes(-len(requests) % 8)
    return ((16 + len(body)) // 8).to_bytes(2, "little") + b"\x12\0\x02\0\x02\0" + bytes(8) + body


@pytest.mark.parametrize(("pair", "octets"), [(V4, 48), (V6, 72)])
def test_a_tunnel_carries_two_addresses_padded_at_the_end(
    pair: tuple[bytes, bytes], octets: int
) -> None:
    request = IpsecRequest(
        proto=50, mode=Mode.TUNNEL, level=Level.REQUIRE, src=pair[0], dst=pair[1]
    )
    encoded = request.encode()
    assert len(encoded) == octets == int.from_bytes(encoded[:2], "little")
    assert IpsecRequest.decode(encoded) == request


def test_requests_of_a_bundle_keep_their_order() -> None:
    requests = tuple(
        IpsecRequest(proto=proto, mode=Mode.TRANSPORT, level=Level.REQUIRE) for proto in (50, 51)
    )
    bundle = Policy(type=PolicyType.IPSEC, dir=Dir.OUT, requests=requests)
    assert len(bundle.encode()) == 48
    assert Policy.decode(bundle.encode()) == bundle


@pytest.mark.parametrize(
    ("requests", "offset", "why"),
    [
        (b"\x08\0\x32\0\1\2\0\0" + bytes(8), 16, "length of 8 octets, must be 16 to 16"),
        (b"\x18\0\x32\0\1\2\0\0" + bytes(8), 16, "length of 24 octets, must be 16 to 16"),
        (b"\0\0\x32\0\1\2\0\0" + bytes(8), 16, "length of 0 octets"),
        (b"\x10\0\x32\0\1\2\0\0", 16, "8 octets, the least is 16"),
        (b"\x10\0\x32\0\2\2\0\0" + bytes(8), 32, "address family 0"),
        (b"\x20\0\x32\0\2\2\0\0" + bytes(8) + b"\2" + bytes(15), 32, "16 octets hold no pair"),
        (b"\x30\0\x32\0\2\2\0\0" + bytes(8) + b"\2" + bytes(15) + b"\x0a" + bytes(15), 48,
         "the second sockaddr is not like the first"),
    ],
)  # fmt: skip
def test_faults_inside_a_policy_say_where(requests: bytes, offset: int, why: str) -> None:
    with pytest.raises(WireError, match=why) as caught:
        Policy.decode(policy(requests))
    assert caught.value.offset == offset


def test_what_follows_a_transport_request_is_ignored() -> None:
    found = Policy.decode(policy(b"\x18\0\x32\0\1\2\0\0" + bytes(8) + b"\xff" * 8))
    assert found.requests == (IpsecRequest(proto=50, mode=1, level=2),)


@pytest.mark.parametrize(
    "request_",
    [
        IpsecRequest(proto=50, mode=Mode.TUNNEL, level=0),
        IpsecRequest(proto=50, mode=Mode.TUNNEL, level=0, src=V4[0]),
        IpsecRequest(proto=50, mode=Mode.TRANSPORT, level=0, dst=V4[0]),
        IpsecRequest(proto=50, mode=Mode.TUNNEL, level=0, src=V4[0], dst=V6[0]),
        IpsecRequest(proto=50, mode=Mode.TUNNEL, level=0, src=b"abc", dst=b"def"),
        IpsecRequest(proto=50, mode=256, level=0),
    ],
)
def test_requests_that_cannot_be_written_are_wire_errors(request_: IpsecRequest) -> None:
    with pytest.raises(WireError):
        request_.encode()
