"""A client's stream as the front knows it: audio goes to an engine, events wait for whoever passes them on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from kit.serving.protocol import Refused
from kit.serving.settings import Settings

if TYPE_CHECKING:
    from kit.serving.replica import Replica

_OPUS_BYTES = 1 << 16  # of compressed audio that may wait: more than 10 s at the highest usual rate


class Stream:
    """Made by `kit.serving.pool.Pool.open`.

    Both directions are bounded: `audio` waits while the engine has enough to do, and a client that leaves its events is
    told so once, and nothing more.

    Attributes:
        number: under which its engine knows it.
    """

    def __init__(self, number: int, replica: Replica, settings: Settings, compressed: bool, rate: int) -> None:
        self.number, self._replica, self._most = number, replica, settings.most_events
        self._ahead = _OPUS_BYTES if compressed else round(settings.ahead_seconds * rate * 2)
        self._untaken = 0  # bytes on their way
        self._events: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False  # nothing more will come
        self._asked_to_end = False
        self._farewell: Refused | None = None

    @property
    def over(self) -> bool:
        """Whether the engine has forgotten it."""
        return self._over

    # For whoever talks to the client

    async def audio(self, message: bytes) -> None:
        """Pass audio on, as soon as there is room for it."""
        arrived = time.monotonic()
        while self._untaken >= self._ahead and not self._over:
            self._room.clear()
            await self._room.wait()
        if not self._over and not self._asked_to_end:
            self._untaken += len(message)
            self._replica.send({"kind": "audio", "stream": self.number, "at": arrived}, message)

    def ask(self, what: str) -> None:
        """`kit.serving.host.FLUSH` or `END`, behind the audio so far."""
        if not self._over and not self._asked_to_end:
            self._asked_to_end = what == "end"
            self._replica.send({"kind": "ask", "stream": self.number, "what": what, "at": time.monotonic()})

    def change(self, add: list[str], remove: list[str]) -> None:
        """Hotwords come and go."""
        if not self._over:
            self._replica.send({"kind": "change", "stream": self.number, "add": add, "remove": remove})

    def finish(self, farewell: Refused) -> None:
        """End it in good order, and then tell the client why."""
        self._farewell = self._farewell or farewell
        self.ask("end")

    def drop(self) -> None:
        """The client is gone: nobody needs to know what it said."""
        if not self._over:
            self._replica.drop(self.number)
            self._end()

    async def next(self) -> dict[str, Any] | None:
        """The next event; None behind the last one."""
        while not self._events:
            if self._over:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    # For the engine's side

    def deliver(self, event: dict[str, Any], last: bool) -> None:
        """An event came."""
        if self._over:
            return
        if len(self._events) >= self._most:
            self._events.clear()
            self._replica.drop(self.number)
            self.fail(Refused("slow_client", f"{self._most} events were not taken"))
            return
        self._events.append(event)
        if last and self._farewell is not None:
            self._events.append(self._farewell.event())
        if last:
            self._end()
        self._changed.set()

    def taken(self, size: int) -> None:
        """The engine took up so many bytes."""
        self._untaken -= size
        self._room.set()

    def fail(self, reason: Refused) -> None:
        """It ends here."""
        if not self._over:
            self._events.append(reason.event())
            self._end()

    def _end(self) -> None:
        self._over = True
        self._changed.set()
        self._room.set()
