"""The import rules of the house (docs/architecture.md), and how long a room may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pfkey", "keyd", "racoon_py")
MODULES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))

# Each outside library is imported by these places only.
SOLE_IMPORTERS = {
    "construct": ("pfkey/codec.py",),
    "cryptography": ("pfkey/crypto/",),
    "trio": ("keyd/shell/", "pfkey/aio/"),
    "pyroute2": ("keyd/shell/",),
}
# The street: these may wait, open sockets, read clocks.
SHELL = (
    "keyd/shell/", "pfkey/lab/", "pfkey/libipsec/", "pfkey/aio/", "pfkey/__init__.py",
    "pfkey/transport.py", "pfkey/link.py", "pfkey/session.py", "pfkey/blocking.py",
    "pfkey/control.py", "pfkey/arguments.py", "pfkey/cli.py", "pfkey/monitor.py",
    "pfkey/stat.py", "pfkey/doctor.py",
    "pfkey/setkey/main.py", "pfkey/setkey/resolve.py", "pfkey/streams.py", "pfkey/sockets.py",
    "pfkey/capture.py", "pfkey/start.py", "keyd/start.py",
    *(f"pfkey/run/{name}.py" for name in (
        "caller", "daemons", "group", "held", "keysocket", "launch", "link", "memory", "notify",
        "probe", "socketoptions", "supervisor", "watch",
    )),
)  # fmt: skip
NOT_IN_A_CORE = {"trio", "socket", "time", "random", "os", "subprocess", "select", "threading"}
MAY_IMPORT = {
    "pfkey": {"pfkey"},
    "keyd": {"keyd", "pfkey"},
    "racoon_py": {"racoon_py", "pfkey"},
}
LINES = 400


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_imports_only_what_its_room_may(path: Path) -> None:
    where = name(path)
    package = where.split("/")[0]
    is_shell = where.startswith(SHELL)
    for module in imports(path):
        top = module.split(".")[0]
        assert top != "tests", f"{where} imports tests"
        if top in PACKAGES:
            assert top in MAY_IMPORT[package], f"{where} imports {module}"
            inner = module.replace(".", "/") + (
                "/" if (ROOT / module.replace(".", "/")).is_dir() else ".py"
            )
            if not is_shell:
                assert not inner.startswith(SHELL), f"{where}, a core, imports the shell's {module}"
        if top in SOLE_IMPORTERS:
            assert where.startswith(SOLE_IMPORTERS[top]), f"{where} imports {module}"
        if not is_shell:
            assert top not in NOT_IN_A_CORE, f"{where}, a core, imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_is_short_enough_to_hold_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES, f"{name(path)}: split it"


def test_values_that_hold_a_key_mask_it_in_their_repr() -> None:
    """A dataclass with a key in it must mask its repr: `repr=False` or a `__repr__`."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            fields = {
                stmt.target.id: stmt
                for stmt in node.body
                if isinstance(stmt, ast.AnnAssign) and isinstance(stmt.target, ast.Name)
            }
            secret = [
                f
                for f, stmt in fields.items()
                if f in ("key", "auth_key", "encrypt_key")
                and "bytes" in ast.unparse(stmt.annotation)
                and "repr=False" not in ast.unparse(stmt)
            ]
            masks = any(isinstance(s, ast.FunctionDef) and s.name == "__repr__" for s in node.body)
            assert not secret or masks, f"{name(path)}: {node.name} shows {secret} in its repr"
