"""The tables and pfkey/const.py against the system's own headers, by a small C program.

A missing compiler or header fails: both are part of the set-up.
"""

import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pfkey import algorithms, const
from pfkey.dialect import LINUX, is_own

HERE = Path(__file__).parent
TABLES = HERE.parents[1] / "specs" / "tables"
HEADERS = "#include <linux/types.h>\n#include <linux/pfkeyv2.h>\n#include <linux/ipsec.h>\n"

# C name of a constant: table of dialects.toml, prefix there, prefix of the KAME additions.
FAMILIES = (
    ("message", "SADB_", "SADB_X_"),
    ("extension", "SADB_EXT_", "SADB_X_EXT_"),
    ("satype", "SADB_SATYPE_", "SADB_X_SATYPE_"),
    ("sastate", "SADB_SASTATE_", ""),
    ("saflag", "SADB_SAFLAGS_", ""),
    ("ident", "SADB_IDENTTYPE_", ""),
    ("mode", "IPSEC_MODE_", ""),
    ("dir", "IPSEC_DIR_", ""),
    ("policy", "IPSEC_POLICY_", ""),
    ("level", "IPSEC_LEVEL_", ""),
    ("family", "", ""),
)
SPELLED = {"IPSEC_DIR_IN": "IPSEC_DIR_INBOUND", "IPSEC_DIR_OUT": "IPSEC_DIR_OUTBOUND"}
# Macros that count or bound, and the zeros that mean "none".
BOUNDS = re.compile(r".*(_MAX|_INVALID|_AALG_NONE|_EALG_NONE|_CALG_NONE)$|SADB_EXT_RESERVED")
OTHERS = {
    "PF_KEY_V2": const.PF_KEY_V2,
    "IPSEC_ULPROTO_ANY": const.UNSPEC_PROTO,
    "IPSEC_PROTO_ANY": const.UNSPEC_PROTO,
    "IPSEC_MANUAL_REQID_MAX": const.MANUAL_REQID_MAX,
    "IPPROTO_ESP": const.IPPROTO_ESP,
    "IPPROTO_AH": const.IPPROTO_AH,
    "IPPROTO_COMP": const.IPPROTO_COMP,
    "SADB_RESERVED": const.MsgType.RESERVED,
    "PFKEYV2_REVISION": 199806,
    "IPSEC_PORT_ANY": 0,
    "IPSEC_REPLAYWSIZE": 32,
    # one past the last row of the tables
    "SADB_MAX": LINUX.messages.highest,
    "SADB_EXT_MAX": max(number for number in LINUX.extensions.named if not is_own(number)),
}
# The header's word for an algorithm, where it is not our name without hyphens.
ALGORITHMS = {
    "MD5HMAC": "hmac-md5", "SHA1HMAC": "hmac-sha1", "SHA2_256HMAC": "hmac-sha256",
    "SHA2_384HMAC": "hmac-sha384", "SHA2_512HMAC": "hmac-sha512",
    "RIPEMD160HMAC": "hmac-ripemd160", "AES_XCBC_MAC": "aes-xcbc-mac", "SM3_256HMAC": "hmac-sm3",
    "NULL": "null", "DESCBC": "des-cbc", "3DESCBC": "3des-cbc", "CASTCBC": "cast128-cbc",
    "BLOWFISHCBC": "blowfish-cbc", "AESCBC": "aes-cbc", "AESCTR": "aes-ctr",
    "AES_CCM_ICV8": "aes-ccm-8", "AES_CCM_ICV12": "aes-ccm-12", "AES_CCM_ICV16": "aes-ccm-16",
    "AES_GCM_ICV8": "aes-gcm-8", "AES_GCM_ICV12": "aes-gcm-12", "AES_GCM_ICV16": "aes-gcm-16",
    "CAMELLIACBC": "camellia-cbc", "NULL_AES_GMAC": "aes-gmac", "SM4CBC": "sm4-cbc",
    "SERPENTCBC": "serpent-cbc", "TWOFISHCBC": "twofish-cbc", "OUI": "oui",
    "DEFLATE": "deflate", "LZS": "lzs", "LZJH": "lzjh",
}  # fmt: skip
# Newer than the headers of some systems we build on.
MAY_BE_MISSING = {("auth", "hmac-sm3"), ("encrypt", "sm4-cbc"), ("encrypt", "chacha20-poly1305")}


