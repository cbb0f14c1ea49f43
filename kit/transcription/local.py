"""Transcription in one process: recordings are read ahead, sorted by length in windows, and decoded in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.decoding.batches import Batches, Transcript
from kit.decoding.engine import Engine
from kit.decoding.offline import checked
from kit.decoding.remote import load_recognizer
from kit.decoding.timing import with_timing
from kit.errors import KitError
from kit.model.recognizer import PARTS
from kit.transcription.outcome import Outcome, row_of

if TYPE_CHECKING:
    from datamodules.listing import Clip
    from datamodules.sources import Shelf

WINDOW = 8  # batches that are read together, so that each finds enough of the same length
_MOST = 2048  # clips of a window, however short

Read = tuple["Clip", Tensor | KitError]


class Transcriber:
    """A model that is loaded once and transcribes clips.

    Args:
        export: folder.
        config: `decoding` and `batch` of it count.
        shelf: where archives of an address are kept.

    Raises:
        KitError: the export, a callback or the device cannot be had.
    """

    def __init__(self, export: str | Path, config: DictConfig, shelf: Shelf | None = None) -> None:
        self.batch, self.shelf = config.batch, shelf
        recognizer = load_recognizer(export, config.decoding, PARTS).to(device_of(config.batch.device))
        decoding = with_timing(config.decoding) if config.batch.times else config.decoding
        self.batches = Batches(Engine(recognizer, decoding), config.batch.seconds)

    def transcribe(self, clips: Iterable[Clip]) -> Iterator[list[Outcome]]:
        """What came of the clips, batch by batch, in whatever order they are ready."""
        for window in self._windows(clips):
            heard = [(clip, samples) for clip, samples in window if isinstance(samples, Tensor)]
            yield [Outcome(clip.id, reason=str(fault)) for clip, fault in window if isinstance(fault, KitError)]
            for ready in self.batches.transcribe([samples for _, samples in heard]):
                yield [self._outcome(*heard[number], found) for number, found in ready]

    def _outcome(self, clip: Clip, samples: Tensor, found: Transcript | Exception) -> Outcome:
        if isinstance(found, Exception):
            return Outcome(clip.id, reason=f"decoding failed: {type(found).__name__}: {found}")
        seconds = len(samples) / SAMPLE_RATE
        return Outcome(clip.id, row_of(clip.id, found, clip.language, seconds, self.batch.times))

    def _windows(self, clips: Iterable[Clip]) -> Iterator[list[Read]]:
        """Some batches of recordings; while they are transcribed, the next are read."""
        source = iter(clips)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._window, source)
            while window := ahead.result():
                ahead = pool.submit(self._window, source)
                yield window

    def _window(self, clips: Iterator[Clip]) -> list[Read]:
        found: list[Read] = []
        seconds = 0.0
        for clip in islice(clips, _MOST):
            try:
                samples = checked(clip.samples(self.shelf), clip.path)
                seconds += len(samples) / SAMPLE_RATE
                found.append((clip, samples))
            except KitError as error:
                found.append((clip, error))
            if seconds >= WINDOW * self.batch.seconds:
                break
        return found


def device_of(name: str | None) -> torch.device:
    """The device of that name; None is a GPU where there is one.

    Raises:
        KitError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise KitError(f"batch.device={name}, but torch finds no GPU here; write batch.device=cpu")
    return torch.device(name)
