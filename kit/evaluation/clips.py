"""The audio of the worst utterances, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import soundfile
from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.evaluation.systems import cuts_of

WORST = 8  # utterances of a set
LONGEST = 30.0  # seconds
MOST = 12_000_000  # bytes of all clips of a page

Ways = Mapping[str, Sequence[Mapping[str, Any]]]


def worst(ways: Ways, count: int = WORST) -> list[str]:
    """The ids of the utterances with the most errors in any way, the worst first; none without errors."""
    most: dict[str, tuple[int, float]] = {}
    for rows in ways.values():
        for row in rows:
            wrong = row["errors"]["substitutions"] + row["errors"]["deletions"] + row["errors"]["insertions"]
            rank = wrong, wrong / max(1, row["errors"]["length"])
            most[row["id"]] = max(rank, most.get(row["id"], (0, 0.0)))
    ordered = sorted(most, key=lambda name: (-most[name][0], -most[name][1], name))
    return [name for name in ordered[:count] if most[name][0]]


class Clips:
    """FLAC of some utterances, as data URIs."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self.left_out = 0  # clips that are too long, or too many
        self._bytes = 0

    def keep(self, name: str, ways: Ways, data: Any, part: str, noise_at: float | None) -> None:
        """Take the worst utterances of a set in."""
        wanted = [one for one in worst(ways) if (name, one) not in self.found]
        if not wanted:
            return
        for cut in cuts_of(data, part, noise_at):
            if cut.id in wanted:
                self._take((name, cut.id), cut.duration, data.samples(cut))

    def _take(self, key: tuple[str, str], seconds: float, samples: Tensor) -> None:
        content = as_flac(samples) if seconds <= LONGEST else b""
        size = len(content)
        if not size or self._bytes + size > MOST:
            self.left_out += 1
            return
        self._bytes += size
        self.found[key] = as_uri(content)


def as_flac(samples: Tensor) -> bytes:
    """(n,) samples at 16 kHz as a FLAC file."""
    content = io.BytesIO()
    soundfile.write(content, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return content.getvalue()


def as_uri(flac: bytes) -> str:
    """A FLAC file as the source of an audio element."""
    return f"data:audio/flac;base64,{base64.b64encode(flac).decode()}"
