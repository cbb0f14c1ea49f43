"""A server in this process: the front in a thread, and its engines in threads, too, unless a test wants processes."""

import asyncio
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from small import small_config

from kit.serving import process, replica, server
from kit.serving.settings import Settings

OTHERS = ("endpoint", "gate", "trim", "veto", "splice", "guard", "timing")
PLAIN = [
    "decoding=streaming",
    "decoding.max_tokens=8",
    "decoding.beam=1",
    "serving.port=0",
    "serving.late=1000",
]  # a machine may have other things to do
IN_A_PROCESS = replica._start  # a longer fixture may have replaced it
PLAIN += [f"decoding.callbacks.{name}=null" for name in OTHERS]


class Thread:
    """Stands where the front expects an engine's process."""

    def __init__(self, connection: socket.socket) -> None:
        self.pid = 2**31 - 1  # of nobody
        self._connection = connection.dup()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._connection:
            process.run(self._connection)

    async def wait(self) -> int:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        return 0

    def kill(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)


async def in_thread(connection: socket.socket, threads: int) -> Thread:
    return Thread(connection)


class Server:
    """What a test knows of it."""

    def __init__(self, port: int, pool) -> None:
        self.port, self.pool = port, pool
        self.address = f"127.0.0.1:{port}"


@contextmanager
def served(export: Path, *overrides: str, processes: bool = False):
    """A server on a free port of the loopback interface."""
    config = small_config(*PLAIN, *overrides)
    settings = Settings.of(config.serving)
    listener = server.bind(settings)
    ready, found = threading.Event(), {}

    async def live() -> None:
        found["stop"], found["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await server.front(config, str(export), settings, listener, found["stop"])

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            found["error"] = error
        finally:
            ready.set()

    def started(pool, *rest):
        found["pool"] = pool
        ready.set()
        return listening(pool, *rest)

    listening = server._listen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "_listen", started)
        patch.setattr(replica, "_start", IN_A_PROCESS if processes else in_thread)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            assert ready.wait(110)
            if "error" in found:
                raise found["error"]
            yield Server(listener.getsockname()[1], found["pool"])
        finally:
            if "loop" in found and thread.is_alive():
                found["loop"].call_soon_threadsafe(found["stop"].set)
            thread.join()
