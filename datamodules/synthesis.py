"""Noise and rooms made on this machine: babble of the corpus's own voices, engines, music, impulse responses.

None of it pretends to be the real thing; each is as unlike the others, and as unlike one voice, as its model is. All is
seeded: the same speech and the same seed give the same sounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet

from datamodules.features import RATE, digest, rounded
from datamodules.sources import read_samples
from kit.files import folder_once
from kit.progress import track

SECONDS = 30
FILES = {"train": 4, "held-out": 2}  # of each kind
ROOMS = 48
_RECIPE = 1  # to be raised when the same speech and seed make other sounds
_LEVEL, _PEAK = 0.1, 0.95
_VOICES = 6
_SOUND = 343.0  # meters a second

Draw = np.random.Generator


def noise_folder(cache: Path, speech: CutSet) -> Path:
    """Some minutes of noise as flac, made at first use: train/ and held-out/, each with babble, engine and music.

    Args:
        speech: whose utterances babble.

    Raises:
        KitError: a recording cannot be read, or the cache cannot be written.
    """
    folder = cache / f"noise-{_RECIPE}-{digest(speech, 0)}"
    kinds: dict[str, Callable[[Draw], np.ndarray]] = {
        "babble": lambda draw: babble(_voices(speech, draw), draw),
        "engine": engine,
        "music": music,
    }
    sounds = {
        f"{half}/{kind}-{number}.flac": partial(make, _draw(_RECIPE, first, place, number))
        for first, (half, count) in enumerate(FILES.items())
        for place, (kind, make) in enumerate(kinds.items())
        for number in range(count)
    }
    return _made(folder, sounds, "noise")


def room_folder(cache: Path) -> Path:
    """Impulse responses of little rooms and cars as flac, made at first use."""
    sounds = {f"room-{number:02d}.flac": partial(room, _draw(_RECIPE, 9, number)) for number in range(ROOMS)}
    return _made(cache / f"rooms-{_RECIPE}", sounds, "impulse responses")


def babble(voices: Sequence[Sequence[np.ndarray]], draw: Draw) -> np.ndarray:
    """Several voices over each other, each saying one utterance after the other with short pauses: (N,) samples."""
    total = np.zeros(SECONDS * RATE)
    for utterances in voices:
        pauses = [np.zeros(int(seconds * RATE)) for seconds in draw.uniform(0.1, 0.6, len(utterances))]
        said = [piece for one, pause in zip(utterances, pauses, strict=True) for piece in (one / _rms(one), pause)]
        line = np.roll(np.resize(np.concatenate(said), len(total)), int(draw.integers(len(total))))
        total += line * 10 ** (draw.uniform(-5, 5) / 20)
    return total


def engine(draw: Draw) -> np.ndarray:
    """A car from inside: harmonics of a slowly moving speed over the rumble of road and wind, (N,) samples."""
    size = SECONDS * RATE
    speed = 2 ** _slow(draw, size, np.log2(40), np.log2(130), every=3.0)  # Hz, ignitions a second
    phase = 2 * np.pi * np.cumsum(speed) / RATE
    load = _slow(draw, size, 0.6, 1.4, every=2.0)
    orders = np.arange(1, 25) / 2  # a cylinder's own beat is half of it
    loudness = draw.lognormal(0.0, 0.6, len(orders)) / orders**0.8
    hum = np.zeros(size)
    for order, level in zip(orders, loudness, strict=True):
        hum += level * _sine(order * phase + draw.uniform(0, 2 * np.pi))
    corner = draw.uniform(200, 800)  # Hz from which the rumble falls off
    road = _filtered(draw, size, lambda frequency: 1 / (1 + (frequency / corner) ** draw.uniform(1.2, 1.8)))
    level = 10 ** (draw.uniform(-6, 6) / 20)
    return load * hum / _rms(hum) + level * (speed / speed.mean()) * road / _rms(road)


def music(draw: Draw) -> np.ndarray:
    """Chords of decaying harmonics, a bass and a beat: (N,) samples."""
    beat = 60 / draw.uniform(80, 140)  # seconds
    root = draw.uniform(110, 220)  # Hz
    scale = [0, 2, 4, 5, 7, 9, 11] if draw.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10]
    total = np.zeros((SECONDS + 4) * RATE)
    drums = 10 ** (draw.uniform(-12, -2) / 20)
    degree = 0
    for number in range(int(SECONDS / beat)):
        if number % 4 == 0:
            degree = int(draw.integers(7)) if number % 16 else 0
        tones = [scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]
        struck = tones if number % 4 == 0 else [tones[int(draw.integers(3))] + 12]  # a chord, then a melody of it
        for tone in struck:
            _add(total, number * beat, _note(root * 2 ** (tone / 12), draw))
        if number % 2 == 0:
            _add(total, number * beat, 1.5 * _note(root / 2 * 2 ** (tones[0] / 12), draw))
        _add(total, number * beat, drums * _drum(draw, low=number % 2 == 0))
        _add(total, (number + 0.5) * beat, 0.5 * drums * _drum(draw, low=False))
    return total[: SECONDS * RATE]


def room(draw: Draw) -> np.ndarray:
    """An impulse response by the image method (Allen and Berkley 1979): a shoebox, walls that absorb all tones alike.

    Returns:
        (N,) samples, the direct sound first and loudest.
    """
    car = draw.random() < 0.3
    size = draw.uniform([2.0, 1.3, 1.0], [4.5, 1.7, 1.3]) if car else draw.uniform([3.0, 2.5, 2.3], [9.0, 7.0, 3.5])
    decay = draw.uniform(0.05, 0.12) if car else draw.uniform(0.15, 0.6)  # seconds to fall by 60 dB
    listener, speaker = draw.uniform(0.15, 0.85, (2, 3)) * size
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    kept = np.exp(-0.161 * np.prod(size) / (surface * decay) / 2)  # Eyring: amplitude that a wall gives back
    distance, bounces = _images(size, listener, speaker, reach=_SOUND * min(decay, 0.35))
    delay = np.rint((distance - distance.min()) / _SOUND * RATE).astype(int)
    response = np.bincount(delay, kept**bounces / distance)
    response[0] = max(response[0], response.max(initial=0.0))
    return _highpass(response)


def _images(size: np.ndarray, listener: np.ndarray, speaker: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances (n,) of all mirror images within `reach` meters, and how many walls each was mirrored at."""
    squares, bounces = [], []
    for length, here, there in zip(size, listener, speaker, strict=True):
        copies = np.arange(-np.ceil(reach / length) - 1, np.ceil(reach / length) + 2)
        mirrored = np.where(copies % 2 == 0, copies * length + there, (copies + 1) * length - there)
        squares.append(((mirrored - here) ** 2).astype(np.float32))
        bounces.append(np.abs(copies).astype(np.float32))
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    count = bounces[0][:, None, None] + bounces[1][:, None] + bounces[2]
    near = distance <= max(reach, float(distance.min()))
    return distance[near].clip(0.1), count[near]


