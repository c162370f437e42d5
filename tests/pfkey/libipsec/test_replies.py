"""Receiving, checking, key lengths and printing; and the whole of it against pfkeyd."""

import errno
import io
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import libipsec, policy, text
from pfkey.base import error_reply
from pfkey.const import ExtType, MsgType, SaType
from pfkey.ext_supported import Supported, SupportedAlgorithm
from pfkey.libipsec import IpsecError
from pfkey.message import Extension, Message
from pfkey.requests import sa
from tests.keyd.engine.test_hostile import MUTATIONS, SEEDS
from tests.pfkey.peer import peer
from tests.pfkey.strategies import messages
from tests.pfkey.test_blocking import POLICY, SA, A, B
from tests.support.shell import Process

PID = os.getpid()
ADD = sa(MsgType.ADD, SA).encode()
AUTH = Supported(exttype=ExtType.SUPPORTED_AUTH, algorithms=(SupportedAlgorithm(3, 0, 160, 160),))
ENCRYPT = Supported(
    exttype=ExtType.SUPPORTED_ENCRYPT,
    algorithms=(SupportedAlgorithm(11, 0, 0, 0), SupportedAlgorithm(12, 16, 128, 256)),
)


def register(*extensions: Extension, pid: int = PID, errno: int = 0) -> bytes:
    return Message(type=MsgType.REGISTER, pid=pid, errno=errno, extensions=extensions).encode()


def code_of(error: "pytest.ExceptionInfo[IpsecError]") -> int:
    return error.value.code


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.settimeout(2)
        yield near, far


@pytest.fixture
def lists() -> Iterator[None]:
    _forget()  # what another test may have left
    yield
    _forget()


def _forget() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        libipsec.pfkey_send_register(near, SaType.UNSPEC)


# Receiving.


def test_a_message_is_received_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert libipsec.pfkey_send(far, ADD) == len(ADD)
    assert libipsec.pfkey_send(far, Message.decode(ADD)) == len(ADD)
    assert [libipsec.pfkey_recv(near) for _ in range(2)] == [ADD, ADD]


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"short", "MAX"),
        (ADD[:-8], "SYSTEM_ERROR"),
        (ADD[:4] + bytes(2) + ADD[6:], "SYSTEM_ERROR"),
    ],
)
def test_a_record_that_is_no_message_is_taken_and_refused(
    pair: tuple[socket.socket, socket.socket], octets: bytes, code: str
) -> None:
    near, far = pair
    far.send(octets)
    far.send(ADD)
    with pytest.raises(IpsecError) as caught:
        libipsec.pfkey_recv(near)
    assert code_of(caught) == getattr(libipsec, f"EIPSEC_{code}")
    assert libipsec.pfkey_recv(near) == ADD


