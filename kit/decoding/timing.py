"""When each word was said."""

from __future__ import annotations

from dataclasses import replace

from omegaconf import DictConfig, open_dict

from kit.decoding.alignment import align_text, warm_up
from kit.decoding.callbacks import DecodingCallback, Utterance
from kit.decoding.events import Final, Word

FRAME = 0.04  # seconds an encoder frame


class Timing(DecodingCallback):
    """Puts the words of a final text, Han characters one by one, to their times by aligning their phonemes."""

    def __init__(self) -> None:
        warm_up()

    def final(self, utterance: Utterance, event: Final) -> Final:
        """The event with `words`, if the text can be aligned."""
        placed = align_text(utterance.all_log_probs(), event.text, utterance.inventory) or []
        words = [
            Word(unit, utterance.start + first * FRAME, utterance.start + last * FRAME) for unit, first, last in placed
        ]
        return replace(event, words=words)


def with_timing(decoding: DictConfig) -> DictConfig:
    """The decoding with word times, which latencies are measured from."""
    timed = decoding.copy()
    target = f"{Timing.__module__}.{Timing.__qualname__}"
    if not any(one and one.get("_target_") == target for one in timed.callbacks.values()):
        with open_dict(timed):
            timed.callbacks.timing = {"_target_": target}
    return timed
