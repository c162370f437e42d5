"""setkey's grammar: a statement's words become a value of `pfkey.setkey.statements`.

The whole language is in specs/setkey.ebnf; the policy after `-P` belongs to `pfkey.policy`.
"""

from pfkey import policy, protocols
from pfkey.const import UNSPEC_PROTO, MsgType
from pfkey.errors import ConfError, PolicyError
from pfkey.setkey.cursor import Cursor, parse_number
from pfkey.setkey.grammar_sa import Offered, parse_deleteall, parse_sa, satype
from pfkey.setkey.lexer import QUOTED, WORD, Lexed, Source, statements
from pfkey.setkey.names import Names, NumbersOnly, numeric_host
from pfkey.setkey.statements import Network, Quit, SpdStatement, Statement, TableStatement

__all__ = ["Offered", "parse", "parse_statement"]

SA_WORDS = {
    "add": MsgType.ADD,
    "update": MsgType.UPDATE,
    "getspi": MsgType.GETSPI,
    "get": MsgType.GET,
    "delete": MsgType.DELETE,
}
SPD_WORDS = {
    "spdadd": MsgType.X_SPDADD,
    "spdupdate": MsgType.X_SPDUPDATE,
    "spddelete": MsgType.X_SPDDELETE,
}
TABLE_WORDS = {"flush": MsgType.FLUSH, "dump": MsgType.DUMP}
SPD_TABLE_WORDS = {"spdflush": MsgType.X_SPDFLUSH, "spddump": MsgType.X_SPDDUMP}
QUIT_WORDS = ("exit", "quit", "bye")
COMMANDS = (*SA_WORDS, "deleteall", *TABLE_WORDS, *SPD_WORDS, *SPD_TABLE_WORDS, *QUIT_WORDS)

TAGGED_WHY = "tagged policies need a packet filter that tags packets (BSD's pf); Linux has none"

# What people give setkey by mistake, told by the first word of a statement.
STRANGERS = {
    "conn": "this is a strongSwan or libreswan file (ipsec.conf), not setkey's",
    "config": "this is a strongSwan or libreswan file (ipsec.conf), not setkey's",
    "connections": "this is a strongSwan file (swanctl.conf), not setkey's",
    "setkey": "this is a shell script that calls setkey: run it with sh",
    "path": "this looks like a racoon.conf, not like a setkey file",
    "remote": "this looks like a racoon.conf, not like a setkey file",
    "sainfo": "this looks like a racoon.conf, not like a setkey file",
}


def parse_statement(
    lexed: Lexed, names: Names | None = None, offered: Offered | None = None
) -> Statement:
    """Read one statement.

    Args:
        lexed: its words.
        names: how host names, services and protocols become numbers; default: not at all.
        offered: the key lengths that the engine takes, for an early refusal; default: our table's.

    Raises:
        ConfError: with line, column and the word at fault.
    """
    cursor = Cursor(lexed, names or NumbersOnly())
    statement = _statement(cursor, offered)
    cursor.end()
    if not lexed.is_complete:
        raise cursor.fail("syntax error: ; expected at the end of the statement")
    return statement


def parse(
    text: str, file: str = "-", names: Names | None = None, offered: Offered | None = None
) -> tuple[list[Statement], list[ConfError]]:
    """Read a whole text: what it says up to `exit`, and every fault in it."""
    found: list[Statement] = []
    faults: list[ConfError] = []
    for lexed in statements(Source(file, text)):
        try:
            statement = parse_statement(lexed, names, offered)
        except ConfError as fault:
            faults.append(fault)
            if lexed.tokens[0].text in STRANGERS:
                break
            continue
        if isinstance(statement, Quit):
            break
        found.append(statement)
    return found, faults


def _statement(cursor: Cursor, offered: Offered | None) -> Statement:
    first = cursor.token
    word = first.text
    if first.kind != WORD:
        cursor.unexpected("a command such as add or spdadd")
    cursor.take()
    if word in SA_WORDS:
        return parse_sa(cursor, SA_WORDS[word], offered)
    if word in SPD_WORDS:
        return _spd(cursor, SPD_WORDS[word])
    if word in TABLE_WORDS:
        number = satype(cursor)[1] if cursor.peek() else 0
        return TableStatement(line=cursor.line, type=TABLE_WORDS[word], satype=number)
    if word in SPD_TABLE_WORDS:
        return TableStatement(line=cursor.line, type=SPD_TABLE_WORDS[word])
    if word == "deleteall":
        return parse_deleteall(cursor)
    if word in QUIT_WORDS:
        return Quit(line=cursor.line)
    why = STRANGERS.get(word)
    if why is None or (word == "config" and cursor.peek() != "setup"):
        why = f"syntax error: none of {', '.join(COMMANDS)}"
    raise cursor.fail(why, first)


