"""Samples in memory as Lhotse recordings, and folders of audio files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut, Recording
from lhotse.utils import fastcopy

from datamodules.features import RATE, AudioStore, decode_files, digest_files
from datamodules.sources import OwnSource
from kit.errors import UsageError

# What libsndfile reads; other files in a folder of recordings are lists, licenses and the like.
_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64"}


@dataclass(repr=False)
class StoredAudio(OwnSource):
    """An audio source of Lhotse whose samples are at hand already: (N,) int16 at 16 kHz, such as a part of a store."""

    samples: Any = None

    def load_audio(
        self, offset: float = 0.0, duration: float | None = None, force_opus_sampling_rate: int | None = None
    ) -> np.ndarray:
        """(1, n) float32 in [-1, 1]."""
        start = round(offset * RATE)
        end = len(self.samples) if duration is None else start + round(duration * RATE)
        return self.samples[None, start:end].astype(np.float32) / 32768

    def read(self, start: float = 0.0, seconds: float | None = None) -> torch.Tensor:
        """As `OwnSource.read`."""
        return torch.from_numpy(self.load_audio(start, seconds)[0])


def recording_of(name: str, samples: np.ndarray) -> Recording:
    """A recording of (N,) int16 samples at 16 kHz."""
    source = StoredAudio(type="memory", channels=[0], source=name, samples=samples)
    return Recording(name, [source], RATE, len(samples), len(samples) / RATE, channel_ids=[0])


def cut_of(name: str, samples: np.ndarray) -> MonoCut:
    """A cut of the whole of such a recording."""
    return MonoCut(name, 0.0, len(samples) / RATE, 0, recording=recording_of(name, samples))


def with_samples(cut: MonoCut, samples: np.ndarray) -> MonoCut:
    """The same cut with its samples taken from memory; its supervisions stay."""
    return fastcopy(cut, start=0.0, duration=len(samples) / RATE, channel=0, recording=recording_of(cut.id, samples))


def audio_files(folder: Path, key: str) -> dict[str, Path]:
    """The audio files in `folder` and below: name relative to it, path; in order of names.

    Raises:
        UsageError: there is no such folder, or nothing in it; `key` names the setting that is wrong.
    """
    if not folder.is_dir():
        raise UsageError(f"{key}={folder}: there is no such folder; give a folder of recordings")
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()]
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    if not found:
        raise UsageError(f"{key}={folder}: no audio file is in this folder; put wav, flac, mp3 or ogg files there")
    return dict(sorted(found.items()))


def open_files(files: Mapping[str, Path], cache: Path, label: str) -> AudioStore:
    """The decoded samples of files, kept in the cache.

    Raises:
        KitError: a file cannot be read (it is named), or the cache cannot be written.
    """
    return decode_files(files, cache / "audio" / f"{label}-{digest_files(files)}", label)
