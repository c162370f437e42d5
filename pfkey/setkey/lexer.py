"""setkey's words: one regular expression, and where each word stands.

A `#` begins a comment, a `;` ends a statement, double quotes hold a key or a context. What follows
`-P` is handed to `pfkey.policy` as it stands, so the lexer need not know policies.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from pfkey.errors import ConfError

# A group each, so that `lastindex` is the kind: word, mark, quoted string, quote without an end.
_TOKEN = re.compile(r"""\s*+(?:#[^\n]*+\s*+)*+(?:([^\s;#"\[\]/]+)|([;\[\]/])|("[^"]*")|(")|\Z)""")
_IDLE = re.compile(r"(?:\s++|#[^\n]*+\n)*+")  # blanks and whole comments
WIDTH = 120  # columns of a line that are shown
WORD, MARK, QUOTED, OPEN_QUOTE = 1, 2, 3, 4


class Token(NamedTuple):
    """A word, its kind, and its place as an offset into the source's text."""

    kind: int
    text: str
    offset: int


class Source:
    """A text with a name, and the line its first character stands on."""

    def __init__(self, name: str, text: str, first_line: int = 1) -> None:
        self.name = name
        self.text = text
        self._first_line = first_line
        self._starts: list[int] | None = None

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of an offset."""
        if self._starts is None:
            self._starts = [0, *(found.end() for found in re.finditer("\n", self.text))]
        line = bisect_right(self._starts, offset) - 1
        return self._first_line + line, offset - self._starts[line] + 1

    def error(self, offset: int, why: str, token: str = "") -> ConfError:
        """The error for a fault at `offset`."""
        line, column = self.position(offset)
        return ConfError(self.name, line, column, why, token)

    def caret(self, error: ConfError) -> str:
        """The faulty line and, below it, a caret at the fault; '' if it is not ours.

        Quoted strings and hexadecimal keys are not repeated: the text may end up in a log.
        """
        lines = self.text.split("\n")
        index = error.line - self._first_line
        if not 0 <= index < len(lines):
            return ""
        start = max(0, error.column - 1 - WIDTH // 2)  # long lines: what is around the fault
        whole = mask_keys(lines[index])
        if error.token.startswith(DOT):  # a key whose algorithm stands on another line
            before, after = whole[: error.column - 1], whole[error.column - 1 :]
            whole = before + _BARE.sub(lambda found: _dotted(found[0]), after, 1)
        line = printable(whole[start : start + WIDTH].rstrip())
        blanks = "".join("\t" if c == "\t" else " " for c in line[: error.column - 1 - start])
        return f"{line}\n{blanks.ljust(error.column - 1 - start)}^"


def printable(text: str) -> str:
    """The text with `?` for what would upset a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


DOT = "·"  # stands for each character of a key

# Words that stand where a key should, up to the next option.
_BARE = re.compile(r"""(?:[^-\s;#"][^\s;#"]*+\s*+)++""")
# Quoted, or in quotes that are none, or hexadecimal; else such words.
_SECRET = re.compile(
    r"""()("[^"]*"?|\b0[xX][0-9a-fA-F]{9,}|(?<!\S)['`\u2018-\u201f\u00ab][^;"]*)"""
    rf"""|(-[AE]\s++[^\s;]++\s++)({_BARE.pattern})"""
)


def mask_keys(text: str) -> str:
    """The text with keys replaced by dots of the same length, so that columns stay."""
    return _SECRET.sub(_dots, text)


def _dots(found: re.Match[str]) -> str:
    return (found[3] or "") + _dotted(found[2] or found[4])


def _dotted(key: str) -> str:
    bare = key.rstrip()
    return DOT * len(bare) + key[len(bare) :]


class Lexed(NamedTuple):
    """The tokens of one statement, without its `;`, which stands (or is missing) at `end`."""

    source: Source
    tokens: list[Token]
    end: int
    is_complete: bool


def statements(source: Source, start: int = 0) -> Iterator[Lexed]:
    """Cut a text into statements; empty ones are left out.

    The last one may be incomplete: no `;`, or a quote without its end.
    """
    tokens: list[Token] = []
    for found in _TOKEN.finditer(source.text, start):
        kind = found.lastindex
        if kind is None:
            break
        text = found[kind]
        if text == ";":
            if tokens:
                yield Lexed(source, tokens, found.start(kind), True)
                tokens = []
            continue
        tokens.append(Token(kind, text, found.start(kind)))
        if kind == OPEN_QUOTE:
            break
    if tokens:
        end = tokens[-1].offset + len(tokens[-1].text)
        yield Lexed(source, tokens, end, False)


class Feed:
    """Statements from text that arrives in pieces: each comes out as soon as its `;` is there."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = ""
        self._pieces: list[str] = []  # not yet joined: no statement ends in them
        self._line = 1
        self._start = 0

    def feed(self, piece: str) -> list[Lexed]:
        """Take another piece; the statements that it completes."""
        self._pieces.append(piece)
        if ";" not in piece:
            return []
        source = self._source()
        done = [lexed for lexed in statements(source, self._start) if lexed.is_complete]
        if done:
            self._start = done[-1].end + 1
        idle = _IDLE.match(self._text, self._start)
        self._start = idle.end() if idle else self._start  # it always matches
        kept = self._text.rfind("\n", 0, self._start) + 1  # columns count from the line's start
        self._line += self._text.count("\n", 0, kept)
        self._text = self._text[kept:]
        self._start -= kept
        return done

    def rest(self) -> Lexed | None:
        """What is left at the end of the input: a statement without its `;`."""
        return next(statements(self._source(), self._start), None)

    def _source(self) -> Source:
        self._text += "".join(self._pieces)
        self._pieces.clear()
        return Source(self._name, self._text, self._line)
