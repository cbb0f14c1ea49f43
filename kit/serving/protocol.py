"""What clients and the server say to each other over a WebSocket (docs/serving.md), and the errors there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kit.errors import KitError

VERSION = 1  # raised when a client that knows the last one would be misled; new events and fields do not raise it


@dataclass(frozen=True)
class Code:
    """A kind of error: the close code of a WebSocket, the status of an HTTP answer, and what it means."""

    close: int
    status: int
    meaning: str


CODES = {
    "bad_message": Code(1008, 400, "a message is none of this protocol, or not at this place"),
    "bad_audio": Code(1007, 400, "the audio cannot be decoded"),
    "unauthorized": Code(1008, 401, "the token is missing or wrong"),
    "unsupported": Code(1003, 400, "this server cannot do what was asked for"),
    "full": Code(1013, 503, "as many streams as it holds are open; try again later"),
    "late": Code(1013, 503, "the engine has no time for one more stream; try again later"),
    "not_ready": Code(1013, 503, "no engine is ready; try again later"),
    "idle": Code(1008, 408, "no audio came for too long"),
    "too_long": Code(1008, 413, "the stream lasted longer than it may"),
    "slow_client": Code(1008, 408, "the client does not take its events"),
    "engine_lost": Code(1011, 503, "the engine ended unexpectedly; what it heard is lost, a new stream may begin"),
    "internal": Code(1011, 500, "an error in the recognizer"),
    "shutting_down": Code(1001, 503, "the server ends; what was said before was told"),
    "utterance_lost": Code(1011, 500, "an error lost one utterance; the stream goes on"),
}


class Refused(KitError):
    """The server does not go on with a client; `code` is one of CODES."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(message or CODES[code].meaning)
        self.code = code

    def event(self) -> dict[str, Any]:
        """As it is told to the client."""
        return {"event": "error", "code": self.code, "message": str(self)}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Start(_Strict):
    """The first message of a client."""

    type: Literal["start"]
    format: Literal["pcm16", "opus", "ogg"] = "pcm16"
    rate: int = Field(16000, ge=8000, le=48000)
    hotwords: list[str] = []
    partials: bool = True
    token: str | None = None


class Change(_Strict):
    """Hotwords come and go."""

    type: Literal["hotwords"]
    add: list[str] = []
    remove: list[str] = []


class Flush(_Strict):
    """End the utterance here."""

    type: Literal["flush"]


class End(_Strict):
    """End the stream here."""

    type: Literal["end"]


_Message = Annotated[Start | Change | Flush | End, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Start | Change | Flush | End] = TypeAdapter(_Message)


def parse(text: str) -> Start | Change | Flush | End:
    """A text message of a client.

    Raises:
        Refused: it is none.
    """
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused("bad_message", f"{where + ': ' if where else ''}{first['msg']}; see the protocol") from error
