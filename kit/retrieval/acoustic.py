"""What the audio itself says of phoneme strings: CTC log-probabilities in the stretch where each may have been said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import ctc_prefix


@dataclass(frozen=True)
class Question:
    """Was a string said?

    Attributes:
        utterance: number of the utterance.
        string: phoneme numbers.
        first, last: frames of the utterance [first, last) to look in.
    """

    utterance: int
    string: bytes
    first: int
    last: int


def scores(log_probs: Sequence[Sequence[Tensor]], asked: Sequence[Question]) -> list[float]:
    """The log-probability of each string, from wherever in its frames it begins up to its best end; at least -500.

    It is the sum over all alignments, so a probability that the phoneme head gives to just this string, and not how it
    compares with the best path: where the head is sure of nothing, nothing was said for sure. It may be a little above
    0, where the first phoneme is held for several frames and the string may begin in each of them.

    Args:
        log_probs: of each utterance its chunks, (n, V) tensors, all on one device.
        asked: in any order; of all streams in one call.
    """
    if not asked:
        return []
    frames, offsets = _joined(log_probs, asked)
    longest = max(len(one.string) for one in asked)
    rows = [
        [one.first + offsets[one.utterance], one.last - one.first, len(one.string), *one.string.ljust(longest, b"\0")]
        for one in asked
    ]
    numbers = torch.tensor(rows, device=frames.device)
    found, _ = ctc_prefix.spot(frames, numbers[:, 0], numbers[:, 1], numbers[:, 3:], numbers[:, 2])
    return found.tolist()


def _joined(log_probs: Sequence[Sequence[Tensor]], asked: Sequence[Question]) -> tuple[Tensor, dict[int, int]]:
    """The chunks that are needed, all behind one another, and what to add to a frame's number in each utterance."""
    begins: dict[int, int] = {}
    for one in asked:
        begins[one.utterance] = min(one.first, begins.get(one.utterance, one.first))
    parts: list[Tensor] = []
    offsets: dict[int, int] = {}
    size = 0
    for utterance, begin in begins.items():
        before = 0
        for chunk in log_probs[utterance]:
            if before + len(chunk) > begin:
                offsets.setdefault(utterance, size - before)
                parts.append(chunk)
                size += len(chunk)
            before += len(chunk)
        offsets.setdefault(utterance, size - before)
    return torch.cat(parts).float(), offsets
