"""The `serving` section of the configuration, checked, as plain values."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from kit.errors import UsageError

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?", re.ASCII)
_TOKEN = re.compile(r"[!-~]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN = "KIT_TOKEN"  # environment variable


@dataclass(frozen=True)
class Settings:
    """See configs/serving/default.yaml for what the values mean."""

    host: str
    port: int
    token: str | None
    origins: tuple[str, ...]
    replicas: int
    device: str
    streams: int
    late: float
    start_seconds: float
    idle_seconds: float
    stream_seconds: float
    ahead_seconds: float
    message_bytes: int
    upload_bytes: int
    upload_seconds: float
    most_events: int
    most_hotwords: int
    grace_seconds: float
    stuck_seconds: float

    @classmethod
    def of(cls, section: DictConfig) -> Settings:
        """Raises UsageError: a value cannot be used."""
        values = OmegaConf.to_container(section, resolve=True)
        assert isinstance(values, dict)
        token = values["token"] or os.environ.get(TOKEN) or None
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError("serving.token must be letters, digits and signs of ASCII without spaces")
        if not _DEVICE.fullmatch(str(values["device"])):
            raise UsageError(f"serving.device must be auto, cpu, cuda or cuda:NUMBER, got {values['device']}")
        origins = tuple(_origin(str(one)) for one in values["origins"])
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(**{**known, "token": token, "origins": origins})

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in _LOOPBACK or self.host.startswith("127.")


def _origin(written: str) -> str:
    """An origin as browsers write it.

    Raises:
        UsageError: it is none.
    """
    parts = urlsplit(written)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"serving.origins has {written}; write it as https://example.org or http://localhost:3000")
    return f"{parts.scheme}://{parts.netloc}".lower()
