"""Audio files of any rate and number of channels as 16 kHz mono samples, with every fault named before it does harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np

from kit.audio.resampling import Resampler
from kit.errors import KitError

if TYPE_CHECKING:
    import torch
    from soundfile import SoundFile

_BLOCK = 1 << 20  # values read at once, over all channels
_HIGHEST_RATE = 768_000  # Hz; a header that says more is broken, and the filter for it would fill the memory
_LOUDEST = 8.0  # of full scale 1.0: decoders overshoot a little, samples beyond this were never scaled to [-1, 1]


class AudioError(KitError):
    """A recording that cannot be used."""


def read_audio(
    path: str | Path,
    sample_rate: int = 16000,
    max_seconds: float = 7200.0,
    start: float = 0.0,
    seconds: float | None = None,
    file: BinaryIO | None = None,
) -> torch.Tensor:
    """Read a recording (wav, flac, mp3, ogg), or a part of it, block by block.

    Args:
        path: the file; its channels are averaged.
        sample_rate: of the result in Hz; other rates are resampled with a polyphase filter.
        max_seconds: the longest recording to accept; a longer one is refused before it is read.
        start: second of the recording to begin at; what lies before is not decoded where the format allows it.
        seconds: how much to read; None for all.
        file: the recording, open, where `path` only says what to call it: a member of an archive.

    Returns:
        (N,) float32 in [-1, 1].

    Raises:
        AudioError: the file is missing, unreadable, no audio, without samples, longer than `max_seconds`, ends before
            `start`, or has samples that are not numbers or not scaled to [-1, 1].
    """
    import torch

    pieces = [torch.from_numpy(piece) for piece in read_pieces(path, sample_rate, max_seconds, start, seconds, file)]
    return torch.cat(pieces).clamp_(-1.0, 1.0)


def read_pieces(
    path: str | Path,
    sample_rate: int = 16000,
    max_seconds: float = 7200.0,
    start: float = 0.0,
    seconds: float | None = None,
    file: BinaryIO | None = None,
) -> Iterator[np.ndarray]:
    """What `read_audio` reads, as (n,) float32 pieces: without torch, and never all in memory.

    Decoders overshoot a little, so the samples may lie outside [-1, 1].

    Raises:
        AudioError: as in `read_audio`; pieces may have come before.
    """
    import soundfile

    path = Path(path)
    if file is None:
        _check_file(path)
    heard = False
    try:
        with soundfile.SoundFile(file or str(path)) as sound:
            frames = _check_header(path, sound, max_seconds, start, seconds)
            mono = _mono_blocks(path, sound, max_seconds, frames)
            for piece in _resampled(mono, sound.samplerate, sample_rate):
                heard = heard or len(piece) > 0
                yield piece
    except soundfile.LibsndfileError as error:
        reason = error.error_string.removeprefix("Error : ").rstrip(".")
        mend = "give a whole wav, flac, mp3 or ogg file, or convert it first, for example with ffmpeg"
        _refuse(path, f"cannot be read as audio ({reason})", mend)
    if not heard:
        _refuse(path, "has no samples", "check that the recording was saved whole")


def resample(samples: np.ndarray, rate: int, wanted: int = 16000) -> torch.Tensor:
    """(n,) float32 samples at `rate` Hz -> samples at `wanted` Hz, as those of a file would be.

    Raises:
        AudioError: no such rate.
    """
    import torch

    if not 0 < rate <= _HIGHEST_RATE:
        raise AudioError(f"a sample rate of {rate} Hz; give one from 1 to {_HIGHEST_RATE}")
    pieces = [torch.from_numpy(piece) for piece in _resampled([samples], rate, wanted)] if len(samples) else []
    return torch.cat(pieces) if pieces else torch.zeros(0)


def _refuse(path: Path, fault: str, mend: str) -> NoReturn:
    raise AudioError(f"{path} {fault}; {mend}")


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            _refuse(path, "is a folder", "name the audio files in it")
        with path.open("rb") as file:
            if not file.read(1):
                _refuse(path, "is empty (0 bytes)", "check that the recording was saved whole")
    except FileNotFoundError:
        _refuse(path, "does not exist", "check the path")
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        _refuse(path, f"cannot be opened: {getattr(error, 'strerror', None) or error}", "check its permissions")


def _check_header(path: Path, file: SoundFile, max_seconds: float, start: float, seconds: float | None) -> int:
    """Go to the second `start`; how many frames are wanted from there, -1 for all."""
    if file.samplerate > _HIGHEST_RATE:
        _refuse(path, f"has a sample rate of {file.samplerate} Hz", f"convert it to at most {_HIGHEST_RATE} Hz")
    whole = file.frames / file.samplerate
    _check_length(path, whole if seconds is None else min(seconds, whole), max_seconds)
    first = round(start * file.samplerate)
    if first:
        if first >= file.frames:
            _refuse(path, f"ends after {whole:.2f} s, before second {start:g}", "check the times in its transcripts")
        file.seek(first)
    return -1 if seconds is None else round(seconds * file.samplerate)


def _check_length(path: Path, seconds: float, limit: float) -> None:
    if seconds > limit:
        _refuse(path, f"is longer than the limit of {limit:g} s", "cut it into shorter files")


def _mono_blocks(path: Path, file: SoundFile, max_seconds: float, frames: int = -1) -> Iterator[np.ndarray]:
    """(n,) float32 blocks of the mean over channels; what the header promised is checked against what comes."""
    seen = 0
    for block in file.blocks(max(1, _BLOCK // file.channels), frames=frames, dtype="float32", always_2d=True):
        seen += len(block)
        _check_length(path, seen / file.samplerate, max_seconds)
        _check_samples(path, block)
        yield block.mean(axis=1)


def _check_samples(path: Path, block: np.ndarray) -> None:
    peak = np.abs(block).max(initial=0.0)  # NaN if any sample is
    if not np.isfinite(peak):
        _refuse(path, "has samples that are NaN or infinite", "export the recording again as 16-bit wav")
    if peak > _LOUDEST:
        _refuse(path, f"has samples as large as {peak:.0f}, not in [-1, 1]", "scale them or export it as 16-bit wav")


def _resampled(blocks: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    resampler = Resampler(rate, wanted)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.finish()
