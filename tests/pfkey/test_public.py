"""What `pfkey` exports: every name, documented, and imported only when it is used."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import pfkey

SOURCE = Path(pfkey.__file__).read_text()
NAMES = sorted(pfkey._HOMES)


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_pfkey_imports_nothing_of_weight() -> None:
    shown = python(
        "import sys; was = set(sys.modules); import pfkey; print(set(sys.modules) - was)"
    )
    for heavy in ("trio", "construct", "cryptography", "pyroute2", "pfkey."):
        assert heavy not in shown


def test_trio_is_imported_for_connect_alone() -> None:
    everything = ", ".join(name for name in NAMES if not pfkey._HOMES[name].startswith("aio"))
    code = f"import sys; from pfkey import {everything}; print('trio' in sys.modules)"
    assert python(code) == "False\n"
    assert python("import sys, pfkey; pfkey.connect; print('trio' in sys.modules)") == "True\n"


def test_type_checkers_see_the_names_that_exist() -> None:
    seen = {
        alias.asname: (node.module or "").removeprefix("pfkey.")
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pfkey.")
        for alias in node.names
    }
    assert seen == pfkey._HOMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_its_modules(name: str) -> None:
    home = import_module(f"pfkey.{pfkey._HOMES[name]}")
    assert getattr(pfkey, name) is getattr(home, name)
    assert name in dir(pfkey)


def test_a_name_that_is_none_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pfkey' has no attribute 'Cleint'"):
        getattr(pfkey, "Cleint")  # noqa: B009 - a checker knows that it is none


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented_with_its_members(name: str) -> None:
    found = getattr(pfkey, name)
    if not inspect.isclass(found) and not inspect.isfunction(found):
        return  # a union of classes, which are documented
    assert inspect.getdoc(found), name
    if found.__module__.startswith("pfkey") and inspect.isclass(found):
        for member, value in vars(found).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_every_error_of_the_package_is_public() -> None:
    errors = import_module("pfkey.errors")
    classes = {n for n, v in vars(errors).items() if inspect.isclass(v)}
    wanted = {n for n in classes if issubclass(getattr(errors, n), errors.PfkeyError)}
    internal = {"ConfError", "CryptoError"}  # of setkey's files and of the crypto wall
    assert wanted - internal == {n for n in NAMES if pfkey._HOMES[n] == "errors"}
