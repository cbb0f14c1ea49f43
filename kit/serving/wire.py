"""Messages between the front and an engine process: a JSON object and bytes each, over a socket that both hold.

A message is two lengths (4 bytes each, big-endian), the object as UTF-8, and the bytes. Nothing is pickled.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
from typing import Any

_LENGTHS = struct.Struct(">II")
_READ = 1 << 20

Message = tuple[dict[str, Any], bytes]


def pack(content: dict[str, Any], payload: bytes = b"") -> bytes:
    """A message as it is sent."""
    header = json.dumps(content, ensure_ascii=False).encode()
    return _LENGTHS.pack(len(header), len(payload)) + header + payload


async def receive(reader: asyncio.StreamReader) -> Message:
    """The next message.

    Raises:
        asyncio.IncompleteReadError: there is none, or only a part of one: the other side is gone.
    """
    sizes = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    header, payload = [await reader.readexactly(size) for size in sizes]
    return json.loads(header), payload


class Gone(Exception):
    """The other side closed the socket."""


class Inbox:
    """The messages that come in over a socket, for a loop that has other work to do between them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def take(self, wait: float | None = 0.0) -> list[Message]:
        """All messages that are there; waits so many seconds for the first bytes if there are none, None: for ever.

        Raises:
            Gone: the socket was closed.
        """
        while select.select([self._connection], [], [], wait)[0]:
            wait = 0.0
            try:
                fresh = self._connection.recv(_READ)
            except ConnectionError:
                fresh = b""
            if not fresh:
                raise Gone
            self._buffer += fresh
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> Message | None:
        if len(self._buffer) < _LENGTHS.size:
            return None
        header, payload = _LENGTHS.unpack_from(self._buffer)
        begin, end = _LENGTHS.size + header, _LENGTHS.size + header + payload
        if len(self._buffer) < end:
            return None
        message = json.loads(self._buffer[_LENGTHS.size : begin]), bytes(self._buffer[begin:end])
        del self._buffer[:end]
        return message