def test_what_a_header_does_not_say_is_left_away(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    far.send(ADD + b"more")
    assert libipsec.pfkey_recv(near) == ADD


def test_an_end_and_a_silence_are_errors(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.settimeout(0.01)
    with pytest.raises(IpsecError, match="Resource temporarily unavailable") as caught:
        libipsec.pfkey_recv(near)
    assert code_of(caught) == libipsec.EIPSEC_SYSTEM_ERROR
    far.close()
    with pytest.raises(IpsecError, match="pfkeyd closed the connection; open anew"):
        libipsec.pfkey_recv(near)
    libipsec.pfkey_close(near)
    with pytest.raises(IpsecError, match="Bad file descriptor"):
        libipsec.pfkey_recv(near)


def test_a_queue_grows_and_never_shrinks(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    there = libipsec.pfkey_set_buffer_size(near, 0)
    assert there > 0
    assert libipsec.pfkey_set_buffer_size(near, 1) == there
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert 32 <= libipsec.pfkey_set_buffer_size(near, 32) <= there
    with pytest.raises(IpsecError):
        libipsec.pfkey_set_buffer_size(near, 1 << 40)


# Key lengths.


@pytest.mark.usefixtures("lists")
def test_key_lengths_are_those_of_the_reply_to_register(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    with pytest.raises(IpsecError, match="Must get supported algorithms list first"):
        libipsec.ipsec_check_keylen(ExtType.SUPPORTED_ENCRYPT, 12, 128)
    libipsec.pfkey_send_register(near, SaType.ESP)
    far.send(ADD)
    far.send(b"no message, but one of some length")
    far.send(register(AUTH, pid=PID + 1))
    far.send(register(AUTH, ENCRYPT))
    with pytest.raises(IpsecError):
        libipsec.pfkey_recv_register(near)  # what is no message ends it, as in C
    libipsec.pfkey_recv_register(near)
    libipsec.ipsec_check_keylen(ExtType.SUPPORTED_ENCRYPT, 12, 256)
    libipsec.ipsec_check_keylen2(SaType.AH, 3, 160)
    assert libipsec.ipsec_get_keylen(ExtType.SUPPORTED_AUTH, 3).maxbits == 160
    refusals: list[tuple[Callable[[], object], str]] = [
        (lambda: libipsec.ipsec_check_keylen2(SaType.ESP, 12, 64), "INVAL_KEYLEN"),
        (lambda: libipsec.ipsec_check_keylen2(SaType.ESP, 99, 64), "NOT_SUPPORTED"),
        (lambda: libipsec.ipsec_check_keylen2(SaType.X_IPCOMP, 2, 0), "DO_GET_SUPP_LIST"),
        (lambda: libipsec.ipsec_check_keylen2(SaType.MIP, 2, 0), "INVAL_ARGUMENT"),
        (lambda: libipsec.ipsec_check_keylen(ExtType.SA, 2, 0), "INVAL_ARGUMENT"),
    ]
    for call, code in refusals:
        with pytest.raises(IpsecError) as caught:
            call()
        assert code_of(caught) == getattr(libipsec, f"EIPSEC_{code}")
    with pytest.raises(IpsecError, match="Invalid key length: 64 bits, it takes 128 to 256"):
        libipsec.ipsec_check_keylen2(SaType.ESP, 12, 64)
    libipsec.pfkey_send_register(near, SaType.ESP)  # forgets the ciphers, keeps the others
    libipsec.ipsec_check_keylen2(SaType.AH, 3, 160)
    with pytest.raises(IpsecError, match="first"):
        libipsec.ipsec_check_keylen2(SaType.ESP, 12, 128)


def test_a_refused_register_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.send(error_reply(register(), errno.EEXIST))
    with pytest.raises(IpsecError, match="File exists"):
        libipsec.pfkey_recv_register(near)


def test_silence_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    with pytest.raises(IpsecError, match="Resource temporarily unavailable"):
        libipsec.pfkey_recv_register(near, 0.01)
    far.send(ADD)
    with pytest.raises(IpsecError, match="no reply to REGISTER in 0 s"):
        libipsec.pfkey_recv_register(near, 0)
    assert near.gettimeout() == 2


@pytest.mark.usefixtures("lists")
def test_lists_of_a_reply_received_otherwise(pair: tuple[socket.socket, socket.socket]) -> None:
    libipsec.pfkey_set_supported(register(ENCRYPT))
    libipsec.ipsec_check_keylen2(SaType.ESP, 11, 0)
    for other in (ADD, register(ENCRYPT) + bytes(8)):
        with pytest.raises(IpsecError) as caught:
            libipsec.pfkey_set_supported(other)
        assert code_of(caught) == libipsec.EIPSEC_INVAL_SATYPE
    libipsec.pfkey_set_supported(Message.decode(register(AUTH)))
    libipsec.ipsec_check_keylen2(SaType.ESP, 11, 0)


# Checking.


def test_align_finds_extensions_by_type() -> None:
    found = libipsec.pfkey_align(ADD + b"behind it")
    assert found[0] == ADD
    assert {t for t in found if t} == {e.exttype for e in Message.decode(ADD).extensions}
    assert b"".join(found[t] for t in found if t) == ADD[16:]
    libipsec.pfkey_check(found)


def extension(exttype: int, words: int = 1) -> bytes:
    return struct.pack("=HHI", words, exttype, 0)


def with_body(octets: bytes, *, type: int = 10, satype: int = 0, version: int = 2) -> bytes:
    words = 2 + len(octets) // 8
    return struct.pack("=BBBBHHII", version, type, 0, satype, words, 0, 0, 0) + octets


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"short", "INVAL_ARGUMENT"),
        (with_body(b"")[:4] + b"\\9\0" + bytes(10), "INVAL_SADBMSG"),
        (with_body(extension(1, 0)), "INVAL_SADBMSG"),
        (with_body(extension(1, 2)), "INVAL_SADBMSG"),
        (with_body(extension(0)), "INVAL_EXTTYPE"),
        (with_body(extension(2) * 2), "INVAL_EXTTYPE"),
        (with_body(extension(ExtType.X_FILTER)), "INVAL_EXTTYPE"),
        (with_body(extension(ExtType.X_KMPRIVATE)), "INVAL_EXTTYPE"),
        (with_body(extension(27)), "INVAL_EXTTYPE"),
    ],
)
def test_align_refuses_with_the_codes_of_libipsec(octets: bytes, code: str) -> None:
    with pytest.raises(IpsecError) as caught:
        libipsec.pfkey_align(octets)
    assert code_of(caught) == getattr(libipsec, f"EIPSEC_{code}")


def address(exttype: int, *, proto: int = 255, family: int = 2) -> bytes:
    return struct.pack("=HHBBHH14x", 3, exttype, proto, 32, 0, family)


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (with_body(b"", version=1), "INVAL_VERSION"),
        (with_body(b"", type=25), "INVAL_MSGTYPE"),
        (with_body(b"", type=MsgType.ADD), "INVAL_SATYPE"),
        (with_body(b"", type=MsgType.X_SPDADD, satype=3), "INVAL_SATYPE"),
        (with_body(b"", type=MsgType.X_NAT_T_NEW_MAPPING, satype=2), "INVAL_SATYPE"),
        (with_body(b"", satype=5), "NOT_SUPPORTED"),
        (with_body(b"", satype=1), "INVAL_SATYPE"),
        (with_body(b"", satype=77), "INVAL_SATYPE"),
        (with_body(address(5) + address(6, proto=6)), "PROTO_MISMATCH"),
        (with_body(address(5) + address(6, family=10)), "FAMILY_MISMATCH"),
        (with_body(address(5, family=3) + address(6, family=3)), "INVAL_FAMILY"),
        (with_body(extension(5) + extension(6)), "INVAL_FAMILY"),
        (with_body(b"", type=MsgType.X_PROMISC, satype=1), None),
        (with_body(b"", type=MsgType.X_SPDFLUSH, satype=77), None),
        (with_body(b"", type=MsgType.X_SPDUPDATE, satype=3), None),
        (with_body(b"", type=MsgType.X_NAT_T_NEW_MAPPING, satype=3), None),
        (with_body(address(5) + address(6)), None),
        (with_body(address(5)), None),
    ],
)
def test_check_refuses_with_the_codes_of_libipsec(octets: bytes, code: str | None) -> None:
    found = libipsec.pfkey_align(octets)
    if code is None:
        libipsec.pfkey_check(found)
        return
    with pytest.raises(IpsecError) as caught:
        libipsec.pfkey_check(found)
    assert code_of(caught) == getattr(libipsec, f"EIPSEC_{code}")


