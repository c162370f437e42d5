"""libipsec's error codes, their texts, and ipsec_strerror(3).

A function that fails raises IpsecError, where C returns -1 or NULL; so what is returned is what C
gives back by value or through a pointer. The code stays behind for `ipsec_strerror`, one for each
thread.
"""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pfkey.errors import PfkeyError

EIPSEC_NO_ERROR = 0
EIPSEC_NOT_SUPPORTED = 1
EIPSEC_INVAL_ARGUMENT = 2
EIPSEC_INVAL_SADBMSG = 3
EIPSEC_INVAL_VERSION = 4
EIPSEC_INVAL_POLICY = 5
EIPSEC_INVAL_ADDRESS = 6
EIPSEC_INVAL_PROTO = 7
EIPSEC_INVAL_MODE = 8
EIPSEC_INVAL_LEVEL = 9
EIPSEC_INVAL_SATYPE = 10
EIPSEC_INVAL_MSGTYPE = 11
EIPSEC_INVAL_EXTTYPE = 12
EIPSEC_INVAL_ALGS = 13
EIPSEC_INVAL_KEYLEN = 14
EIPSEC_INVAL_FAMILY = 15
EIPSEC_INVAL_PREFIXLEN = 16
EIPSEC_INVAL_DIR = 17
EIPSEC_INVAL_SPI = 18
EIPSEC_NO_PROTO = 19
EIPSEC_NO_ALGS = 20
EIPSEC_NO_BUFS = 21
EIPSEC_DO_GET_SUPP_LIST = 22
EIPSEC_PROTO_MISMATCH = 23
EIPSEC_FAMILY_MISMATCH = 24
EIPSEC_FEW_ARGUMENTS = 25
EIPSEC_SYSTEM_ERROR = 26
EIPSEC_INVAL_PRIORITY_OFFSET = 27
EIPSEC_INVAL_PRIORITY_BASE_OFFSET = 28
EIPSEC_PRIORITY_NOT_COMPILED = 29
EIPSEC_MAX = 30

TEXTS = (
    "Success",
    "Not supported",
    "Invalid argument",
    "Invalid sadb message",
    "Invalid version",
    "Invalid security policy",
    "Invalid address specification",
    "Invalid ipsec protocol",
    "Invalid ipsec mode",
    "Invalid ipsec level",
    "Invalid SA type",
    "Invalid message type",
    "Invalid extension type",
    "Invalid algorithm type",
    "Invalid key length",
    "Invalid address family",
    "Invalid prefix length",
    "Invalid direction",
    "SPI range violation",
    "No protocol specified",
    "No algorithm specified",
    "No buffers available",
    "Must get supported algorithms list first",
    "Protocol mismatch",
    "Family mismatch",
    "Too few arguments",
    "System error",  # in whose place the system's own text stands
    "priority offset out of range",
    "base offset out of range",
    "Policy priority not compiled in",
    "Unknown error",
)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class IpsecError(PfkeyError):
    """A function of libipsec failed.

    Attributes:
        code: EIPSEC_…
        text: what `ipsec_strerror` says of it.
    """

    def __init__(self, code: int, why: str = "") -> None:
        self.code = code
        is_system = code == EIPSEC_SYSTEM_ERROR and why
        self.text = why if is_system else TEXTS[code]
        super().__init__(self.text if is_system or not why else f"{self.text}: {why}")


class _Last(threading.local):
    text = TEXTS[EIPSEC_NO_ERROR]


# DEVIATION from the house's rule against state of a module: errno's manners are the interface.
_last = _Last()


def ipsec_strerror() -> str:
    """The text for how this thread's last call ended: `Success`, or why it failed."""
    return _last.text


def reports(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Leave the outcome of a call for `ipsec_strerror`."""

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            result = function(*args, **kwargs)
        except IpsecError as error:
            _last.text = error.text
            raise
        _last.text = TEXTS[EIPSEC_NO_ERROR]
        return result

    return call
