"""The messages behind tests/golden: two that were seen on a wire, others made for a rendering."""

import ipaddress
from pathlib import Path

from pfkey.const import ExtType, MsgType, SaState, SaType
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_linux import SecCtx
from pfkey.ext_x_natt import NatTPort, NatTType
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Extension, Message

GOLDEN = Path(__file__).parent.parent / "golden"
ANY = str(ipaddress.IPv4Address(0))
NOW = 1700000100  # Nov 14 22:15:00 2023 UTC


def text(name: str) -> str:
    return (GOLDEN / f"{name}.txt").read_text()


def wire(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def end(
    exttype: ExtType, address: str, prefixlen: int | None = None, port: int = 0, proto: int = 0
) -> Address:
    octets = packed(address)
    full = 8 * len(octets)
    return Address(
        exttype=exttype, address=octets, prefixlen=full if prefixlen is None else prefixlen,
        port=port, proto=proto,
    )  # fmt: skip


def _dump(satype: SaType, *extensions: Extension) -> Message:
    return Message(type=MsgType.DUMP, satype=satype, pid=1, extensions=extensions)


def _spd(found: Policy, *extensions: Extension) -> Message:
    return Message(type=MsgType.X_SPDDUMP, pid=1, reserved=1, extensions=(*extensions, found))


def _pair(
    src: str, dst: str, prefixlen: int | None, ports: tuple[int, int], proto: int
) -> tuple[Address, Address]:
    return (
        end(ExtType.ADDRESS_SRC, src, prefixlen, ports[0], proto),
        end(ExtType.ADDRESS_DST, dst, prefixlen, ports[1], proto),
    )


ESP = Message.decode(wire("sa-esp"))
TUNNEL = Message.decode(wire("policy-tunnel"))
NATT = _dump(
    SaType.ESP,
    Sa(spi=0x1000, replay=32, state=SaState.DYING, auth=7, encrypt=12, flags=0x40),
    Sa2(mode=2, reqid=0x4001, sequence=42),
    end(ExtType.ADDRESS_SRC, "10.0.0.1"),
    end(ExtType.ADDRESS_DST, "10.0.0.2"),
    Key(exttype=ExtType.KEY_AUTH, bits=512, key=bytes(range(64))),
    Key(exttype=ExtType.KEY_ENCRYPT, bits=256, key=bytes(range(32))),
    NatTType(type=2),
    NatTPort(exttype=ExtType.X_NAT_T_SPORT, port=4500),
    NatTPort(exttype=ExtType.X_NAT_T_DPORT, port=4501),
    end(ExtType.X_NAT_T_OA, "192.168.1.5"),
)
IPCOMP = _dump(
    SaType.X_IPCOMP,
    Sa(spi=2, encrypt=2),
    Sa2(),
    Lifetime(exttype=ExtType.LIFETIME_CURRENT),
    end(ExtType.ADDRESS_SRC, "2001:db8::1"),
    end(ExtType.ADDRESS_DST, "2001:db8::2"),
)
AH_PORTS = _dump(
    SaType.AH,
    Sa(spi=256, auth=2, state=SaState.DEAD),
    Sa2(mode=1),
    end(ExtType.ADDRESS_SRC, "1.2.3.4", port=500),
    end(ExtType.ADDRESS_DST, "4.3.2.1"),
    Key(exttype=ExtType.KEY_AUTH, bits=128, key=b"mogamogamogamoga"),
    SecCtx(doi=1, alg=1, context=b"ctx_t1\0"),
)
PORTS = _spd(
    Policy(type=1, dir=1, id=8),
    end(ExtType.ADDRESS_SRC, "10.0.1.1", port=110, proto=6),
    end(ExtType.ADDRESS_DST, ANY, 0, proto=6),
)
ICMP6 = _spd(Policy(type=1, dir=1, id=8, priority=0x7FFFFFFB), *_pair("::", "::", 0, (135, 0), 58))
ICMP = _spd(
    Policy(
        type=2,
        dir=2,
        id=9,
        priority=0x40000007,
        requests=(
            IpsecRequest(proto=50, mode=1, level=3, reqid=12),
            IpsecRequest(proto=51, mode=1, level=3, reqid=16385),
        ),
    ),
    *_pair("1.2.3.4", "4.3.2.1", None, (8, 0), 1),
)
SOCKET = _spd(Policy(type=1, dir=4, id=11), *_pair(ANY, ANY, 0, (0, 0), 255))
GRE = _spd(
    Policy(type=0, dir=3, id=10, priority=0xC0000000),
    *_pair("1.2.3.4", "4.3.2.1", None, (1, 2), 47),
)
POLICIES = {
    "policy-tunnel": TUNNEL,
    "policy-ports": PORTS,
    "policy-icmp6": ICMP6,
    "policy-icmp": ICMP,
    "policy-socket": SOCKET,
    "policy-gre": GRE,
}
SAS = {"sa-esp": ESP, "sa-natt": NATT, "sa-ipcomp": IPCOMP, "sa-ah-ports": AH_PORTS}
