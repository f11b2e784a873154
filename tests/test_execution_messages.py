"""Messages between the executor and its workers."""

import socket

import pytest

from sqlr1.sandbox import protocol


def test_messages_arrive_in_parts_several_at_once_and_before_the_end():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox, data = protocol.Inbox(ours), protocol.encoded(["a", 1]) + protocol.encoded("b" * 1000)
        theirs.sendall(data[:3])
        assert inbox.receive() == []
        theirs.sendall(data[3:20])
        assert inbox.receive() == [["a", 1]]
        theirs.sendall(data[20:] + data)
        theirs.close()
        assert inbox.receive() == ["b" * 1000, ["a", 1], "b" * 1000]
        with pytest.raises(EOFError):
            inbox.receive()
