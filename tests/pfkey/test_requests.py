"""Requests made from plain values: held to specs/tables/messages.toml."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pfkey import requests
from pfkey.const import AF_INET, AF_INET6, Dir, ExtType, MsgType, SaType
from pfkey.entries import Limits, NatT, SadEntry, SpdEntry
from pfkey.errors import MisuseError
from pfkey.message import Message
from pfkey.policy import parse

TABLE: dict[str, Any] = tomllib.loads(
    (Path(__file__).parents[2] / "specs" / "tables" / "messages.toml").read_text()
)
A, B = "10.1.1.1", "20.1.1.1"
SA = SadEntry(
    satype=SaType.ESP, src=A, dst=B, spi=256, encrypt=12, encrypt_key=bytes(16), auth=5,
    auth_key=bytes(32), hard=Limits(addtime=60), nat_t=NatT(original_address="10.9.9.9"),
)  # fmt: skip
SPD = SpdEntry(
    src="10.0.1.0/24", dst="10.0.2.0/24", policy=parse("out ipsec esp/transport//require"),
    hard=Limits(addtime=60, usetime=5),
)  # fmt: skip
PAIRS = parse("out ipsec esp/tunnel/10.1.1.1-10.2.2.2/require esp/tunnel/10.3.3.3-10.2.2.2/require")
MOVE = SpdEntry(src=A, dst=B, policy=PAIRS)

ALL = [
    requests.register(SaType.ESP),
    requests.getspi(SaType.ESP, A, B, spis=(256, 512), reqid=4),
    requests.sa(MsgType.ADD, SA),
    requests.sa(MsgType.UPDATE, SA),
    requests.sa_name(MsgType.DELETE, SaType.ESP, A, B, 256),
    requests.sa_name(MsgType.GET, SaType.ESP, A, B, 256),
    requests.bare(MsgType.FLUSH),
    requests.dump(src="10.0.0.0/8"),
    requests.acquire_failed(SaType.ESP, 7, 2),
    requests.promisc(True),
    requests.spd(MsgType.X_SPDADD, SPD),
    requests.spd(MsgType.X_SPDUPDATE, SPD),
    requests.spd(MsgType.X_SPDSETIDX, SPD),
    requests.spddelete(A, B, Dir.OUT),
    requests.policy_name(MsgType.X_SPDDELETE2, 9),
    requests.policy_name(MsgType.X_SPDGET, 9),
    requests.bare(MsgType.X_SPDFLUSH),
    requests.bare(MsgType.X_SPDDUMP),
    requests.migrate(MOVE, local=A, remote=B),
]


@pytest.mark.parametrize("message", ALL, ids=lambda m: m.type.name)
def test_a_request_carries_what_the_table_wants_and_no_more(message: Message) -> None:
    row = TABLE[MsgType(message.type).name]
    assert "from_client" not in row
    carried = {ExtType(e.exttype).name for e in message.extensions}
    assert {*row["required"]} <= carried <= {*row["required"], *row["optional"]}
    assert Message.decode(message.encode(), is_request=True) == message


def test_there_is_a_request_for_every_type_that_clients_send() -> None:
    sent = {name for name, row in TABLE.items() if row.get("from_client") != "refused"}
    assert {MsgType(message.type).name for message in ALL} == sent


def test_a_getspi_names_its_range_in_host_order() -> None:
    message = requests.getspi(SaType.ESP, A, B, spis=(0x100, 0x1FF), nat_t=NatT(src_port=1))
    assert message.spirange is not None
    assert (message.spirange.min, message.spirange.max) == (0x100, 0x1FF)
    assert [e.exttype for e in message.extensions] == [
        ExtType.X_SA2, ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_NAT_T_TYPE,
        ExtType.X_NAT_T_SPORT, ExtType.X_NAT_T_DPORT, ExtType.SPIRANGE,
    ]  # fmt: skip
    assert requests.getspi(SaType.ESP, A, B).spirange is None


@pytest.mark.parametrize("spis", [(0, 5), (5, 4), (1, 1 << 32)])
def test_an_impossible_range_is_refused(spis: tuple[int, int]) -> None:
    with pytest.raises(MisuseError, match="are no range of 32-bit numbers"):
        requests.getspi(SaType.ESP, A, B, spis=spis)


def test_a_dump_may_be_of_some_addresses_only() -> None:
    found = requests.dump(SaType.AH, src="10.0.0.0/8").filter
    assert found is not None
    assert (found.family, found.saddr, found.splen, found.dplen) == (
        AF_INET, bytes((10, *[0] * 15)), 8, 0,
    )  # fmt: skip
    found = requests.dump(dst="2001:db8::/32").filter
    assert found is not None
    assert (found.family, found.splen, found.dplen) == (AF_INET6, 0, 32)
    with pytest.raises(MisuseError, match="at most 127 bits"):
        requests.dump(src="::1")
    with pytest.raises(MisuseError, match="one is IPv4"):
        requests.dump(src="10.1.1.1", dst="::/0")


@pytest.mark.parametrize(("seq", "number"), [(0, 2), (5, 0), (5, 256)])
def test_an_acquire_that_would_be_ignored_is_refused(seq: int, number: int) -> None:
    with pytest.raises(MisuseError, match="neither may be 0"):
        requests.acquire_failed(SaType.ESP, seq, number)


def test_a_migrate_takes_pairs() -> None:
    assert requests.migrate(MOVE).extensions[0].exttype == ExtType.ADDRESS_SRC
    with pytest.raises(MisuseError, match="takes pairs of requests"):
        requests.migrate(SPD)
    with pytest.raises(MisuseError, match="local and remote go together"):
        requests.migrate(MOVE, local=A)
