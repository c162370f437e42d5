"""Octets that Linux's setkey was seen to print rightly: ours are the same (little-endian)."""

import sys

import pytest

from keyd.model import Usage
from pfkey.const import MsgType
from tests.keyd.engine.desk import (
    WALL,
    A,
    Desk,
    add,
    cipher_key,
    hard,
    message,
    soft,
)  # fmt: skip

DUMPED = bytes.fromhex(
    "020a00031c000000010000004d000000"
    "02000100000026940001000300000000"
    "0400030000000000000000000000000080510100000000000000000000000000"
    "04000400000000000000000000000000000e0100000000000000000000000000"
    "0400020005000000f40100000000000000f15365000000000af1536500000000"
    "0300050000200000020000000a0101010000000000000000"
    "030006000020000002000000140101010000000000000000"
    "04000900c0000000686f6765686f6765686f6765686f6765686f6765686f6765"
    "02001300010000000000000000000000"
)


@pytest.mark.skipif(sys.byteorder != "little", reason="the octets are of a little-endian host")
def test_dump_record_is_the_golden_one() -> None:
    desk = Desk(A)
    keys = [cipher_key(b"hogehoge" * 3)]
    desk.ask(add(hard(addtime=86400), soft(addtime=69120), auth=0, keys=keys))
    desk.ask(add(spi=1))
    desk.used[0] = Usage(packets=5, octets=500, first_use=WALL + 10.5)
    first, _ = desk.ask(message(MsgType.DUMP, pid=77))[A]
    assert first.octets == DUMPED