@dataclass(frozen=True)
class Facts:
    sizes: dict[str, int]
    fields: dict[tuple[str, str], tuple[int, int]]
    constants: dict[str, int]
    structures: set[str]


def compiler(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["gcc", *arguments], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"gcc {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def table(name: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{name}.toml").read_text())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    room = tmp_path_factory.mktemp("oracle")
    listed = compiler("-E", "-dM", "-x", "c", "-", text=HEADERS)
    macros = re.findall(r"^#define ((?:SADB|IPSEC|PF_?KEY)\w+) +\S", listed, re.MULTILINE)
    macros = [name for name in macros if not name.startswith("_")]
    (room / "macros.h").write_text("".join(f"CONST({name});\n" for name in sorted(macros)))
    program = room / "oracle"
    compiler(
        "-std=gnu11", "-Wall", "-Werror", f'-DMACROS="{room / "macros.h"}"', "-o", str(program),
        str(HERE / "oracle.c"),
    )  # fmt: skip
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    sizes, fields, constants = {}, {}, {}
    for line in said.splitlines():
        kind, *words = line.split()
        if kind == "size":
            sizes[words[0]] = int(words[1])
        elif kind == "field":
            fields[words[0], words[1]] = (int(words[2]), int(words[3]))
        else:
            constants[words[0]] = int(words[1])
    source = compiler("-E", "-P", "-x", "c", "-", text=HEADERS)
    return Facts(sizes, fields, constants, set(re.findall(r"struct (sadb_\w+) *\{", source)))


def members(name: str, row: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """The C members of a structure of the table with offset and size."""
    special = row.get("members", {})
    found = {}
    for field, offset, octets, _ in row["fields"]:
        member = special.get(field, row["member"] + field)
        if member:
            found[member] = (offset, octets)
    return found


def structures_of_linux() -> dict[str, Any]:
    """Rows of extensions.toml that are in Linux's headers."""
    rows = table("extensions")["structure"]
    return {name: row for name, row in rows.items() if "systems" not in row}


def test_every_structure_of_the_header_is_in_the_table(facts: Facts) -> None:
    structures = structures_of_linux()
    ours = {name for name in structures if name.startswith("sadb_")}
    assert ours == facts.structures
    assert set(facts.sizes) == set(structures)


def test_sizes_and_offsets_are_those_of_the_header(facts: Facts) -> None:
    for name, row in structures_of_linux().items():
        assert facts.sizes[name] == row["octets"], name
        theirs = {m: at for (struct, m), at in facts.fields.items() if struct == name}
        assert theirs == members(name, row), name


def names_of_linux() -> dict[str, int]:
    """C names and numbers of all rows of dialects.toml that Linux's headers have."""
    dialects, found = table("dialects"), {}
    for family, prefix, addition in FAMILIES:
        for name, numbers in dialects[family].items():
            if "linux" not in numbers or (family == "extension" and is_own(numbers["linux"])):
                continue
            spelled = addition + name[2:] if name.startswith("X_") else prefix + name
            found[SPELLED.get(spelled, spelled)] = numbers["linux"]
    return found


def test_every_number_of_the_tables_is_the_headers(facts: Facts) -> None:
    for name, number in (names_of_linux() | OTHERS).items():
        assert facts.constants[name] == number, name


def test_every_constant_of_the_header_is_in_the_tables(facts: Facts) -> None:
    ours = names_of_linux() | OTHERS
    for name, number in facts.constants.items():
        algorithm = re.fullmatch(r"SADB_(?:X_)?([AEC])ALG_(\w+)", name)
        if BOUNDS.fullmatch(name):
            continue
        if algorithm:
            kind = {"A": "auth", "E": "encrypt", "C": "compress"}[algorithm[1]]
            row = algorithms.by_name(kind, ALGORITHMS[algorithm[2]])
            assert row is not None, name
            assert (row.number, row.is_linux) == (number, True), name
        else:
            assert ours.get(name) == number, f"{name} = {number} is in no table"


def test_every_algorithm_of_linux_is_in_the_header(facts: Facts) -> None:
    numbers = {
        (match[1], number)
        for name, number in facts.constants.items()
        if (match := re.fullmatch(r"SADB_(?:X_)?([AEC])ALG_\w+", name))
    }
    for row in algorithms.ROWS:
        if row.is_linux and (row.kind.value, row.name) not in MAY_BE_MISSING:
            assert (row.kind.value[0].upper(), row.number) in numbers, row.name
