"""What part of the hard lifetimes the soft ones are."""

from pfkey.entries import Limits
from pfkey.libipsec.errors import EIPSEC_INVAL_ARGUMENT, IpsecError, reports

SADB_X_LIFETIME_ALLOCATIONS = 0
SADB_X_LIFETIME_BYTES = 1
SADB_X_LIFETIME_ADDTIME = 2
SADB_X_LIFETIME_USETIME = 3

# DEVIATION from the house's rule against state of a module: one rate a process is the interface.
_rates = [80, 80, 80, 80]  # percent, by the numbers above


@reports
def pfkey_set_softrate(type: int, rate: int) -> None:
    """Set the soft lifetime of a kind (SADB_X_LIFETIME_…) to `rate` percent of the hard one.

    80 at first. What is not from 1 to 100 means 100. Sends nothing; ADD and UPDATE heed it.
    """
    _rates[_kind(type)] = rate if 1 <= rate <= 100 else 100


def pfkey_get_softrate(type: int) -> int:
    """The percentage for a kind of lifetime; C returns ~0 for what is none. Sends nothing."""
    return _rates[_kind(type)]


def _kind(type: int) -> int:
    if not 0 <= type < len(_rates):
        raise IpsecError(EIPSEC_INVAL_ARGUMENT, f"{type} is none of the four kinds of lifetime")
    return type


def soft(hard: Limits) -> Limits:
    """The soft limits to hard ones.

    DEVIATION from C, whose product wraps at 32 bits, so that 80 % of 100 MB come out as a fraction
    of that (test_soft_lifetimes_do_not_wrap_at_32_bits).
    """
    return Limits(
        hard.allocations * _rates[SADB_X_LIFETIME_ALLOCATIONS] // 100,
        hard.octets * _rates[SADB_X_LIFETIME_BYTES] // 100,
        hard.addtime * _rates[SADB_X_LIFETIME_ADDTIME] // 100,
        hard.usetime * _rates[SADB_X_LIFETIME_USETIME] // 100,
    )
