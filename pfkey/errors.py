"""Every exception of the package. `except PfkeyError` is always right.

Message form: `EEXIST: spi 0x2694 is taken (RFC 2367 3.1.3)`: lower case, the offending value
shown, never a secret.
"""

import errno as _errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pfkey.message import Message


class PfkeyError(Exception):
    """Root of all errors that this package raises on purpose."""


class SadbError(PfkeyError):
    """A refusal by PF_KEY's rules; `errno` goes into sadb_msg_errno."""

    def __init__(self, errno: int, why: str, section: str = "") -> None:
        self.errno = errno
        self.why = why
        self.section = section
        where = f" (RFC 2367 {section})" if section else ""
        # Linux has one number for EOPNOTSUPP and ENOTSUP; PF_KEY's texts know the first.
        name = "EOPNOTSUPP" if errno == _errno.EOPNOTSUPP else _errno.errorcode.get(errno, errno)
        super().__init__(f"{name}: {why}{where}")


class WireError(SadbError):
    """Octets that are no message.

    Attributes:
        part: the message part or extension at fault, such as `sadb_key (KEY_ENCRYPT)`.
        offset: octets from the start of the message to the fault.
        rule: the rule that was broken.
    """

    def __init__(self, part: str, rule: str, offset: int = 0, errno: int = _errno.EINVAL) -> None:
        self.part = part
        self.rule = rule
        self.offset = offset
        super().__init__(errno, f"{part} at offset {offset}: {rule}", "2.2")


class RefusedError(SadbError):
    """The key engine refused a request of ours; one subclass for each family of errno.

    Attributes:
        errno: the number in the reply, this system's.
        request: the message that was refused. Its `repr` shows no key.
    """

    meaning = "refused"

    def __init__(self, errno: int, what: str, request: "Message") -> None:
        self.request = request
        super().__init__(errno, f"{what}: {self.meaning}")


class NotFoundError(RefusedError):
    """ENOENT, ESRCH, ENODATA: no such SA or policy, or no SPI of the range is free."""

    meaning = "there is none"


class ExistsError(RefusedError):
    """EEXIST: the SA, the policy or the registration is there already."""

    meaning = "it is there already"


class InvalidError(RefusedError):
    """EINVAL, EMSGSIZE, ELOOP, ERANGE: the request says what it may not."""

    meaning = "what it says is not allowed; the log of the key engine says what and why"


class UnsupportedError(RefusedError):
    """EOPNOTSUPP, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT, ENOPROTOOPT: not here."""

    meaning = "the key engine cannot do that; its log says what"


class BusyError(RefusedError):
    """EBUSY, EAGAIN, EINTR: not now, such as a second dump before the first is read."""

    meaning = "the key engine is busy with an earlier request, such as a dump; read that first"


class NoRoomError(RefusedError):
    """ENOBUFS, ENOMEM, ENOSPC: a limit of the key engine is reached."""

    meaning = "the key engine has no room for it"


class NotPermittedError(RefusedError):
    """EPERM, EACCES: it takes more rights than we have."""

    meaning = "it takes more rights"


# Which class an errno makes.
FAMILIES: dict[int, type[RefusedError]] = {
    number: family
    for family, numbers in (
        (NotFoundError, (_errno.ENOENT, _errno.ESRCH, _errno.ENODATA)),
        (ExistsError, (_errno.EEXIST,)),
        (InvalidError, (_errno.EINVAL, _errno.EMSGSIZE, _errno.ELOOP, _errno.ERANGE)),
        (
            UnsupportedError,
            (_errno.EOPNOTSUPP, _errno.ENOSYS, _errno.EPROTONOSUPPORT, _errno.EAFNOSUPPORT,
             _errno.ENOPROTOOPT),
        ),
        (BusyError, (_errno.EBUSY, _errno.EAGAIN, _errno.EINTR)),
        (NoRoomError, (_errno.ENOBUFS, _errno.ENOMEM, _errno.ENOSPC)),
        (NotPermittedError, (_errno.EPERM, _errno.EACCES)),
    )
    for number in numbers
}  # fmt: skip


class MisuseError(PfkeyError):
    """The library was asked for what it cannot do. Nothing was sent."""


class PolicyError(PfkeyError):
    """An ipsec_set_policy(3) string that is none. `column` counts from 0."""

    def __init__(self, text: str, column: int, why: str) -> None:
        self.text = text
        self.column = column
        self.why = why
        super().__init__(f"{why} at column {column + 1} of {text!r}")


class ConfError(PfkeyError):
    """A configuration file's fault: where (line and column count from 1) and what."""

    def __init__(self, file: str, line: int, column: int, why: str, token: str = "") -> None:
        self.file = file
        self.line = line
        self.column = column
        self.why = why
        self.token = token
        super().__init__(f"{file}:{line}:{column}: {why}")


class CryptoError(PfkeyError):
    """The crypto wall's root."""


class UnsupportedAlgorithmError(CryptoError):
    """This build of the crypto library lacks the algorithm or key length."""


class ShellError(PfkeyError):
    """A device, socket or right we cannot have. `remedy` is the line that mends it."""

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f"{what}; {remedy}" if remedy else what)


class AbsentError(ShellError):
    """No key engine is there to connect to."""


class ClosedError(ShellError):
    """The key engine, or our own side, has ended the connection; what was registered is gone."""


class NoAnswerError(ShellError):
    """The key engine is there and says nothing."""


class ControlError(PfkeyError):
    """pfkeyd refused a control call; `code` is JSON-RPC's."""

    def __init__(self, method: str, code: int, why: str) -> None:
        self.method = method
        self.code = code
        super().__init__(f"{method}: {why}")
