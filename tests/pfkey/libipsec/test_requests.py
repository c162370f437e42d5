"""What each pfkey_send_ function puts on the wire, to the octet, and what it refuses."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from pfkey import libipsec
from pfkey.const import SaType
from pfkey.libipsec import IpsecError, SendSaArgs, SockAddr

A, B = "10.1.1.1", "20.1.1.1"
KEY, MAC = b"hogehogehogehogehogehoge", b"0123456789abcdef0123"
PID = os.getpid()
NULL: SockAddr = None  # type: ignore[assignment]  # what a program may pass in spite of its types
UNLIMITED = struct.pack("=HHI24x", 4, 3, 0)
POLICY = libipsec.ipsec_set_policy("out ipsec esp/transport//require")
BARE = libipsec.ipsec_set_policy("out")


class Wire:
    """A socket, and what was sent over it."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.so = near
        self._far = far

    def sent(self, length: int) -> bytes:
        """The one message that went out, which the function said to be so long."""
        octets = self._far.recv(4096)
        assert len(octets) == length
        return octets


@pytest.fixture
def wire() -> Iterator[Wire]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        yield Wire(near, far)


def message(type: int, satype: int, seq: int, *body: bytes) -> bytes:
    octets = b"".join(body)
    return struct.pack("=BBBBHHII", 2, type, 0, satype, 2 + len(octets) // 8, 0, seq, PID) + octets


def sa(spi: int, *, replay: int = 0, auth: int = 0, encrypt: int = 0, flags: int = 0) -> bytes:
    head = struct.pack("=HH", 2, 1) + struct.pack("!I", spi)
    return head + struct.pack("=BBBBI", replay, 0, auth, encrypt, flags)


def sa2(mode: int, reqid: int) -> bytes:
    return struct.pack("=HHB3xII", 2, 19, mode, 0, reqid)


def address(exttype: int, text: str, *, plen: int = 32, proto: int = 255, port: int = 0) -> bytes:
    head = struct.pack("=HHBBH", 3, exttype, proto, plen, 0)
    return head + struct.pack("=H", 2) + struct.pack("!H", port) + socket.inet_aton(text) + bytes(8)


def address6(exttype: int, text: str, *, scope: int = 0, flow: int = 0, port: int = 0) -> bytes:
    head = struct.pack("=HHBBH", 5, exttype, 255, 128, 0)
    end = socket.inet_pton(socket.AF_INET6, text) + struct.pack("=I", scope) + bytes(4)
    return head + struct.pack("=H", 10) + struct.pack("!HI", port, flow) + end


def key(exttype: int, octets: bytes) -> bytes:
    padded = octets + bytes(-len(octets) % 8)
    return struct.pack("=HHHH", 1 + len(padded) // 8, exttype, 8 * len(octets), 0) + padded


def lifetime(exttype: int, alloc: int, octets: int, add: int, use: int) -> bytes:
    return struct.pack("=HHIQQQ", 4, exttype, alloc, octets, add, use)


def port(exttype: int, number: int) -> bytes:
    return struct.pack("=HH", 1, exttype) + struct.pack("!H", number) + bytes(2)


def numbered_policy(number: int) -> bytes:
    return struct.pack("=HHHBBII", 2, 18, 0, 0, 0, number, 0)


ENDS = address(5, A) + address(6, B)
NAT_T = struct.pack("=HHB3x", 1, 20, 2) + port(21, 4500) + port(22, 4501)


def esp(wire: Wire, **others: object) -> SendSaArgs:
    given: dict[str, object] = {
        "so": wire.so, "satype": SaType.ESP, "src": A, "dst": B, "spi": 0x2694, "keymat": KEY + MAC,
        "e_type": 3, "e_keylen": 24, "a_type": 3, "a_keylen": 20, **others,
    }  # fmt: skip
    return SendSaArgs(**given)  # type: ignore[arg-type]  # the tests know what they pass


# The octets.


@pytest.mark.parametrize(
    ("low", "high", "has_range"),
    [(0, 0, False), (0x100, 0xFFFFFFFE, True), (0x100, 0xFFFFFFFF, False), (0, 0x1000, False)],
)
def test_getspi(wire: Wire, low: int, high: int, has_range: bool) -> None:
    length = libipsec.pfkey_send_getspi(wire.so, SaType.ESP, 2, A, B, low, high, 9, 77)
    spirange = struct.pack("=HHIII", 2, 16, low, high, 0) if has_range else b""
    assert wire.sent(length) == message(1, 3, 77, sa2(2, 9), ENDS, spirange)


def test_getspi_nat(wire: Wire) -> None:
    length = libipsec.pfkey_send_getspi_nat(
        wire.so, SaType.ESP, 1, A, B, 2, 4500, 4501, 0x100, 0x1FF, 0, 5
    )
    spirange = struct.pack("=HHIII", 2, 16, 0x100, 0x1FF, 0)
    assert wire.sent(length) == message(1, 3, 5, sa2(1, 0), ENDS, NAT_T, spirange)
    length = libipsec.pfkey_send_getspi_nat(wire.so, SaType.ESP, 1, A, B, 0, 0, 0, 0, 0, 0, 5)
    assert wire.sent(length) == message(1, 3, 5, sa2(1, 0), ENDS)


@pytest.mark.parametrize(
    ("type", "send"), [(3, libipsec.pfkey_send_add2), (2, libipsec.pfkey_send_update2)]
)
def test_add2_and_update2(wire: Wire, type: int, send: Callable[[SendSaArgs], int]) -> None:
    length = send(
        esp(wire, mode=2, reqid=7, wsize=4, flags=0x40, l_alloc=10, l_bytes=1000, l_addtime=3600,
            l_usetime=60, seq=99)
    )  # fmt: skip
    assert wire.sent(length) == message(
        type, 3, 99, sa(0x2694, replay=4, auth=3, encrypt=3, flags=0x40), sa2(2, 7), ENDS,
        key(9, KEY), key(8, MAC), lifetime(3, 10, 1000, 3600, 60), lifetime(4, 8, 800, 2880, 48),
    )  # fmt: skip


def test_add2_with_nat_t_and_security_context(wire: Wire) -> None:
    """The prefix length of the original address is the octets of its sockaddr, as in C."""
    length = libipsec.pfkey_send_add2(
        esp(wire, l_natt_type=2, l_natt_sport=4500, l_natt_dport=4501, l_natt_oa="10.9.9.9",
            ctxdoi=1, ctxalg=1, ctxstr=b"system_u\0")
    )  # fmt: skip
    context = struct.pack("=HHBBH", 3, 24, 1, 1, 9) + b"system_u\0" + bytes(7)
    assert wire.sent(length) == message(
        3, 3, 0, sa(0x2694, auth=3, encrypt=3), sa2(0, 0), ENDS, key(9, KEY), key(8, MAC),
        UNLIMITED, lifetime(4, 0, 0, 0, 0), context, NAT_T, address(23, "10.9.9.9", plen=16),
    )  # fmt: skip


def test_add2_of_ah_and_ipcomp(wire: Wire) -> None:
    ah = SendSaArgs(
        so=wire.so, satype=SaType.AH, src=A, dst=B, spi=1, keymat=MAC, a_type=3, a_keylen=20
    )
    limits = UNLIMITED + lifetime(4, 0, 0, 0, 0)
    assert wire.sent(libipsec.pfkey_send_add2(ah)) == message(
        3, 2, 0, sa(1, auth=3), sa2(0, 0), ENDS, key(8, MAC), limits
    )
    ipcomp = SendSaArgs(so=wire.so, satype=SaType.X_IPCOMP, src=A, dst=B, spi=2, e_type=2)
    assert wire.sent(libipsec.pfkey_send_add2(ipcomp)) == message(
        3, 9, 0, sa(2, encrypt=2), sa2(0, 0), ENDS, limits
    )


def test_the_older_forms_send_the_same(wire: Wire) -> None:
    given = (
        wire.so, SaType.ESP, 1, A, B, 0x2694, 7, 4, KEY + MAC, 3, 24, 3, 20, 0x40, 10, 1000, 3600,
        60, 99,
    )  # fmt: skip
    nat = (2, 4500, 4501, None, 0)
    same = esp(
        wire, mode=1, reqid=7, wsize=4, flags=0x40, l_alloc=10, l_bytes=1000, l_addtime=3600,
        l_usetime=60, seq=99,
    )  # fmt: skip
    in_udp = esp(
        wire, mode=1, reqid=7, wsize=4, flags=0x40, l_alloc=10, l_bytes=1000, l_addtime=3600,
        l_usetime=60, seq=99, l_natt_type=2, l_natt_sport=4500, l_natt_dport=4501,
    )  # fmt: skip
    assert wire.sent(libipsec.pfkey_send_add(*given)) == wire.sent(libipsec.pfkey_send_add2(same))
    assert wire.sent(libipsec.pfkey_send_update(*given)) == wire.sent(
        libipsec.pfkey_send_update2(same)
    )
    assert wire.sent(libipsec.pfkey_send_add_nat(*given, *nat)) == wire.sent(
        libipsec.pfkey_send_add2(in_udp)
    )
    assert wire.sent(libipsec.pfkey_send_update_nat(*given, *nat)) == wire.sent(
        libipsec.pfkey_send_update2(in_udp)
    )


def test_delete_get_and_delete_all(wire: Wire) -> None:
    length = libipsec.pfkey_send_delete(wire.so, SaType.ESP, 1, A, B, 0x2694)
    assert wire.sent(length) == message(4, 3, 0, sa(0x2694), ENDS)
    length = libipsec.pfkey_send_get(wire.so, SaType.AH, 1, A, B, 0x2694)
    assert wire.sent(length) == message(5, 2, 0, sa(0x2694), ENDS)
    length = libipsec.pfkey_send_delete_all(wire.so, SaType.ESP, 1, A, B)
    assert wire.sent(length) == message(4, 3, 0, ENDS)


def test_messages_without_extensions(wire: Wire) -> None:
    assert wire.sent(libipsec.pfkey_send_register(wire.so, SaType.ESP)) == message(7, 3, 0)
    assert wire.sent(libipsec.pfkey_send_flush(wire.so, SaType.UNSPEC)) == message(9, 0, 0)
    assert wire.sent(libipsec.pfkey_send_dump(wire.so, SaType.X_IPCOMP)) == message(10, 9, 0)
    assert wire.sent(libipsec.pfkey_send_promisc_toggle(wire.so, 5)) == message(11, 1, 0)
    assert wire.sent(libipsec.pfkey_send_promisc_toggle(wire.so, 0)) == message(11, 0, 0)
    assert wire.sent(libipsec.pfkey_send_spdflush(wire.so)) == message(19, 0, 0)
    assert wire.sent(libipsec.pfkey_send_spddump(wire.so)) == message(18, 0, 0)


def test_policies_are_sent_with_their_own_octets(wire: Wire) -> None:
    odd = POLICY[:7] + b"\x77" + POLICY[8:]  # a reserved octet, which C would copy as well
    ends = address(5, "10.0.1.0", plen=24, proto=6, port=110) + address(6, B, plen=0, proto=6)
    given: tuple[socket.socket, SockAddr, int, SockAddr, int, int] = (
        wire.so, ("10.0.1.0", 110), 24, B, 0, 6,
    )  # fmt: skip
    for policy in (POLICY, odd):
        length = libipsec.pfkey_send_spdadd(*given, policy, 5)
        assert wire.sent(length) == message(14, 0, 5, ends, UNLIMITED, policy)
    length = libipsec.pfkey_send_spdupdate(*given, POLICY, 5)
    assert wire.sent(length) == message(13, 0, 5, ends, UNLIMITED, POLICY)
    hard = lifetime(3, 0, 0, 3600, 60)
    length = libipsec.pfkey_send_spdadd2(*given, 3600, 60, POLICY, 5)
    assert wire.sent(length) == message(14, 0, 5, ends, hard, POLICY)
    length = libipsec.pfkey_send_spdupdate2(*given, 3600, 60, POLICY, 5)
    assert wire.sent(length) == message(13, 0, 5, ends, hard, POLICY)
    length = libipsec.pfkey_send_spddelete(*given, BARE, 5)
    assert wire.sent(length) == message(15, 0, 5, ends, UNLIMITED, BARE)
    length = libipsec.pfkey_send_spdsetidx(*given, BARE, 5)
    assert wire.sent(length) == message(20, 0, 5, ends, UNLIMITED, BARE)


def test_policies_by_number(wire: Wire) -> None:
    length = libipsec.pfkey_send_spddelete2(wire.so, 0x19)
    assert wire.sent(length) == message(22, 0, 0, numbered_policy(0x19))
    assert wire.sent(libipsec.pfkey_send_spdget(wire.so, 0x19)) == message(
        16, 0, 0, numbered_policy(0x19)
    )


def test_migrate(wire: Wire) -> None:
    pairs = libipsec.ipsec_set_policy(
        f"out ipsec esp/tunnel/{A}-{B}/require esp/tunnel/10.3.3.3-{B}/require"
    )
    length = libipsec.pfkey_send_migrate(
        wire.so, ("10.3.3.3", 500), (B, 4500), A, 32, B, 32, 255, pairs, 5
    )
    local = address(0, "10.3.3.3", port=500)[8:] + address(0, B, port=4500)[8:]
    kmaddress = struct.pack("=HHI", 5, 25, 0) + local
    assert wire.sent(length) == message(24, 0, 5, kmaddress, ENDS, pairs)


@pytest.mark.parametrize(
    ("given", "octets"),
    [
        ("10.1.1.1", address(5, A)),
        (ip_address("10.1.1.1"), address(5, A)),
        (("10.1.1.1", 500), address(5, A, port=500)),
        ("2001:db8::1", address6(5, "2001:db8::1")),
        (ip_address("2001:db8::1"), address6(5, "2001:db8::1")),
        (("2001:db8::1", 500), address6(5, "2001:db8::1", port=500)),
        (("fe80::1", 500, 3, 2), address6(5, "fe80::1", port=500, flow=3, scope=2)),
        ("fe80::1%2", address6(5, "fe80::1", scope=2)),
        (("fe80::1%2", 500, 3, 2), address6(5, "fe80::1", port=500, flow=3, scope=2)),
    ],
)
def test_addresses_in_all_their_forms(wire: Wire, given: SockAddr, octets: bytes) -> None:
    dst = B if len(octets) == 24 else "2001:db8::2"
    length = libipsec.pfkey_send_delete_all(wire.so, SaType.ESP, 0, given, dst)
    assert wire.sent(length)[16 : 16 + len(octets)] == octets


# Soft lifetimes.


@pytest.fixture
def rates() -> Iterator[None]:
    yield
    for kind in range(4):
        libipsec.pfkey_set_softrate(kind, 80)


def soft_of(wire: Wire, **limits: int) -> tuple[int, ...]:
    octets = wire.sent(libipsec.pfkey_send_add2(esp(wire, **limits)))
    at = octets.index(struct.pack("=HH", 4, 4), 16)
    return struct.unpack("=IQQQ", octets[at + 4 : at + 32])


@pytest.mark.usefixtures("rates")
def test_soft_lifetimes_are_a_part_of_the_hard_ones(wire: Wire) -> None:
    kinds = ("ALLOCATIONS", "BYTES", "ADDTIME", "USETIME")
    for rate, kind in zip((10, 0, 101, 33), kinds, strict=True):
        libipsec.pfkey_set_softrate(getattr(libipsec, f"SADB_X_LIFETIME_{kind}"), rate)
    assert [libipsec.pfkey_get_softrate(kind) for kind in range(4)] == [10, 100, 100, 33]
    hard = {"l_alloc": 1000, "l_bytes": 1000, "l_addtime": 1000, "l_usetime": 1000}
    assert soft_of(wire, **hard) == (100, 1000, 1000, 330)


def test_soft_lifetimes_do_not_wrap_at_32_bits(wire: Wire) -> None:
    assert soft_of(wire, l_bytes=100_000_000) == (0, 80_000_000, 0, 0)
    assert soft_of(wire, l_bytes=1 << 40) == (0, (1 << 40) * 80 // 100, 0, 0)


@pytest.mark.parametrize("kind", [-1, 4])
def test_a_kind_that_is_none_has_no_rate(kind: int) -> None:
    for call in (
        lambda: libipsec.pfkey_set_softrate(kind, 5),
        lambda: libipsec.pfkey_get_softrate(kind),
    ):
        with pytest.raises(IpsecError, match="none of the four kinds"):
            call()


# Refusals, with the codes of C.


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, NULL, B, 0, 0, 0, 0), "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, A, "::1", 0, 0, 0, 0), "FAMILY_MISMATCH"),
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, "x", B, 0, 0, 0, 0), "INVAL_FAMILY"),
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, A, B, 1, 500, 0, 0), "INVAL_SPI"),
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, A, B, 255, 500, 0, 0), "INVAL_SPI"),
        (lambda so: libipsec.pfkey_send_getspi(so, 3, 0, A, B, 500, 400, 0, 0), "INVAL_SPI"),
        (lambda so: libipsec.pfkey_send_getspi_nat(so, 3, 0, A, B, 0, 1, 0, 0, 0, 0, 0),
         "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_delete(so, 3, 0, A, B, 1 << 32), "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_flush(so, 5), "INVAL_SATYPE"),
        (lambda so: libipsec.pfkey_send_dump(so, 1), "INVAL_SATYPE"),
        (lambda so: libipsec.pfkey_send_register(so, 5), "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_spdadd(so, A, 33, B, 0, 6, POLICY, 0), "INVAL_PREFIXLEN"),
        (lambda so: libipsec.pfkey_send_spdadd(so, A, 32, B, -1, 6, POLICY, 0), "INVAL_PREFIXLEN"),
        (lambda so: libipsec.pfkey_send_spdadd(so, A, 32, B, 0, 6, b"x", 0), "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_spddelete(so, A, 32, B, 0, 6, POLICY, 0),
         "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_spdsetidx(so, A, 32, B, 0, 6, POLICY, 0),
         "INVAL_ARGUMENT"),
        (lambda so: libipsec.pfkey_send_migrate(so, A, "::1", A, 32, B, 32, 6, POLICY, 0),
         "FAMILY_MISMATCH"),
        (lambda so: libipsec.pfkey_send_migrate(so, NULL, B, A, 32, B, 32, 6, POLICY, 0),
         "INVAL_ARGUMENT"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_is_refused(
    wire: Wire, call: Callable[[socket.socket], int], code: str
) -> None:
    with pytest.raises(IpsecError) as caught:
        call(wire.so)
    assert caught.value.code == getattr(libipsec, f"EIPSEC_{code}")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"e_type": 0, "e_keylen": 0, "keymat": MAC}, "NO_ALGS"),
        ({"satype": SaType.AH}, "INVAL_ALGS"),
        ({"satype": SaType.AH, "e_type": 0, "a_type": 0}, "NO_ALGS"),
        ({"satype": SaType.X_IPCOMP, "e_type": 0}, "INVAL_ALGS"),
        ({"satype": SaType.X_IPCOMP}, "NO_ALGS"),
        ({"satype": SaType.UNSPEC}, "INVAL_SATYPE"),
        ({"keymat": KEY}, "INVAL_ARGUMENT"),
        ({"e_keylen": -1, "a_keylen": 45}, "INVAL_ARGUMENT"),
        ({"l_natt_frag": 552}, "NOT_SUPPORTED"),
        ({"l_natt_sport": 4500}, "INVAL_ARGUMENT"),
        ({"satype": SaType.AH, "e_type": 0, "l_natt_type": 2}, "NO_ALGS"),
        ({"l_addtime": 1 << 64}, "INVAL_ARGUMENT"),
    ],
)
def test_an_sa_that_cannot_be_is_refused(wire: Wire, changed: dict[str, object], code: str) -> None:
    with pytest.raises(IpsecError) as caught:
        libipsec.pfkey_send_add2(esp(wire, **changed))
    assert caught.value.code == getattr(libipsec, f"EIPSEC_{code}")


def test_keys_are_in_no_repr_and_no_error(wire: Wire) -> None:
    assert "hoge" not in repr(esp(wire))
    with pytest.raises(IpsecError) as caught:
        libipsec.pfkey_send_add2(esp(wire, a_keylen=3))
    assert "hoge" not in str(caught.value)


def test_what_cannot_be_sent_has_the_systems_text(wire: Wire) -> None:
    wire._far.close()
    with pytest.raises(IpsecError, match="Broken pipe") as caught:
        libipsec.pfkey_send_flush(wire.so, 0)
    assert caught.value.code == libipsec.EIPSEC_SYSTEM_ERROR
    assert libipsec.ipsec_strerror() == "Broken pipe"
