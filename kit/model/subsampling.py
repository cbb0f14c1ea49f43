"""Convolutional 4x subsampling: 100 Hz features to 25 Hz frames."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Length = TypeVar("Length", int, Tensor)

STRIDE = 4  # feature frames between two encoder frames
CONTEXT = 7  # feature frames that one encoder frame sees


def output_length(features: Length) -> Length:
    """Encoder frames made from so many feature frames (right-padded by CONTEXT - 1): one for every four begun."""
    return (features + STRIDE - 1) // STRIDE


class Subsampling(nn.Module):
    """Two 3x3 convolutions with stride 2 and ReLU, then a linear map (as in FireRedASR-AED's public code).

    Args:
        bins: feature dimension F.
        channels: channels of both convolutions.
        dim: output dimension D.
    """

    def __init__(self, bins: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, 2)
        self.conv2 = nn.Conv2d(channels, channels, 3, 2)
        for convolution in (self.conv1, self.conv2):  # channels last: half the time of a forward pass on the CPU
            weight = convolution.weight
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        reduced = ((bins - 1) // 2 - 1) // 2
        self.out = nn.Linear(channels * reduced, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) with T >= CONTEXT to (B, (T - CONTEXT) // 4 + 1, D); padding is the caller's business."""
        x = F.relu(self.conv1(features.unsqueeze(1)))
        x = F.relu(self.conv2(x))  # (B, C, T', F')
        return self.out(x.transpose(1, 2).flatten(2))
