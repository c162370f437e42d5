"""What belongs to a request: the sans-IO half of every PF_KEY client.

A PF_KEY socket also hears what others do. A reply to us has our request's type and process id and,
but for the records of a dump, its sequence number.
"""

from pfkey.base import header
from pfkey.const import MsgType
from pfkey.errors import WireError
from pfkey.message import Message

_DUMPS = (MsgType.DUMP, MsgType.X_SPDDUMP)


class Exchange:
    """One request and its replies. Offer each record that arrives until `is_done`."""

    def __init__(self, request: Message) -> None:
        self.request = request
        self.is_done = False
        self.errno = 0
        self.records: list[bytes] = []

    def offer(self, record: bytes) -> bool:
        """Take a record; False if it is not for us (another's, or no message at all)."""
        if self.is_done:
            return False
        try:
            found = header(record, is_request=False)
        except WireError:
            return False
        request = self.request
        if found.type != request.type or found.pid != request.pid:
            return False
        is_dump = request.type in _DUMPS
        if found.errno:
            if found.seq != request.seq and not is_dump:
                return False
            self.errno = found.errno
            self.is_done = True
            return True
        if not is_dump:
            if found.seq != request.seq:
                return False
            self.is_done = True
        else:
            self.is_done = found.seq == 0
        self.records.append(record)
        return True

    def replies(self) -> list[Message]:
        """The replies, decoded; none if the request was refused.

        Raises:
            WireError: the engine sent what is no message.
        """
        return [Message.decode(record) for record in self.records]
