"""The front as an ASGI application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.serving.access import Access
from kit.serving.page import add_page
from kit.serving.pool import Pool
from kit.serving.protocol import CODES, VERSION, Refused
from kit.serving.transcriptions import Transcriptions, problem
from kit.serving.websocket import Connection


def make_app(pool: Pool) -> FastAPI:
    """The service over a pool of engines, which somebody else starts and closes."""
    app = FastAPI(title="nim4-kit", docs_url=None, redoc_url=None, openapi_url=None)
    access, transcriptions = Access(pool.settings), Transcriptions(pool)
    app.add_middleware(Gate, access=access)  # type: ignore[arg-type]

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        pool.metrics.refused.labels(error.code).inc()
        status = CODES[error.code].status
        headers = {"Retry-After": "1"} if status == 503 else None
        return JSONResponse(problem(error), status, headers)

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await Connection(socket, pool, access).serve()

    @app.post("/v1/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        access.check(request.headers)
        return await transcriptions.answer(request)

    add_page(app)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        access.check(request.headers)
        return JSONResponse({"object": "list", "data": [_model(Path(pool.export))]})

    @app.get("/health")
    async def health() -> Response:
        ready = sum(replica.ready for replica in pool.replicas)
        content: dict[str, Any] = {"status": "ok" if pool.ready else "closing" if pool.closing else "not_ready"}
        content |= {"version": VERSION, "engines": ready, "streams": len(pool.streams())}
        return JSONResponse(content, 200 if pool.ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        access.check(request.headers)
        return Response(generate_latest(pool.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _model(export: Path) -> dict[str, Any]:
    """The export as OpenAI lists a model: by its stage and run, not by where it lies."""
    run = export.parent if export.name == "export" else export
    created = int(export.stat().st_mtime) if export.exists() else 0
    return {"id": f"{run.parent.name}/{run.name}", "object": "model", "created": created, "owned_by": "nim4-kit"}


class Gate:
    """Turns away pages of other sites, before anything is read of what they send."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or connection."""
        if scope["type"] in ("http", "websocket") and not self._access.admits(Headers(scope=scope)):
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": "origin"})
                return
            message = "this page, or the name of the server, is not known here; see serving.origins"
            answer = JSONResponse(problem(Refused("unauthorized", message)), 403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)
