"""Every exception of the package. `except PfkeyError` is always right.

Message form: `EEXIST: spi 0x2694 is taken (RFC 2367 3.1.3)`: lower case, the offending value
shown, never a secret.
"""

import errno as _errno


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
