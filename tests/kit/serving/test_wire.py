"""Messages between front and engine, however the socket cuts them."""

import asyncio
import random
import socket

import pytest

from kit.serving.wire import Gone, Inbox, pack, receive

MESSAGES = [({"kind": "audio", "stream": n, "text": "外滩" * (n % 5)}, bytes(range(n))) for n in range(200)]


def test_messages_come_as_they_were_sent_however_they_are_cut():
    draw = random.Random(0)
    content = b"".join(pack(*message) for message in MESSAGES)
    mine, its = socket.socketpair()
    with mine, its:
        inbox, found, at = Inbox(mine), [], 0
        while len(found) < len(MESSAGES):
            size = draw.choice([1, 3, 7, 100, 5000])
            its.sendall(content[at : at + size])
            at += size
            found += inbox.take()
        assert found == MESSAGES and inbox.take() == []


def test_both_readers_understand_the_same():
    async def read():
        reader = asyncio.StreamReader()
        reader.feed_data(b"".join(pack(*message) for message in MESSAGES) + pack({"kind": "torn"})[:-1])
        reader.feed_eof()
        found = [await receive(reader) for _ in MESSAGES]
        with pytest.raises(asyncio.IncompleteReadError):
            await receive(reader)
        return found

    assert asyncio.run(read()) == MESSAGES


def test_a_closed_socket_is_told_after_what_came_before():
    mine, its = socket.socketpair()
    with mine:
        its.sendall(pack({"kind": "ping"}))
        inbox = Inbox(mine)
        assert inbox.take() == [({"kind": "ping"}, b"")]
        its.close()
        with pytest.raises(Gone):
            inbox.take(None)
