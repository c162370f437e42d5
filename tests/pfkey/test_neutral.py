"""One way to say it: what does not depend on how a system says it."""

import itertools

from pfkey.const import ExtType, MsgType, SaType
from pfkey.dialect import FREEBSD
from pfkey.ext_sa import Sa
from pfkey.ext_x_sa2 import Sa2
from pfkey.ext_x_word import Word
from pfkey.message import Extension, Message
from pfkey.neutral import understood


def test_a_window_is_understood_wherever_it_stands() -> None:
    parts: tuple[Extension, ...] = (
        Sa(spi=1, replay=8),
        Word(exttype=ExtType.X_SA_REPLAY, value=100),
        Sa2(mode=1),
    )
    for order in itertools.permutations(parts):
        octets = Message(type=MsgType.ADD, satype=SaType.ESP, extensions=order).encode(FREEBSD)
        said = understood(Message.decode(octets, FREEBSD))
        assert said.sa is not None
        assert said.sa.replay == 100
        assert len(said.extensions) == 2
