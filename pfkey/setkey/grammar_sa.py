"""The statements about SAs: `add`, `update`, `getspi`, `get`, `delete`, `deleteall`."""

import re
from collections.abc import Mapping
from typing import Any

from pfkey.algorithms import Algorithm, Kind, bits_ok, by_name, lengths_text
from pfkey.const import WINDOW_MAX, KameFlag, Mode, MsgType, SaFlag, SaType
from pfkey.setkey.cursor import Cursor, octets, parse_number
from pfkey.setkey.lexer import QUOTED, WORD, Token
from pfkey.setkey.statements import DeleteAll, Host, Limits, SaStatement

# What a REGISTER reply offers: the bits, least and most, by kind and number.
Offered = Mapping[tuple[str, int], tuple[int, int]]

SATYPES = {
    "esp": SaType.ESP,
    "esp-old": SaType.ESP,
    "esp-udp": SaType.ESP,
    "ah": SaType.AH,
    "ah-old": SaType.AH,
    "ipcomp": SaType.X_IPCOMP,
}
MODES = {"transport": Mode.TRANSPORT, "tunnel": Mode.TUNNEL, "any": Mode.ANY}
FLAGS = {
    "zero-pad": KameFlag.ZERO_PAD,
    "random-pad": KameFlag.RANDOM_PAD,
    "seq-pad": KameFlag(0),
}
# Old variants of DES: the name, its row, the flag that tells them apart, the protocol it needs.
VARIANTS = {
    "des-deriv": ("des-cbc", KameFlag.DERIV, "esp"),
    "des-32iv": ("des-cbc", KameFlag.IV4B, "esp-old"),
}
LIFETIMES = {"-lh": "hard", "-ls": "soft", "-bh": "hard", "-bs": "soft"}
TCP_WHY = (
    "tcp-md5 cannot be used here: TCP signatures (RFC 2385) are made inside the kernel's TCP,"
    " which pfkeyd does not run"
)
_SPI = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_HEX = re.compile(r"0[xX]([0-9a-fA-F]+)")
_U64 = 2**64 - 1


def satype(cursor: Cursor) -> tuple[Token, int]:
    """The protocol word and its SA type."""
    token = cursor.word("a protocol (esp, ah, ipcomp …)")
    if token.text == "tcp":
        raise cursor.fail(TCP_WHY, token)
    found = SATYPES.get(token.text)
    if found is None:
        raise cursor.fail(f"syntax error: none of {', '.join(SATYPES)}", token)
    return token, found


def spi(cursor: Cursor) -> int:
    """An SPI or a CPI."""
    token = cursor.word("an SPI")
    if not _SPI.fullmatch(token.text):
        raise cursor.fail("invalid SPI", token)
    value = parse_number(token.text)
    if value > 0xFFFFFFFF:
        raise cursor.fail("SPI too big.", token)
    return value


def pairs(cursor: Cursor) -> tuple[tuple[Host, Host], ...]:
    """Source and destination: all pairs of one family."""
    family, is_numeric = cursor.family_options()
    _, sources = cursor.host(family, is_numeric)
    sport = cursor.port()
    token, destinations = cursor.host(family, is_numeric)
    dport = cursor.port()
    found = tuple(
        (src._replace(port=sport), dst._replace(port=dport))
        for src in sources
        for dst in destinations
        if len(src.address) == len(dst.address)
    )
    if not found:
        raise cursor.fail("Family mismatch: one end is IPv4, the other IPv6", token)
    return found


def one_pair(cursor: Cursor) -> tuple[Host, Host]:
    """Source and destination where only one address each makes sense."""
    first = cursor.token
    found = pairs(cursor)
    if len(found) > 1:
        raise cursor.fail("multiple address specified", first)
    return found[0]


