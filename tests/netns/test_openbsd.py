"""A program of OpenBSD's keys real packets: flows, and SAs behind each other (GRPSPIS)."""

import socket
from pathlib import Path

import pytest

from pfkey.blocking import Client
from pfkey.const import ExtType, FlowType, MsgType, OpenbsdFlag, SaState, SaType
from pfkey.dialect import OPENBSD
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_sa import Sa
from pfkey.ext_x_bsd import Protocol
from pfkey.lab.hosts import Net
from pfkey.message import Extension, Message
from tests.support.system import A, B, Daemon
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

KEY, MAC = b"hogehogehogehoge", b"0123456789abcdef0123456789abcdef"
IPPROTO_AH, IPPROTO_ESP = 51, 50
TUNNEL = int(OpenbsdFlag.TUNNEL)


def place(exttype: ExtType, address: str) -> Address:
    return Address(exttype=exttype, address=socket.inet_aton(address), prefixlen=32)


def ask(client: Client, type: MsgType, satype: SaType, *extensions: Extension) -> None:
    request = Message(type=type, satype=satype, seq=1, pid=7, extensions=extensions)
    (record,) = client.request(request).records
    assert Message.decode(record, OPENBSD).errno == 0


def add(client: Client, satype: SaType, src: str, dst: str, spi: int, flags: int) -> None:
    encrypt = 12 if satype == SaType.ESP else 0
    keys = [Key(exttype=ExtType.KEY_ENCRYPT, bits=128, key=KEY)] if encrypt else []
    ask(
        client, MsgType.ADD, satype,
        Sa(spi=spi, replay=64, auth=5, encrypt=encrypt, state=SaState.MATURE, flags=flags),
        place(ExtType.ADDRESS_SRC, src), place(ExtType.ADDRESS_DST, dst),
        Key(exttype=ExtType.KEY_AUTH, bits=256, key=MAC), *keys,
    )  # fmt: skip


def group(client: Client, dst: str, esp: int, ah: int) -> None:
    ask(
        client, MsgType.X_GRPSPIS, SaType.ESP,
        Sa(spi=esp), place(ExtType.ADDRESS_DST, dst),
        Sa(spi=ah, exttype=ExtType.X_OPENBSD_SA2), place(ExtType.X_DST2, dst),
        Protocol(exttype=ExtType.X_SATYPE2, proto=SaType.AH),
    )  # fmt: skip


def flow(client: Client, src: str, dst: str, way: int) -> None:
    """Between two hosts; of a flow the own end stands first, whichever way."""
    own, peer = (src, dst) if way == 2 else (dst, src)
    ask(
        client, MsgType.X_ADDFLOW, SaType.ESP,
        Protocol(exttype=ExtType.X_FLOW_TYPE, proto=FlowType.REQUIRE, direction=way),
        place(ExtType.ADDRESS_SRC, own), place(ExtType.ADDRESS_DST, peer),
        place(ExtType.X_SRC_FLOW, src), place(ExtType.X_SRC_MASK, "255.255.255.255"),
        place(ExtType.X_DST_FLOW, dst), place(ExtType.X_DST_MASK, "255.255.255.255"),
        Protocol(exttype=ExtType.X_PROTOCOL, proto=0),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["transport", "tunnel"])
def test_grouped_sas_seal_one_behind_the_other(net: Net, tmp_path: Path, mode: str) -> None:
    """A speaks OpenBSD's PF_KEY; B has a bundle of KAME's, and is content."""
    a, b = net.host("a"), net.host("b")
    _, b_dev = net.link(a, f"{A}/32", b, f"{B}/32")
    here, there = Daemon(a, tmp_path), Daemon(b, tmp_path)
    with Client(here.socket, dialect="openbsd") as client:
        for src, dst, esp, ah, way in ((A, B, 1000, 2000, 2), (B, A, 1001, 2001, 1)):
            add(client, SaType.ESP, src, dst, esp, TUNNEL if mode == "tunnel" else 0)
            add(client, SaType.AH, src, dst, ah, 0)
            flow(client, src, dst, way)
            group(client, dst, esp, ah)
    out, back = (f"{B}-{A}", f"{A}-{B}") if mode == "tunnel" else ("", "")
    encrypt, auth = f'-E aes-cbc "{KEY.decode()}"', f'-A hmac-sha2-256 "{MAC.decode()}"'
    there.setkey(f"""
add {A} {B} esp 1000 -r 64 {encrypt} {auth}; add {A} {B} ah 2000 -r 64 {auth};
add {B} {A} esp 1001 -r 64 {encrypt} {auth}; add {B} {A} ah 2001 -r 64 {auth};
spdadd {B} {A} any -P out ipsec esp/{mode}/{out}/require ah/transport//require;
spdadd {A} {B} any -P in ipsec esp/{mode}/{back}/require ah/transport//require;
""")
    with Tap(b, b_dev) as tap:
        assert a.run("ping", "-c2", "-i0.1", "-W2", B, check=False).returncode == 0
        assert a.run("ping", "-c1", "-W2", "-s", "3000", B, check=False).returncode == 0
    heads = [octets for octets in tap.packets if not octets[6] & 0x1F | octets[7]]
    assert heads
    for octets in heads:
        assert (octets[9], octets[20]) == (IPPROTO_AH, IPPROTO_ESP), "ESP inside of AH"
    for daemon in (here, there):
        assert daemon.counter("ah", "input") >= 3
        assert daemon.counter("esp", "input") >= 3
        assert daemon.counter("ipsec", "in_polvio") == 0
