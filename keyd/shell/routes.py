"""The rule and the routes that lead marked packets into a TUN, by pyroute2.

`ip rule` 75: protect mark → table 7575, which holds `default dev pfkey0` and, behind it,
`unreachable default metric 9999`: when the device is gone, nothing falls through to table main.
Each pair of policies of sockets that seals has its mark, the next table, and its device.

The kernel gives every device a route for IPv6 multicast, in table local, and the first such route
takes what names no device. That of pfkey0 goes: nothing but the mark leads there.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from keyd.shell.marks import Marks
from pfkey.doctor import has_ipv6
from pfkey.errors import ShellError

RULE_PRIORITY = 75
TABLE = 7575
UNREACHABLE_METRIC = 9999

_ESRCH, _ENOENT, _EACCES, _EEXIST, _ENODEV = 3, 2, 13, 17, 19
_RTN_UNICAST, _RTN_MULTICAST, _RTN_UNREACHABLE = 1, 5, 7
_TABLE_LOCAL = 255
_MULTICAST = "ff00::/8"
_SCOPE_LINK = 253
# RTMGRP_LINK; RTMGRP_IPV4_IFADDR, _ROUTE, _RULE; RTMGRP_IPV6_IFADDR, _ROUTE, RTNLGRP_IPV6_RULE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18


@contextmanager
def _netlink() -> Iterator[Any]:
    """A blocking pyroute2 connection for a few requests; its refusals become ours."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        remedy = "run as root, or with CAP_NET_ADMIN in this network namespace"
        raise ShellError(f"routing cannot be set up: {error}", remedy) from None


class Routes:
    """The rules and the table of one mark and one device. Call it in its network namespace.

    `pair` is that of policies of sockets; None: the SPD.
    """

    def __init__(self, device: str, marks: Marks, pair: int | None = None) -> None:
        self.device = device
        self.marks = marks
        self.mark = marks.protect if pair is None else marks.steered(pair)
        self.table = TABLE if pair is None else TABLE + 1 + pair

    def ensure(self, index: int) -> list[str]:
        """Make rule and routes stand, with the device's interface index; says what was missing."""
        missing = []
        with _netlink() as ip:
            for family, name in _families().items():
                if not self._has_route(ip, family, _RTN_UNREACHABLE, index):
                    self._route(ip, "add", family, None)
                    missing.append(f"{name} unreachable route in table {self.table}")
                if not self._has_route(ip, family, _RTN_UNICAST, index) and self._route(
                    ip, "add", family, index
                ):
                    missing.append(f"{name} route to {self.device} in table {self.table}")
                if not self._has_rule(ip, family):
                    self._rule(ip, "add", family)
                    missing.append(f"{name} rule {RULE_PRIORITY}")
                if family == socket.AF_INET6:
                    _unless(
                        (_ESRCH,), ip.route, "del", family=family, dst=_MULTICAST, oif=index,
                        table=_TABLE_LOCAL, type=_RTN_MULTICAST,
                    )  # fmt: skip
        return missing

    def remove(self, *, device: bool = True) -> None:
        """Take rule, routes and, if wanted, the device away, as far as they are there."""
        with _netlink() as ip:
            found = list(ip.link_lookup(ifname=self.device))
            for family in _families():
                while self._has_rule(ip, family):
                    self._rule(ip, "del", family)
                if self._has_route(ip, family, _RTN_UNREACHABLE, 0):
                    self._route(ip, "del", family, None)
                for index in found:
                    if self._has_route(ip, family, _RTN_UNICAST, index):
                        self._route(ip, "del", family, index)
            for index in found if device else ():
                _unless((_ENODEV,), ip.link, "del", index=index)

    def own_addresses(self) -> list[bytes]:
        """This host's addresses, packed, without those of our device: each once, in no order."""
        with _netlink() as ip:
            ours = ip.link_lookup(ifname=self.device)
            texts = {
                a.get_attr("IFA_LOCAL") or a.get_attr("IFA_ADDRESS")
                for a in ip.get_addr()
                if a["index"] not in ours
            }
        return [ip_address(text).packed for text in texts if text]

    def _has_rule(self, ip: Any, family: int) -> bool:
        ours = {
            "FRA_PRIORITY": RULE_PRIORITY, "FRA_TABLE": self.table,
            "FRA_FWMARK": self.mark, "FRA_FWMASK": self.marks.mask,
        }  # fmt: skip
        return any(
            all(rule.get_attr(name) == value for name, value in ours.items())
            and not rule["src_len"]
            and not rule["dst_len"]
            for rule in ip.get_rules(family=family)
        )

    def _rule(self, ip: Any, command: str, family: int) -> None:
        _unless(
            (_EEXIST, _ENOENT), ip.rule, command, family=family, priority=RULE_PRIORITY,
            fwmark=self.mark, fwmask=self.marks.mask, table=self.table,
        )  # fmt: skip

    def _has_route(self, ip: Any, family: int, kind: int, index: int) -> bool:
        return any(
            route["type"] == kind
            and route["dst_len"] == 0
            and (kind == _RTN_UNREACHABLE or route.get_attr("RTA_OIF") == index)
            for route in ip.get_routes(family=family, table=self.table)
        )

    def _route(self, ip: Any, command: str, family: int, index: int | None) -> bool:
        """The default route to the device, or without an index the unreachable one behind it.

        Whether it could be done: where IPv6 cannot be switched on for the device, the
        unreachable route alone keeps what is to be protected from leaving.
        """
        how: dict[str, Any] = (
            {"type": "unreachable", "priority": UNREACHABLE_METRIC}
            if index is None
            else {"oif": index, "scope": _SCOPE_LINK}
        )
        try:
            _unless(
                (_EEXIST, _ESRCH), ip.route, command, family=family, dst="default",
                table=self.table, **how,
            )  # fmt: skip
        except NetlinkError as error:
            if error.code != _EACCES or family != socket.AF_INET6:
                raise
            return False
        return True


def _families() -> dict[int, str]:
    """The families that this kernel has."""
    found: dict[int, str] = {socket.AF_INET: "IPv4"}
    return {**found, socket.AF_INET6: "IPv6"} if has_ipv6() else found


def _unless(harmless: tuple[int, ...], request: Any, *args: Any, **how: Any) -> None:
    """Make a request whose refusal with these errnos means that it is done already."""
    try:
        request(*args, **how)
    except NetlinkError as error:
        if error.code not in harmless:
            raise


def event_socket() -> socket.socket:
    """A socket that becomes readable when links, addresses, routes or rules change here."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    link.setblocking(False)
    link.bind((0, _GROUPS))
    return link
