"""Shell: names in setkey's language as this machine resolves them."""

import socket
from collections.abc import Sequence

from pfkey.setkey.statements import Host


class SystemNames:
    """Names as this machine resolves them."""

    def hosts(self, name: str, family: int, is_numeric: bool) -> Sequence[Host]:
        """The addresses of a host."""
        try:
            found = socket.getaddrinfo(
                name, None, family, socket.SOCK_RAW, 0, socket.AI_NUMERICHOST if is_numeric else 0
            )
        except (socket.gaierror, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            raise LookupError(why or "Name or service not known") from None
        hosts = []
        for kind, _, _, _, address in found:
            if kind == socket.AF_INET:
                hosts.append(Host(socket.inet_aton(str(address[0]))))
            elif kind == socket.AF_INET6:
                plain = str(address[0]).partition("%")[0]
                scope = int(address[3]) if len(address) == 4 else 0
                hosts.append(Host(socket.inet_pton(kind, plain), 0, scope))
        return hosts

    def service(self, name: str) -> int:
        """The port of a service."""
        try:
            return socket.getservbyname(name)
        except (OSError, UnicodeError):
            raise LookupError("Servname not supported for ai_socktype") from None

    def protocol(self, name: str) -> int:
        """The number of a protocol."""
        try:
            return socket.getprotobyname(name)
        except (OSError, UnicodeError):
            raise LookupError("invalid upper layer protocol") from None
