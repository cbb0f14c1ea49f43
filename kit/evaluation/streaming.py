"""What a listener of a stream gets: how late the text comes, how often it changes its mind, what silence turns into."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.decoding.callbacks import DecodingCallback, Utterance, hints_of
from kit.decoding.engine import Engine
from kit.decoding.events import Event, Final, Partial
from kit.decoding.session import Session
from kit.evaluation.hints import Names
from kit.model.recognizer import Recognizer

if TYPE_CHECKING:
    from datamodules.base import SpeechData

BLOCK = SAMPLE_RATE // 10  # samples a push
LEVELS = (-70, -60, -50, -40, -30, -20, -10)  # decibels below full scale
CLIP_SECONDS = 10


@dataclass
class Heard:
    """A stream and what came of it.

    Attributes:
        events: each with the second at which it was told, if the audio came in real time.
        seconds: of audio.
        computing: seconds.
        finalization: seconds from the end of the audio to the last event.
        phonemes: greedy path of all utterances.
        hints: of all utterances, those found in the audio among them.
    """

    events: list[tuple[float, Event]] = field(default_factory=list)
    seconds: float = 0.0
    computing: float = 0.0
    finalization: float = 0.0
    phonemes: list[int] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Of all utterances."""
        return " ".join(event.text for _, event in self.events if isinstance(event, Final) and event.text)

    @property
    def told(self) -> str:
        """A text that was told, even for a moment; empty if there was none."""
        return told(event for _, event in self.events)


class _Keeper(DecodingCallback):
    """Puts the phonemes and hints of a session's ended utterances to what is kept of its stream."""

    def __init__(self, session: Session, heard: Heard) -> None:
        self.session, self.heard = session, heard

    def final(self, utterance: Utterance, event: Final) -> Final:
        hints = hints_of(self.session.callbacks, utterance, self.session.engine.decoding.hints or ())
        self.heard.phonemes += utterance.phonemes
        self.heard.hints = list(dict.fromkeys([*self.heard.hints, *hints]))
        return event


def listen(session: Session, samples: Tensor) -> Heard:
    """Push (n,) samples in blocks of 100 ms and keep the time as if they came in real time."""
    heard = Heard(seconds=len(samples) / SAMPLE_RATE)
    keeper = _Keeper(session, heard)
    session.callbacks.append(keeper)
    clock = 0.0  # of the machine: it works on a block when it has come and the earlier ones are done

    def timed(arrival: float, work: Any) -> None:
        nonlocal clock
        begin = time.perf_counter()
        events = work()
        spent = time.perf_counter() - begin
        clock = max(clock, arrival) + spent
        heard.computing += spent
        heard.events += [(clock, event) for event in events]

    for index, block in enumerate(samples.split(BLOCK), 1):
        timed(min(index * BLOCK / SAMPLE_RATE, heard.seconds), lambda block=block: session.push(block))
    timed(heard.seconds, session.finish)
    heard.finalization = clock - heard.seconds
    session.callbacks.remove(keeper)
    return heard


def told(events: Iterable[Event]) -> str:
    """The first text in events, final or not."""
    return next((event.text for event in events if isinstance(event, Final | Partial) and event.text), "")


def offline(decoding: DictConfig) -> DictConfig:
    """The same decoding with one maximal chunk and without endpoints: what streaming is compared with."""
    whole = decoding.copy()
    with open_dict(whole):
        whole.chunk, whole.left, whole.partials = 0, -1, False
        whole.callbacks.pop("endpoint", None)
    return whole


class _Hinted(DecodingCallback):
    """Gives the same hints all the time, until it is told others."""

    def __init__(self) -> None:
        self.words: Sequence[str] = ()

    def hints(self, utterance: Utterance) -> Sequence[str]:
        return self.words


def listen_to_part(
    recognizer: Recognizer,
    data: SpeechData,
    part: str,
    decoding: DictConfig,
    names: Names,
    noise_at: float | None = None,
) -> Iterator[Any]:
    """(cut, reference, reference phonemes, Heard) of every utterance; after the last the engine, for its counts."""
    engine, hinted = Engine(recognizer, decoding), _Hinted()
    session = engine.session()
    session.callbacks.append(hinted)
    for batch in data.part_dataloader(part, noise_at):
        for row, cut in enumerate(batch.cuts):
            wanted = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
            hinted.words = names.hints(cut, batch.texts[row])
            yield cut, batch.texts[row], wanted, listen(session, data.samples(cut))
    yield engine


def silent_clips(count: int = 200, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """(kind, samples) of 10 s without speech: digital silence, white and pink noise, tones, at several levels."""
    draw, size = torch.Generator().manual_seed(seed), CLIP_SECONDS * SAMPLE_RATE
    seconds = torch.arange(size) / SAMPLE_RATE
    for index in range(count):
        kind = ("white noise", "pink noise", "tone", "silence")[index % 4]
        level = 10 ** (LEVELS[index // 4 % len(LEVELS)] / 20)
        white = torch.randn(size, generator=draw)
        pitch = 80 * 2 ** (6 * float(torch.rand((), generator=draw)))  # 80 to 5120 Hz
        if kind == "silence":
            yield kind, torch.zeros(size)
        elif kind == "tone":
            yield kind, level * torch.sin(2 * math.pi * pitch * seconds)
        else:
            tilt = torch.arange(1, size // 2 + 2).sqrt() if kind == "pink noise" else 1.0
            noise = torch.fft.irfft(torch.fft.rfft(white) / tilt, size)
            yield kind, (level * noise / noise.std()).clamp(-1, 1)


def words_in_silence(engine: Engine, count: int = 200) -> dict[str, dict[str, int]]:
    """How many clips without speech there were of each kind, and in how many of them a text was told, final or not."""
    found: dict[str, dict[str, int]] = {}
    session = engine.session()
    for kind, samples in silent_clips(count):
        events = session.push(samples) + session.finish()
        said = bool(told(events))
        row = found.setdefault(kind, {"clips": 0, "with text": 0})
        row["clips"] += 1
        row["with text"] += said
    session.close()
    return found
