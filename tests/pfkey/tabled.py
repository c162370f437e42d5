"""A second encoder, from specs/tables/ alone: no layout, number or dialect of pfkey/ is used.

What it builds is what `Message.encode` must build. It takes what `strategies.messages` makes.
"""

import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pfkey.base import Unknown
from pfkey.const import ExtType, IdentType, MsgType, SaType
from pfkey.ext_address import Address
from pfkey.ext_ident import Ident
from pfkey.ext_key import Key
from pfkey.ext_prop import Proposal
from pfkey.ext_sa import Sa
from pfkey.ext_sens import Sensitivity
from pfkey.ext_supported import Supported
from pfkey.ext_x_bsd import Credential, IfHwOffload, Rdomain, Tag
from pfkey.ext_x_linux import KmAddress, KmPrivate, SecCtx
from pfkey.ext_x_natt import NatTFrag
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message

TABLES = Path(__file__).parents[2] / "specs" / "tables"
DIALECTS = tomllib.loads((TABLES / "dialects.toml").read_text())
EXTENSIONS = tomllib.loads((TABLES / "extensions.toml").read_text())
ALGORITHMS = tomllib.loads((TABLES / "algorithms.toml").read_text())
ORDER = ("linux", "netbsd", "freebsd", "openbsd")
PLAIN = ("auth", "encrypt", "compress")  # numbers of algorithms fit an octet in every system


def our_number(row: dict[str, int], *, is_moved: bool = True) -> int:
    """Ours for a row: the first system's, moved up by its base."""
    at, system = next((i, s) for i, s in enumerate(ORDER) if s in row)
    return row[system] + (at << 16) * is_moved


def _registry(table: str) -> dict[int, dict[str, int]]:
    rows = ALGORITHMS[table] if table in PLAIN else DIALECTS[table]
    return {our_number(row, is_moved=table not in PLAIN): row for row in rows.values()}


REGISTRIES = {table: _registry(table) for table in (*DIALECTS, *PLAIN)}


def theirs(table: str, ours: int, system: str) -> int:
    """The system's number; one without a row came from there and goes back there."""
    row = REGISTRIES[table].get(ours)
    if row is not None and system in row:
        return row[system]
    return int(ours) - (ORDER.index(system) << 16) if ours else 0


def build(structure: str, system: str, **values: Any) -> bytes:
    """The octets of a structure; fields that are not given are zero."""
    variant = EXTENSIONS.get("variant", {}).get(system, {}).get(structure, structure)
    row = EXTENSIONS["structure"][variant]
    out = bytearray(row["octets"])
    for name, offset, octets, order in row["fields"]:
        value = values.get(name, 0)
        if order != "octets":
            value = value.to_bytes(octets, "big" if order == "network" else sys.byteorder)
        elif not value:
            value = bytes(octets)
        assert len(value) == octets, (structure, name)
        out[offset : offset + octets] = value
    return bytes(out)


def padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 8)


def sockaddr(address: bytes, system: str, port: int, flowinfo: int = 0, scope: int = 0) -> bytes:
    name, family = ("sockaddr_in", "AF_INET") if len(address) == 4 else ("sockaddr_in6", "AF_INET6")
    return build(
        name, system, sa_len={4: 16, 16: 28}[len(address)], port=port, address=address,
        family=DIALECTS["family"][family][system], flowinfo=flowinfo, scope_id=scope,
    )  # fmt: skip


def _request(r: IpsecRequest, system: str) -> bytes:
    pair = b""
    if r.src is not None and r.dst is not None:
        both = sockaddr(r.src, system, r.src_port) + sockaddr(r.dst, system, r.dst_port)
        pair = padded(both)
    size = len(build("sadb_x_ipsecrequest", system)) + len(pair)
    head = build(
        "sadb_x_ipsecrequest", system, len=size, proto=r.proto, level=r.level, reqid=r.reqid,
        mode=theirs("mode", r.mode, system),
    )  # fmt: skip
    return head + pair


