"""Features computed once a corpus and kept as one memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut

from kit.audio.features import LogMel
from kit.audio.reading import read_audio
from kit.errors import KitError
from kit.files import folder_atomic, write_text
from kit.progress import track

RATE = 16000
_FRAMES, _INDEX = "features.f16", "index.json"
_BLOCK = 1 << 16


def digest(cuts: CutSet, bins: int) -> str:
    """A name for the features of these cuts: changes with the cuts, their audio files and the feature settings."""
    state = hashlib.sha256(f"logmel {bins} v1".encode())
    for cut in cuts:
        source = Path(cut.recording.sources[0].source)
        stat = source.stat() if source.exists() else None
        state.update(
            f"{cut.id} {cut.start} {cut.duration} {source} {stat and (stat.st_size, stat.st_mtime_ns)}".encode()
        )
    return state.hexdigest()[:16]


class FeatureStore:
    """Log-mel features of a CutSet: float16 frames of all cuts one behind the other, mapped from disk.

    Args:
        folder: made by `build`.
    """

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / _INDEX).read_text("utf-8"))
            shape = (about["frames"], about["bins"])
            self.index: dict[str, list[int]] = about["cuts"]
            self.frames = np.memmap(folder / _FRAMES, dtype=np.float16, mode="r", shape=shape)
        except (OSError, ValueError, KeyError) as error:
            raise KitError(
                f"the feature cache {folder} is damaged ({error}); delete that folder and run again"
            ) from error

    def __getitem__(self, cut_id: str) -> torch.Tensor:
        """(T, F) float32 features of a cut."""
        start, size = self.index[cut_id]
        return torch.from_numpy(self.frames[start : start + size].astype(np.float32))

    def length(self, cut_id: str) -> int:
        """Feature frames of a cut."""
        return self.index[cut_id][1]

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each bin over all frames, summed in float64: two (F,) tensors."""
        total, square = np.zeros(self.frames.shape[1]), np.zeros(self.frames.shape[1])
        for start in range(0, len(self.frames), _BLOCK):
            block = self.frames[start : start + _BLOCK].astype(np.float64)
            total, square = total + block.sum(0), square + (block**2).sum(0)
        mean = total / len(self.frames)
        deviation = np.sqrt(np.maximum(square / len(self.frames) - mean**2, 1e-10))
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _audio(cut: Cut) -> torch.Tensor:
    samples = read_audio(cut.recording.sources[0].source)
    start = round(cut.start * RATE)
    return samples[start : start + round(cut.duration * RATE)]


def build(cuts: CutSet, folder: Path, bins: int, label: str) -> FeatureStore:
    """Compute the features of `cuts` unless `folder` has them already.

    Raises:
        KitError: a recording cannot be read (it is named), or the folder cannot be written.
    """
    if not folder.exists():
        try:
            _compute(cuts, folder, bins, label)
        except KitError:
            if not folder.exists():  # otherwise another process was faster
                raise
    return FeatureStore(folder)


def _compute(cuts: CutSet, folder: Path, bins: int, label: str) -> None:
    extract = LogMel()
    index: dict[str, list[int]] = {}
    end = 0
    with folder_atomic(folder) as temporary, torch.inference_mode():
        with open(temporary / _FRAMES, "wb") as file:
            for cut in track(cuts, f"features of {label}"):
                block = extract(_audio(cut)).numpy().astype(np.float16)
                file.write(block.tobytes())
                index[cut.id] = [end, len(block)]
                end += len(block)
        write_text(temporary / _INDEX, json.dumps({"frames": end, "bins": bins, "cuts": index}))
