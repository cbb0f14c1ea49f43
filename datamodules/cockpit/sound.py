"""The sound of an utterance: the synthesizer's samples at 16 kHz in a little room of faint noise.

Everything is float64 on uniform random numbers and is rounded once at the end, so that every machine gets the same
16-bit samples: distributions other than the uniform may change with NumPy, and powers in their last bit with the
C library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import gcd

import numpy as np

from datamodules.cockpit.alignment import align, spoken_text
from datamodules.cockpit.plan import Utterance
from kit.errors import KitError
from kit.text.espeak import Espeak, Speech

SAMPLE_RATE = 16000
PEAKS = (0.2, 0.9)  # of full scale
NOISE_DB = (-75.0, -45.0)  # dBFS
PAD_SECONDS = 0.6  # times Beta(1, 3), before and after
TAIL_SECONDS = 0.05  # more after the end
AUDIBLE = 98  # of 32768
DECIMALS = 12  # kept of numbers that a C library computed


@dataclass(frozen=True)
class Rendering:
    """What an utterance became.

    Attributes:
        samples: (N,) int16 at 16 kHz.
        phonemes: (phoneme, start, duration) in seconds from the first sample, one after another without gaps.
    """

    samples: np.ndarray
    phonemes: list[tuple[str, float, float]]


def render(utterance: Utterance, espeak: Espeak) -> Rendering:
    """Speak an utterance.

    Raises:
        KitError: the synthesizer gave no speech.
    """
    text, offsets = spoken_text(utterance.parts)
    speech = espeak.say(text, utterance.voice, utterance.rate, utterance.pitch, utterance.range)
    if not speech.events or not np.any(np.abs(speech.samples) > AUDIBLE):
        raise KitError(f"eSpeak NG says nothing for {text!r} in the voice {utterance.voice}; leave that voice out")
    starts, end = align(utterance.parts, offsets, speech)
    first = int(starts[0] * speech.rate)  # some 40 ms of digital silence come before
    samples = _resampled(speech.samples[first : _last(speech, end)], speech.rate)
    generator = _generator(utterance.seed)
    before, after = (int(PAD_SECONDS * SAMPLE_RATE * generator.random(3).min()) for _ in range(2))  # Beta(1, 3)
    padded = np.concatenate([np.zeros(before), samples, np.zeros(after + int(TAIL_SECONDS * SAMPLE_RATE))])
    sound = _quantized(_at_level(padded, generator))
    shift = before / SAMPLE_RATE - first / speech.rate
    return Rendering(sound, _items(utterance, [start + shift for start in [*starts, end]]))


def digest_of(samples: np.ndarray, text: str) -> bytes:
    """SHA-256 of the samples as int16 little endian and of the text."""
    return hashlib.sha256(samples.astype("<i2").tobytes() + text.encode()).digest()


def _generator(seed: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")))


def _last(speech: Speech, end: float) -> int:
    """Where nothing audible follows (an echo outlives the last phoneme)."""
    audible = int(np.flatnonzero(np.abs(speech.samples.astype(np.int32)) > AUDIBLE)[-1])
    return max(audible + speech.rate // 50, int(end * speech.rate))


@cache
def _filter(up: int, down: int) -> np.ndarray:
    """The low-pass that resample_poly would design anew each time, without the last bits of sine and Bessel."""
    from scipy.signal import firwin

    half = 10 * max(up, down)
    return np.round(firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)), DECIMALS)


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    common = gcd(SAMPLE_RATE, rate)
    up, down = SAMPLE_RATE // common, rate // common
    return np.asarray(resample_poly(samples.astype(np.float64) / 32768, up, down, window=_filter(up, down)))


def _at_level(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Scaled to a random peak, with noise of nearly normal distribution at a random level."""
    low, high = PEAKS
    peak = low + (high - low) * generator.random()
    quiet, loud = NOISE_DB
    level = round(10 ** ((quiet + (loud - quiet) * generator.random()) / 20), DECIMALS)
    return samples * (peak / np.abs(samples).max()) + _noise(generator, len(samples)) * level


def _noise(generator: np.random.Generator, count: int) -> np.ndarray:
    """Nearly normal, mean 0, variance 1: sums of four uniform 16-bit numbers, all exact until the last division."""
    raw = np.asarray(generator.bit_generator.random_raw(count)).astype("<u8")
    quarters = raw.view("<u2").reshape(count, 4).astype(np.int32)
    total = quarters[:, 0] + quarters[:, 1] + quarters[:, 2] + quarters[:, 3]
    return (total - 2 * 65535) / (65536 / np.sqrt(3.0))  # a uniform number has variance 65536^2 / 12


def _quantized(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples * 32767), -32767, 32767).astype(np.int16)


def _items(utterance: Utterance, times: Sequence[float]) -> list[tuple[str, float, float]]:
    """Phonemes with starts rounded to 0.1 ms, so that each ends exactly where the next begins."""
    ticks = [round(max(time, 0.0) * 10000) for time in times]
    phonemes = [phoneme for _, own in utterance.parts for phoneme in own]
    return [
        (phoneme, start / 10000, (stop - start) / 10000)
        for phoneme, (start, stop) in zip(phonemes, pairwise(ticks), strict=True)
    ]
