"""Features and samples computed once a corpus and kept as one memory-mapped file each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut

from kit.audio.features import LogMel
from kit.audio.reading import read_audio
from kit.errors import KitError
from kit.files import folder_once, write_text
from kit.progress import track

RATE = 16000
_INDEX = "index.json"
_BLOCK = 1 << 16

S = TypeVar("S", bound="CutStore")
T = TypeVar("T")
Item = TypeVar("Item", covariant=True)


class Rows(Protocol[Item]):
    """What a store of features and one of samples have in common."""

    index: dict[str, list[int]]

    def __getitem__(self, name: str) -> Item:
        """What there is of a recording."""
        ...

    def length(self, name: str) -> int:
        """Rows of a recording."""
        ...


def digest(cuts: CutSet, bins: int) -> str:
    """A name for the features of these cuts: changes with the cuts, their audio files and the feature settings."""
    state = hashlib.sha256(f"logmel {bins} v1".encode())
    for cut in cuts:
        state.update(f"{cut.id} {cut.start} {cut.duration} {_stamp(Path(cut.recording.sources[0].source))}".encode())
    return state.hexdigest()[:16]


def digest_files(files: Mapping[str, Path]) -> str:
    """A name for what was decoded of these files."""
    told = "".join(f"{name} {_stamp(path)}\n" for name, path in files.items())
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _stamp(source: Path) -> str:
    stat = source.stat() if source.exists() else None
    return f"{source} {stat and (stat.st_size, stat.st_mtime_ns)}"


class CutStore:
    """What was computed of many recordings: the rows of all, one recording behind the other, mapped from disk.

    Args:
        folder: made by `write`.
    """

    FILE: ClassVar[str]
    TYPE: ClassVar[type[np.generic]]

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / _INDEX).read_text("utf-8"))
            shape = (about["frames"], about["bins"])
            self.index: dict[str, list[int]] = about["cuts"]
            self.frames = np.memmap(folder / self.FILE, dtype=self.TYPE, mode="r", shape=shape)
        except (OSError, ValueError, KeyError) as error:
            raise KitError(f"the cache {folder} is damaged ({error}); delete that folder and run again") from error

    @classmethod
    def write(cls, folder: Path, width: int, blocks: Iterable[tuple[str, np.ndarray]]) -> None:
        """Write (name, (rows, width)) blocks into a folder."""
        index: dict[str, list[int]] = {}
        end = 0
        with open(folder / cls.FILE, "wb") as file:
            for name, block in blocks:
                file.write(np.asarray(block, cls.TYPE).tobytes())
                index[name] = [end, len(block)]
                end += len(block)
        write_text(folder / _INDEX, json.dumps({"frames": end, "bins": width, "cuts": index}))

    def rows(self, name: str) -> np.ndarray:
        """(rows, width) of a recording, as they lie on disk."""
        start, size = self.index[name]
        return self.frames[start : start + size]

    def length(self, name: str) -> int:
        """Rows of a recording."""
        return self.index[name][1]


class FeatureStore(CutStore):
    """Log-mel features of a CutSet as float16 frames."""

    FILE, TYPE = "features.f16", np.float16

    def __getitem__(self, name: str) -> torch.Tensor:
        """(T, F) float32 features of a cut."""
        return torch.from_numpy(self.rows(name).astype(np.float32))

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of each bin over all frames, summed in float64: two (F,) tensors."""
        total, square = np.zeros(self.frames.shape[1]), np.zeros(self.frames.shape[1])
        for start in range(0, len(self.frames), _BLOCK):
            block = self.frames[start : start + _BLOCK].astype(np.float64)
            total, square = total + block.sum(0), square + (block**2).sum(0)
        mean = total / len(self.frames)
        deviation = np.sqrt(np.maximum(square / len(self.frames) - mean**2, 1e-10))
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


class AudioStore(CutStore):
    """Decoded recordings as 16-bit samples at 16 kHz, so that flac is decoded once."""

    FILE, TYPE = "samples.i16", np.int16

    def __getitem__(self, name: str) -> np.ndarray:
        """(N,) int16 samples of a recording."""
        return self.rows(name)[:, 0]


class Joined(Generic[T]):
    """Stores of several recordings as one."""

    def __init__(self, stores: Sequence[Rows[T]]) -> None:
        self._owners = {name: store for store in stores for name in store.index}

    def __getitem__(self, name: str) -> T:
        """What the store of this recording has."""
        return self._owners[name][name]

    def length(self, name: str) -> int:
        """Rows of a recording."""
        return self._owners[name].length(name)


def _audio(cut: Cut) -> torch.Tensor:
    samples = read_audio(cut.recording.sources[0].source)
    start = round(cut.start * RATE)
    return samples[start : start + round(cut.duration * RATE)]


def rounded(samples: torch.Tensor) -> np.ndarray:
    """(N,) samples in [-1, 1] as (N, 1) 16-bit numbers; what comes from a 16-bit file loses nothing."""
    return (samples * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()[:, None]


class Extract:
    """Log-mel features as they are kept: rounded to 16 bit, so that they are the same computed anew."""

    def __init__(self) -> None:
        self._log_mel = LogMel()

    @torch.inference_mode()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """(N,) samples at 16 kHz to (T, F) in half precision."""
        return self._log_mel(samples).half()


def build(cuts: CutSet, folder: Path, bins: int, label: str) -> FeatureStore:
    """Compute the features of `cuts` unless `folder` has them already.

    Raises:
        KitError: a recording cannot be read (it is named), or the folder cannot be written.
    """

    def blocks() -> Iterator[tuple[str, np.ndarray]]:
        extract = Extract()
        for cut in track(cuts, f"features of {label}"):
            yield cut.id, extract(_audio(cut)).numpy()

    return _opened(FeatureStore, folder, bins, blocks())


def build_audio(cuts: CutSet, folder: Path, label: str) -> AudioStore:
    """Decode the recordings of `cuts` unless `folder` has them already; errors as in `build`."""
    blocks = ((cut.id, rounded(_audio(cut))) for cut in track(cuts, f"samples of {label}"))
    return _opened(AudioStore, folder, 1, blocks)


def decode_files(files: Mapping[str, Path], folder: Path, label: str) -> AudioStore:
    """Decode named files unless `folder` has them already; errors as in `build`."""
    blocks = ((name, rounded(read_audio(path))) for name, path in track(files.items(), f"samples of {label}"))
    return _opened(AudioStore, folder, 1, blocks)


def _opened(kind: type[S], folder: Path, width: int, blocks: Iterable[tuple[str, np.ndarray]]) -> S:
    folder_once(folder, lambda temporary: kind.write(temporary, width, blocks))
    return kind(folder)
