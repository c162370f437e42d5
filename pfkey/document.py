"""The one JSON rendering of SAs, policies and messages: setkey --json, pfkey monitor --json.

Plain values for json.dumps; held to the schema files in pfkey/schemas. A new `schema_version`
means that something was renamed or taken away; additions do not change it. Keys are null unless
asked for.
"""

import dataclasses
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

from pfkey import policy as policies
from pfkey import protocols
from pfkey.algorithms import Kind
from pfkey.const import Dir, ExtType, MsgType, PolicyType, SaType
from pfkey.dialect import Dialect, digits
from pfkey.ext_address import Address
from pfkey.ext_key import Key
from pfkey.ext_lifetime import Lifetime
from pfkey.ext_sa import Sa
from pfkey.ext_x_policy import IpsecRequest
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.sockaddr import address_text
from pfkey.text import STATES, algorithm, is_per_socket, satype, second

SCHEMA_VERSION = 1
_SECRETS = {"key", "secret"}
_ADDRESSES = {"address", "src", "dst", "local", "remote"}


def name(enum: type[IntEnum], number: int) -> str:
    """A number's name in one of `pfkey.const`'s tables, or its digits."""
    try:
        return enum(number).name
    except ValueError:
        return digits(number)


def message(record: Message, *, show_keys: bool = False) -> dict[str, Any]:
    """A message with its extensions in the order of the wire, field by field."""
    return {
        "type": name(MsgType, record.type).removeprefix("X_"),
        "satype": name(SaType, record.satype).removeprefix("X_").lower(),
        "errno": record.errno,
        "seq": record.seq,
        "pid": record.pid,
        "extensions": [_extension(e, show_keys, record.dialect) for e in record.extensions],
    }


def _extension(extension: Extension, show_keys: bool, dialect: Dialect) -> dict[str, Any]:
    exttype = name(ExtType, extension.exttype).removeprefix("X_")
    fields = _fields(extension, show_keys)
    if isinstance(extension, Sa):  # ours may have more bits than JSON's readers take
        fields["flags"] = dialect.flags_out(extension.flags)
    return {"extension": exttype, **fields}


def _fields(value: Any, show_keys: bool) -> dict[str, Any]:
    return {
        field.name: _value(field.name, getattr(value, field.name), show_keys)
        for field in dataclasses.fields(value)
        if field.name != "exttype"
    }


def _value(field: str, value: Any, show_keys: bool) -> Any:
    if isinstance(value, bytes):
        if field in _SECRETS:
            return value.hex() if show_keys else None
        if field in _ADDRESSES and len(value) in (4, 16):
            return address_text(value)
        return value.hex()
    if isinstance(value, tuple):
        return [_value(field, item, show_keys) for item in value]
    if dataclasses.is_dataclass(value):
        return _fields(value, show_keys)
    return int(value) if isinstance(value, int) else value


def _lifetime(found: Lifetime | None) -> dict[str, int] | None:
    if found is None:
        return None
    return {
        "allocations": found.allocations,
        "octets": found.octets,
        "addtime": found.addtime,
        "usetime": found.usetime,
    }


def _lifetimes(record: Message) -> dict[str, Any]:
    return {
        "current": _lifetime(record.current),
        "hard": _lifetime(record.hard),
        "soft": _lifetime(record.soft),
    }


def _algorithm(kind: Kind, number: int, key: Key | None, show_keys: bool) -> dict[str, Any] | None:
    if not number and key is None:
        return None
    return {
        "algorithm": algorithm(kind, number),
        "number": number,
        "bits": key.bits if key else 0,
        "key": key.key.hex() if key is not None and show_keys else None,
    }


def _ip(found: Address | None) -> str | None:
    return found.text if found else None


def sa(record: Message, *, show_keys: bool = False) -> dict[str, Any]:
    """One SA, from a DUMP or GET reply."""
    association, sa2 = record.sa, second(record)
    number = association.encrypt if association else 0
    auth = association.auth if association else 0
    is_ipcomp = record.satype == SaType.X_IPCOMP
    state = int(association.state) if association else 0
    mode = sa2.mode if sa2 else 0
    window = association.replay if association else 0
    larger = record.ext(ExtType.X_REPLAY_WINDOW)
    if isinstance(larger, Word):
        window = larger.value
    natt = None
    if record.nat_t_type is not None and record.nat_t_type.type:
        sport, dport = record.nat_t_sport, record.nat_t_dport
        natt = {
            "type": record.nat_t_type.type,
            "src_port": sport.port if sport else 0,
            "dst_port": dport.port if dport else 0,
            "original_address": _ip(record.nat_t_oa),
        }
    encrypt = None
    if not is_ipcomp:
        encrypt = _algorithm(Kind.ENCRYPT, number, record.key_encrypt, show_keys)
    return {
        "src": _ip(record.src),
        "dst": _ip(record.dst),
        "protocol": satype(record),
        "mode": policies.mode_name(mode),
        "spi": association.spi if association else 0,
        "reqid": sa2.reqid if sa2 else 0,
        "state": STATES[state] if state < len(STATES) else str(state),
        "replay_window": window,
        "sequence": sa2.sequence if sa2 else 0,
        "flags": record.dialect.flags_out(association.flags) if association else 0,
        "encryption": encrypt,
        "authentication": _algorithm(Kind.AUTH, auth, record.key_auth, show_keys),
        "compression": algorithm(Kind.COMPRESS, number) if is_ipcomp else None,
        "udp_encapsulation": natt,
        "lifetimes": _lifetimes(record),
        "seq": record.seq,
        "pid": record.pid,
        "refcnt": record.reserved,
    }


def _end(found: Address | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"address": found.text, "prefixlen": found.prefixlen, "port": found.port}


def _request(request: IpsecRequest) -> dict[str, Any]:
    return {
        "protocol": policies.PROTO_NAMES.get(request.proto, str(request.proto)),
        "mode": policies.mode_name(request.mode),
        "level": policies.LEVEL_NAMES.get(request.level, str(request.level)),
        "reqid": request.reqid,
        "src": address_text(request.src) if request.src is not None else None,
        "dst": address_text(request.dst) if request.dst is not None else None,
    }


def policy(record: Message) -> dict[str, Any]:
    """One policy, from an SPDDUMP or SPDGET reply. Type and code of ICMP are in the ports."""
    found = record.policy
    proto = record.src.proto if record.src else 255
    direction = found.dir if found else 0
    kind = found.type if found else 0
    known = 0 <= direction < len(policies.DIR_NAMES)
    return {
        "src": _end(record.src),
        "dst": _end(record.dst),
        "protocol": proto,
        "protocol_name": protocols.NAMES.get(proto),
        "direction": policies.DIR_NAMES[direction] if known else name(Dir, direction),
        "type": policies.ACTION_NAMES.get(kind, name(PolicyType, kind)),
        "priority": found.priority if found else 0,
        "id": found.id if found else 0,
        "is_per_socket": is_per_socket(record),
        "requests": [_request(r) for r in found.requests] if found else [],
        "text": policies.render(found) if found else "",
        "lifetimes": _lifetimes(record),
        "seq": record.seq,
        "pid": record.pid,
        "refcnt": record.reserved,
    }


def sad(records: Iterable[Message], *, show_keys: bool = False) -> dict[str, Any]:
    """All SAs: schemas/sad.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sas": [sa(record, show_keys=show_keys) for record in records],
    }


def spd(records: Iterable[Message]) -> dict[str, Any]:
    """All policies, in the order of the dump: schemas/spd.json."""
    return {"schema_version": SCHEMA_VERSION, "policies": [policy(record) for record in records]}
