"""Augmentation of normalized log-mel features, on the device they are on, from torch's generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpecAugment:
    """SpecAugment masks, a random warp of the frequency axis and a random level (Park et al. 2019, arXiv 1904.08779).

    The warp stands for other vocal tract lengths (Jaitly and Hinton 2013). Masked values become 0, the mean.

    Attributes:
        frequency_masks, frequency_width: number of masks and the largest width in bins.
        time_masks, time_width, time_share: number of masks, largest width in feature frames, and as a share of the
            utterance.
        warp: largest relative shift of the frequency axis; 0 turns it off.
        level: standard deviation of a constant added to an utterance, in units of the normalized features.
    """

    frequency_masks: int = 2
    frequency_width: int = 14
    time_masks: int = 2
    time_width: int = 20
    time_share: float = 0.08
    warp: float = 0.1
    level: float = 0.15

    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F) normalized features and lengths (B,) to augmented features; the input stays as it is."""
        return self.mask(self.deform(features), lengths)

    def deform(self, features: Tensor) -> Tensor:
        """The warp and the level alone."""
        if self.warp:
            features = _warp_frequency(features, self.warp)
        return features + self.level * torch.randn(len(features), 1, 1, device=features.device)

    def mask(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The masks alone."""
        bins = torch.full_like(lengths, features.shape[2])
        widest = (lengths * self.time_share).clamp(max=self.time_width).floor()
        hidden = _masks(features.shape[1], lengths, self.time_masks, widest)[:, :, None]
        wide = torch.full_like(widest, self.frequency_width)
        hidden = hidden | _masks(features.shape[2], bins, self.frequency_masks, wide)[:, None, :]
        return features.masked_fill(hidden, 0.0)


def _masks(size: int, lengths: Tensor, count: int, widest: Tensor) -> Tensor:
    """`count` random spans of width 0..widest (B,) within each row's length (B,), together: (B, size) bool."""
    shape = (len(lengths), count)
    width = (torch.rand(shape, device=lengths.device) * (widest[:, None] + 1)).floor()
    start = (torch.rand(shape, device=lengths.device) * (lengths[:, None] - width + 1).clamp_min(1)).floor()
    position = torch.arange(size, device=lengths.device)
    return ((position >= start[..., None]) & (position < (start + width)[..., None])).any(1)


def _warp_frequency(features: Tensor, largest: float) -> Tensor:
    """Stretch each row's frequency axis by a factor from U(1 - largest, 1 + largest), by linear interpolation."""
    bins = features.shape[2]
    factor = 1 + largest * (2 * torch.rand(len(features), 1, device=features.device) - 1)
    source = (torch.arange(bins, device=features.device) * factor).clamp(0, bins - 1)  # (B, F)
    low = source.floor().long().clamp(max=bins - 2)
    share = source - low
    weight = features.new_zeros(len(features), bins, bins)  # (B, source, target): a matrix product beats two gathers
    weight.scatter_(1, low[:, None], (1 - share)[:, None])
    weight.scatter_(1, low[:, None] + 1, share[:, None])
    return features @ weight
