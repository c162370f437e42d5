"""By which TUN device an opened packet enters, which tells nft what had protected it.

A socket's inbound policy is held to NetBSD's rule: each protocol that it requires must have been
there. So what was opened with AH, or was only compressed, enters by other devices than the rest, as
soon as any socket's policy requires something; and what only a pair of policies of sockets lets in,
by the pair's own. What the outbound worker itself has to say to a sender enters as if it had been
opened with both.
"""

MAIN, AH, ESP_AH, COMP = ALL = 0, 1, 2, 3  # for all that the SPD lets in
ANY = -1  # in nft's rules
_FIRST_PAIR = 4
_NAMES = {AH: "ah", ESP_AH: "espah", COMP: "comp", ANY: "*"}


def of_pair(number: int) -> int:
    """The door of a pair."""
    return _FIRST_PAIR + number


def device(main: str, door: int) -> str:
    """The name of a door's device, beside that of the main one, pfkey0."""
    if door == MAIN:
        return main
    return main.rstrip("0123456789") + (_NAMES.get(door) or str(door - _FIRST_PAIR + 1))
