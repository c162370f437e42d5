"""Keys that a cipher takes and that protect less than they seem to: DES, RFC 2405 and 2451.

The last bit of each octet of a DES key is parity, which ciphers ignore and so do we.
"""

from pfkey.algorithms import Kind, by_number

_DES = ("des-cbc", "3des-cbc")
# FIPS 74: encrypting twice under one of the first four, or under one and the other of a pair of
# the rest, gives the plaintext back.
_WEAK_DES = frozenset(
    bytes(octet & 0xFE for octet in bytes.fromhex(key))
    for key in (
        "0101010101010101", "fefefefefefefefe", "e0e0e0e0f1f1f1f1", "1f1f1f1f0e0e0e0e",
        "011f011f010e010e", "1f011f010e010e01", "01e001e001f101f1", "e001e001f101f101",
        "01fe01fe01fe01fe", "fe01fe01fe01fe01", "1fe01fe00ef10ef1", "e01fe01ff10ef10e",
        "1ffe1ffe0efe0efe", "fe1ffe1ffe0efe0e", "e0fee0fef1fef1fe", "fee0fee0fef1fef1",
    )
)  # fmt: skip


def weakness(encrypt: int, key: bytes) -> str:
    """What is weak about a key under an SADB_EALG number, for people; "" for nothing."""
    row = by_number(Kind.ENCRYPT, encrypt)
    if row is None or row.name not in _DES:
        return ""
    parts = [bytes(octet & 0xFE for octet in key[at : at + 8]) for at in range(0, len(key), 8)]
    if row.name == "3des-cbc":
        # two neighbouring parts alike undo each other: encrypt, decrypt, encrypt
        if parts[0] == parts[1] or parts[1] == parts[2]:
            return "parts of its 3des-cbc key are equal, which makes it single DES; it is weak"
    elif parts[0] in _WEAK_DES:
        return "its des-cbc key is one of the sixteen weak ones of DES"
    return ""
