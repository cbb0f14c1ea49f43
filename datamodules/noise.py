"""Where noise comes from: a folder of recordings, or sounds made on this machine; and clips without speech."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

from datamodules.features import RATE, AudioStore
from datamodules.recordings import audio_files, open_files
from datamodules.synthesis import noise_folder
from kit.errors import UsageError
from kit.files import folder_once

HELD_OUT = 0.2  # share of a folder's files that is for evaluation alone
CLIPS, LONGEST = 60, 10.0  # without speech, for evaluation; seconds
TRAINING_CLIPS, TRAINING_LONGEST = 240, 6.0  # no longer than most utterances, so that they share batches with these
_TRIES = 10  # pieces to draw until one is no silence
_AUDIBLE = 33  # of 32768, root mean square: -60 dB below full scale


class Noises:
    """Recordings of noise, to take pieces from.

    Args:
        store: their samples.
        names: those of it to use.
        kinds: whether a name tells the kind, as in folder/KIND-number.flac.
    """

    def __init__(self, store: AudioStore, names: Sequence[str], kinds: bool = False) -> None:
        self.store, self.names, self._kinds = store, list(names), kinds

    def kind(self, name: str) -> str:
        """What a recording is of, as far as that is known."""
        return Path(name).stem.rpartition("-")[0] if self._kinds else "noise"

    def piece(self, size: int, generator: np.random.Generator) -> tuple[str, np.ndarray]:
        """The name of a random recording and (size,) int16 samples of it from a random place, repeated if it is short.

        Silent places are passed over where there is anything else.
        """
        for _ in range(_TRIES):
            name = self.names[int(generator.integers(len(self.names)))]
            samples = self.store[name]
            start = int(generator.integers(max(1, len(samples) - size + 1)))
            piece = np.resize(samples[start : start + size], size)
            if np.sqrt(np.mean(np.square(piece, dtype=np.float32))) > _AUDIBLE:
                break
        return name, piece


def open_noises(folder: str | None, cache: Path, speech: Callable[[], CutSet], held_out: bool, key: str) -> Noises:
    """The noise for training, or that for evaluation, which is never trained on.

    Args:
        folder: of recordings, searched with all folders below; None for synthesized noise. A fixed share of the files,
            chosen by a hash of their names, is held out.
        speech: whose utterances babble in synthesized noise.
        held_out: the other half.
        key: the setting that named the folder, for messages.

    Raises:
        KitError: no such folder, nothing in it, or a file that cannot be read (it is named).
    """
    if folder is None:
        files = audio_files(noise_folder(cache, speech()), key)
        names = [name for name in files if name.startswith("held-out/") == held_out]
        return Noises(open_files(files, cache, "noise"), names, kinds=True)
    files = audio_files(Path(folder).expanduser(), key)
    if len(files) < 2:
        raise UsageError(f"{key}={folder}: only one file is in this folder; give two, of which evaluation gets one")
    return Noises(open_files(files, cache, "noise"), _half(list(files), held_out))


def _half(names: list[str], held_out: bool) -> list[str]:
    ordered = sorted(names, key=_share)
    count = min(max(1, sum(_share(name) < HELD_OUT for name in names)), len(names) - 1)
    return sorted(ordered[:count] if held_out else ordered[count:])


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def clips_without_speech(noises: Noises, cache: Path, training: bool = False) -> CutSet:
    """Clips of at least a second with an empty text: digital silence, faint white noise and noise, always the same.

    The kind stands in `supervision.custom["domain"]`: "silence", "white noise", or that of the noise.

    Args:
        training: more of them, and shorter ones.
    """
    count, longest = (TRAINING_CLIPS, TRAINING_LONGEST) if training else (CLIPS, LONGEST)
    told = "".join(f"{name} {noises.store.length(name)}\n" for name in noises.names) + f"{count} of {longest:g} s"
    folder = cache / f"silence-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    clips = _clips(noises, count, longest)

    def fill(temporary: Path) -> None:
        for name, _, samples in clips:
            soundfile.write(temporary / f"{name}.flac", samples, RATE)

    folder_once(folder, fill)
    return CutSet.from_cuts(_cut(folder, name, kind, len(samples)) for name, kind, samples in clips)


def _clips(noises: Noises, count: int, longest: float) -> list[tuple[str, str, np.ndarray]]:
    draw = np.random.default_rng(0)
    found = []
    for index in range(count):
        size = int(draw.integers(RATE, int(longest * RATE) + 1))
        kind = ("silence", "white noise", "noise", "noise", "noise")[index % 5]
        samples = np.zeros(size)
        if kind == "white noise":
            samples = 10 ** (draw.uniform(-75, -45) / 20) * draw.standard_normal(size)
        elif kind == "noise":
            name, piece = noises.piece(size, draw)
            kind, samples = noises.kind(name), piece.astype(np.float64)
            level = 10 ** (draw.uniform(-50, -20) / 20)
            samples *= level / np.sqrt(np.mean(samples**2)).clip(1e-3)
        rounded = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
        found.append((f"silence-{index:02d}", kind, rounded))
    return found


def _cut(folder: Path, name: str, kind: str, size: int) -> MonoCut:
    source = {"type": "file", "channels": [0], "source": str(folder / f"{name}.flac")}
    length = size / RATE
    recording = Recording.from_dict(
        {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": size, "duration": length}
    )
    empty = SupervisionSegment(name, name, 0.0, length, text="", language="-", custom={"domain": kind})
    return MonoCut(name, 0.0, length, 0, recording=recording, supervisions=[empty])
