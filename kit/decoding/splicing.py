"""Hints that were heard come into the text, also where the LLM does not make use of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from kit.decoding.alignment import shortfall, spell, warm_up
from kit.decoding.callbacks import Candidate, DecodingCallback, Utterance
from kit.errors import KitError
from kit.retrieval.sounds import sounds_of
from kit.text.keywords import occurs
from kit.text.normalize import normalize, places, replaced

_SPARE, _SHARE = 2, 0.5  # phonemes, and share of a hint's, by which what it stands for may be longer or shorter


@dataclass(frozen=True)
class _Text:
    """A text in units: where each stands, and its phonemes."""

    text: str
    spans: list[tuple[int, int]]
    phonemes: list[list[int]]

    @property
    def string(self) -> list[int]:
        return [phoneme for unit in self.phonemes for phoneme in unit]


class HintSplice(DecodingCallback):
    """Writes a hint in place of some words of the final text, where the audio says the hint and not these words.

    A language model that was not trained on many names, or only on few hints, writes what it knows. The phoneme head
    tells what was said: the words give way if the text with the hint explains the audio better by so much.

    Args:
        gain: nats by which it has to. Words that sound like the hint gain nothing; there the LLM decides.
    """

    def __init__(self, gain: float = 4.0) -> None:
        self.gain = gain
        warm_up()

    def hypotheses(self, utterance: Utterance, offered: list[Candidate]) -> list[Candidate]:
        """The same, the best one with the hints that it lacks."""
        best = offered[0]
        missing = [hint for hint in utterance.hints if not occurs(hint, normalize(best.text))]
        for hint in missing:
            best = Candidate(self._with(utterance, best.text, hint), best.score, best.hinted)
        return [best, *offered[1:]]

    def _with(self, utterance: Utterance, text: str, hint: str) -> str:
        """The text with a hint in its best place, or as it was."""
        try:
            now = _spelled(text, utterance)
            sounds = [list(sound) for sound in sounds_of([hint], utterance.inventory)[0]]
        except KitError:  # a phoneme that this model does not know
            return text
        stretches = [(sound, *stretch) for sound in sounds for stretch in _stretches(now, len(sound))]
        if not stretches:
            return text
        strings = [now.string, *(_exchanged(now, *one) for one in stretches)]
        before, *after = shortfall(utterance.all_log_probs(), strings)
        least = min(after)
        _, first, last = stretches[after.index(least)]
        spliced = replaced(text, now.spans[first][0], now.spans[last - 1][1], hint)
        return spliced if before - least >= self.gain else text  # neither fits into the audio: no number


def _spelled(text: str, utterance: Utterance) -> _Text:
    _, ids, sizes = spell(text.lower(), utterance.inventory)
    phonemes = [ids[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return _Text(text, [(start, end) for _, start, end in places(text)], phonemes)


def _stretches(now: _Text, size: int) -> Iterator[tuple[int, int]]:
    """Units [first, last) of about so many phonemes."""
    spare = max(_SPARE, _SHARE * size)
    for first in range(len(now.phonemes)):
        length = 0
        for last in range(first + 1, len(now.phonemes) + 1):
            length += len(now.phonemes[last - 1])
            if abs(length - size) <= spare:
                yield first, last


def _exchanged(now: _Text, sound: Sequence[int], first: int, last: int) -> list[int]:
    around = now.phonemes[:first], now.phonemes[last:]
    return [*(x for unit in around[0] for x in unit), *sound, *(x for unit in around[1] for x in unit)]
