"""How much louder the speech of a recording is than what is behind it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16000
_FRAME = RATE // 50  # 20 ms
_QUIET = 10  # percentile of the frames' power that is taken for the background: a recording has pauses
_CLEANEST = 60.0  # dB; more is silence between words, which tells nothing more


def signal_to_noise(samples: NDArray[np.floating]) -> float:
    """The estimated signal-to-noise ratio in dB, from 0 to 60, of (n,) samples at 16 kHz.

    The background is taken to be steady and as loud as the quietest tenth of the frames of 20 ms; what is 3 dB louder
    is speech, and its mean power, less the background's, is the signal. So the ratio is too high for a recording that
    was made quiet in its pauses, and too low for one without pauses.
    """
    count = len(samples) // _FRAME
    if not count:
        return 0.0
    power = np.square(samples[: count * _FRAME].reshape(count, _FRAME).astype(np.float64)).mean(1)
    # The percentile of noise alone lies below its mean: by 10 % for frames of independent samples of 320.
    background = float(np.percentile(power, _QUIET)) * 1.1
    speech = power[power > 2 * background]
    if not len(speech):
        return 0.0
    ratio = (speech.mean() - background) / max(background, 1e-12)
    return float(np.clip(10 * np.log10(max(ratio, 1e-12)), 0.0, _CLEANEST))
