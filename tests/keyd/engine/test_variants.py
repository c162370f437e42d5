"""SA flags: which go together (KAME), and what they leave in the data path's SA."""

from errno import EINVAL, EOPNOTSUPP

import pytest

from pfkey.algorithms import ROWS
from pfkey.const import KameFlag, SaFlag, SaType
from pfkey.message import Message
from tests.keyd.engine.desk import NULL, SHA1, A, Desk, add, auth_key, cipher_key

DES = 2
ALL = frozenset((row.kind.value, row.number) for row in ROWS)
OLD, IV4B, DERIV, RAWCPI = (int(KameFlag[n]) for n in ("OLD", "IV4B", "DERIV", "RAWCPI"))
ESN = int(SaFlag.ESN)
RANDOM, ZERO = int(KameFlag.RANDOM_PAD), int(KameFlag.ZERO_PAD)
CYC = int(KameFlag.CYCSEQ)


def des(flags: int, *, auth: int = 0, replay: int = 0) -> Message:
    keys = [cipher_key(bytes(8)), *([auth_key(bytes(20))] if auth else [])]
    return add(encrypt=DES, auth=auth, flags=CYC | flags, keys=keys, replay=replay)


def ah(flags: int, auth: int = SHA1, octets: int = 20) -> Message:
    return add(encrypt=0, auth=auth, flags=CYC | flags, keys=[auth_key(bytes(octets))],
               satype=SaType.AH)  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        des(OLD),
        des(OLD | IV4B),
        des(DERIV),
        des(DERIV, auth=SHA1, replay=32),
        des(RANDOM, auth=SHA1),
        des(OLD | ZERO),
        add(encrypt=NULL, auth=0, flags=CYC | OLD, keys=[cipher_key(b"")]),
        ah(OLD),
        ah(OLD, auth=249, octets=16),
        ah(0, auth=11),
        add(flags=CYC | ESN, replay=32),
        add(flags=ESN, replay=8, encrypt=0, keys=[auth_key()], satype=SaType.AH),
    ],
)
def test_variants_are_taken_and_reach_the_data_path(request_: Message) -> None:
    desk = Desk(A, usable=ALL)
    reply = desk.reply(request_)
    assert reply.errno == 0
    (sa,) = desk.engine.sas()
    assert request_.sa is not None
    assert sa.flags == request_.sa.flags
    assert reply.sa is not None
    assert reply.sa.flags == request_.sa.flags & ~CYC


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (des(RANDOM | ZERO), "not both"),
        (ah(ZERO), "padding"),
        (des(IV4B), "IV of 32 bits"),
        (des(DERIV | OLD), "derived"),
        (add(flags=CYC | DERIV), "derived"),
        (add(flags=CYC | OLD), "3des-cbc"),
        (ah(DERIV), "derived"),
        (des(OLD, auth=SHA1), "no authenticator"),
        (des(OLD, replay=32), "sequence numbers"),
        (ah(OLD, auth=11), "GMAC"),
        (add(flags=CYC | ESN), "replay window"),
        (des(OLD | ESN), "today's ESP"),
        (des(DERIV | ESN, auth=SHA1, replay=32), "32 bits"),
        (add(encrypt=12, auth=11, keys=[cipher_key(bytes(16)), auth_key(bytes(20))]), "aes-gmac"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(request_: Message, reason: str) -> None:
    desk = Desk(A, usable=ALL)
    (log,) = desk.logs(request_)
    assert reason in log.text
    assert desk.errno(request_) == EINVAL
    assert desk.engine.sas() == ()


def test_flags_that_nobody_knows_are_refused() -> None:
    desk = Desk(A, usable=ALL)
    assert desk.errno(des(0x1000)) == EOPNOTSUPP
    (log,) = desk.logs(des(0x1000))
    assert "0x1000" in log.text
