"""Log-mel features whose numbers do not depend on how the audio was cut: one implementation for files and streams."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from lhotse.features.kaldi.layers import Wav2LogFilterBank
from torch import Tensor, nn

SAMPLE_RATE = 16000
WINDOW = 400  # samples, 25 ms
SHIFT = 160  # samples, 10 ms
MELS = 80
HIGH = 7600.0  # Hz, where the highest of the mel filters ends
FLOOR = 2.0**-23  # energy below which nothing is told apart, of samples in [-1, 1]

_BLOCK = 2048  # frames computed at once: two hours in one piece would need several GB for their spectra


def frame_count(samples: int) -> int:
    """Frames in so many samples: whole windows only."""
    return 0 if samples < WINDOW else 1 + (samples - WINDOW) // SHIFT


class LogMel(nn.Module):
    """Log-mel energies every 10 ms, Kaldi's definition without dither, in float32 whatever the model computes in.

    Each frame depends on its own 400 samples only: the mean is removed and the pre-emphasis applied within the frame
    (https://kaldi-asr.org/doc/feat.html; layers by Jesus Villalba in lhotse.features.kaldi). The module has neither
    parameters nor state. Kaldi's own samples are 32768 times as large: that adds log(2**30) to all energies.

    Args:
        bins: mel filters F, from 20 Hz up.
        high: Hz, where the last one ends.
        floor: least energy.
    """

    def __init__(self, bins: int = MELS, high: float = HIGH, floor: float = FLOOR) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that whole windows do not add up to the duration is meant here
            self.layers = Wav2LogFilterBank(
                sampling_rate=SAMPLE_RATE, num_filters=bins, low_freq=20.0, high_freq=high, snip_edges=True
            )
        self.bins = bins
        self.layers._eps.fill_(floor)
        self.layers._to_spec = _power  # lhotse's own goes through a square root: a third of the time
        self.layers.wav2win._forward_strided = self._windows  # the same operations with half the copies
        _constants_to_buffers(self.layers)

    def forward(self, samples: Tensor) -> Tensor:
        """(N,) or (B, N) samples at 16 kHz in [-1, 1] to (T, F) or (B, T, F), T = 1 + (N - 400) // 160 or 0."""
        frames = frame_count(samples.shape[-1])
        if frames == 0:
            return samples.new_zeros((*samples.shape[:-1], 0, self.bins), dtype=torch.float32)
        batch = samples.float().reshape(-1, samples.shape[-1])
        with torch.autocast(samples.device.type, enabled=False):
            blocks = [self._block(batch, start, min(start + _BLOCK, frames)) for start in range(0, frames, _BLOCK)]
        return torch.cat(blocks, dim=1).reshape(*samples.shape[:-1], frames, self.bins)

    def _block(self, samples: Tensor, start: int, end: int) -> Tensor:
        features: Tensor = self.layers(samples[:, start * SHIFT : (end - 1) * SHIFT + WINDOW])
        return features

    def _windows(self, frames: Tensor) -> tuple[Tensor, None]:
        """(B, T, 400) frames without their mean, pre-emphasized, windowed, and padded for the transform."""
        layer = self.layers.wav2win
        centered = frames - frames.mean(dim=2, keepdim=True)
        padded = centered.new_zeros((*frames.shape[:2], layer.pad_length))
        out = padded[:, :, :WINDOW]
        torch.mul(centered[:, :, :-1], -layer.preemph_coeff, out=out[:, :, 1:])
        torch.mul(centered[:, :, 0], -layer.preemph_coeff, out=out[:, :, 0])
        out.add_(centered).mul_(layer._window)
        return padded, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        # model.half() and model.bfloat16() may move the filters to another device, not round them
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real * spectrum.real + spectrum.imag * spectrum.imag  # square() takes the way of pow()


def _constants_to_buffers(module: nn.Module) -> None:
    """Window and filters are constants: no part of a checkpoint, nothing that an optimizer or a count should see."""
    for layer in module.modules():
        for name, constant in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, constant.detach(), persistent=False)


class LogMelStream:
    """The same features from audio that comes in pieces of any length; one utterance after another by `reset`."""

    def __init__(self, features: LogMel | None = None) -> None:
        self._features = features or LogMel()
        self.reset()

    def reset(self) -> None:
        """Forget the samples that are still waiting for the rest of their window."""
        self._waiting = torch.zeros(0)

    def push(self, samples: Tensor) -> Tensor:
        """(n,) samples, n >= 0, to the (t, F) frames that they complete, t >= 0."""
        pending = torch.cat((self._waiting.to(samples.device), samples.float()))
        frames = self._features(pending)
        self._waiting = pending[len(frames) * SHIFT :].clone()
        return frames
