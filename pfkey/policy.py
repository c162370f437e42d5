"""Policy strings (ipsec_set_policy(3), after -P in setkey) to sadb_x_policy and back.

    spec     direction [priority] action {request}, or the direction alone (spddelete)
    priority priority|prio  (N | -N | base | base + N | base - N), base: low, def, high
    action   discard | none | ipsec | entrust | bypass
    request  protocol/mode[/[src-dst][/level]]

A larger priority is more urgent to people and a smaller number on the wire; `def` is 0x80000000.
The whole grammar is in specs/setkey.ebnf.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from pfkey.const import (
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_ESP,
    MANUAL_REQID_MAX,
    MODE_TCPMD5,
    Dir,
    Level,
    Mode,
    PolicyType,
)
from pfkey.dialect import LINUX, Dialect, digits
from pfkey.errors import PolicyError
from pfkey.ext_x_policy import IpsecRequest, Policy

PRIORITY_HIGH = 0x40000000
PRIORITY_DEF = 0x80000000
PRIORITY_LOW = 0xC0000000
BASES = {"high": PRIORITY_HIGH, "def": PRIORITY_DEF, "low": PRIORITY_LOW}
OFFSET_MAX = 0x3FFFFFFF  # what a base may be moved by without meeting the next one twice
PLAIN_MAX = 0x7FFFFFFF

DIRS = {"in": Dir.IN, "out": Dir.OUT, "fwd": Dir.FWD}
ACTIONS = {
    "discard": PolicyType.DISCARD,
    "none": PolicyType.NONE,
    "ipsec": PolicyType.IPSEC,
    "entrust": PolicyType.ENTRUST,
    "bypass": PolicyType.BYPASS,
}
PROTOS = {"esp": IPPROTO_ESP, "ah": IPPROTO_AH, "ipcomp": IPPROTO_COMP}
MODES = {"transport": Mode.TRANSPORT, "tunnel": Mode.TUNNEL}
LEVELS = {
    "default": Level.DEFAULT,
    "use": Level.USE,
    "require": Level.REQUIRE,
    "unique": Level.UNIQUE,
}
REQUESTS_MAX = 6  # XFRM_MAX_DEPTH on Linux; more would be refused with ELOOP

# Directions as they are shown; 4 to 6 are those of per-socket policies on Linux.
DIR_NAMES = ("any", "in", "out", "fwd", "in(socket)", "out(socket)", "fwd(socket)")
ACTION_NAMES = {int(number): name for name, number in ACTIONS.items()}
PROTO_NAMES = {number: name for name, number in PROTOS.items()}
MODE_NAMES = {0: "any", 1: "transport", 2: "tunnel", 3: "beet", MODE_TCPMD5: "tcp-md5"}
LEVEL_NAMES = {int(number): name for name, number in LEVELS.items()}


def mode_name(mode: int) -> str:
    """`tunnel` for 2; digits for what has no name."""
    return MODE_NAMES.get(mode) or digits(mode)


_TOKEN = re.compile(r"\s+|(?P<word>[^\s/\[\]+-]+)|(?P<mark>[/\[\]+-])")
_END = "end of the policy"


class _Token(NamedTuple):
    text: str
    column: int


class _Parser:
    """Recursive descent over the words of one policy string."""

    def __init__(self, text: str, dialect: Dialect) -> None:
        self._text = text
        self._dialect = dialect
        self._tokens = [
            _Token(found[0], found.start()) for found in _TOKEN.finditer(text) if found.lastgroup
        ]
        self._at = 0

    def fail(self, why: str, column: int | None = None) -> PolicyError:
        return PolicyError(self._text, self.column if column is None else column, why)

    @property
    def column(self) -> int:
        if self._at < len(self._tokens):
            return self._tokens[self._at].column
        return len(self._text)

    def peek(self, ahead: int = 0) -> str:
        """The coming word, or '' at the end."""
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def take(self) -> str:
        word = self.peek()
        self._at += 1
        return word

    def accept(self, word: str) -> bool:
        if self.peek() != word:
            return False
        self._at += 1
        return True

    def policy(self) -> Policy:
        word = self.peek()
        if not word:
            raise self.fail("Too few arguments: a policy begins with in, out or fwd")
        if word not in DIRS:
            raise self.fail(f"Invalid direction: {word} is none of in, out, fwd")
        self.take()
        dir = DIRS[word]
        if dir not in self._dialect.dirs:
            dir = Dir.IN  # as libipsec does where there is no fwd
        if not self.peek():
            return Policy(type=PolicyType.DISCARD, dir=dir)
        priority = PRIORITY_DEF if self._dialect is LINUX else 0
        if self.peek() in ("priority", "prio"):
            if not self._dialect.has_priority:
                raise self.fail("Policy priority not compiled in: this system has none")
            self.take()
            priority = self.priority()
        word = self.peek()
        if not word:
            raise self.fail("Too few arguments: an action (discard, none, ipsec …) must follow")
        if word not in ACTIONS:
            raise self.fail(f"syntax error: {word} is none of {', '.join(ACTIONS)}")
        self.take()
        action = ACTIONS[word]
        requests: list[IpsecRequest] = []
        while self.peek():
            if action != PolicyType.IPSEC:
                raise self.fail(f"Invalid security policy: {word} takes no {self.peek()}")
            if len(requests) == REQUESTS_MAX:
                raise self.fail(f"Invalid security policy: more than {REQUESTS_MAX} requests")
            requests.append(self.request(dir))
        if action == PolicyType.IPSEC and not requests:
            raise self.fail("Too few arguments: ipsec needs a request such as esp/transport//use")
        return Policy(type=action, dir=dir, priority=priority, requests=tuple(requests))

    def priority(self) -> int:
        """A priority as the number on the wire."""
        column = self.column
        base = BASES.get(self.peek())
        if base is None:
            sign = -1 if self.accept("-") else 1
            offset = self.number("a priority: a number, low, def or high", PLAIN_MAX)
            return PRIORITY_DEF - sign * offset
        self.take()
        if self.peek() not in ("+", "-"):
            return base
        sign = 1 if self.take() == "+" else -1
        offset = self.number("the number to move the priority by", PLAIN_MAX)
        if offset > OFFSET_MAX:
            raise self.fail(
                f"base offset out of range: {offset}, at most {OFFSET_MAX}, is taken", column
            )
        return base - sign * offset

    def number(self, what: str, maximum: int) -> int:
        word = self.peek()
        if not word:
            raise self.fail(f"Too few arguments: {what}")
        if not (word.isascii() and word.isdigit()):
            raise self.fail(f"syntax error: {word} is not {what}")
        if len(word) > 10 or int(word) > maximum:
            raise self.fail(f"priority offset out of range: {word}, at most {maximum}")
        self.take()
        return int(word)

    def request(self, dir: Dir) -> IpsecRequest:
        column = self.column
        proto = self.choice(PROTOS, "Invalid ipsec protocol")
        if not self.accept("/") or not self.peek():
            raise self.fail("Too few arguments: a mode, as in esp/transport")
        mode = self.choice(MODES, "Invalid ipsec mode")
        src = dst = None
        sport = dport = 0
        level, reqid = int(Level.DEFAULT), 0
        if self.accept("/"):
            if self.peek() not in ("", "/") and self.peek() not in PROTOS:
                src, sport, dst, dport = self.endpoints(dir)
                has_level = self.accept("/")
            else:
                has_level = self.accept("/")
            if has_level and self.peek() and not self.starts_request():
                level, reqid = self.level()
        if mode == Mode.TUNNEL and src is None:
            raise self.fail(
                "Invalid address specification: tunnel needs its end points,"
                " as in esp/tunnel/20.0.0.1-20.0.0.2/require",
                column,
            )
        return IpsecRequest(
            proto=proto, mode=mode, level=level, reqid=reqid,
            src=src, dst=dst, src_port=sport, dst_port=dport,
        )  # fmt: skip

    def starts_request(self) -> bool:
        return self.peek() in PROTOS and self.peek(1) == "/"

    def choice(self, names: "dict[str, int] | dict[str, Mode]", complaint: str) -> int:
        word = self.peek()
        if word not in names:
            raise self.fail(f"{complaint}: {word or _END} is none of {', '.join(names)}")
        self.take()
        return int(names[word])

    def endpoints(self, dir: Dir) -> tuple[bytes | None, int, bytes | None, int]:
        column = self.column
        pair = (self.peek(), self.peek(1), self.peek(2))
        if pair in (("me", "-", "any"), ("any", "-", "me")):
            if dir != (Dir.OUT if pair[0] == "me" else Dir.IN):
                raise self.fail(f"Invalid direction: {pair[0]}-{pair[2]} is for the other one")
            self._at += 3
            return None, 0, None, 0
        src, sport = self.endpoint()
        if not self.accept("-"):
            raise self.fail("Invalid address specification: a pair is written source-destination")
        dst, dport = self.endpoint()
        if len(src) != len(dst):
            raise self.fail("Family mismatch: one end is IPv4, the other IPv6", column)
        return src, sport, dst, dport

    def endpoint(self) -> tuple[bytes, int]:
        word = self.peek()
        try:
            address = ipaddress.ip_address(word).packed
        except ValueError:
            raise self.fail(
                f"Invalid address specification: {word or _END} is not a numeric address"
            ) from None
        if "%" in word:
            raise self.fail(f"Invalid address specification: {word} has a zone")
        self.take()
        port = 0
        if self.accept("["):
            word = self.peek()
            if word == "any":
                self.take()
            else:
                if not (word.isascii() and word.isdigit() and len(word) < 6 and int(word) < 65536):
                    raise self.fail(f"Invalid address specification: {word or _END} is no port")
                port = int(self.take())
            if not self.accept("]"):
                raise self.fail("Invalid address specification: ] is missing")
        return address, port

    def level(self) -> tuple[int, int]:
        name, colon, number = self.peek().partition(":")
        if name not in LEVELS or (colon and name != "unique"):
            raise self.fail(
                f"Invalid ipsec level: {self.peek()} is none of {', '.join(LEVELS)}, unique:N"
            )
        reqid = 0
        if colon:
            if not (number.isascii() and number.isdigit() and len(number) < 11):
                raise self.fail(f"Invalid ipsec level: {self.peek()} is not unique:NUMBER")
            reqid = int(number)
            most = self._dialect.reqid_max
            if reqid > most:
                bits = most.bit_length()
                raise self.fail(f"Invalid ipsec level: {reqid} does not fit {bits} bits")
        self.take()
        return int(LEVELS[name]), reqid


def parse(text: str, dialect: Dialect = LINUX) -> Policy:
    """Read one policy.

    Args:
        text: such as `out ipsec esp/transport//require`; line breaks count as blanks.
        dialect: the system that it is for: NetBSD and FreeBSD have no direction `fwd`, which
            means `in` there, and 16 bits for N in `unique:N`; NetBSD has no priority, and on
            FreeBSD a policy without one has 0; OpenBSD has no policies.

    Raises:
        PolicyError: what libipsec says about it, and more precisely why.
    """
    if not dialect.has_policies:
        raise PolicyError(text, 0, "Invalid security policy: this system has flows, no policies")
    return _Parser(text, dialect).policy()


def forwarded(policy: Policy) -> Policy:
    """The `fwd` copy of an `in` policy that Linux builds of setkey add (its -r).

    The first request of level unique becomes `require` without a request number: the copy must
    not claim SAs of its own.
    """
    requests = list(policy.requests)
    if requests and requests[0].level == Level.UNIQUE:
        r = requests[0]
        requests[0] = IpsecRequest(
            proto=r.proto, mode=r.mode, level=int(Level.REQUIRE), reqid=0,
            src=r.src, dst=r.dst, src_port=r.src_port, dst_port=r.dst_port,
        )  # fmt: skip
    return Policy(type=policy.type, dir=Dir.FWD, priority=policy.priority, requests=tuple(requests))


def render_priority(priority: int) -> str:
    """`prio def + 5` for a number on the wire, relative to the nearest base; '' for 0."""
    if priority == 0:
        return ""
    name = "high" if priority < 0x60000000 else "def" if priority < 0xA0000000 else "low"
    offset = BASES[name] - priority
    if offset == 0:
        return f"prio {name}"
    return f"prio {name} {'+' if offset > 0 else '-'} {abs(offset)}"


def _endpoint(address: bytes, port: int, has_ports: bool | None) -> str:
    text = str(ipaddress.ip_address(address))
    return f"{text}[{port}]" if has_ports or (port and has_ports is None) else text


def render_request(request: IpsecRequest, *, has_ports: bool | None = None) -> str:
    """`esp/tunnel/20.0.0.1-20.0.0.2/unique:12`; `#` marks a number that the engine chose.

    Ports of tunnel ends are shown where there are any (None), always, or never.
    """
    pair = ""
    if request.src is not None and request.dst is not None:
        src = _endpoint(request.src, request.src_port, has_ports)
        pair = f"{src}-{_endpoint(request.dst, request.dst_port, has_ports)}"
    reqid = ""
    if request.reqid:
        reqid = f"{':' if request.reqid <= MANUAL_REQID_MAX else '#'}{request.reqid}"
    proto = PROTO_NAMES.get(request.proto, str(request.proto))
    level = LEVEL_NAMES.get(request.level, str(request.level))
    return f"{proto}/{mode_name(request.mode)}/{pair}/{level}{reqid}"


def render(policy: Policy, delimiter: str = " ", *, has_ports: bool | None = None) -> str:
    """The policy as ipsec_dump_policy(3) writes it, `delimiter` before each request.

    `has_ports` is that of `render_request`.
    """
    known = 0 <= policy.dir < len(DIR_NAMES)
    words: Sequence[str] = (
        DIR_NAMES[policy.dir] if known else digits(policy.dir),
        render_priority(policy.priority),
        ACTION_NAMES.get(policy.type, str(policy.type)),
    )
    head = " ".join(word for word in words if word)
    return head + "".join(
        delimiter + render_request(r, has_ports=has_ports) for r in policy.requests
    )
