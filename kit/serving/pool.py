"""The engines behind a front: which of them takes a stream, and when none does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from kit.config import dump
from kit.processors import processors
from kit.serving.metrics import Metrics
from kit.serving.protocol import Refused
from kit.serving.replica import Replica
from kit.serving.settings import Settings
from kit.serving.streams import Stream


class Pool:
    """Engine processes of one export and one configuration.

    Args:
        config: the whole configuration; its decoding makes the sessions.
        export: folder.
    """

    def __init__(self, config: DictConfig, export: str, settings: Settings, metrics: Metrics) -> None:
        self.settings, self.metrics, self.export = settings, metrics, export
        self.closing = False
        threads = config.threads or max(1, processors() // settings.replicas)
        begin = {"config": dump(config), "export": export, "threads": threads, "device": settings.device}
        self.replicas = [
            Replica(index, {**begin, "index": index}, settings, metrics) for index in range(settings.replicas)
        ]
        self._numbers = itertools.count(1)
        metrics.watch(self)

    async def start(self) -> None:
        """Start all engines, and wait until they are ready.

        Raises:
            KitError: one cannot be.
        """
        await asyncio.gather(*(replica.start() for replica in self.replicas))

    async def close(self) -> None:
        """End all engines."""
        self.closing = True
        await asyncio.gather(*(replica.close() for replica in self.replicas))

    async def drain(self) -> None:
        """Take no more streams, and end those that there are in good order, as far as there is time."""
        self.closing = True
        for stream in self.streams():
            stream.finish(Refused("shutting_down"))
        deadline = asyncio.get_running_loop().time() + self.settings.grace_seconds
        while self.streams() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    def streams(self) -> list[Stream]:
        """All that are open."""
        return [stream for replica in self.replicas for stream in replica.streams.values()]

    @property
    def ready(self) -> bool:
        """Whether it takes streams, be there room or not."""
        return not self.closing and any(replica.ready for replica in self.replicas)

    def open(
        self,
        format: str = "pcm16",
        rate: int = 16000,
        hotwords: Sequence[str] = (),
        partials: bool = True,
        whole: bool = False,
    ) -> Stream:
        """A stream of an engine that has room, see `kit.serving.host.Options`.

        Raises:
            Refused: none has.
        """
        replica = self._choose()
        stream = Stream(next(self._numbers), replica, self.settings, format != "pcm16", rate)
        options: dict[str, Any] = {"format": format, "rate": rate, "hotwords": list(hotwords)}
        replica.add(stream, {**options, "partials": partials, "whole": whole})
        self.metrics.opened.labels("upload" if whole else "live").inc()
        return stream

    def _choose(self) -> Replica:
        if self.closing:
            raise Refused("shutting_down", "the server ends; it takes no more streams")
        ready = [replica for replica in self.replicas if replica.ready]
        if not ready:
            raise Refused("not_ready")
        free = [replica for replica in ready if len(replica.streams) < self.settings.streams]
        if not free:
            held = self.settings.streams * len(ready)
            raise Refused("full", f"all of the {held} streams that this server holds are open; try again later")
        timely = [replica for replica in free if replica.late <= self.settings.late]
        if not timely:
            raise Refused("late")
        return min(timely, key=lambda replica: len(replica.streams))
