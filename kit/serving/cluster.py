"""`python -m kit serve engine=ray`: the whole service in each replica of a Ray Serve deployment, on any machines.

A replica is a front with one engine process, see `kit.serving.pool`. Ray's proxies keep a connection with the replica
that they gave it to, so a stream stays with its engine. A stream is a request under way, and by those Ray counts
replicas up and down. When a replica is lost, the proxy that has its clients tells them so.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kit.cluster import joined, library
from kit.config import dump
from kit.errors import KitError, UsageError, first_line
from kit.processors import processors
from kit.progress import say
from kit.serving.protocol import CODES, Refused
from kit.serving.server import bind, with_own_hotwords
from kit.serving.settings import Settings

NAME = "kit"
LOAD = 0.75  # share of a replica's streams above which there shall be another one
ROOM = 16  # requests of a replica that are no streams, or streams that are told that there is no room
_AT_THE_PROXY = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def serve_on_cluster(config: DictConfig, export: str) -> None:
    """Serve until a signal comes.

    Raises:
        KitError: Ray is not there, or cannot start a replica.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with deployed(config, export) as address:
        say(f"listening on {address}")
        stop.wait()
        say("finishing what is being said")


@contextmanager
def deployed(config: DictConfig, export: str) -> Iterator[str]:
    """The service in Ray Serve, ready; gives the address of its proxy on this machine.

    Raises:
        UsageError: the port is taken, or Ray Serve is not installed.
        KitError: the cluster cannot be reached, or no replica can start.
    """
    settings = Settings.of(config.serving)
    if not settings.port:
        raise UsageError("engine=ray needs a port of its own; write port=8000")
    most = max(settings.replicas, config.serving.most_replicas or 0)
    serve = library("serve", "ray-serve")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if config.cluster is None:
        bind(settings).close()
    with_own_hotwords(config)
    own = config.copy()
    own.threads = config.threads or max(1, processors() // most)
    os.environ.setdefault(_AT_THE_PROXY, f"{__name__}.at_the_proxy")
    with joined(config.cluster, most * own.threads) as ray:
        try:
            serve.start(proxy_location="EveryNode", http_options={"host": settings.host, "port": settings.port})
            gpu = settings.device != "cpu" and bool(ray.cluster_resources().get("GPU"))
            deployment = deployment_of(serve, own, export, settings, most, gpu)
            serve.run(deployment.bind(), name=NAME, route_prefix="/")
            yield f"http://{settings.host}:{settings.port}"
        except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            reason = first_line(error)
            raise KitError(f"Ray Serve cannot serve {export}: {reason}; try engine=local to see why") from error
        finally:
            serve.shutdown()


def deployment_of(serve: Any, config: DictConfig, export: str, settings: Settings, most: int, gpu: bool) -> Any:
    """The deployment of Ray Serve, between `settings.replicas` and `most` replicas."""
    app = builder(dump(config), os.path.abspath(export), replace(settings, replicas=1))
    counts = {"min_replicas": settings.replicas, "max_replicas": most}
    return serve.deployment(
        serve.ingress(app)(type("Front", (), {})),
        name="front",
        max_ongoing_requests=settings.streams + ROOM,
        autoscaling_config={**counts, "target_ongoing_requests": LOAD * settings.streams},
        ray_actor_options={"num_cpus": config.threads, "num_gpus": int(gpu)},
        graceful_shutdown_timeout_s=settings.grace_seconds,
    )


def builder(config: str, export: str, settings: Settings) -> Callable[[], ASGIApp]:
    """What makes the service in a replica's process.

    Args:
        config: as YAML.
    """

    def build() -> ASGIApp:
        from kit.serving.app import make_app
        from kit.serving.metrics import Metrics
        from kit.serving.pool import Pool

        made = OmegaConf.create(config)
        assert isinstance(made, DictConfig)
        pool = Pool(made, export, settings, Metrics())
        return Living(make_app(pool), pool)

    return build


class Living:
    """A service whose engines begin and end with the server that it runs in."""

    def __init__(self, app: ASGIApp, pool: Any) -> None:
        self._app, self._pool = app, pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection, or the server's whole life."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        try:
            await self._pool.start()
        except KitError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.drain()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})


class Farewell:
    """In a proxy: a client whose replica is lost gets one error, and an end that says the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        accepted = closed = gone = False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "websocket.disconnect"
            return message

        async def told(message: Message) -> None:
            nonlocal accepted, closed
            accepted = accepted or message["type"] == "websocket.accept"
            closed = closed or message["type"] == "websocket.close"
            await send(message)

        await self._app(scope, heard, told)
        if accepted and not closed and not gone:
            event = Refused("engine_lost").event()
            await send({"type": "websocket.send", "text": json.dumps(event, ensure_ascii=False)})
            await send({"type": "websocket.close", "code": CODES["engine_lost"].close, "reason": "engine_lost"})


def at_the_proxy() -> list[Any]:
    """What Ray's proxies put around every connection."""
    from starlette.middleware import Middleware

    return [Middleware(Farewell)]
