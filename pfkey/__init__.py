"""PF_KEY v2 (RFC 2367) for programs: formats, messages, setkey and the `pfkey` command."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfkey.sockets import get_policy as get_policy
    from pfkey.sockets import set_policy as set_policy

_HOMES = {"get_policy": "sockets", "set_policy": "sockets"}


if not TYPE_CHECKING:  # a checker shall know the names above, and no other

    def __getattr__(name: str) -> object:
        """Import a public name from its module when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module 'pfkey' has no attribute {name!r}")
        return getattr(import_module(f"pfkey.{_HOMES[name]}"), name)
