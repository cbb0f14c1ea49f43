"""What may take part in decoding without the session knowing it by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.decoding.events import Event, Final
from kit.plugins import build_named
from kit.retrieval.hints import as_hint
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
        hints: that the LLM was given when it was last asked.
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
    hints: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def all_log_probs(self) -> Tensor:
        """(T, V) of the whole utterance so far."""
        return torch.cat(self.log_probs) if self.log_probs else torch.zeros(0, len(self.inventory))


@dataclass
class Candidate:
    """A text that the LLM offers.

    Attributes:
        score: mean log-probability a token.
        hinted: whether it was written with the utterance's hints before the LLM's eyes.
    """

    text: str
    score: float
    hinted: bool = False


class End:
    """Stands in a segmented stream where an utterance ends."""


END = End()


@dataclass
class Speech:
    """A piece of an utterance in a segmented stream: `samples` (n,) that begin at sample `start` of the stream."""

    samples: Tensor
    start: int


class DecodingCallback:
    """Every hook may be left out. One instance serves one session, or one row of a batch.

    Attributes:
        vouches: its hints were heard in the audio, so nobody needs to ask whether they are there.
    """

    vouches = False

    def prepare(self, inventory: PhonemeInventory) -> None:
        """Called once, before anything is heard, with the model's phonemes; the place to refuse what does not fit.

        Raises:
            KitError: it cannot take part.
        """

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

    @classmethod
    def together(cls, heard: Sequence[tuple[Any, Utterance]]) -> None:
        """Work that is cheaper for many streams at once: called before `chunk`, once for all that are stepped together.

        What it finds belongs into the callbacks, to be used by their `chunk`. If it fails for several, it is called
        again for each alone, so that a fault stays with its own; so nothing may be counted twice then.

        Args:
            heard: callbacks of this class, each with its utterance, of which a chunk was encoded.
        """

    def chunk(self, utterance: Utterance) -> Iterable[Event]:
        """A chunk was encoded; its log-probabilities are the last of `utterance.log_probs`."""
        return ()

    def hints(self, utterance: Utterance) -> Sequence[str]:
        """Words for the prompt."""
        return ()

    def admits(self, utterance: Utterance, hints: Sequence[str]) -> Sequence[str]:
        """Those of some hints, for which nobody vouches, that the LLM may see."""
        return hints

    def expects_text(self, utterance: Utterance) -> bool:
        """False: there is nothing yet to write down, so the LLM is not asked."""
        return True

    def partial(self, utterance: Utterance, text: str) -> str:
        """What of a text so far to tell: a beginning of it."""
        return text

    def trusts(self, utterance: Utterance, candidate: Candidate) -> bool | None:
        """Whether the greedy final text is good enough; None for no opinion.

        One that is not gets a beam search, and one that was written with hints has to stand beside what the LLM writes
        without them.
        """
        return None

    def hypotheses(self, utterance: Utterance, offered: list[Candidate]) -> list[Candidate]:
        """Score anew, reorder or drop what is offered as the final text, best first; none left means an empty text."""
        return offered

    def final(self, utterance: Utterance, event: Final) -> Final:
        """Add to the final event."""
        return event


def gather(
    sessions: Sequence[tuple[Sequence[DecodingCallback], Utterance]], failed: Callable[[int, Exception], None]
) -> None:
    """Let the callbacks of each class work `together` for all sessions of which a chunk was encoded.

    Args:
        sessions: callbacks and utterance of each.
        failed: told the number of a session and what was raised for it.
    """
    members: dict[type[DecodingCallback], list[tuple[int, DecodingCallback]]] = {}
    for index, (callbacks, _) in enumerate(sessions):
        for callback in callbacks:
            members.setdefault(type(callback), []).append((index, callback))

    def attempt(kind: type[DecodingCallback], chosen: Sequence[tuple[int, DecodingCallback]]) -> None:
        try:
            kind.together([(callback, sessions[index][1]) for index, callback in chosen])
        except Exception as error:  # whatever somebody's callback does
            if len(chosen) == 1:
                failed(chosen[0][0], error)
                return
            for one in chosen:
                attempt(kind, [one])

    for kind, chosen in members.items():
        attempt(kind, chosen)


def hints_of(callbacks: Sequence[DecodingCallback], utterance: Utterance, given: Iterable[str] = ()) -> list[str]:
    """Those given and those of all callbacks, written as in training, each once; the utterance keeps them.

    What no callback vouches for is left out where one does not admit it.
    """
    every, vouched = list(given), set()
    for callback in callbacks:
        found = list(callback.hints(utterance))
        every += found
        if callback.vouches:
            vouched |= set(map(as_hint, found))
    hints = list(dict.fromkeys(filter(None, map(as_hint, every))))
    doubtful: Sequence[str] = [hint for hint in hints if hint not in vouched]
    for callback in callbacks:
        doubtful = callback.admits(utterance, doubtful) if doubtful else ()
    utterance.hints = [hint for hint in hints if hint in vouched or hint in doubtful]
    return utterance.hints


def trusted(callbacks: Sequence[DecodingCallback], utterance: Utterance, candidate: Candidate) -> bool | None:
    """Whether a greedy text is good enough: some callback says so, and none the contrary; None if all are silent."""
    opinions = [callback.trusts(utterance, candidate) for callback in callbacks]
    return False if False in opinions else True if True in opinions else None


def chosen_text(callbacks: Sequence[DecodingCallback], utterance: Utterance, offered: list[Candidate]) -> str | None:
    """The best text that all callbacks let pass, if there is one."""
    for callback in callbacks:
        if offered:
            offered = callback.hypotheses(utterance, offered)
    return offered[0].text if offered else None


def build_callbacks(decoding: DictConfig, inventory: PhonemeInventory) -> list[DecodingCallback]:
    """Those that `decoding.callbacks` names, in its order, for a model with these phonemes; a null takes one out.

    Raises:
        KitError: there is no such class, it does not take its options, or it cannot take part.
    """
    callbacks = build_named(decoding.callbacks, DecodingCallback, "decoding.callbacks")
    for callback in callbacks:
        callback.prepare(inventory)
    return callbacks
