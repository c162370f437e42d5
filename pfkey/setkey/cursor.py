"""A cursor over one statement's words, and the parts that all statements share."""

import re
from typing import NoReturn

from pfkey.const import AF_INET, AF_INET6
from pfkey.errors import ConfError
from pfkey.setkey.lexer import DOT, QUOTED, WORD, Lexed, Token, mask_keys
from pfkey.setkey.lookalikes import hint
from pfkey.setkey.names import Names, numeric_host
from pfkey.setkey.statements import Context, Host

_FAMILY_OPTION = re.compile(r"-[46n]+")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_U32 = 0xFFFFFFFF


class Cursor:
    """Reads words one after the other; every complaint names the word it is about."""

    def __init__(self, lexed: Lexed, names: Names) -> None:
        self._source = lexed.source
        self._tokens = lexed.tokens
        self._end = lexed.end
        self._mark = ";" if lexed.is_complete else "end of input"  # what is there when words end
        self._at = 0
        self.names = names
        self.line = lexed.source.position(lexed.tokens[0].offset)[0]

    def fail(self, why: str, token: Token | None = None, *, is_secret: bool = False) -> ConfError:
        """The error about `token` (or the coming one)."""
        if token is None:
            token = self.token
        text = mask_keys(token.text)
        if token.kind != QUOTED:
            why = _hinted(why, token.text)
            text = DOT * len(text) if is_secret else text
        return self._source.error(token.offset, why, text or self._mark)

    @property
    def token(self) -> Token:
        """The coming token; at the end an empty one that stands where the `;` does."""
        if self._at < len(self._tokens):
            return self._tokens[self._at]
        return Token(0, "", self._end)

    def peek(self, ahead: int = 0) -> str:
        """The coming word, '' at the end. Quoted strings keep their quotes."""
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def take(self) -> Token:
        """The coming token, of whatever kind; the end is a syntax error."""
        if self._at >= len(self._tokens):
            self.unexpected("more words")
        token = self._tokens[self._at]
        self._at += 1
        return token

    def accept(self, word: str) -> bool:
        """Take the coming word if it is this one."""
        if self.peek() != word:
            return False
        self._at += 1
        return True

    def unexpected(self, expected: str, *, is_secret: bool = False) -> NoReturn:
        """Raise the syntax error: `expected` says what would have been right here."""
        token = self.token
        if token.text == '"':
            raise self.fail("syntax error: this string has no closing quote", token)
        raise self.fail(f"syntax error: {expected} expected", token, is_secret=is_secret)

    def word(self, expected: str) -> Token:
        """A plain word."""
        if self.token.kind != WORD:
            self.unexpected(expected)
        return self.take()

    def end(self) -> None:
        """Nothing may follow."""
        if self._at < len(self._tokens):
            self.unexpected("; (end of the statement)")

    def number(self, expected: str, maximum: int = _U32) -> int:
        """A decimal or 0x number up to `maximum`."""
        token = self.word(expected)
        if not _NUMBER.fullmatch(token.text):
            raise self.fail(f"syntax error: {expected} expected", token)
        value = parse_number(token.text)
        if value > maximum:
            raise self.fail(f"{expected}: at most {maximum}", token)
        return value

    def raw_rest(self, after: Token) -> tuple[str, int]:
        """The text from the end of `after` to the statement's end, and its offset."""
        start = after.offset + len(after.text)
        self._at = len(self._tokens)
        return self._source.text[start : self._end], start

    def fail_at(self, offset: int, why: str, token: str) -> ConfError:
        """The error at an offset inside the text that `raw_rest` returned."""
        return self._source.error(offset, _hinted(why, token), token)

    def family_options(self) -> tuple[int, bool]:
        """`-4`, `-6`, `-n` and their clusters: the family (0 any), numeric only."""
        family, is_numeric = 0, False
        while _FAMILY_OPTION.fullmatch(self.peek()):
            for letter in self.take().text[1:]:
                if letter == "n":
                    is_numeric = True
                else:
                    family = AF_INET if letter == "4" else AF_INET6
        return family, is_numeric

    def host(self, family: int, is_numeric: bool) -> tuple[Token, list[Host]]:
        """A host by number or name, all its addresses, without a port."""
        token = self.word("an address or a host name")
        found = numeric_host(token.text, family)
        if found is not None:
            return token, [found]
        try:
            hosts = list(dict.fromkeys(self.names.hosts(token.text, family, is_numeric)))
        except LookupError as error:
            raise self.fail(str(error.args[0]), token) from None
        if not hosts:
            raise self.fail("Name or service not known", token)
        return token, hosts

    def port(self) -> int:
        """`[port]`, `[any]`, `[service]` or nothing; 0 is any."""
        if not self.accept("["):
            return 0
        token = self.word("a port, a service or any")
        if token.text == "any":
            port = 0
        elif token.text.isdigit() and token.text.isascii():
            port = parse_number(token.text)
            if port > 0xFFFF:
                raise self.fail("a port is at most 65535", token)
        else:
            try:
                port = self.names.service(token.text)
            except LookupError as error:
                raise self.fail(str(error.args[0]), token) from None
        if not self.accept("]"):
            self.unexpected("]")
        return port

    def context(self) -> Context:
        """`-ctx doi algorithm "context"`, after the `-ctx`."""
        doi = self.number("the context's domain of interpretation", 0xFF)
        algorithm = self.number("the context's algorithm", 0xFF)
        if self.token.kind != QUOTED:
            self.unexpected('the context in double quotes, as in "system_u:object_r:ipsec_t"')
        text = self.take().text[1:-1]
        return Context(doi, algorithm, octets(text) + b"\0")


def _hinted(why: str, text: str) -> str:
    found = hint(text)
    return f"{why} ({found})" if found else why


def parse_number(text: str) -> int:
    """A number that `_NUMBER` matched. Leading zeros do not mean octal. Long ones just are large.

    (int() of thousands of decimal digits is refused by Python; no number here needs 20.)
    """
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text) if len(text) < 40 else 10**40


def octets(text: str) -> bytes:
    """The octets that stood in the file: it was read as UTF-8, others kept as surrogates."""
    return text.encode("utf-8", "surrogateescape")