def parse_sa(cursor: Cursor, type: MsgType, offered: Offered | None) -> SaStatement:
    """`add` and its siblings, after the first word."""
    is_one = type in (MsgType.GET, MsgType.DELETE)
    addresses = (one_pair(cursor),) if is_one else pairs(cursor)
    proto, number = satype(cursor)
    values: dict[str, Any] = {
        "line": cursor.line, "type": type, "pairs": addresses, "satype": number,
    }  # fmt: skip
    if proto.text == "esp-udp":
        values["is_natt"] = True
        coming = cursor.token
        if coming.kind == WORD and not _SPI.fullmatch(coming.text):
            token, hosts = cursor.host(0, False)
            if len(hosts) > 1:
                raise cursor.fail("multiple address specified", token)
            values["natt_oa"] = hosts[0]._replace(port=cursor.port())
    spi_token = cursor.token
    values["spi"] = spi(cursor)
    flags: int = KameFlag.CYCSEQ | (KameFlag.OLD if proto.text.endswith("-old") else 0)
    seen: set[str] = set()
    while cursor.peek():
        token = cursor.token
        option = token.text
        if option in seen:
            raise cursor.fail(f"syntax error: {option} is given twice", token)
        if option == "-f":  # the one option that may come again
            cursor.take()
            flags = _flag(cursor, flags)
            continue
        seen.add(option)
        if option == "-esn":  # FreeBSD's
            cursor.take()
            flags |= SaFlag.ESN
            continue
        if not _plain(cursor, option, values):
            flags |= _algorithm(cursor, option, proto, values, offered)
    values["flags"] = int(flags)
    if type in (MsgType.ADD, MsgType.UPDATE):
        _complete(cursor, proto, values)
        cpi_fits = values["spi"] <= 0xFFFF or number != SaType.X_IPCOMP
        if not cpi_fits:
            raise cursor.fail("SPI too big. A CPI has 16 bits", spi_token)
    return SaStatement(**values)


def parse_deleteall(cursor: Cursor) -> DeleteAll:
    """`deleteall src dst protocol`."""
    pair = one_pair(cursor)
    _, number = satype(cursor)
    cursor.end()
    return DeleteAll(line=cursor.line, pair=pair, satype=number)


def _flag(cursor: Cursor, flags: int) -> int:
    token = cursor.word("an extension flag")
    if token.text == "nocyclic-seq":
        return flags & ~KameFlag.CYCSEQ
    if token.text not in FLAGS:
        raise cursor.fail(f"syntax error: none of {', '.join(FLAGS)}, nocyclic-seq", token)
    return flags | FLAGS[token.text]


def _plain(cursor: Cursor, option: str, values: dict[str, Any]) -> bool:
    """Options that are neither flags nor algorithms; False if this is none."""
    if option == "-m":
        cursor.take()
        token = cursor.word("a mode")
        if token.text not in MODES:
            raise cursor.fail(f"syntax error: none of {', '.join(MODES)}", token)
        values["mode"] = MODES[token.text]
    elif option == "-u":
        cursor.take()
        values["reqid"] = cursor.number("a request number")
    elif option == "-r":
        cursor.take()
        values["replay"] = cursor.number("the size of the replay window", WINDOW_MAX)
    elif option == "-ctx":
        cursor.take()
        values["context"] = cursor.context()
    elif option in LIFETIMES:
        cursor.take()
        is_time = option[1] == "l"
        amount = cursor.number("a lifetime in seconds" if is_time else "a number of octets", _U64)
        end = LIFETIMES[option]
        before = values.get(end, Limits())
        values[end] = before._replace(seconds=amount) if is_time else before._replace(octets=amount)
    else:
        return False
    return True


