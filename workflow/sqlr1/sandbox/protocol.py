"""What the executor and its workers say to each other.

A message is a 4-byte length and a marshalled value: unlike pickle, marshal runs no code when it is read.
A task is `(kind, database, sql, *more)`, a reply `(status, payload, error)`:

| kind        | more                                      | payload if ok                                         |
|-------------|-------------------------------------------|-------------------------------------------------------|
| execute     |                                           | (column names, marshalled rows, may change by itself) |
| fingerprint |                                           | digest of the result                                  |
| compare     | (key, marshalled rows, comparators)...    | comparator -> 0..1, one such a gold                   |
| race        | gold SQL, repeats                         | ratios of gold time to predicted time, one a repeat   |

A race that is not ok has for its payload the statement that failed, "gold" or "predicted"; others have None.
"""

import marshal
import socket
import struct
from typing import Any

_CHUNK = 1 << 20
_HEADER = struct.Struct("!I")

Task = tuple
Reply = tuple[str, Any, str]


def send(connection: socket.socket, value: Any) -> None:
    """Write one message."""
    body = marshal.dumps(value, 2)
    connection.sendall(_HEADER.pack(len(body)) + body)


class Inbox:
    """Puts the messages that arrive on a socket together."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def receive(self) -> list[Any]:
        """Read once; the messages now complete, if any. Raises ConnectionError when the other side is gone."""
        if not (part := self._connection.recv(_CHUNK)):
            raise ConnectionError("the other side closed the connection")
        self._buffer += part
        messages = []
        while len(self._buffer) >= _HEADER.size:
            end = _HEADER.size + _HEADER.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            messages.append(marshal.loads(bytes(self._buffer[_HEADER.size : end])))
            del self._buffer[:end]
        return messages
