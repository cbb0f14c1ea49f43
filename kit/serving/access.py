"""Who may use the server: the token, the page that asks, the name by which the server was called."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from kit.serving.protocol import Refused
from kit.serving.settings import Settings

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """The rules of one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, headers: Headers, told: str | None = None) -> None:
        """Look at the token, in the header `Authorization: Bearer TOKEN` or told otherwise.

        Raises:
            Refused: it is missing or wrong.
        """
        wanted = self._settings.token
        if wanted is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        shown = given.strip() if kind.lower() == "bearer" else told or ""
        # In constant time, so that nobody can find the token letter by letter.
        if not hmac.compare_digest(shown.encode(), wanted.encode()):
            raise Refused("unauthorized", "the token is missing or wrong; send it as Authorization: Bearer TOKEN")

    def admits(self, headers: Headers) -> bool:
        """Whether the page that asks, if it is one, may: other sites' pages must not use a visitor's server."""
        host = headers.get("host", "").lower()
        if self._settings.local and _name(host) not in _LOOPBACK:
            return False  # a foreign name that leads to this machine, so that a page of that name gets in
        origin = headers.get("origin")
        if origin is None:
            return True
        return urlsplit(origin.lower()).netloc == host or origin.lower() in self._settings.origins


def _name(host: str) -> str:
    """A host without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host
