"""Another sample rate, piece by piece: the same samples as if the whole signal had been there at once."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

_HALF_WIDTH = 10  # of the anti-aliasing filter, in samples at the lower of the two rates


class Resampler:
    """What scipy.signal.resample_poly gives for the whole signal.

    Output sample m lies at input time m * down / up, so blocks of a multiple of `down` input samples begin on an
    output sample, and with as much context on both sides as the filter is wide their middles are exact.

    Args:
        rate: of what comes in, in Hz.
        wanted: of what goes out.
    """

    def __init__(self, rate: int, wanted: int) -> None:
        self._up, self._down = wanted // math.gcd(rate, wanted), rate // math.gcd(rate, wanted)
        self._window = _filter(self._up, self._down) if rate != wanted else np.ones(1, dtype=np.float32)
        self._margin = self._down * math.ceil((len(self._window) // 2 / self._up + 1) / self._down)
        self._buffer = np.zeros(self._margin, dtype=np.float32)  # silence before the first sample
        self._rest = 0  # input samples whose output was not given

    def push(self, block: np.ndarray) -> np.ndarray:
        """Take (n,) float32 samples in; gives as many of the result as are certain."""
        if self._up == self._down:
            return block
        self._buffer = np.concatenate((self._buffer, block))
        self._rest += len(block)
        ready = (len(self._buffer) - 2 * self._margin) // self._down * self._down
        if ready <= 0:
            return self._buffer[:0]
        found = self._middle(self._buffer[: ready + 2 * self._margin], ready * self._up // self._down)
        self._buffer, self._rest = self._buffer[ready:], self._rest - ready
        return found

    def finish(self) -> np.ndarray:
        """The rest: nothing more comes in."""
        count = math.ceil(self._rest * self._up / self._down) if self._up != self._down else 0
        self._rest = 0
        if not count:
            return self._buffer[:0]
        return self._middle(np.concatenate((self._buffer, np.zeros(self._margin, dtype=np.float32))), count)

    def _middle(self, samples: np.ndarray, count: int) -> np.ndarray:
        """`count` output samples from the end of the left margin on."""
        from scipy.signal import resample_poly

        first = self._margin * self._up // self._down
        resampled: np.ndarray = resample_poly(samples, self._up, self._down, window=self._window)
        return resampled[first : first + count]


@lru_cache(maxsize=16)
def _filter(up: int, down: int) -> np.ndarray:
    """The low-pass filter that resample_poly designs by itself, so that its width is known here."""
    from scipy.signal import firwin

    lowest = max(up, down)
    taps: np.ndarray = firwin(2 * _HALF_WIDTH * lowest + 1, 1.0 / lowest, window=("kaiser", 5.0))
    return taps.astype(np.float32)
