"""How late the text of a stream comes, and how often it changes its mind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from kit.decoding.events import Final, Partial
from kit.text.normalize import normalize, units

if TYPE_CHECKING:
    from kit.decoding.engine import Engine
    from kit.evaluation.streaming import Heard

_DELAYS = ("first", "changes", "finals")
_SUMS = ("audio", "computing", "told", "changed", "settled", "settled_changed", "heard", "again", "read", "read_again")


class StreamFigures(Metric):
    """Latency and stability over streams: milliseconds (median, 95 %), percentages and ratios."""

    full_state_update = False
    first: list[Tensor]
    changes: list[Tensor]
    finals: list[Tensor]
    audio: Tensor
    computing: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in _DELAYS:
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in _SUMS:
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, heard: Heard) -> None:
        """Add a stream."""
        words = [word for _, event in heard.events if isinstance(event, Final) for word in event.words]
        tellings, final = list(_tellings(heard)), units(normalize(heard.text))
        shown = next((at for at, text, _ in tellings if text), None)
        self._add("finals", [heard.finalization])
        if words and shown is not None:
            self._add("first", [shown - words[0].start])
        if len(words) == len(final):
            self._add("changes", [_settling(tellings, final, place) - word.end for place, word in enumerate(words)])
        self._sum("audio", heard.seconds)
        self._sum("computing", heard.computing)
        self._stability(tellings, final)

    def count(self, engine: Engine) -> None:
        """Add what an engine computed for all its streams."""
        frames = engine.heard
        self._sum("heard", frames[0])
        self._sum("again", engine.encoded - frames[0])
        self._sum("read", frames[1])
        self._sum("read_again", engine.decoder.speech_read - frames[1])

    def _stability(self, tellings: Sequence[tuple[float, list[str], int]], final: Sequence[str]) -> None:
        for at, text, stable in tellings:
            if at < tellings[-1][0]:
                wrong = [index >= len(final) or unit != final[index] for index, unit in enumerate(text)]
                self._sum("told", len(text))
                self._sum("changed", sum(wrong))
                self._sum("settled", stable)
                self._sum("settled_changed", sum(wrong[:stable]))

    def _add(self, name: str, seconds: Sequence[float]) -> None:
        getattr(self, name).append(torch.tensor(seconds, dtype=torch.float64))

    def _sum(self, name: str, value: float) -> None:
        setattr(self, name, getattr(self, name) + value)

    def compute(self) -> dict[str, Any]:
        """Figure -> number, or median and 95 %; None where there was nothing to measure."""
        return {
            "first text after the first word began, ms": self._spread("first"),
            "a word's last change after its end, ms": self._spread("changes"),
            "final text after the end of the audio, ms": self._spread("finals"),
            "real-time factor": round(float(self.computing / max(float(self.audio), 1e-9)), 3),
            "encoder frames computed twice, %": self._share("again", "heard"),
            "speech embeddings read twice, %": self._share("read_again", "read"),
            "words told that changed, %": self._share("changed", "told"),
            "settled words that changed, %": self._share("settled_changed", "settled"),
        }

    def _spread(self, name: str) -> dict[str, float] | None:
        state = getattr(self, name)  # a list, or one tensor once processes were put together
        seconds = sorted(value for part in (state if isinstance(state, list) else [state]) for value in part.tolist())
        if not seconds:
            return None
        high = seconds[min(len(seconds) - 1, math.ceil(0.95 * len(seconds)) - 1)]
        return {"median": round(1e3 * median(seconds), 1), "95 %": round(1e3 * high, 1)}

    def _share(self, part: str, whole: str) -> float:
        return round(100 * float(getattr(self, part)) / max(float(getattr(self, whole)), 1e-9), 2)


def latency(streams: Sequence[Heard], engine: Engine) -> dict[str, Any]:
    """The figures of streams that one engine has heard."""
    figures = StreamFigures()
    for heard in streams:
        figures.update(heard)
    figures.count(engine)
    return figures.compute()


def _tellings(heard: Heard) -> Iterator[tuple[float, list[str], int]]:
    """(second, units of the whole text so far, how many of them are settled) after each event."""
    before: list[str] = []
    for at, event in heard.events:
        if isinstance(event, Partial):
            settled = units(normalize(event.text[: event.stable]))
            yield at, before + units(normalize(event.text)), len(before) + len(settled)
        elif isinstance(event, Final):
            before = before + units(normalize(event.text))
            yield at, before, len(before)


def _settling(tellings: Sequence[tuple[float, list[str], int]], final: Sequence[str], index: int) -> float:
    """The second from which a unit of the final text stands at its place for good."""
    since = tellings[-1][0]
    for at, text, _ in reversed(tellings):
        if index >= len(text) or text[index] != final[index]:
            break
        since = at
    return since
