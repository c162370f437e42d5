"""The table of algorithms, its lookups, and that it is the only one."""

import ast
import re
from pathlib import Path

import pytest

from pfkey import algorithms
from pfkey.algorithms import AUTH, COMPRESS, ENCRYPT, ROWS, Algorithm, Kind, bits_ok, lengths_text

ROOT = Path(__file__).parents[2]
ALL = {(row.kind.value, row.number) for row in ROWS}


def row(kind: str, name: str) -> Algorithm:
    found = algorithms.by_name(kind, name)
    assert found is not None
    return found


def test_aliases_lead_to_the_row_with_the_printed_name() -> None:
    assert row("encrypt", "rijndael-cbc").name == "aes-cbc"
    assert row("auth", "hmac-sha2-256").name == "hmac-sha256"
    assert row(Kind.AUTH, "hmac-sha1").number == 3
    assert algorithms.by_name("auth", "aes-cbc") is None


def test_numbers_and_names_are_unique_in_their_registry() -> None:
    assert len(ALL) == len(ROWS)
    names = [(r.kind, name) for r in ROWS for name in r.names]
    assert len(names) == len(set(names))


def test_number_zero_is_no_algorithm() -> None:
    assert algorithms.by_number("auth", 0) is None
    assert algorithms.by_number("encrypt", 0) is None


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("aes-cbc", (128, 192, 256), (0, 120, 136, 264)),
        ("3des-cbc", (192,), (0, 128, 184, 200)),
        ("blowfish-cbc", (40, 48, 448), (32, 41, 456)),
        ("aes-ctr", (160, 224, 288), (128, 256)),
        ("aes-ccm-8", (152, 216, 280), (128, 160)),
        ("sm4-cbc", (128,), (192, 256)),
        ("null", (0,), (8, 128)),
        ("chacha20-poly1305", (288,), (256,)),
    ],
)
def test_key_lengths_are_exact(name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    found = row("encrypt", name)
    assert all(bits_ok(found, bits) for bits in good)
    assert not any(bits_ok(found, bits) for bits in bad)


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("encrypt", "3des-cbc", "192"),
        ("encrypt", "aes-cbc", "128, 192 or 256"),
        ("encrypt", "blowfish-cbc", "40 to 448"),
        ("encrypt", "cast128-cbc", "40 to 128"),
        ("encrypt", "sm4-cbc", "128"),
        ("encrypt", "null", "none"),
        ("auth", "tcp-md5", "8 to 640"),
        ("auth", "hmac-sha256", "256"),
    ],
)
def test_lengths_are_told_to_people(kind: str, name: str, text: str) -> None:
    assert lengths_text(row(kind, name)) == text


def test_register_lists_what_is_usable_in_the_order_of_linux() -> None:
    auth = [r.number for r in algorithms.offered("auth", ALL)]
    assert auth[:9] == [251, 2, 3, 5, 6, 7, 8, 9, 10]
    encrypt = [r.number for r in algorithms.offered(Kind.ENCRYPT, ALL)]
    assert encrypt[:11] == [11, 2, 3, 6, 7, 12, 252, 22, 253, 13, 24]
    usable = {("encrypt", 12), ("encrypt", 3), ("auth", 2)}
    assert [r.name for r in algorithms.offered("encrypt", usable)] == ["3des-cbc", "aes-cbc"]
    assert list(algorithms.offered("compress", ALL)) == []


def test_aeads_follow_the_ciphers_of_linux() -> None:
    encrypt = list(algorithms.offered("encrypt", ALL))
    assert [r.name for r in encrypt[11:]] == [
        "aes-ccm-8", "aes-ccm-12", "aes-ccm-16", "aes-gcm-8", "aes-gcm-12", "aes-gcm-16",
        "aes-gmac", "chacha20-poly1305",
    ]  # fmt: skip
    assert all(r.is_aead and r.salt_bits for r in encrypt[11:])


def test_authenticators_of_other_systems_follow_those_of_linux() -> None:
    auth = list(algorithms.offered("auth", ALL))
    assert [r.name for r in auth[9:]] == [
        "aes-128-gmac", "aes-192-gmac", "aes-256-gmac", "keyed-md5", "keyed-sha1",
    ]  # fmt: skip
    assert not any(r.is_linux for r in auth[9:])


def test_what_nobody_can_do_has_a_reason_for_people() -> None:
    for kind, name, reason in (
        ("encrypt", "twofish-cbc", "no maintained library"),
        ("encrypt", "serpent-cbc", "no maintained library"),
        ("encrypt", "skipjack-cbc", "no maintained library"),
        ("compress", "lzs", "no maintained library"),
        ("compress", "lzjh", "no maintained library"),
        ("compress", "oui", "vendor"),
        ("auth", "tcp-md5", "kernel's TCP"),
        ("encrypt", "aes-cbc", "OpenSSL"),
    ):
        assert reason in algorithms.why_not(row(kind, name))


@pytest.mark.parametrize("found", ROWS, ids=lambda r: f"{r.kind}-{r.name}")
def test_smallest_and_largest_key_are_allowed(found: Algorithm) -> None:
    allowed = [b for b in range(found.max_bits + 1) if bits_ok(found, b)]
    assert allowed[0] == found.min_bits
    assert allowed[-1] == (max(found.key_bits) if found.key_bits else found.max_bits)
    assert all(bits % 8 == 0 for bits in allowed)


def test_registries_are_whole() -> None:
    assert AUTH + ENCRYPT + COMPRESS == ROWS
    assert all(r.kind is Kind.AUTH for r in AUTH)
    assert all(r.kind is Kind.ENCRYPT for r in ENCRYPT)
    assert all(r.kind is Kind.COMPRESS for r in COMPRESS)


def test_no_other_module_spells_an_algorithm_number() -> None:
    """No second table: neither KAME's names for the numbers nor `auth=3` with a literal."""
    spelled = re.compile(r"\bSADB_(X_)?[AEC]ALG_\w+\s*[:=]")
    arguments = {"auth", "encrypt", "aalg", "ealg", "calg"}
    tables = {name for r in ROWS for name in r.names} - {"null", "simple"}
    for path in sorted(
        p for top in ("pfkey", "keyd", "racoon_py") for p in (ROOT / top).rglob("*.py")
    ):
        where = path.relative_to(ROOT).as_posix()
        if where == "pfkey/algorithms.py":
            continue
        text = path.read_text()
        assert not spelled.search(text), f"{where} names an algorithm's number"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg in arguments:
                value = node.value
                number = value.value if isinstance(value, ast.Constant) else 0
                assert not (isinstance(number, int) and number), (
                    f"{where}:{value.lineno}: {node.arg}={number}; look it up in pfkey.algorithms"
                )
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    pair = [c.value for c in (key, value) if isinstance(c, ast.Constant)]
                    is_row = len(pair) == 2 and tables & {str(c) for c in pair}
                    assert not (is_row and any(type(c) is int for c in pair)), (
                        f"{where}:{node.lineno}: a second table of algorithms"
                    )
