"""`/v1/stream`: a client's audio over a WebSocket, and what is heard in it as JSON (docs/serving.md)."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from kit.serving.access import Access
from kit.serving.pool import Pool
from kit.serving.protocol import CODES, VERSION, Change, End, Flush, Refused, Start, parse
from kit.serving.streams import Stream

_SENDING = 30.0  # seconds that a client may take for one event


class Connection:
    """One client from its first message to its last event."""

    def __init__(self, socket: WebSocket, pool: Pool, access: Access) -> None:
        self._socket, self._pool, self._access = socket, pool, access
        self._settings = pool.settings
        self._sent = 0
        self._ended = False  # the client asked for the end

    async def serve(self) -> None:
        """Until either side ends it."""
        await self._socket.accept()
        try:
            stream = await self._start()
        except Refused as refusal:
            self._pool.metrics.refused.labels(refusal.code).inc()
            await self._say(refusal.event())
            await self._close(refusal.code)
            return
        except WebSocketDisconnect:
            return
        listening = asyncio.create_task(self._listen(stream))
        telling = asyncio.create_task(self._tell(stream))
        try:
            await asyncio.wait([listening, telling], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stream.drop()
            for task in (listening, telling):
                task.cancel()
            how = await _outcome(telling)
            await _outcome(listening)
            self._pool.metrics.ended.labels(how or "client_gone").inc()

    async def _start(self) -> Stream:
        """The first message, and the stream that it asks for.

        Raises:
            Refused: it is none, or there is no room.
        """
        try:
            message = await asyncio.wait_for(self._socket.receive(), self._settings.start_seconds)
        except TimeoutError:
            limit = self._settings.start_seconds
            raise Refused("idle", f"no message came within {limit:g} s; send a start message first") from None
        start = _text_of(message, 'the first message must be text: {"type": "start"}')
        if not isinstance(start, Start):
            raise Refused("bad_message", f"the first message must be of type start, not {start.type}")
        self._access.check(self._socket.headers, start.token)
        options = {"format": start.format, "rate": start.rate, "hotwords": start.hotwords, "partials": start.partials}
        self._options = {key: options[key] for key in ("format", "rate")}
        return self._pool.open(**options)  # type: ignore[arg-type]

    async def _listen(self, stream: Stream) -> None:
        """Pass on what the client says until it is gone; what comes behind the end is left out."""
        deadline = time.monotonic() + self._settings.stream_seconds
        quiet = time.monotonic() + self._settings.idle_seconds
        while True:
            until = min(deadline, quiet) if not self._ended and not stream.over else None
            try:
                async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                    message = await self._socket.receive()
            except TimeoutError:
                self._ended = True
                stream.finish(self._reason(deadline))
                continue
            if message["type"] == "websocket.disconnect":
                return
            try:
                heard = await self._heed(stream, message)
            except Refused as refusal:
                self._ended = True
                stream.finish(refusal)
                continue
            if heard:
                quiet = time.monotonic() + self._settings.idle_seconds

    def _reason(self, deadline: float) -> Refused:
        if time.monotonic() >= deadline:
            return Refused("too_long", f"a stream may last {self._settings.stream_seconds:g} s; begin a new one")
        return Refused("idle", f"no audio came for {self._settings.idle_seconds:g} s")

    async def _heed(self, stream: Stream, message: Any) -> bool:
        """One message of the client; whether it was audio.

        Raises:
            Refused: it is none of the protocol.
        """
        if self._ended:
            return False  # what was on its way when the end was decided
        if message.get("bytes") is not None:
            if message["bytes"]:
                await stream.audio(message["bytes"])
            return bool(message["bytes"])
        match _text_of(message, ""):
            case Change(add=add, remove=remove):
                stream.change(add, remove)
            case Flush():
                stream.ask("flush")
            case End():
                self._ended = True
                stream.ask("end")
            case Start():
                raise Refused("bad_message", "the stream has begun already; start comes once")
        return False

    async def _tell(self, stream: Stream) -> str:
        """Pass on what the engine says; how it ended."""
        how = "ended"
        while (event := await stream.next()) is not None:
            if event["event"] == "ready":
                event = self._ready(event)
            await self._say(event)
            if event["event"] == "error" and event["code"] != "utterance_lost":
                how = event["code"]
        await self._close(how)
        return how

    def _ready(self, event: dict[str, Any]) -> dict[str, Any]:
        """With what a client may want to know at the beginning."""
        limits = {
            key: getattr(self._settings, key)
            for key in ("idle_seconds", "stream_seconds", "message_bytes", "most_hotwords")
        }
        return {"event": "ready", "version": VERSION, **self._options, **event, "limits": limits}

    async def _say(self, event: dict[str, Any]) -> None:
        """One event; a client that went away is met by whoever listens."""
        content = {"event": event["event"], "seq": self._sent, **event}
        self._sent += 1
        with suppress(WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(_SENDING):
                await self._socket.send_text(json.dumps(content, ensure_ascii=False))

    async def _close(self, how: str) -> None:
        code = CODES[how].close if how in CODES else 1000
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            if self._socket.application_state == WebSocketState.CONNECTED:
                async with asyncio.timeout(_SENDING):
                    await self._socket.close(code, how)


def _text_of(message: Any, otherwise: str) -> Start | Change | Flush | End:
    """What a text message says.

    Raises:
        WebSocketDisconnect: the client is gone.
        Refused: it is none of the protocol.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    if message.get("text") is None:
        raise Refused("bad_message", otherwise)
    return parse(message["text"])


async def _outcome(task: asyncio.Task[Any]) -> Any:
    """What a task gave; None if it was cancelled or the client went away under its hands."""
    with suppress(asyncio.CancelledError, WebSocketDisconnect, TimeoutError):
        return await task
    return None