def parts(e: Extension, system: str, cipher: str) -> tuple[dict[str, Any], bytes]:
    """The fields of an extension's structure, and what follows it."""
    match e:
        case Unknown():
            raise AssertionError("has no structure")
        case Sa():
            unit = 8 if system in ("netbsd", "freebsd") else 1
            flags = sum(e.flags >> 32 * up & 0xFFFF_FFFF for up in range(4))
            return asdict(e) | {
                "replay": -(-e.replay // unit), "auth": theirs("auth", e.auth, system),
                "encrypt": theirs(cipher, e.encrypt, system), "flags": flags,
            }, b""  # fmt: skip
        case Address():
            where = sockaddr(e.address, system, e.port, e.flowinfo, e.scope_id)
            return asdict(e), padded(where)
        case Key():
            return asdict(e), padded(e.key)
        case Ident():
            tail = e.text + b"\0" if e.text else b""
            if e.kind == IdentType.X_ADDR:
                tail = sockaddr(e.address, system, e.port)
            return {"type": theirs("ident", e.kind, system), "id": e.id}, padded(tail)
        case Sensitivity():
            words = (*e.sens_bitmap, *e.integ_bitmap)
            sizes = {"sens_len": len(e.sens_bitmap), "integ_len": len(e.integ_bitmap)}
            return asdict(e) | sizes, b"".join(w.to_bytes(8, sys.byteorder) for w in words)
        case Proposal():
            combs = (
                asdict(c)
                | {"auth": theirs("auth", c.auth, system)}
                | {"encrypt": theirs(cipher, c.encrypt, system)}
                for c in e.combs
            )
            rows = b"".join(build("sadb_comb", system, **c) for c in combs)
            return {"num": len(e.combs), "replay": e.replay}, rows
        case Supported():
            names = {ExtType.SUPPORTED_AUTH: "auth", ExtType.X_SUPPORTED_COMP: "compress"}
            table = names.get(ExtType(e.exttype), cipher)
            alg = (asdict(a) | {"id": theirs(table, a.id, system)} for a in e.algorithms)
            return {}, b"".join(build("sadb_alg", system, **a) for a in alg)
        case Policy():
            tail = b"".join(_request(r, system) for r in e.requests)
            fields = {"type": e.type, "id": e.id, "priority": e.priority, "scope": e.scope}
            return fields | {"dir": theirs("dir", e.dir, system)}, padded(tail)
        case KmAddress():
            pair = sockaddr(e.local, system, e.local_port)
            return {}, padded(pair + sockaddr(e.remote, system, e.remote_port))
        case KmPrivate():
            return {}, e.data
        case SecCtx():
            return asdict(e) | {"ctx_len": len(e.context)}, padded(e.context)
        case Credential():
            return {"type": e.kind}, e.secret
        case Tag():
            return {"taglen": len(e.text) + 1}, padded(e.text + b"\0")
        case IfHwOffload():
            return {"flags": e.flags, "if": e.name.ljust(32, b"\0")}, b""
        case Rdomain():
            return {"dom1": e.before, "dom2": e.after}, b""
        case NatTFrag():
            return {"fraglen": e.octets}, b""
        case Word():
            return dict.fromkeys(("packets", "replay", "seq", "unit", "mtu"), e.value), b""
        case _:
            fields_of = asdict(e)
            if "octets" in fields_of:  # what RFC 2367 calls bytes
                fields_of["bytes"] = fields_of.pop("octets")
            if e.exttype == ExtType.X_SATYPE2:
                fields_of["proto"] = theirs("satype", fields_of["proto"], system)
            if e.exttype == ExtType.X_SA2:
                fields_of["mode"] = theirs("mode", fields_of["mode"], system)
            return fields_of, b""


def extension(e: Extension, system: str, cipher: str = "encrypt") -> bytes:
    """One extension."""
    if isinstance(e, Unknown):
        return e.octets
    row = EXTENSIONS["extension"][ExtType(e.exttype).name]
    fields, tail = parts(e, system, cipher)
    size = len(build(row["structure"], system)) + len(tail)
    number = DIALECTS["extension"][ExtType(e.exttype).name][system]
    fields |= {"len": -(-size // 8), "exttype": number}
    return padded(build(row["structure"], system, **fields) + tail)


def encode(message: Message, system: str) -> bytes:
    """A whole message."""
    is_ipcomp = message.satype == SaType.X_IPCOMP and system != "linux"
    cipher = "compress" if is_ipcomp else "encrypt"
    body = b"".join(extension(e, system, cipher) for e in message.extensions)
    is_satype = message.type != MsgType.X_PROMISC
    if (message.type, system) == (MsgType.X_SPDDUMP, "freebsd"):
        is_satype = False
    satype = theirs("satype", message.satype, system) if is_satype else message.satype
    error = theirs("errno", message.errno, system)
    head = build(
        "sadb_msg", system, version=2, type=theirs("message", message.type, system),
        errno=error, satype=satype, len=(16 + len(body)) // 8, seq=message.seq, pid=message.pid,
        reserved=message.reserved,
    )  # fmt: skip
    return head + body
