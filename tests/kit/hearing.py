"""What a phoneme head gives out that hears strings of phonemes: surely, or here and there in doubt."""

import math

import torch
from strings import INVENTORY

from kit.text.phonemes import phonemize

FRAMES = 2  # a phoneme: its own, and a blank
NEVER = 1e-30  # probability of all that is not heard


def sounds(text):
    """The phonemes of a text, as a string of numbers."""
    return bytes(INVENTORY.encode(phonemize(text)))


def head(said, doubts=None):
    """(T, V) log-probabilities: of each phoneme of `said` a frame, and a blank.

    Args:
        doubts: place in `said` -> {symbol: probability}, in place of certainty.
    """
    rows = torch.full((FRAMES * len(said), len(INVENTORY)), NEVER)
    for place, symbol in enumerate(said):
        for other, chance in (doubts or {}).get(place, {symbol: 1.0}).items():
            rows[FRAMES * place, other] = max(chance, NEVER)
        rows[FRAMES * place + 1, 0] = 1.0
    return (rows / rows.sum(1, keepdim=True)).log()


def silence(frames):
    """(frames, V): nobody speaks."""
    rows = torch.full((frames, len(INVENTORY)), math.log(NEVER))
    rows[:, 0] = 0.0
    return rows