def _algorithm(
    cursor: Cursor, option: str, proto: Token, values: dict[str, Any], offered: Offered | None
) -> KameFlag:
    """`-E`, `-A`, `-C`, `-R`; the flags that follow from them."""
    number = values["satype"]
    if option == "-R" and number == SaType.X_IPCOMP:
        cursor.take()
        return KameFlag.RAWCPI
    wants = {"-E": SaType.ESP, "-C": SaType.X_IPCOMP}.get(option)
    if option not in ("-E", "-A", "-C"):
        is_piece = option[:1] != "-" and not {"encrypt_key", "auth_key"}.isdisjoint(values)
        cursor.unexpected("an option such as -E, -A, -m, -u or ;", is_secret=is_piece)
    if (wants is not None and wants != number) or (option == "-A" and number == SaType.X_IPCOMP):
        raise cursor.fail(f"syntax error: {option} does not go with {proto.text}")
    cursor.take()
    if option == "-C":
        row, _ = _named(cursor, Kind.COMPRESS, proto)
        values["encrypt"] = row.number
        return KameFlag(0)
    kind = Kind.ENCRYPT if option == "-E" else Kind.AUTH
    row, flags = _named(cursor, kind, proto)
    values[kind.value] = row.number
    values[f"{kind.value}_key"] = _key(cursor, row, offered)
    return flags


def _named(cursor: Cursor, kind: Kind, proto: Token) -> tuple[Algorithm, KameFlag]:
    token = cursor.word("an algorithm")
    name, flags = token.text, KameFlag(0)
    if kind == Kind.ENCRYPT and name in VARIANTS:
        name, flags, needs = VARIANTS[name]
        if proto.text != needs:
            raise cursor.fail(f"algorithm mismatched: {token.text} needs {needs}", token)
    if name == "tcp-md5":
        raise cursor.fail(TCP_WHY, token)
    row = by_name(kind, name)
    if row is None:
        what = {Kind.ENCRYPT: "an encryption", Kind.AUTH: "an authentication"}.get(kind)
        raise cursor.fail(f"unsupported algorithm: not {what or 'a compression'} algorithm", token)
    return row, flags


def _key(cursor: Cursor, row: Algorithm, offered: Offered | None) -> bytes | None:
    """The key after an algorithm; None where there is none to be had."""
    token = cursor.token
    if row.max_bits == 0:
        if token.text == '""':
            cursor.take()
        elif token.kind == QUOTED or _HEX.fullmatch(token.text):
            raise cursor.fail(f"Invalid key length: {row.name} takes no key", is_secret=True)
        return None
    found = _HEX.fullmatch(token.text)
    if token.kind != QUOTED and found is None:
        cursor.unexpected('a key, "text" or 0xHEX,', is_secret=token.text[:1] != "-")
    cursor.take()
    if found is None:
        key = octets(token.text[1:-1])
    else:  # an odd number of digits: the first makes an octet of its own
        digits = found[1]
        key = bytes.fromhex("0" + digits if len(digits) % 2 else digits)
    bits = 8 * len(key)
    if not bits_ok(row, bits):
        why = f"Invalid key length: {row.name} takes {lengths_text(row)} bits, got {bits}"
        if "\n" in token.text:
            why += " (the string runs over lines: is a closing quote missing?)"
        raise cursor.fail(why, token, is_secret=True)
    if offered is not None:
        limits = offered.get((row.kind.value, row.number))
        if limits is None:
            raise cursor.fail(f"Not supported: the key engine does not offer {row.name}", token,
                              is_secret=True)  # fmt: skip
        if not limits[0] <= bits <= limits[1]:
            raise cursor.fail(
                f"Invalid key length: the key engine takes {limits[0]} to {limits[1]} bits"
                f" for {row.name}, got {bits}", token, is_secret=True,
            )  # fmt: skip
    return key


def _complete(cursor: Cursor, proto: Token, values: dict[str, Any]) -> None:
    """An SA to be added needs its algorithm."""
    number = values["satype"]
    if number == SaType.ESP and "encrypt" not in values:
        raise cursor.fail(f"No algorithm specified: {proto.text} needs -E (-E null encrypts not)")
    if number == SaType.AH and "auth" not in values:
        raise cursor.fail(f"No algorithm specified: {proto.text} needs -A")
    if number == SaType.X_IPCOMP and "encrypt" not in values:
        raise cursor.fail("No algorithm specified: ipcomp needs -C")