def test_check_takes_what_align_made() -> None:
    with pytest.raises(IpsecError, match="no message"):
        libipsec.pfkey_check({})


# Printing.


def shown(function: object, octets: bytes | Message) -> str:
    assert callable(function)
    out = io.StringIO()
    function(octets, file=out)
    return out.getvalue()


def test_sas_and_policies_are_printed_as_setkey_prints_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dumped = Message.decode(ADD)
    plain = shown(libipsec.pfkey_sadump, ADD)
    assert plain.startswith(f"{A} {B} \n\tesp mode=transport spi=9876(0x00002694)")
    assert SA.encrypt_key is not None
    assert libipsec_hex(SA.encrypt_key) in plain
    assert shown(libipsec.pfkey_sadump_withports, dumped).startswith(f"{A}[any] {B}[any] \n")
    spd = Message(type=MsgType.X_SPDADD, extensions=POLICY.extensions())
    assert shown(libipsec.pfkey_spdump, spd) == text.policy(spd)
    tunnel = Message(
        type=MsgType.X_SPDADD,
        extensions=(
            *POLICY.extensions()[:2],
            policy.parse("out ipsec esp/tunnel/10.2.2.2-10.3.3.3[5]/require"),
        ),
    )
    assert "tunnel/10.2.2.2-10.3.3.3/" in shown(libipsec.pfkey_spdump, tunnel)
    assert "tunnel/10.2.2.2[0]-10.3.3.3[5]/" in shown(libipsec.pfkey_spdump_withports, tunnel)
    assert shown(libipsec.kdebug_sadb, ADD) == text.message(dumped)
    libipsec.pfkey_sadump(ADD)
    assert capsys.readouterr().out.startswith(f"{A} {B}")


def libipsec_hex(octets: bytes) -> str:
    out = io.StringIO()
    libipsec.ipsec_hexdump(octets, file=out)
    return out.getvalue()


