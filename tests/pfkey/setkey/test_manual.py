"""The manual pages and the grammar say what the program does."""

import re
from pathlib import Path

from pfkey import policy
from pfkey.algorithms import AUTH, ENCRYPT, Kind, by_name, lengths_text
from pfkey.setkey import grammar
from pfkey.setkey.grammar_sa import FLAGS, LIFETIMES, MODES, SATYPES, VARIANTS
from pfkey.setkey.options import HELP

ROOT = Path(__file__).parent.parent.parent.parent
SETKEY = (ROOT / "docs" / "setkey.8").read_text()
POLICY = (ROOT / "docs" / "ipsec_set_policy.3").read_text()
EBNF = (ROOT / "specs" / "setkey.ebnf").read_text()
LITERAL = re.compile(r"^\.Bd -literal.*?\n(.*?)^\.Ed", re.M | re.S)


def test_the_manual_has_every_option_of_the_help() -> None:
    page = SETKEY[: SETKEY.index(".Sh STATEMENTS")]
    items = re.findall(r"^\.It Fl (.*)$", page, re.M)
    written = {
        f"-{word}" for item in items for word in re.findall(r"(?:^|, )(?:Fl )?(-?[A-Za-z-]+)", item)
    }
    helped = HELP[HELP.index("what to do") : HELP.index("examples")]
    known = set(re.findall(r"^ +(-\w)\b", helped, re.M)) | set(re.findall(r"(--[a-z-]+)", helped))
    assert written == known


def test_the_examples_of_the_manual_parse() -> None:
    examples = SETKEY[SETKEY.index(".Sh EXAMPLES") : SETKEY.index(".Sh DIAGNOSTICS")]
    found = [text for text in LITERAL.findall(examples) if not text.startswith("setkey ")]
    assert len(found) == 2
    for text in found:
        assert grammar.parse(text)[1] == []
    for line in "".join(LITERAL.findall(POLICY)).splitlines():
        policy.parse(line)


def test_the_algorithms_of_the_manual_are_those_of_the_table() -> None:
    """All for which there is code; and the names that mean one of them with another IV."""
    page = SETKEY[SETKEY.index(".Sh ALGORITHMS") : SETKEY.index(".Sh ENVIRONMENT")]
    written = dict(re.findall(r"^\.It ([\w-]+) Ta (.*)$", page, re.M))
    for name, (of, _, _) in VARIANTS.items():
        row = by_name(Kind.ENCRYPT, of)
        assert row
        assert written.pop(name).startswith(f"{lengths_text(row)} Ta ")
    expected: dict[str, str] = {}
    for row in (*ENCRYPT, *AUTH):
        alias = f", also called {row.aliases[0]}" if row.aliases and row.max_bits else ""
        only = "; in AH" if row.kind == Kind.AUTH and row.iv else ""
        if row.wall:
            expected.setdefault(row.name, f"{lengths_text(row)} Ta {row.rfc}{alias}{only}")
    assert written == expected


def test_the_written_grammar_knows_every_word() -> None:
    words = set(re.findall(r'"([^"]+)"', re.sub(r"\(\*.*?\*\)", "", EBNF, flags=re.S)))
    known = {
        *grammar.COMMANDS, *SATYPES, *FLAGS, "nocyclic-seq", *MODES, *LIFETIMES, *policy.DIRS,
        *policy.BASES, *policy.ACTIONS, *policy.PROTOS, *policy.MODES, *policy.LEVELS,
    }  # fmt: skip
    assert known <= words
