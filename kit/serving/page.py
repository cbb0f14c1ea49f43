"""The page at `/`: a few files of the package, and headers that let a browser run nothing else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).resolve().parent / "page"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page and what belongs to it. The files are read now: no path of a client is ever opened."""
    files = {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix[1:] in _TYPES}

    def answer(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=_TYPES[name.rpartition(".")[2]], headers=HEADERS)

    @app.get("/")
    async def index() -> Response:
        return answer("index.html")

    @app.get("/page/{name}")
    async def part(name: str) -> Response:
        return answer(name)
