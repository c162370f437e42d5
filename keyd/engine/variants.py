"""What an SA's flags may ask for: KAME's variants of ESP, AH and IPComp, and FreeBSD's ESN.

Flags that do not go together, or not with the SA, are refused as KAME does (EINVAL); those that
nobody knows are refused too, because an SA that ignored one would not be what was asked for.

DEVIATION from Linux, which ignores all of them: what they ask for changes the packets
(test_flags_that_do_not_go_together_are_refused).
"""

from errno import EINVAL, EOPNOTSUPP

from keyd.engine.keying import Keying
from pfkey.algorithms import Kind, by_number
from pfkey.const import IPPROTO_COMP, IPPROTO_ESP, KameFlag, SaFlag
from pfkey.errors import SadbError

PADS = int(KameFlag.RANDOM_PAD | KameFlag.ZERO_PAD)
KNOWN = 0
for _flag in (*SaFlag, *KameFlag):
    KNOWN |= int(_flag)
_QUIET = int(SaFlag.CYCSEQ)  # no rule here is about it
# DERIV and IV4B are of DES alone; esp-old knew DES and, for tests, NULL
_OLD_CIPHERS = ("des-cbc", "null")


def check_flags(flags: int, proto: int, keys: Keying, replay_packets: int) -> None:
    """Refuse flags that would change an SA's packets in no way that there is.

    Raises:
        SadbError: EINVAL for flags that do not go together or not with the SA; EOPNOTSUPP for
            flags that are unknown.
    """
    if not flags & ~_QUIET:
        return
    if flags & ~KNOWN:
        raise SadbError(EOPNOTSUPP, f"SA flags {flags & ~KNOWN:#x} are unknown")
    encrypt = by_number(Kind.ENCRYPT, keys.encrypt) if proto == IPPROTO_ESP else None
    cipher = "" if encrypt is None else encrypt.name
    is_old = bool(flags & KameFlag.OLD)
    rules = (
        (flags & KameFlag.RAWCPI and proto != IPPROTO_COMP, "raw CPIs (0x80) are of IPComp"),
        (flags & PADS and proto != IPPROTO_ESP, "padding (flags 0x100, 0x200) is of ESP"),
        (flags & PADS == PADS, "padding is random (flag 0x100) or zero (flag 0x200), not both"),
        (flags & KameFlag.IV4B and not (is_old and cipher == "des-cbc"),
         "an IV of 32 bits (flag 0x10) is of des-cbc in esp-old"),
        (flags & KameFlag.DERIV and (is_old or cipher != "des-cbc"),
         "a derived IV (flag 0x20) is of des-cbc in today's ESP"),
        (flags & SaFlag.ESN and (is_old or proto == IPPROTO_COMP),
         "extended sequence numbers (flag 0x400) are of today's ESP and AH"),
        (flags & SaFlag.ESN and not replay_packets,
         "extended sequence numbers (flag 0x400) need a replay window: the receiver infers the "
         "upper half from it (RFC 4303 3.3.3)"),
        (flags & SaFlag.ESN and flags & KameFlag.DERIV, "a derived IV has 32 bits of number"),
        (is_old and proto == IPPROTO_COMP, "there is no old IPComp (flag 0x1)"),
        (is_old and replay_packets, "esp-old and ah-old have no sequence numbers to check"),
        (is_old and cipher and cipher not in _OLD_CIPHERS, f"esp-old knows no {cipher}"),
        (is_old and cipher and _authenticates(keys.auth), "esp-old has no authenticator; add AH"),
        (is_old and not cipher and _has_iv(keys.auth), "ah-old knows no GMAC"),
    )  # fmt: skip
    for is_wrong, why in rules:
        if is_wrong:
            raise SadbError(EINVAL, why)


def _authenticates(auth: int) -> bool:
    row = by_number(Kind.AUTH, auth)
    return row is not None and row.icv > 0


def _has_iv(auth: int) -> bool:
    row = by_number(Kind.AUTH, auth)
    return row is not None and row.iv > 0