def _network(cursor: Cursor, family: int, is_numeric: bool) -> Network:
    """`address[/prefix][[port]]`."""
    token, hosts = cursor.host(family, is_numeric)
    if len(hosts) > 1:
        raise cursor.fail("multiple address specified", token)
    host = hosts[0]
    full = 8 * len(host.address)
    prefixlen = full
    if cursor.accept("/"):
        token = cursor.token
        prefixlen = cursor.number("a prefix length", 2**32)
        if prefixlen > full:
            raise cursor.fail(f"Invalid prefix length: at most {full}", token)
    return Network(host._replace(port=cursor.port()), prefixlen)


def _upper(cursor: Cursor) -> int:
    token = cursor.word("an upper protocol (any, tcp, icmp6, a number …)")
    if token.text == "any":
        return UNSPEC_PROTO
    if token.text.isdigit() and token.text.isascii():
        number = parse_number(token.text)
        if number > 255:
            raise cursor.fail("invalid upper layer protocol: at most 255", token)
        return number
    known = protocols.NUMBERS.get(token.text)
    if known is not None:
        return known
    try:
        return cursor.names.protocol(token.text)
    except LookupError as error:
        raise cursor.fail(str(error.args[0]), token) from None


def _misc(cursor: Cursor, proto: int) -> tuple[int, int]:
    """What follows icmp (`type[,code]`) or gre (a key): the values of both port fields."""
    token = cursor.word("-P")
    text = token.text
    if proto in protocols.TYPED:
        type, comma, code = text.partition(",")
        values = [type, code] if comma else [type]
        if not all(v.isascii() and v.isdigit() and len(v) < 4 and int(v) < 256 for v in values):
            raise cursor.fail("syntax error: type or type,code expected, each up to 255", token)
        return int(type), int(code or 0)
    if proto == protocols.GRE:
        host = numeric_host(text)
        if host is not None and len(host.address) == 4:
            key = int.from_bytes(host.address, "big")
        elif text.isascii() and text.isdigit() and parse_number(text) < 2**32:
            key = parse_number(text)
        else:
            raise cursor.fail("syntax error: a GRE key is a number or dotted", token)
        return key >> 16, key & 0xFFFF
    raise cursor.fail("syntax error: only icmp, icmp6, mh and gre take a value; -P expected", token)


def _spd(cursor: Cursor, type: MsgType) -> SpdStatement:
    first = cursor.token
    if first.text == "tagged" and cursor.peek(1)[:1] == '"':  # else a host of that name
        raise cursor.fail(TAGGED_WHY, first)
    family, is_numeric = cursor.family_options()
    src = _network(cursor, family, is_numeric)
    dst_token = cursor.token
    dst = _network(cursor, family, is_numeric)
    if len(src.host.address) != len(dst.host.address):
        raise cursor.fail("Family mismatch: one end is IPv4, the other IPv6", dst_token)
    proto = _upper(cursor)
    if cursor.token.kind in (WORD, QUOTED) and cursor.peek() not in ("-P", "-ctx"):
        token = cursor.token
        ports = _misc(cursor, proto)
        if src.host.port or dst.host.port:
            raise cursor.fail("syntax error: this value and a port exclude each other", token)
        src = src._replace(host=src.host._replace(port=ports[0]))
        dst = dst._replace(host=dst.host._replace(port=ports[1]))
    context = cursor.context() if cursor.accept("-ctx") else None
    marker = cursor.token
    if marker.text != "-P":
        cursor.unexpected("-P and a policy")
    text, offset = cursor.raw_rest(marker)
    text = _without_comments(text)
    try:
        found = policy.parse(text)
    except PolicyError as error:
        raise cursor.fail_at(offset + error.column, error.why, text) from None
    has_action = found.priority != 0
    if not has_action and type != MsgType.X_SPDDELETE:
        raise cursor.fail_at(
            offset + len(text), "Too few arguments: an action (discard, none, ipsec …) must follow",
            text,
        )  # fmt: skip
    return SpdStatement(
        line=cursor.line, type=type, src=src, dst=dst, proto=proto, policy=found, context=context
    )


def _without_comments(text: str) -> str:
    """Blanks for comments, so that columns stay."""
    if "#" not in text:
        return text
    lines = []
    for line in text.split("\n"):
        kept, mark, comment = line.partition("#")
        lines.append(kept + " " * len(mark + comment))
    return "\n".join(lines)
