"""No recital: the LLM is shown such hints only as the audio contains."""

from __future__ import annotations

from collections.abc import Sequence

from kit.decoding.alignment import spell, warm_up
from kit.decoding.callbacks import DecodingCallback, Utterance
from kit.errors import KitError
from kit.retrieval.sounds import sounds_of
from kit.retrieval.spotting import Spotter
from kit.text.phonemes import PhonemeInventory


class HintGuard(DecodingCallback):
    """Keeps from the LLM what was not said, or not yet, so that it can be neither recited nor lead astray.

    A hint is looked for by its phonemes, in every usual pronunciation, anywhere in the audio. Hints that retrieval has
    heard need no guard.

    Args:
        limit: nats a phoneme by which a hint may explain the audio worse than the best path of all. Of names that were
            said hardly one is above 4, of others at random hardly one below.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        warm_up()

    def start(self, utterance: Utterance) -> None:
        """An utterance begins."""
        self._watches: list[_Watch] = []
        self._worse: dict[str, float] = {}

    def admits(self, utterance: Utterance, hints: Sequence[str]) -> list[str]:
        """Those that were heard in the utterance so far."""
        fresh = [hint for hint in hints if hint not in self._worse]
        if fresh:
            self._watches.append(_Watch(fresh, utterance.inventory))
        for watch in self._watches:
            self._worse |= watch.hear(utterance)
        return [hint for hint in hints if self._worse[hint] <= self.limit]


class _Watch:
    """Looks for some hints, in all that was heard and in what comes."""

    def __init__(self, hints: Sequence[str], inventory: PhonemeInventory) -> None:
        self.hints = hints
        spelled = [(hint, sound) for hint in hints for sound in _sounds(hint, inventory)]
        self._owners = [hint for hint, _ in spelled]
        self._spotter = Spotter([sound for _, sound in spelled])
        self._chunks = 0

    def hear(self, utterance: Utterance) -> dict[str, float]:
        """How far each hint is from the audio; nothing can be said of one that this model cannot spell."""
        for chunk in utterance.log_probs[self._chunks :]:
            self._spotter.hear(chunk)
        self._chunks = len(utterance.log_probs)
        worse = dict.fromkeys(set(self.hints) - set(self._owners), 0.0)
        for hint, found in zip(self._owners, self._spotter.worse, strict=True):
            worse[hint] = min(found, worse.get(hint, found))
        return worse


def _sounds(hint: str, inventory: PhonemeInventory) -> list[list[int]]:
    """Every usual pronunciation in numbers; none where the model has a symbol for only a part of it."""
    try:
        if inventory.kind == "phonemes":
            return [list(sound) for sound in sounds_of([hint], inventory)[0]]
        return [spell(hint, inventory)[1]]
    except KitError:
        return []
