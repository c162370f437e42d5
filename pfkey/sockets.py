"""Shell: the policies of one socket and UDP_ENCAP, for Python programs; pfkeyd keeps to them.

    set_policy(sock, "out ipsec esp/transport//require")
    set_encap(sock)

Programs that call setsockopt(2) with IP_IPSEC_POLICY have the same under `pfkey run`. Who has no
CAP_NET_ADMIN may ask for `ipsec` and `entrust`, and is heard where the SPD says nothing.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any, Protocol

from pfkey import policy as language
from pfkey.const import Dir
from pfkey.control import Control
from pfkey.errors import ControlError, ShellError
from pfkey.ext_x_policy import Policy
from pfkey.link import ANSWER_SECONDS

_CAP_NET_ADMIN = 12


def set_policy(
    sock: socket.socket, policy: str, *, path: Path | None = None, uid: int | None = None
) -> None:
    """Give a socket a policy for one direction, and whoever accepts or inherits it.

    Args:
        policy: as of ipsec_set_policy(3), of direction `in` or `out`; `out entrust` gives that
            direction back to the SPD.
        path: pfkeyd's socket; None: that of this network namespace.
        uid: on behalf of this user, who has no privileges; None: for ourselves.

    Raises:
        PolicyError: the text is no policy.
        OSError: pfkeyd refuses, with the errno that setsockopt(2) would have.
        ShellError: there is no pfkeyd, or we may not speak to it.
    """
    octets = language.parse(policy).encode()
    hand_over(path, sock, "set_policy", policies=[octets.hex()], uid=_user(uid))


def get_policy(sock: socket.socket, direction: Dir, *, path: Path | None = None) -> str:
    """A socket's policy in one direction, as `set_policy` takes it; raises the same."""
    answer = hand_over(path, sock, "get_policy", direction=int(direction))
    return language.render(Policy.decode(bytes.fromhex(answer["policy"])))


def set_encap(sock: socket.socket, *, encap: bool = True, path: Path | None = None) -> None:
    """Have a UDP socket receive IKE alone, and pfkeyd the ESP in UDP that comes to it (RFC 3948).

    As UDP_ENCAP does under `pfkey run`; with `encap` false no more. It takes no privilege.

    Raises:
        OSError: ENOPROTOOPT: the socket is none of UDP; ENOBUFS: there are too many kinds.
        ShellError: there is no pfkeyd, or we may not speak to it.
    """
    hand_over(path, sock, "set_encap", encap=encap, uid=_user(None))


def _user(uid: int | None) -> int | None:
    return os.geteuid() if uid is None and not is_privileged() else uid


class _Handed(Protocol):
    def fileno(self) -> int: ...


def hand_over(path: Path | None, given: _Handed, method: str, **params: Any) -> Any:
    """Call a method of pfkeyd's control socket with a copy of a descriptor; its result.

    Raises:
        OSError: pfkeyd refuses, and says what a caller of the kernel is to see.
        ControlError: it refuses the call itself.
        ShellError: it is not there, or silent.
    """
    with Control(path) as control:
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with socket.socket(fileno=os.dup(control.fileno())) as link:
            socket.send_fds(link, [json.dumps(call).encode()], [given.fileno()])
        record = control.recv(ANSWER_SECONDS)
    if record is None:
        raise ShellError("pfkeyd did not answer")
    answer = json.loads(record)
    if "error" not in answer:
        return answer["result"]
    fault = answer["error"]
    if "errno" in fault.get("data", {}):
        raise OSError(fault["data"]["errno"], fault["message"])
    raise ControlError(method, fault["code"], fault["message"])


def is_privileged() -> bool:
    """Whether this process has CAP_NET_ADMIN."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