def test_octets_are_printed_in_groups_of_four_and_rows_of_32() -> None:
    assert libipsec_hex(bytes(range(6))) == " 00010203 0405"
    rows = libipsec_hex(bytes(33)).split("\n")
    assert rows == [" 00000000" * 8, " 00"]
    out = io.StringIO()
    libipsec.ipsec_hexdump(bytes(33), 4, out)
    assert out.getvalue() == " 00000000"


@given(st.binary(max_size=100) | messages().map(Message.encode))
def test_any_octets_are_printed(octets: bytes) -> None:
    for function in (
        libipsec.pfkey_sadump, libipsec.pfkey_sadump_withports, libipsec.pfkey_spdump,
        libipsec.pfkey_spdump_withports, libipsec.kdebug_sadb,
    ):  # fmt: skip
        assert shown(function, octets)


def test_mutated_messages_are_checked_and_printed() -> None:
    dice = random.Random(20261124)
    for _ in range(2000):
        octets = bytearray(dice.choice(SEEDS))
        dice.choice(MUTATIONS)(dice, octets)
        assert shown(libipsec.pfkey_sadump, bytes(octets))
        assert shown(libipsec.pfkey_spdump, bytes(octets))


# The whole of it.


def replies(so: socket.socket, type: int) -> list[Message]:
    found = []
    while True:
        message = Message.decode(libipsec.pfkey_recv(so))
        if message.type == type and message.pid == PID:
            found.append(message)
            if message.seq == 0 or message.errno:
                return found


def test_a_key_manager_of_old_runs_against_pfkeyd(tmp_path: Path) -> None:
    """Register, add, dump, print, delete, as a C program would."""
    with Process(tmp_path) as daemon:
        so = libipsec.pfkey_open(daemon.socket, timeout=5)
        libipsec.pfkey_send_register(so, SaType.ESP)
        libipsec.pfkey_recv_register(so)
        libipsec.ipsec_check_keylen2(SaType.ESP, 12, 128)
        libipsec.pfkey_send_add2(
            libipsec.SendSaArgs(
                so=so, satype=SaType.ESP, src=A, dst=B, spi=0x2694, mode=1,
                keymat=bytes(range(36)), e_type=12, e_keylen=16, a_type=3, a_keylen=20,
                l_addtime=3600,
            )
        )  # fmt: skip
        (added,) = replies(so, MsgType.ADD)
        assert not added.errno
        assert added.soft is not None
        assert added.soft.addtime == 2880
        libipsec.pfkey_send_dump(so, SaType.UNSPEC)
        (dumped,) = replies(so, MsgType.DUMP)
        assert "hard: 3600(s)\tsoft: 2880(s)" in shown(libipsec.pfkey_sadump, dumped)
        libipsec.pfkey_send_spddump(so)
        assert [m.errno for m in replies(so, MsgType.X_SPDDUMP)] == [errno.ENOENT]
        libipsec.pfkey_send_delete(so, SaType.ESP, 0, A, B, 0x2694)
        assert [m.errno for m in replies(so, MsgType.DELETE)] == [0]
        libipsec.pfkey_send_flush(so, SaType.UNSPEC)
        assert [m.errno for m in replies(so, MsgType.FLUSH)] == [0]
        libipsec.pfkey_send_promisc_toggle(so, 1)
        assert [m.satype for m in replies(so, MsgType.X_PROMISC)] == [1]
        libipsec.pfkey_close(so)


def test_a_socket_that_cannot_be_had_has_the_systems_text(tmp_path: Path) -> None:
    with pytest.raises(IpsecError, match=r"no pfkeyd answers at .*; start it with: pfkeyd .*&"):
        libipsec.pfkey_open(tmp_path / "s")
    with pytest.raises(IpsecError, match="this kernel has no AF_KEY") as caught:
        libipsec.pfkey_open(transport="af_key")
    assert code_of(caught) == libipsec.EIPSEC_SYSTEM_ERROR
    with pytest.raises(IpsecError, match="has no path"):
        libipsec.pfkey_open(tmp_path / "s", transport="af_key")


def test_a_datagram_socket_serves_as_af_key_does() -> None:
    def talk(far: socket.socket) -> None:
        far.send(far.recv(100))
        far.recv(1)

    with peer(talk, socket.SOCK_DGRAM) as near:
        libipsec.pfkey_send_flush(near, 0)
        assert [m.type for m in replies(near, MsgType.FLUSH)] == [MsgType.FLUSH]
        libipsec.pfkey_send_flush(near, 0)
