"""A client of the server, in Python.

    from kit.serving.client import Stream

    with Stream("127.0.0.1:8000", hotwords=["外滩"]) as stream:
        for block in microphone:  # bytes of 16-bit samples, or floating arrays in [-1, 1]
            stream.send(block)
            for event in stream.events():
                print(event)
        for event in stream.finish():
            print(event)

Events are the server's JSON objects as dictionaries (docs/serving.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np

from kit.errors import KitError

Event = dict[str, Any]
_LARGEST = 1 << 20  # bytes of an event


class ServerError(KitError):
    """The server ended the stream; `code` says why, as docs/serving.md lists them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Stream:
    """A stream of audio to a server, and of events from it. For one thread.

    Args:
        server: HOST:PORT, or an address that begins with ws://, wss://, http:// or https://.
        hotwords: names that may well be said.
        format: "pcm16", "opus" (a packet a `send`) or "ogg".
        rate: of pcm16, in Hz, from 8000 to 48000.
        partials: whether texts are wanted before the end of speech.
        token: that the server asks for.
        timeout: seconds that the server may be silent where an answer is due.

    Attributes:
        ready: the server's first event.

    Raises:
        ServerError: the server refuses the stream.
        KitError: there is no server.
    """

    def __init__(
        self,
        server: str = "127.0.0.1:8000",
        *,
        hotwords: Sequence[str] = (),
        format: str = "pcm16",
        rate: int = 16000,
        partials: bool = True,
        token: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._timeout, self._over = timeout, False
        self._open = ExitStack()
        self._socket = _connect(self._open, _address(server), timeout)
        start = {"format": format, "rate": rate, "hotwords": list(hotwords), "partials": partials}
        try:
            self._tell("start", **start, **({"token": token} if token else {}))
            self.ready = self._next(timeout)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, audio: bytes | np.ndarray) -> None:
        """Audio as it comes: bytes of the format, or floating samples of pcm16.

        Raises:
            ServerError: the server ended the stream.
        """
        if isinstance(audio, np.ndarray):
            audio = (audio.clip(-1, 1) * 32767).astype("<i2").tobytes()
        self._send(audio)

    def hotwords(self, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Let hotwords come and go; an event `hotwords` tells which were taken."""
        self._tell("hotwords", add=list(add), remove=list(remove))

    def events(self, wait: float = 0.0) -> Iterator[Event]:
        """What the server said: what is there, and what comes within so many seconds.

        Raises:
            ServerError: it ended the stream.
        """
        deadline = time.monotonic() + wait
        while not self._over:
            try:
                yield self._next(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return

    def flush(self) -> Iterator[Event]:
        """End the utterance here; the events up to `flushed`, the final text among them."""
        self._tell("flush")
        return self._until("flushed")

    def finish(self) -> Iterator[Event]:
        """End the stream here; the events up to `ended`, the last one."""
        self._tell("end")
        return self._until("ended")

    def close(self) -> None:
        """Let go of the server; what it has not told is lost."""
        self._over = True
        self._open.close()

    def _until(self, last: str) -> Iterator[Event]:
        while True:
            try:
                event = self._next(self._timeout)
            except TimeoutError as error:
                raise KitError(f"the server said nothing for {self._timeout:g} s; look at its messages") from error
            yield event
            if event["event"] == last:
                self._over = last == "ended"
                return

    def _next(self, wait: float) -> Event:
        """The next event; raises TimeoutError if there is none in time."""
        from websockets.exceptions import ConnectionClosed

        try:
            event: Event = json.loads(self._socket.recv(timeout=wait))
        except ConnectionClosed as closed:
            raise self._ended(closed) from closed
        if event["event"] == "error" and event["code"] != "utterance_lost":
            raise ServerError(event["code"], event["message"])
        return event

    def _tell(self, kind: str, **content: Any) -> None:
        self._send(json.dumps({"type": kind, **content}, ensure_ascii=False))

    def _send(self, message: bytes | str) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(message)
        except ConnectionClosed as closed:
            for _ in self.events():  # it may have said why
                pass
            raise self._ended(closed) from closed

    def _ended(self, closed: Any) -> ServerError:
        close = closed.rcvd
        reason = f" ({close.code}{' ' if close.reason else ''}{close.reason})" if close else ""
        return ServerError(close.reason if close else "", f"the server closed the connection{reason}")


def _address(server: str) -> str:
    for plain, socket in (("http://", "ws://"), ("https://", "wss://")):
        server = socket + server.removeprefix(plain) if server.startswith(plain) else server
    return f"{server if '://' in server else f'ws://{server}'}".rstrip("/") + "/v1/stream"


def _connect(opened: ExitStack, address: str, timeout: float) -> Any:
    from websockets.exceptions import InvalidHandshake, InvalidURI
    from websockets.sync.client import connect

    try:
        options = {"compression": None, "max_size": _LARGEST, "open_timeout": timeout, "proxy": None}
        return opened.enter_context(connect(address, **options))  # type: ignore[arg-type]
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise KitError(f"there is no server at {address} ({error}); start one with python -m kit serve") from error
