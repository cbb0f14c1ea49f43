"""Recognition of what is there as a whole: batches of features, and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.audio.features import SAMPLE_RATE, WINDOW
from kit.audio.reading import AudioError, read_audio
from kit.decoding.callbacks import Candidate, Utterance, build_callbacks, chosen_text, trusted
from kit.decoding.decoder import Decoder, Work
from kit.decoding.endpointing import Endpointing
from kit.decoding.engine import Engine
from kit.decoding.events import Final
from kit.decoding.phonemes import greedy
from kit.errors import KitError
from kit.model.encoder import Chunk
from kit.model.export import load_export
from kit.model.recognizer import PARTS, Recognizer


@dataclass(frozen=True)
class Hypothesis:
    """What was heard.

    Attributes:
        text: the LLM's transcript; None without an LLM.
        phonemes: ids of the CTC head's greedy path.
    """

    text: str | None
    phonemes: list[int]


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
        decoding: `chunk`, `left`, `max_tokens`, `beam` and `callbacks` of the configuration; only those callbacks count
            that judge final texts.
        hints: hotwords of each row.
    """
    frames, lengths = recognizer.encode(features, lengths, Chunk(decoding.chunk, decoding.left))
    logits = recognizer.phoneme_head(frames)
    phonemes = greedy(logits, lengths)
    if not {"llm", "adaptor"} <= set(recognizer.parts):
        return [Hypothesis(None, row) for row in phonemes]
    speech, sizes = recognizer.adaptor(frames, lengths)
    log_probs = logits.float().log_softmax(-1).cpu()
    utterances = [
        Utterance(row, 0.0, recognizer.inventory, [log_probs[row, :size]], found, size)
        for row, (size, found) in enumerate(zip(lengths.tolist(), phonemes, strict=True))
    ]
    texts = generate(recognizer, speech, sizes, decoding, hints, utterances)
    return [Hypothesis(text, row) for text, row in zip(texts, phonemes, strict=True)]


@torch.inference_mode()
def generate(
    recognizer: Recognizer,
    speech: Tensor,
    lengths: Tensor,
    decoding: DictConfig,
    hints: Sequence[Sequence[str]] | None = None,
    utterances: Sequence[Utterance] | None = None,
) -> list[str]:
    """The best transcripts of speech embeddings (B, S, E).

    Args:
        lengths: (B,) speech tokens.
        decoding, hints: as in `recognize`.
        utterances: what the callbacks judge by; without it the LLM decides alone, by greedy decoding or beam search.
    """
    decoder = Decoder(recognizer, len(speech), decoding.max_tokens)
    tails = [recognizer.tail_ids(row) for row in (hints or [()] * len(speech))]
    works = [
        Work(row, heard[:size], tail)
        for row, (heard, size, tail) in enumerate(zip(speech, lengths.tolist(), tails, strict=True))
    ]
    found = decoder.run(works)
    callbacks = build_callbacks(decoding) if utterances else []

    def candidates(row: int) -> list[Candidate]:
        texts = [recognizer.tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in found[row]]
        return [Candidate(text, one.score) for text, one in zip(texts, found[row], strict=True)]

    judged = utterances or [Utterance(row, 0.0, recognizer.inventory) for row in range(len(speech))]
    if decoding.beam > 1:
        doubted = [row for row, one in enumerate(judged) if not trusted(callbacks, one, candidates(row)[0])]
        decoder.search(works, found, doubted, decoding.beam)
    return [chosen_text(callbacks, one, candidates(row)) for row, one in enumerate(judged)]


def transcribe_files(
    paths: Sequence[str | Path], export: str | Path, config: DictConfig
) -> Iterator[tuple[str | Path, str | KitError]]:
    """Each file's text as it is ready, in order; a file that cannot be read gives its error and the others go on.

    A recording longer than `decoding.max_seconds` is split at its pauses.
    """
    engine = Engine(load_export(export, PARTS), config.decoding)
    for path in paths:
        try:
            samples = read_audio(path)
            if len(samples) < WINDOW:
                raise AudioError(f"{path} is shorter than one window of 25 ms; give at least that much audio")
            yield path, transcribe(engine, samples)
        except KitError as error:
            yield path, error


def transcribe(engine: Engine, samples: Tensor) -> str:
    """The text of (n,) samples at 16 kHz, utterances joined by spaces."""
    session = engine.session()
    if len(samples) > engine.decoding.max_seconds * SAMPLE_RATE:
        session.callbacks.insert(0, Endpointing())
    try:
        events = session.push(samples) + session.finish()
    finally:
        session.close()
    return " ".join(event.text for event in events if isinstance(event, Final) and event.text)
