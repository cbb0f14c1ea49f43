"""An engine process as the front sees it: started, watched, and started again when it ends or answers no more."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from kit.errors import KitError
from kit.serving.metrics import Metrics
from kit.serving.protocol import Refused
from kit.serving.settings import Settings
from kit.serving.streams import Stream
from kit.serving.wire import pack, receive

_log = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds that a process gets to end by itself
_LONGEST_PAUSE = 30.0  # seconds between two tries to start one


class Replica:
    """One engine process, and the streams that it has.

    Args:
        index: among the replicas.
        begin: its first message, see `kit.serving.process`.

    Attributes:
        ready: it takes streams.
        late: seconds that a step of the engine takes on average.
        process: the one that runs now.
    """

    def __init__(self, index: int, begin: dict[str, Any], settings: Settings, metrics: Metrics) -> None:
        self.index, self._begin, self._settings, self._metrics = index, begin, settings, metrics
        self.ready, self.late = False, 0.0
        self.streams: dict[int, Stream] = {}
        self.process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard = time.monotonic()
        self._first: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and wait until it is ready for the first time.

        Raises:
            KitError: it cannot be.
        """
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())
        await asyncio.shield(self._first)

    async def close(self) -> None:
        """End the process; streams that it still has are lost."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._lose(Refused("shutting_down"))

    def send(self, content: dict[str, Any], payload: bytes = b"") -> None:
        """To the engine; what it does not read at once waits here, no more than its streams may be ahead."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(content, payload))

    def add(self, stream: Stream, options: dict[str, Any]) -> None:
        """A stream begins."""
        self.streams[stream.number] = stream
        self.send({"kind": "open", "stream": stream.number, "options": options})

    def drop(self, number: int) -> None:
        """A stream is of no interest any more."""
        if self.streams.pop(number, None) is not None:
            self.send({"kind": "drop", "stream": number})

    async def _live(self) -> None:
        """Keep a process running."""
        pause = 0.5
        while True:
            begun = time.monotonic()
            try:
                await self._run()
            except KitError as error:
                if self._first is not None and not self._first.done():
                    self._first.set_exception(error)
                    return
                _log.error("engine %d cannot start: %s", self.index, error)
            pause = 0.5 if time.monotonic() - begun > 2 * _LONGEST_PAUSE else min(_LONGEST_PAUSE, 2 * pause)
            self._metrics.restarts.labels(self.index).inc()
            await asyncio.sleep(pause)

    async def _run(self) -> None:
        """One process from its start to its end.

        Raises:
            KitError: it says that it cannot start.
        """
        mine, its = socket.socketpair()
        with its:
            self.process = await _start(its, int(self._begin["threads"]))
        reader, self._writer = await asyncio.open_connection(sock=mine)
        watch = asyncio.create_task(self._watch())
        try:
            self.send(self._begin)
            while True:
                content, _ = await receive(reader)
                self._take(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self._ended()
            if self._first is not None and not self._first.done():
                raise KitError(
                    f"an engine process ended with exit code {code} before it was ready; see above"
                ) from None
            _log.error("engine %d ended with exit code %s; it is started again", self.index, code)
        finally:
            watch.cancel()
            self.ready = False
            self._writer.close()
            await self._ended()
            self._lose(Refused("engine_lost"))

    def _take(self, content: dict[str, Any]) -> None:
        """A message from the engine."""
        self._heard = time.monotonic()
        kind = content["kind"]
        if kind == "failed":
            raise KitError(content["message"])
        if kind == "ready":
            self.ready = True
            if self._first is not None and not self._first.done():
                self._first.set_result(None)
            return
        self.late = content["late"]
        if kind == "turn":
            self._metrics.audio.inc(content["seconds"])
            for number, size in content["taken"]:
                if number in self.streams:
                    self.streams[number].taken(size)
            for number, event, latency, last in content["said"]:
                self._deliver(number, event, latency, last)

    def _deliver(self, number: int, event: dict[str, Any], latency: float | None, last: bool) -> None:
        stream = self.streams.pop(number, None) if last else self.streams.get(number)
        if stream is None:
            return
        if latency is not None:
            self._metrics.latency.labels(event["event"]).observe(latency)
        stream.deliver(event, last)

    async def _watch(self) -> None:
        """Kill the process when it says nothing for too long, though it is asked."""
        limit = self._settings.stuck_seconds
        while True:
            await asyncio.sleep(limit / 4)
            if not self.ready:
                self._heard = time.monotonic()
                continue
            self.send({"kind": "ping"})
            if time.monotonic() - self._heard > limit and self.process is not None:
                _log.error("engine %d did not answer for %g s; it is killed", self.index, limit)
                self.process.kill()

    def _lose(self, reason: Refused) -> None:
        for stream in list(self.streams.values()):
            stream.fail(reason)
        self.streams.clear()

    async def _ended(self) -> int | None:
        """Wait for the end of the process, whose socket is closed."""
        process = self.process
        if process is None:
            return None
        try:
            return await asyncio.wait_for(process.wait(), _PATIENCE)
        except TimeoutError:
            process.kill()
            return await process.wait()


async def _start(connection: socket.socket, threads: int) -> asyncio.subprocess.Process:
    """An engine process that talks over its end of a pair of sockets."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    environment.pop("KIT_TOKEN", None)  # it has no use for it
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kit.serving.process",
            str(connection.fileno()),
            pass_fds=[connection.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        raise KitError(f"cannot start an engine process: {error.strerror or error}") from error
