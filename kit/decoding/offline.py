"""Offline decoding: one encoder pass, one decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.audio.features import LogMel
from kit.audio.reading import AudioError, read_audio
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
    """Transcribe a batch.

    Args:
        features: (B, T, F) log-mel; lengths: (B,) feature frames.
        decoding: `chunk`, `left` and `max_tokens` of the configuration.
        hints: hotwords of each row.
    """
    frames, lengths = recognizer.encode(features, lengths, Chunk(decoding.chunk, decoding.left))
    phonemes = greedy(recognizer.phoneme_head(frames), lengths)
    if not {"llm", "adaptor"} <= set(recognizer.parts):
        return [Hypothesis(None, row) for row in phonemes]
    speech, sizes = recognizer.adaptor(frames, lengths)
    texts = generate(recognizer, speech, sizes, decoding.max_tokens, hints)
    return [Hypothesis(text, row) for text, row in zip(texts, phonemes, strict=True)]


def generate(
    recognizer: Recognizer,
    speech: Tensor,
    lengths: Tensor,
    max_tokens: int,
    hints: Sequence[Sequence[str]] | None = None,
) -> list[str]:
    """Greedy transcripts of speech embeddings (B, S, E), with rows padded on the left as generation wants them."""
    tokenizer = recognizer.tokenizer
    prefix = torch.tensor(recognizer.prompt.prefix_ids(tokenizer), device=speech.device)
    before = recognizer.llm.get_input_embeddings()(prefix)
    tails = recognizer.prompt_embeddings(hints, len(speech))
    rows = [
        torch.cat([before, heard[:size], tail])
        for heard, size, tail in zip(speech, lengths.tolist(), tails, strict=True)
    ]
    inputs = pad_sequence(rows, batch_first=True, padding_side="left")
    attention = pad_sequence([row.new_ones(len(row), dtype=torch.long) for row in rows], True, 0, "left")
    tokens = recognizer.llm.generate(
        inputs_embeds=inputs,
        attention_mask=attention,
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]


def transcribe_files(
    paths: Sequence[str | Path], export: str | Path, config: DictConfig
) -> Iterator[tuple[str | Path, str | KitError]]:
    """Each file's text as it is ready, in order; a file that cannot be read gives its error and the others go on."""
    recognizer = load_export(export, PARTS)
    extract = LogMel()
    for path in paths:
        try:
            samples = read_audio(path, max_seconds=config.decoding.max_seconds)
            features = extract(samples)
            if not len(features):
                raise AudioError(f"{path} is shorter than one window of 25 ms; give at least that much audio")
            result = recognize(recognizer, features[None], torch.tensor([len(features)]), config.decoding)
            yield path, result[0].text or ""
        except KitError as error:
            yield path, error
