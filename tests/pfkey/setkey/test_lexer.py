"""setkey's words and where they stand."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.setkey.lexer import QUOTED, WORD, Feed, Source, mask_keys, statements


def words(text: str) -> list[list[str]]:
    return [[token.text for token in s.tokens] for s in statements(Source("x", text))]


def test_statements_end_at_semicolons() -> None:
    assert words("flush; ;\n\tdump esp ;spdflush") == [["flush"], ["dump", "esp"], ["spdflush"]]
    assert [s.is_complete for s in statements(Source("x", "a; b"))] == [True, False]


def test_comments_run_to_the_end_of_the_line() -> None:
    assert words("# all; of this\nflush # and; this\n; #") == [["flush"]]
    assert words("#" * 5000) == []


def test_quoted_strings_hold_what_would_end_a_statement() -> None:
    (found,) = statements(Source("x", 'add "a;#b c" 1[80]/2;'))
    assert [t.text for t in found.tokens] == ["add", '"a;#b c"', "1", "[", "80", "]", "/", "2"]
    assert [t.kind for t in found.tokens][:3] == [WORD, QUOTED, WORD]


def test_a_place_is_a_line_and_a_column() -> None:
    source = Source("x", "a\n b;\n", first_line=10)
    assert source.position(0) == (10, 1)
    assert source.position(3) == (11, 2)
    assert source.position(6) == (12, 1)
    assert source.caret(source.error(3, "why")) == " b;\n ^"
    assert source.caret(Source("x", "", 99).error(0, "why")) == ""


def test_of_a_long_line_the_part_around_the_fault_is_shown() -> None:
    source = Source("x", "a" * 500 + "\x07!" + "b" * 500)
    line, caret = source.caret(source.error(501, "why")).splitlines()
    assert line == "a" * 59 + "?!" + "b" * 59
    assert caret.index("^") == line.index("!")


def test_keys_are_masked_where_a_line_is_shown() -> None:
    assert mask_keys('-E x "secret" 0x1000 0xdeadbeefdeadbeef;') == (
        "-E x ········ 0x1000 ··················;"
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("-E 3des-cbc hogehoge -A hmac-md5 x;", "-E 3des-cbc ········ -A hmac-md5 ·;"),
        ("-E x 0x1234 5678 9abc -m any;", "-E x ················ -m any;"),
        ("-E x “hoge hoge”;", "-E x ···········;"),
        ("“hoge hoge”;", "···········;"),
        ("  'hogehoge' # his", "  ················"),
        ("-E null -A null; -E null;", "-E null -A null; -E null;"),
        ('-E x "a" -A y # why', "-E x ··· -A y # why"),
    ],
)
def test_what_stands_where_a_key_should_is_masked_too(line: str, shown: str) -> None:
    assert mask_keys(line) == shown


def test_a_very_long_line_is_masked_at_once() -> None:
    for piece in (" ", "-E x ", "-E ", "“", "a ", '"', "a" + " " * 50):
        assert len(mask_keys("-E x " + piece * 300_000)) == 5 + 300_000 * len(piece)


def test_pieces_become_statements_as_soon_as_they_end() -> None:
    feed = Feed("x")
    assert feed.feed("flu") == []
    first, second = feed.feed("sh; dump; sp")
    assert [t.text for t in first.tokens + second.tokens] == ["flush", "dump"]
    assert second.source.position(second.tokens[0].offset) == (1, 8)
    (third,) = feed.feed('dadd "a;b"\n;\n x')
    assert third.source.position(third.tokens[0].offset) == (1, 14)
    rest = feed.rest()
    assert rest is not None
    assert rest.source.position(rest.tokens[0].offset) == (3, 2)


texts = st.text(st.sampled_from('ab;"#\n []/-x é'), max_size=60)


@given(texts, st.lists(st.integers(0, 60)))
def test_pieces_make_no_difference(text: str, cuts: list[int]) -> None:
    whole = [
        ([t[:2] for t in s.tokens], s.source.position(s.tokens[0].offset))
        for s in statements(Source("x", text))
        if s.is_complete
    ]
    feed = Feed("x")
    at, found = 0, []
    for cut in [*sorted(cuts), len(text)]:
        found += feed.feed(text[at:cut])
        at = max(at, cut)
    parts = [([t[:2] for t in s.tokens], s.source.position(s.tokens[0].offset)) for s in found]
    assert parts == whole


def test_a_long_text_without_statements_takes_no_quadratic_time() -> None:
    feed = Feed("x")
    line = "# a comment; with what ends statements\n"
    began = time.process_time()
    for _ in range(2000):
        assert feed.feed(line * 50) == []
        assert feed.feed("# and without\n" * 200) == []
    assert time.process_time() - began < 5  # it was minutes
    (found,) = feed.feed("flush;")
    assert found.source.position(found.tokens[0].offset) == (2000 * 250 + 1, 1)