def _voices(speech: CutSet, draw: Draw) -> list[list[np.ndarray]]:
    """Utterances of several speakers, long enough together."""
    cuts = sorted(speech, key=lambda cut: cut.id)
    voices: list[list[np.ndarray]] = []
    for _ in range(_VOICES):
        voice: list[np.ndarray] = []
        while len(voice) < 50 and sum(map(len, voice)) < SECONDS * RATE:
            cut = cuts[int(draw.integers(len(cuts)))]
            voice.append(read_samples(cut).numpy().astype(np.float64))
        voices.append(voice)
    return voices


def _note(pitch: float, draw: Draw) -> np.ndarray:
    """A second and a half of a plucked string."""
    time = np.arange(3 * RATE // 2, dtype=np.float32) / RATE
    total = np.zeros(len(time))
    for number in range(1, min(12, int(7000 / pitch)) + 1):
        decay = np.float32(1.5 + number * draw.uniform(0.5, 1.0))
        total += np.exp(-decay * time) * _sine(2 * np.pi * number * pitch * time) / number
    return total * np.minimum(1, time / 0.005)


def _sine(phase: np.ndarray) -> np.ndarray:
    """The sine in single precision, of a phase that was reduced in double."""
    return np.sin((phase % (2 * np.pi)).astype(np.float32))


def _drum(draw: Draw, low: bool) -> np.ndarray:
    time = np.arange(RATE // 4) / RATE
    if low:
        return 2 * np.exp(-12 * time) * np.sin(2 * np.pi * (50 * time + 6 * (1 - np.exp(-20 * time))))
    return np.exp(-40 * time) * np.diff(draw.standard_normal(len(time) + 1))  # a difference is bright


def _add(total: np.ndarray, second: float, sound: np.ndarray) -> None:
    start = round(second * RATE)
    total[start : start + len(sound)] += sound[: len(total) - start]


def _slow(draw: Draw, size: int, low: float, high: float, every: float) -> np.ndarray:
    """(size,) values that wander smoothly between two bounds."""
    from scipy.interpolate import PchipInterpolator  # does not overshoot

    knots = np.arange(0, size + every * RATE, every * RATE)
    return np.asarray(PchipInterpolator(knots, draw.uniform(low, high, len(knots)))(np.arange(size)))


def _filtered(draw: Draw, size: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    spectrum = np.fft.rfft(draw.standard_normal(size))
    return np.fft.irfft(spectrum * gain(np.fft.rfftfreq(size, 1 / RATE)), size)


def _highpass(response: np.ndarray) -> np.ndarray:
    """Reflections of one sign add up to a thump that no room has."""
    from scipy.signal import butter, lfilter

    return np.asarray(lfilter(*butter(2, 60, "highpass", fs=RATE), response))


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples)))) + 1e-9


def _draw(*seed: int) -> Draw:
    return np.random.default_rng(seed)


def _made(folder: Path, sounds: Mapping[str, Callable[[], np.ndarray]], label: str) -> Path:
    """The folder with these sounds as 16-bit flac, scaled to one level, made unless it is there."""

    def fill(temporary: Path) -> None:
        for name, make in track(sounds.items(), f"making {label}"):
            samples = make()
            samples = samples * min(_LEVEL / _rms(samples), _PEAK / np.abs(samples).max())
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, rounded(torch.from_numpy(samples))[:, 0], RATE)

    folder_once(folder, fill)
    return folder
