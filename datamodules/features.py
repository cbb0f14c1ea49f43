"""Features and samples computed once a corpus and kept as one memory-mapped file each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut

from datamodules.sources import RATE as RATE
from datamodules.sources import read_samples
from kit.audio.features import LogMel
from kit.audio.reading import read_audio
from kit.errors import KitError
from kit.files import folder_once, write_text
from kit.progress import track

_INDEX = "index.json"
_BLOCK = 1 << 16

S = TypeVar("S", bound="CutStore")
T = TypeVar("T")
Settings = Mapping[str, Any]  # what the features are made of
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


def digest(cuts: CutSet, bins: int, **more: float) -> str:
    """A name for the features of these cuts: changes with the cuts, their audio files and the feature settings."""
    told = "".join(f" {key}={value:g}" for key, value in sorted(more.items()))
    state = hashlib.sha256(f"logmel {bins}{told} v1".encode())
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
        return _statistics(self.frames[start : start + _BLOCK] for start in range(0, len(self.frames), _BLOCK))


def sampled_statistics(cuts: CutSet, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """As `FeatureStore.statistics`, of recordings whose features are not kept."""
    features = computed_features(settings)
    return _statistics(features.of(cut).numpy() for cut in track(cuts, "mean and deviation of the features"))


def _statistics(blocks: Iterable[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    total, square, count = np.zeros(1), np.zeros(1), 0
    for block in blocks:
        exact = block.astype(np.float64)
        total, square, count = total + exact.sum(0), square + (exact**2).sum(0), count + len(exact)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 1e-10))
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

    def of(self, cut: Cut) -> T:
        """What the store of this recording has."""
        return self._owners[cut.id][cut.id]

    def length(self, cut: Cut) -> int:
        """Rows of a recording."""
        return self._owners[cut.id].length(cut.id)


class Computed(Generic[T]):
    """As `Joined`, without stores: computed from the recording whenever it is asked for."""

    def __init__(self, compute: Callable[[Cut], T]) -> None:
        self._compute = compute

    def of(self, cut: Cut) -> T:
        """What a store would have."""
        return self._compute(cut)

    def length(self, cut: Cut) -> int:
        """Rows of a recording."""
        return len(self.of(cut))  # type: ignore[arg-type]  # tensors and arrays


def computed_features(settings: Settings) -> Computed[torch.Tensor]:
    """The numbers that `FeatureStore` has, from the recordings."""
    return Computed(Extract(settings).heard)


def computed_samples() -> Computed[np.ndarray]:
    """The numbers that `AudioStore` has, from the recordings."""
    return Computed(_samples)


def _samples(cut: Cut) -> np.ndarray:
    return rounded(read_samples(cut))[:, 0]


def rounded(samples: torch.Tensor) -> np.ndarray:
    """(N,) samples in [-1, 1] as (N, 1) 16-bit numbers; what comes from a 16-bit file loses nothing."""
    return (samples * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy()[:, None]


class Extract:
    """Log-mel features as they are kept: rounded to 16 bit, so that they are the same computed anew.

    Args:
        settings: as `LogMel` takes them, `model.features` of the configuration; its defaults if None.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._log_mel = LogMel(**(settings or {}))

    @torch.inference_mode()
    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """(N,) samples at 16 kHz to (T, F) in half precision."""
        return self._log_mel(samples).half()

    def heard(self, cut: Cut) -> torch.Tensor:
        """(T, F) float32 features of a cut's recording, with the rounding of those that are kept."""
        return self(read_samples(cut)).float()


def build(cuts: CutSet, folder: Path, settings: Settings, label: str) -> FeatureStore:
    """Compute the features of `cuts` (`settings` as in `Extract`) unless `folder` has them already.

    Raises:
        KitError: a recording cannot be read (it is named), or the folder cannot be written.
    """

    def blocks() -> Iterator[tuple[str, np.ndarray]]:
        extract = Extract(settings)
        for cut in track(cuts, f"features of {label}"):
            yield cut.id, extract(read_samples(cut)).numpy()

    return _opened(FeatureStore, folder, int(settings["bins"]), blocks())


def build_audio(cuts: CutSet, folder: Path, label: str) -> AudioStore:
    """Decode the recordings of `cuts` unless `folder` has them already; errors as in `build`."""
    blocks = ((cut.id, rounded(read_samples(cut))) for cut in track(cuts, f"samples of {label}"))
    return _opened(AudioStore, folder, 1, blocks)


def decode_files(files: Mapping[str, Path], folder: Path, label: str) -> AudioStore:
    """Decode named files unless `folder` has them already; errors as in `build`."""
    blocks = ((name, rounded(read_audio(path))) for name, path in track(files.items(), f"samples of {label}"))
    return _opened(AudioStore, folder, 1, blocks)


def _opened(kind: type[S], folder: Path, width: int, blocks: Iterable[tuple[str, np.ndarray]]) -> S:
    folder_once(folder, lambda temporary: kind.write(temporary, width, blocks))
    return kind(folder)
