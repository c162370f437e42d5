"""As much of JSON Schema as the shipped schemas use; an unknown keyword fails."""

import json
from importlib.resources import files
from typing import Any

_TYPES: dict[str, type] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": float, "null": type(None),
}  # fmt: skip
_OF_OBJECTS = {"required", "properties", "additionalProperties"}
_NOTES = {"$schema", "title", "description"}


def schema(name: str) -> dict[str, Any]:
    """A schema of the package."""
    loaded: dict[str, Any] = json.loads((files("pfkey.schemas") / f"{name}.json").read_text())
    return loaded


def check_schema(value: Any, rule: dict[str, Any], where: str = "$") -> None:
    """Assert that `value` follows `rule`."""
    for keyword, wanted in rule.items():
        if keyword in _OF_OBJECTS and not isinstance(value, dict):
            continue  # null, where the type allows it: only objects have members
        match keyword:
            case "type":
                kinds = [wanted] if isinstance(wanted, str) else wanted
                assert any(
                    isinstance(value, _TYPES[k]) and (k == "boolean" or not isinstance(value, bool))
                    for k in kinds
                ), f"{where}: {value!r} is no {wanted}"
            case "const":
                assert value == wanted, f"{where}: {value!r} is not {wanted!r}"
            case "enum":
                assert value in wanted, f"{where}: {value!r} is none of {wanted}"
            case "minimum":
                assert value >= wanted, f"{where}: {value} is below {wanted}"
            case "required":
                assert not set(wanted) - set(value), f"{where}: {set(wanted) - set(value)} missing"
            case "properties":
                for name in wanted.keys() & value.keys():
                    check_schema(value[name], wanted[name], f"{where}.{name}")
            case "additionalProperties":
                extra = value.keys() - rule.get("properties", {}).keys()
                assert not extra or wanted is not False, f"{where}: {extra} not allowed"
                if isinstance(wanted, dict):
                    for name in extra:
                        check_schema(value[name], wanted, f"{where}.{name}")
            case "items":
                for index, item in enumerate(value):
                    check_schema(item, wanted, f"{where}[{index}]")
            case _:
                assert keyword in _NOTES, f"{where}: keyword {keyword} is not supported here"
