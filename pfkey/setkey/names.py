"""Names in setkey's language: hosts, services, protocols. What needs the system is handed in."""

import ipaddress
from collections.abc import Sequence
from typing import Protocol

from pfkey.const import AF_INET, AF_INET6
from pfkey.setkey.statements import Host


class Names(Protocol):
    """How names become numbers. Each raises LookupError with the words to print."""

    def hosts(self, name: str, family: int, is_numeric: bool) -> Sequence[Host]:
        """The addresses of a host; `family` 0 is any, `is_numeric` forbids a look-up."""

    def service(self, name: str) -> int:
        """The port of a service."""

    def protocol(self, name: str) -> int:
        """The number of a protocol that is not in `pfkey.protocols`."""


def numeric_host(name: str, family: int = 0) -> Host | None:
    """A plain numeric address, None if it is none of this family (0: any)."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    if getattr(address, "scope_id", None) or family not in (
        0,
        AF_INET if address.version == 4 else AF_INET6,
    ):
        return None
    return Host(address.packed)


class NumbersOnly:
    """Names where no system is at hand: only numbers are known."""

    def hosts(self, name: str, family: int, is_numeric: bool) -> Sequence[Host]:
        """Refuse: numeric addresses do not come here."""
        raise LookupError("Name or service not known")

    def service(self, name: str) -> int:
        """Refuse."""
        raise LookupError("Servname not supported for ai_socktype")

    def protocol(self, name: str) -> int:
        """Refuse."""
        raise LookupError("invalid upper layer protocol")
