"""The values that engine, data path and steering share, immutable, with JSON.

Addresses are packed, in network order. JSON is the form on the workers' channels; keys travel
there as hexadecimal, and nowhere else.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pfkey.const import IPPROTO_COMP, Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One step of a policy's bundle, innermost first."""

    proto: int  # 50 ESP, 51 AH, 108 IPComp
    mode: Mode
    level: Level
    reqid: int = 0
    src: bytes | None = None  # tunnel end points
    dst: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy as data path and steering see it.

    `(priority, order)` ascending is the order of the match: the first match decides. `is_hold`
    marks what a crashed predecessor left behind: it drops what it selects and nobody can dump it.
    `is_default` marks what a knob puts behind all others (net.inet.ipsec.def_policy).
    """

    id: int
    dir: Dir
    type: PolicyType
    selector: Selector
    requests: tuple[Request, ...] = ()
    priority: int = 0
    order: int = 0
    is_hold: bool = False
    is_default: bool = False

    @property
    def key(self) -> tuple[Dir, Selector]:
        """What makes two policies the same one (EEXIST, delete)."""
        return (self.dir, self.selector)

    @property
    def is_required(self) -> bool:
        """Whether clear packets are refused: at least one request above `use`.

        IPComp does not count: what does not shrink comes as it was (RFC 3173 2.2).
        """
        return self.type == PolicyType.IPSEC and any(
            r.level != Level.USE and r.proto != IPPROTO_COMP for r in self.requests
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker's channel or a hold's comment."""
        s = self.selector
        return {
            "id": self.id, "dir": int(self.dir), "type": int(self.type),
            "prio": self.priority, "order": self.order, "hold": self.is_hold,
            "src": [s.src.address.hex(), s.src.prefixlen, s.src.port],
            "dst": [s.dst.address.hex(), s.dst.prefixlen, s.dst.port],
            "proto": s.proto,
            "requests": [
                [r.proto, int(r.mode), int(r.level), r.reqid,
                 r.src.hex() if r.src else None, r.dst.hex() if r.dst else None]
                for r in self.requests
            ],
        }  # fmt: skip

    @classmethod
    def from_json(cls, o: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            id=o["id"], dir=Dir(o["dir"]), type=PolicyType(o["type"]), priority=o["prio"],
            order=o["order"], is_hold=o["hold"],
            selector=Selector(
                Range(bytes.fromhex(o["src"][0]), o["src"][1], o["src"][2]),
                Range(bytes.fromhex(o["dst"][0]), o["dst"][1], o["dst"][2]),
                o["proto"],
            ),
            requests=tuple(
                Request(proto=p, mode=Mode(m), level=Level(lv), reqid=q,
                        src=bytes.fromhex(s) if s else None, dst=bytes.fromhex(d) if d else None)
                for p, m, lv, q, s, d in o["requests"]
            ),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SaSpec:
    """A usable SA as the data path sees it. `repr` shows no key.

    `slot` numbers its record in the state file (sequence, window edge, use). `mode` ANY matches
    transport and tunnel (KAME; the FAQ's files rely on it). Limits of 0 do not limit.

    `encap` is 2, UDP_ENCAP_ESPINUDP, for ESP in UDP (RFC 3948) between the ports `sport` and
    `dport`; `oa_src` and `oa_dst` are its addresses before a NAT changed them, empty for unknown.
    `via` is where the peer of an outbound one is now, if that is another address than `dst`, and
    `origin` where that of an inbound one is, if it is another than `src`.
    """

    slot: int
    proto: int
    spi: int
    src: bytes
    dst: bytes
    mode: Mode
    reqid: int = 0
    auth: int = 0  # SADB_AALG number, 0 none
    auth_key: bytes = b""
    icv_bits: int = 0  # another length of the ICV than the algorithm's RFC gives; 0 for that
    encrypt: int = 0  # SADB_EALG number, 0 none; of IPComp the SADB_X_CALG number
    encrypt_key: bytes = b""
    replay_packets: int = 0
    flags: int = 0
    order: int = 0  # larger is newer
    is_dying: bool = False
    hard_bytes: int = 0
    hard_packets: int = 0
    encap: int = 0
    sport: int = 0
    dport: int = 0
    oa_src: bytes = b""
    oa_dst: bytes = b""
    via: bytes = b""
    origin: bytes = b""

    @property
    def far_end(self) -> bytes:
        """The destination of the packets that it makes."""
        return self.via or self.dst

    def take_place(self, slot: int, order: int) -> None:
        """Give it both numbers, once, before anybody has it: a copy of it takes long."""
        object.__setattr__(self, "slot", slot)
        object.__setattr__(self, "order", order)

    def __repr__(self) -> str:
        return (
            f"SaSpec(slot={self.slot}, proto={self.proto}, spi={self.spi:#010x}, "
            f"src={self.src.hex()}, dst={self.dst.hex()}, keys=…)"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker's channel; keys in hexadecimal."""
        return {
            "slot": self.slot, "proto": self.proto, "spi": self.spi, "src": self.src.hex(),
            "dst": self.dst.hex(), "mode": int(self.mode), "reqid": self.reqid,
            "auth": self.auth, "auth_key": self.auth_key.hex(), "icv_bits": self.icv_bits,
            "encrypt": self.encrypt, "encrypt_key": self.encrypt_key.hex(),
            "replay": self.replay_packets, "flags": self.flags, "order": self.order,
            "dying": self.is_dying, "hard_bytes": self.hard_bytes,
            "hard_packets": self.hard_packets, "encap": self.encap, "sport": self.sport,
            "dport": self.dport, "oa_src": self.oa_src.hex(), "oa_dst": self.oa_dst.hex(),
            "via": self.via.hex(), "origin": self.origin.hex(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, o: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            slot=o["slot"], proto=o["proto"], spi=o["spi"], src=bytes.fromhex(o["src"]),
            dst=bytes.fromhex(o["dst"]), mode=Mode(o["mode"]), reqid=o["reqid"],
            auth=o["auth"], auth_key=bytes.fromhex(o["auth_key"]), icv_bits=o["icv_bits"],
            encrypt=o["encrypt"], encrypt_key=bytes.fromhex(o["encrypt_key"]),
            replay_packets=o["replay"], flags=o["flags"], order=o["order"],
            is_dying=o["dying"], hard_bytes=o["hard_bytes"], hard_packets=o["hard_packets"],
            encap=o["encap"], sport=o["sport"], dport=o["dport"],
            oa_src=bytes.fromhex(o["oa_src"]), oa_dst=bytes.fromhex(o["oa_dst"]),
            via=bytes.fromhex(o["via"]), origin=bytes.fromhex(o["origin"]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """What the data path did with an SA. Times are wall-clock seconds, 0 for never."""

    packets: int = 0
    octets: int = 0
    first_use: float = 0.0
    last_use: float = 0.0


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """What the data path did under a policy since it said so last, a second or so ago.

    `drops` are packets by counter: (group, name).
    """

    policy: int
    packets: int = 0
    octets: int = 0
    drops: tuple[tuple[tuple[str, str], int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An SA that packets want and that is not there: one request of one outbound policy.

    `mode` is transport or tunnel. Two needs of different policies are equal when the same SA ends
    both.
    """

    policy: int = field(compare=False)
    proto: int
    mode: Mode
    reqid: int
    src: bytes
    dst: bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker's channel."""
        return asdict(self) | {"src": self.src.hex(), "dst": self.dst.hex()}

    @classmethod
    def from_json(cls, o: dict[str, Any]) -> Self:
        """The inverse of `to_json`; a worker may say anything.

        Raises:
            ValueError: KeyError, TypeError: it is none.
        """
        src, dst = bytes.fromhex(o["src"]), bytes.fromhex(o["dst"])
        numbers = (o["policy"], o["proto"], o["mode"], o["reqid"])
        if len(src) != len(dst) or len(src) not in (4, 16):
            raise ValueError("two addresses of one family make a need")
        if not all(isinstance(n, int) and 0 <= n < 2**32 for n in numbers):
            raise ValueError("a need's numbers have 32 bits")
        return cls(
            policy=o["policy"], proto=o["proto"], mode=Mode(o["mode"]), reqid=o["reqid"],
            src=src, dst=dst,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the engine tells the data path beside SAs and policies.

    Attributes:
        is_asking: somebody answers ACQUIREs, so packets may wait for an SA.
        wait_seconds: how long one waits at most.
        prefers_old_sa: of several SAs that fit, output takes the oldest and not the newest.
        ah_cleartos: AH's ICV does not cover IPv4's TOS.
        ah_offsetmask: which bits of IPv4's flags and offset it covers.
        dfbit: of an outer IPv4 header: 0 cleared, 1 set, 2 as the inner one.
        ecn, ecn6: 1 marks travel through a tunnel; 0 they do not; -1 nor does the class of
            service; by the version of the outer header.
        checks_source: nothing comes out of a tunnel in the name of this host.
        disabled: protocols that are neither sealed nor opened.
        repeats_numbers, spoils_icvs: faults on purpose.
        is_debugging: what is dropped is logged.
    """

    is_asking: bool = False
    wait_seconds: int = 20
    prefers_old_sa: bool = False
    ah_cleartos: bool = True
    ah_offsetmask: int = 0
    dfbit: int = 2
    ecn: int = 1
    ecn6: int = 1
    checks_source: bool = True
    disabled: tuple[int, ...] = ()
    repeats_numbers: bool = False
    spoils_icvs: bool = False
    is_debugging: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker's channel."""
        return asdict(self)

    @classmethod
    def from_json(cls, o: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**o | {"disabled": tuple(o["disabled"])})
