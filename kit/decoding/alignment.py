"""Where in time the words of a text lie: forced alignment of its phonemes with the phoneme head's output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.errors import KitError
from kit.text.phonemes import PhonemeInventory, pronounce

_NOTHING = -1e30


@cache
def warm_up() -> None:
    """Load the dictionaries, which takes seconds, before the first text has to be spelled."""
    pronounce("打开 the radio")
    pronounce("zzyzx")  # no dictionary has it: the program for such words starts


def align(log_probs: Tensor, symbols: Sequence[int], blank: int = 0) -> list[tuple[int, int]] | None:
    """The best CTC path of a string of symbols (Viterbi over the states of Graves et al. 2006).

    Args:
        log_probs: (T, V).

    Returns:
        First frame and the frame after the last of each symbol; None if the string does not fit into T frames.
    """
    frames, count = len(log_probs), len(symbols)
    repeats = sum(one == other for one, other in pairwise(symbols))
    if not count or frames < count + repeats:
        return None
    states = np.full(2 * count + 1, blank)
    states[1::2] = symbols
    emitted = log_probs.float().numpy()[:, states]  # (T, 2 count + 1)
    skips = np.zeros(len(states), dtype=bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    best = np.full(len(states), _NOTHING)
    best[:2] = emitted[0, :2]
    came = np.zeros((frames, len(states)), dtype=np.int8)
    options = np.full((3, len(states)), _NOTHING)
    for t in range(1, frames):
        options[0] = best
        options[1, 1:] = best[:-1]
        options[2, 2:] = np.where(skips[2:], best[:-2], _NOTHING)
        came[t] = options.argmax(0)
        best = options.max(0) + emitted[t]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    spans = [(frames, 0)] * count
    for t in range(frames - 1, -1, -1):
        if state % 2:
            first, last = spans[state // 2]
            spans[state // 2] = (min(first, t), max(last, t + 1))
        state -= int(came[t, state])
    return spans


def spell(text: str, inventory: PhonemeInventory) -> tuple[list[str], list[int], list[int]]:
    """Units (Han characters and words) of a text, all their phonemes in a row, and how many belong to each unit."""
    units, ids, sizes = [], [], []
    for unit, phonemes in inventory.spell(text):
        units.append(unit)
        sizes.append(len(phonemes))
        ids += inventory.encode(phonemes)
    return units, ids, sizes


def align_text(log_probs: Tensor, text: str, inventory: PhonemeInventory) -> list[tuple[str, int, int]] | None:
    """Units of a text with the first frame and the frame after the last of each; None if they cannot be placed."""
    try:
        units, ids, sizes = spell(text, inventory)
    except KitError:  # a phoneme that this model does not know
        return None
    spans = align(log_probs, ids)
    if spans is None:
        return None
    placed, at = [], 0
    for unit, size in zip(units, sizes, strict=True):
        if size:
            placed.append((unit, spans[at][0], spans[at + size - 1][1]))
        at += size
    return placed


def excess(log_probs: Tensor, texts: Sequence[str], inventory: PhonemeInventory) -> list[float]:
    """How much worse each text explains the audio than the best path of all, in nats a phoneme; see `shortfall`.

    Zero where nothing can be said: for a text without phonemes, or with some that this model does not know.

    Args:
        log_probs: (T, V).
    """
    spelled = [_spelled(text, inventory) for text in texts]
    return [found / max(1, len(ids)) for found, ids in zip(shortfall(log_probs, spelled), spelled, strict=True)]


def shortfall(log_probs: Tensor, strings: Sequence[Sequence[int]]) -> list[float]:
    """How much worse each string of symbols explains the audio than the best path of all, in nats.

    By the CTC forward probability, which sums over all alignments: for a string that fits it may be a little below
    zero. Infinite for one that has more symbols than there are frames; zero for an empty one.

    Args:
        log_probs: (T, V).
    """
    if not len(log_probs):
        return [float("inf") if ids else 0.0 for ids in strings]
    scores = log_probs.float()
    sizes = torch.tensor([len(ids) for ids in strings])
    padded = pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in strings], batch_first=True)
    frames = torch.full_like(sizes, len(scores))
    lost = F.ctc_loss(scores[:, None].expand(-1, len(strings), -1), padded, frames, sizes, reduction="none")
    found = (lost + scores.amax(-1).sum()).tolist()
    return [worse if ids else 0.0 for worse, ids in zip(found, strings, strict=True)]


def _spelled(text: str, inventory: PhonemeInventory) -> list[int]:
    try:
        return spell(text, inventory)[1]
    except KitError:  # a phoneme that this model does not know
        return []


def heard_part(text: str, phonemes: Sequence[int], inventory: PhonemeInventory) -> str:
    """The beginning of a text, whole units, whose phonemes are nearest to those heard (edit distance; the shortest)."""
    try:
        units, ids, sizes = spell(text, inventory)
    except KitError:
        return text
    expected = np.array(ids)
    places = np.arange(len(ids) + 1)
    cost = places.astype(float)  # of turning what was heard so far into each beginning of the text
    for phoneme in phonemes:
        swapped = cost[:-1] + (expected != phoneme)
        best = np.concatenate([[cost[0] + 1], np.minimum(swapped, cost[1:] + 1)])
        cost = np.minimum.accumulate(best - places) + places  # or by phonemes that were not heard
    ends = np.cumsum([0, *sizes])
    chosen = int(cost[ends].argmin())
    lowered, at = text.lower(), 0
    for unit in units[:chosen]:
        found = lowered.find(unit.lower(), at)
        at = found + len(unit) if found >= 0 else at
    return text[:at]
