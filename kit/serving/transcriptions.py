"""`POST /v1/audio/transcriptions` in OpenAI's form: a recording in, its text out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kit.audio.reading import AudioError
from kit.serving.pool import Pool
from kit.serving.protocol import CODES, Refused
from kit.serving.settings import Settings
from kit.serving.streams import Stream
from kit.serving.subtitles import srt, text_of, verbose, vtt
from kit.serving.unpacking import RATE, unpack

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
_FIELDS = 32  # of a form
_FIELD_BYTES = 1 << 16
_PIECE = 2 * RATE  # bytes handed to the engine at once
_LONGEST_NAME = 40  # characters of a hotword in a prompt; what is longer is a sentence
_SEPARATORS = re.compile(r"[,，、;；|\n\r\t。!?！？]+|\.(?=\s|$)")


@dataclass(frozen=True)
class Asked:
    """What a request asks for."""

    content: bytes
    format: str
    granularities: Sequence[str]
    hotwords: Sequence[str]
    streamed: bool


class Transcriptions:
    """The endpoint, and how many requests it is at work on."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._running = 0

    async def answer(self, request: Request) -> Response:
        """One request.

        Raises:
            Refused: there is no room, or it cannot be done.
        """
        settings = self._pool.settings
        if self._running >= settings.streams * settings.replicas:
            raise Refused("full")
        self._running += 1
        try:
            asked = await _asked(request, settings)
            stream = self._pool.open(hotwords=asked.hotwords, partials=False, whole=True)
            if asked.streamed:
                self._running += 1  # until the last event was sent
                return _Streamed(self._told(stream, asked), partial(self._close, stream))
            try:
                finals, seconds = await _unless_gone(request, self._heard(stream, asked))
            finally:
                stream.drop()
        finally:
            self._running -= 1
        return _response(asked, finals, seconds)

    async def _heard(self, stream: Stream, asked: Asked) -> tuple[list[dict[str, Any]], float]:
        """All final events, and the seconds of audio."""
        events = [event async for event in self._events(stream, asked)]
        return [event for event in events if event["event"] == "final"], events[-1]["time"]

    async def _told(self, stream: Stream, asked: Asked) -> AsyncIterator[str]:
        """Server-sent events, an utterance each."""
        finals: list[dict[str, Any]] = []
        try:
            async for event in self._events(stream, asked):
                if event["event"] == "final" and event["text"]:
                    before = text_of(finals)
                    finals.append(event)
                    yield _sent({"type": "transcript.text.delta", "delta": text_of(finals)[len(before) :]})
            yield _sent({"type": "transcript.text.done", "text": text_of(finals)})
        except Refused as refusal:
            yield _sent({"type": "error", **problem(refusal)})

    def _close(self, stream: Stream) -> None:
        stream.drop()
        self._running -= 1

    async def _events(self, stream: Stream, asked: Asked) -> AsyncIterator[dict[str, Any]]:
        """What is heard in an upload.

        Raises:
            Refused: it cannot be decoded, or the engine gives up.
        """
        limit = self._pool.settings.upload_seconds
        try:
            samples = await asyncio.to_thread(unpack, asked.content, limit)
        except AudioError as error:
            raise Refused("bad_audio", str(error)) from error
        feeding = asyncio.create_task(_feed(stream, samples))
        try:
            while (event := await stream.next()) is not None:
                if event["event"] == "error":
                    raise Refused(event["code"], event["message"])
                yield event
        finally:
            feeding.cancel()


class _Streamed(StreamingResponse):
    """Server-sent events; `close` is called when it is over, even before it begins."""

    def __init__(self, content: AsyncIterator[str], close: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _feed(stream: Stream, samples: bytes) -> None:
    for at in range(0, len(samples), _PIECE):
        await stream.audio(samples[at : at + _PIECE])
    stream.ask("end")


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of a coroutine, which is given up when the client is gone."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=0.5))[0]:
            if await request.is_disconnected():
                raise Refused("idle", "the client is gone")
        return await task
    finally:
        task.cancel()


async def _asked(request: Request, settings: Settings) -> Asked:
    """What the form says.

    Raises:
        Refused: it is none, too large, or asks for what there is not.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused("bad_message", "send the recording as multipart/form-data, in the field file")
    body = _bounded(request, settings)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    parser.spool_max_size = settings.upload_bytes + 1  # nothing is written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused("bad_message", f"the form cannot be read: {error.message}") from error
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Refused("bad_message", "the form has no file; send the recording in the field file")
    try:
        return Asked(
            await file.read(),
            _one_of("response_format", form, FORMATS, "json"),
            _granularities(form),
            hotwords_of(_field(form, "prompt"), settings.most_hotwords),
            _field(form, "stream").lower() == "true",
        )
    finally:
        await form.close()


async def _bounded(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    """The body as it comes, as long as it comes and is not too large."""
    most = settings.upload_bytes + _FIELDS * _FIELD_BYTES
    said = request.headers.get("content-length", "")
    size = int(said) if said.isdecimal() else 0
    seen, chunks = 0, request.stream()
    while max(size, seen) <= most:
        try:
            async with asyncio.timeout(settings.idle_seconds):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise Refused("idle", f"nothing of the upload came for {settings.idle_seconds:g} s") from None
        except ClientDisconnect:
            raise Refused("idle", "the client is gone") from None
        if chunk is None:
            return
        seen += len(chunk)
        yield chunk
    raise Refused("too_long", f"an upload may have {settings.upload_bytes} bytes; send a shorter recording")


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _one_of(name: str, form: FormData, known: Sequence[str], default: str) -> str:
    value = _field(form, name) or default
    if value not in known:
        raise Refused("bad_message", f"{name} is {value[:40]!r}; known: {', '.join(known)}")
    return value


def _granularities(form: FormData) -> list[str]:
    asked = [
        str(one) for name in ("timestamp_granularities[]", "timestamp_granularities") for one in form.getlist(name)
    ]
    wrong = [one for one in asked if one not in GRANULARITIES]
    if wrong:
        raise Refused("bad_message", f"timestamp_granularities has {wrong[0][:40]!r}; known: word, segment")
    return asked or ["segment"]


def hotwords_of(prompt: str, most: int) -> list[str]:
    """The names in a prompt: what stands between commas, ends of sentences and of lines, if it is short."""
    parts = (part.strip() for part in _SEPARATORS.split(prompt))
    return list(dict.fromkeys(part for part in parts if 0 < len(part) <= _LONGEST_NAME))[:most]


def _response(asked: Asked, finals: list[dict[str, Any]], seconds: float) -> Response:
    if asked.format == "json":
        return JSONResponse({"text": text_of(finals)})
    if asked.format == "verbose_json":
        return JSONResponse(verbose(finals, seconds, asked.granularities))
    if asked.format == "text":
        return PlainTextResponse(text_of(finals) + "\n")
    if asked.format == "srt":
        return PlainTextResponse(srt(finals), media_type="application/x-subrip")
    return PlainTextResponse(vtt(finals), media_type="text/vtt")


def problem(refusal: Refused) -> dict[str, Any]:
    """An error in OpenAI's form."""
    status = CODES[refusal.code].status
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "invalid_api_key" if refusal.code == "unauthorized" else refusal.code
    return {"error": {"message": str(refusal), "type": kind, "param": None, "code": code}}


def _sent(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
