"""What may take part in decoding without the session knowing it by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.decoding.events import Event, Final
from kit.plugins import build_named
from kit.text.phonemes import PhonemeInventory


@dataclass
class Utterance:
    """What is known of the utterance under way; callbacks read it.

    Attributes:
        index: number in the stream.
        start: seconds into the stream at which its audio begins.
        inventory: the phonemes.
        log_probs: of the phoneme head, one (n, V) tensor a chunk, on the CPU.
        phonemes: the greedy path so far, repeats merged, blanks dropped.
        frames: encoder frames so far.
        chunks: chunks so far.
        text: the hypothesis so far.
        seconds: of the stream, heard when the newest chunk came.
    """

    index: int
    start: float
    inventory: PhonemeInventory
    log_probs: list[Tensor] = field(default_factory=list)
    phonemes: list[int] = field(default_factory=list)
    frames: int = 0
    chunks: int = 0
    text: str = ""
    seconds: float = 0.0

    def all_log_probs(self) -> Tensor:
        """(T, V) of the whole utterance so far."""
        return torch.cat(self.log_probs) if self.log_probs else torch.zeros(0, len(self.inventory))


@dataclass
class Candidate:
    """A text that the LLM offers and its score, a mean log-probability a token."""

    text: str
    score: float


class End:
    """Stands in a segmented stream where an utterance ends."""


END = End()


@dataclass
class Speech:
    """A piece of an utterance in a segmented stream: `samples` (n,) that begin at sample `start` of the stream."""

    samples: Tensor
    start: int


class DecodingCallback:
    """Every hook may be left out. One instance serves one session."""

    def reset(self) -> None:
        """The stream begins anew."""

    def segment(self, samples: Tensor, start: int, final: bool) -> list[Speech | End] | None:
        """Cut the stream into utterances: what of these samples belongs to one, and where one ends.

        Args:
            samples: (n,) at 16 kHz; n may be 0 when final.
            start: their place in the stream, in samples.
            final: the stream ends with them.

        Returns:
            None to leave the stream in one piece.
        """
        return None

    def start(self, utterance: Utterance) -> None:
        """An utterance begins."""

    def chunk(self, utterance: Utterance) -> Iterable[Event]:
        """A chunk was encoded; its log-probabilities are the last of `utterance.log_probs`."""
        return ()

    def hints(self, utterance: Utterance) -> Sequence[str]:
        """Words for the prompt."""
        return ()

    def expects_text(self, utterance: Utterance) -> bool:
        """False: there is nothing yet to write down, so the LLM is not asked."""
        return True

    def partial(self, utterance: Utterance, text: str) -> str:
        """What of a text so far to tell: a beginning of it."""
        return text

    def trusts(self, utterance: Utterance, candidate: Candidate) -> bool | None:
        """Whether the greedy final text needs no beam search; None for no opinion."""
        return None

    def hypotheses(self, utterance: Utterance, offered: list[Candidate]) -> list[Candidate]:
        """Score anew, reorder or drop what is offered as the final text, best first; none left means an empty text."""
        return offered

    def final(self, utterance: Utterance, event: Final) -> Final:
        """Add to the final event."""
        return event


def trusted(callbacks: Sequence[DecodingCallback], utterance: Utterance, candidate: Candidate) -> bool:
    """Whether a greedy text is good enough: some callback says so, and none the contrary."""
    opinions = [callback.trusts(utterance, candidate) for callback in callbacks]
    return True in opinions and False not in opinions


def chosen_text(callbacks: Sequence[DecodingCallback], utterance: Utterance, offered: list[Candidate]) -> str:
    """The best text that all callbacks let pass; empty if there is none."""
    for callback in callbacks:
        if offered:
            offered = callback.hypotheses(utterance, offered)
    return offered[0].text if offered else ""


def build_callbacks(decoding: DictConfig) -> list[DecodingCallback]:
    """Those that `decoding.callbacks` names, in its order; a null takes one out.

    Raises:
        UsageError: there is no such class, or it does not take its options.
    """
    return build_named(decoding.callbacks, DecodingCallback, "decoding.callbacks")
