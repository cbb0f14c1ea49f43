"""`python -m kit serve`: the front on a port, and its end in good order."""

from __future__ import annotations

import asyncio
import io
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import uvicorn
from omegaconf import DictConfig, OmegaConf
from uvicorn.protocols.http.h11_impl import H11Protocol

from kit.errors import UsageError
from kit.progress import say
from kit.serving.app import make_app
from kit.serving.metrics import Metrics
from kit.serving.pool import Pool
from kit.serving.settings import Settings
from kit.serving.unpacking import warm_up

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PING = 20.0  # seconds between two pings of a WebSocket, so that proxies keep it
_PONG = 60.0  # for the answer, which comes behind all the audio that is on its way


def serve(config: DictConfig, export: str) -> None:
    """Serve until a signal comes; then finish what is being said.

    Raises:
        KitError: the engines cannot start, or the port is taken.
    """
    settings = Settings.of(config.serving)
    sys.stderr = Forgiving(sys.stderr)
    asyncio.run(_until_signal(config, export, settings, bind(settings)))


def with_own_hotwords(config: DictConfig) -> None:
    """Let streams have hotwords of their own where there is no database."""
    options = {key: value for key, value in (config.get("retrieval") or {}).items() if key != "name"}
    if options and OmegaConf.select(config, "decoding.callbacks.hotwords") is None:
        OmegaConf.update(config, "decoding.callbacks.hotwords", options, force_add=True)


async def _until_signal(config: DictConfig, export: str, settings: Settings, listener: socket.socket) -> None:
    stop = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await front(config, export, settings, listener, stop)


async def front(
    config: DictConfig, export: str, settings: Settings, listener: socket.socket, stop: asyncio.Event
) -> None:
    """Serve on a socket until `stop` is set.

    Raises:
        KitError: the engines cannot start.
    """
    with_own_hotwords(config)
    pool = Pool(config, export, settings, Metrics())
    say(f"starting {settings.replicas} engine{'s' * (settings.replicas > 1)} with {export}")
    starting, stopping = asyncio.create_task(pool.start()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await asyncio.to_thread(warm_up)
            await _listen(pool, settings, listener, stop)
    finally:
        starting.cancel()
        stopping.cancel()
        await pool.close()
        listener.close()


async def _listen(pool: Pool, settings: Settings, listener: socket.socket, stop: asyncio.Event) -> None:
    """Until `stop` is set, and what was open then has ended."""
    server = _Server(_uvicorn(make_app(pool), settings))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        host, port = listener.getsockname()[:2]
        say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
        if not settings.local and settings.token is None:
            say("everybody who reaches this machine can use it: give a token by KIT_TOKEN or serving.token=")
        await stop.wait()
        say("finishing what is being said")
        await pool.drain()
    finally:
        server.should_exit = True
        await serving


def bind(settings: Settings) -> socket.socket:
    """A socket that listens, before anything expensive is done.

    Raises:
        UsageError: the address is none of this machine, or taken.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise UsageError(
            f"cannot listen on {address} ({error.strerror or error}); give another by serving.port= or serving.host="
        ) from error


class _Server(uvicorn.Server):
    """Leaves the signals to whoever started it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Http(H11Protocol):
    """Closes connections on which no whole request comes, such as half-open ones."""

    patience = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(self.patience, self._look)

    def _look(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:
            self.transport.close()


class Forgiving(io.TextIOBase):
    """A stream of messages of which those are lost that a full disk does not take."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As far as it goes."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as it goes."""
        with suppress(OSError):
            self._stream.flush()


def _uvicorn(app: Any, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=type("Http", (_Http,), {"patience": settings.start_seconds}),
        ws="websockets-sansio",
        ws_max_size=settings.message_bytes,
        ws_ping_interval=_PING,
        ws_ping_timeout=_PONG,
        ws_per_message_deflate=False,  # audio does not shrink, and small frames could grow to anything
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
