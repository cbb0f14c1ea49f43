"""Recognition of what is there as a whole: batches of features, and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.audio.features import WINDOW
from kit.audio.reading import AudioError, read_audio
from kit.decoding.batches import Batches
from kit.decoding.callbacks import Utterance, build_callbacks, gather, hints_of
from kit.decoding.decoder import Work
from kit.decoding.engine import Engine
from kit.decoding.finals import CallbackJudge, decide
from kit.decoding.phonemes import greedy
from kit.decoding.remote import load_recognizer, writer_for
from kit.errors import KitError
from kit.model.encoder import Chunk
from kit.model.recognizer import PARTS, Recognizer


@dataclass(frozen=True)
class Hypothesis:
    """What was heard.

    Attributes:
        text: the LLM's transcript; None without an LLM.
        phonemes: ids of the CTC head's greedy path.
        hints: that the LLM was given first, those found in the audio among them.
    """

    text: str | None
    phonemes: list[int]
    hints: list[str] = field(default_factory=list)


class Row(CallbackJudge):
    """An utterance of a batch: what a session is to one of a stream."""

    def __init__(self, recognizer: Recognizer, decoding: DictConfig, utterance: Utterance) -> None:
        super().__init__(recognizer, build_callbacks(decoding, recognizer.inventory), utterance)
        for callback in self.callbacks:
            callback.start(utterance)

    def hints(self, given: Sequence[str]) -> list[str]:
        """Those given and those of the callbacks, for which the audio is one chunk."""
        for callback in self.callbacks:
            callback.chunk(self.utterance)
        return hints_of(self.callbacks, self.utterance, given)


@torch.inference_mode()
def recognize(
    recognizer: Recognizer,
    features: Tensor,
    lengths: Tensor,
    decoding: DictConfig,
    hints: Sequence[Sequence[str]] | None = None,
) -> list[Hypothesis]:
    """Transcribe a batch: one encoder pass under the chunk's mask, one decode by what sessions decode with.

    Args:
        features: (B, T, F) log-mel; lengths: (B,) feature frames.
        decoding: `chunk`, `left`, `max_tokens`, `beam`, `hints` and `callbacks` of the configuration; of the callbacks
            those count that give hints or judge final texts.
        hints: further hotwords of each row.
    """
    frames, lengths = recognizer.encode(features, lengths, Chunk(decoding.chunk, decoding.left))
    logits = recognizer.phoneme_head(frames)
    phonemes = greedy(logits, lengths)
    if not {"llm", "adaptor"} <= set(recognizer.parts):
        return [Hypothesis(None, row) for row in phonemes]
    speech, sizes = recognizer.adaptor(frames, lengths)
    log_probs = logits.float().log_softmax(-1).cpu()
    rows = [
        Row(recognizer, decoding, Utterance(row, 0.0, recognizer.inventory, [log_probs[row, :size]], found, size, 1))
        for row, (size, found) in enumerate(zip(lengths.tolist(), phonemes, strict=True))
    ]
    given = listened(rows, [[*(decoding.hints or ()), *row] for row in hints or [()] * len(rows)])
    texts = generate(recognizer, speech, sizes, decoding, given, rows)
    return [Hypothesis(*one) for one in zip(texts, phonemes, given, strict=True)]


def listened(rows: Sequence[Row], given: Sequence[Sequence[str]]) -> list[list[str]]:
    """The hints of each row: those given, and what the callbacks find in the audio, together and each for itself."""

    def failed(index: int, error: Exception) -> None:
        raise error

    gather([(row.callbacks, row.utterance) for row in rows], failed)
    return [row.hints(hints) for row, hints in zip(rows, given, strict=True)]


@torch.inference_mode()
def generate(
    recognizer: Recognizer,
    speech: Tensor,
    lengths: Tensor,
    decoding: DictConfig,
    hints: Sequence[Sequence[str]] | None = None,
    rows: Sequence[Row] | None = None,
) -> list[str]:
    """The best transcripts of speech embeddings (B, S, E).

    Args:
        lengths: (B,) speech tokens.
        decoding, hints: as in `recognize`.
        rows: who judges the texts; without them the LLM decides alone, by greedy decoding or beam search.
    """
    decoder = writer_for(recognizer, len(speech), decoding)
    tails = [recognizer.tail_ids(row) for row in (hints or [()] * len(speech))]
    works = [
        Work(row, heard[:size], tail)
        for row, (heard, size, tail) in enumerate(zip(speech, lengths.tolist(), tails, strict=True))
    ]
    alone = DictConfig({"callbacks": {}})
    judges = rows or [Row(recognizer, alone, Utterance(n, 0.0, recognizer.inventory)) for n in range(len(works))]
    decide(decoder, works, decoder.run(works), dict(enumerate(judges)), decoding.beam, decoding.unhinted)
    return [judge.chosen for judge in judges]


def transcribe_files(
    paths: Sequence[str | Path], export: str | Path, config: DictConfig
) -> Iterator[tuple[str | Path, str | KitError]]:
    """Each file's text as it is ready, in order; a file that cannot be read gives its error and the others go on.

    A recording longer than `decoding.max_seconds` is split at its pauses.
    """
    batches = Batches(Engine(load_recognizer(export, config.decoding, PARTS), config.decoding))
    for path in paths:
        try:
            yield path, transcribe(batches, checked(read_audio(path), path))
        except KitError as error:
            yield path, error


def checked(samples: Tensor, path: str | Path) -> Tensor:
    """Samples (n,) that are enough to recognize anything.

    Raises:
        AudioError: they are not.
    """
    if len(samples) < WINDOW:
        raise AudioError(f"{path} is shorter than one window of 25 ms; give at least that much audio")
    return samples


def transcribe(batches: Batches, samples: Tensor) -> str:
    """The text of (n,) samples at 16 kHz, utterances joined by spaces.

    Raises:
        Exception: what a callback raised.
    """
    ((_, found),) = [one for ready in batches.transcribe([samples]) for one in ready]
    if isinstance(found, Exception):
        raise found
    return found.text
