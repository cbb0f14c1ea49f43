"""The recognizer: encoder, phoneme head, adaptor and LLM, whichever parts a stage needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kit.model.encoder import WHOLE, Chunk, ConformerEncoder
from kit.model.heads import Adaptor, PhonemeHead
from kit.model.llm import build_llm
from kit.model.losses import IGNORE
from kit.text.phonemes import PhonemeInventory
from kit.text.prompt import TEMPLATE, Prompt

PARTS = ("encoder", "phoneme_head", "adaptor", "llm")


class Recognizer(nn.Module):
    """Speech in, phonemes and text out. A part that was not asked for is no attribute; `parts` says which there are.

    Args:
        config: the `model` section of the configuration.
        parts: which of PARTS to build.
        tokenizer: the LLM's; needed for everything with text.
        inventory: the phonemes; the default one if None.
        weights: of the LLM, as `kit.model.llm.local` names them; None for random ones of the shape in `config`.
    """

    encoder: ConformerEncoder
    phoneme_head: PhonemeHead
    adaptor: Adaptor
    llm: Any  # a causal language model of transformers

    def __init__(
        self,
        config: DictConfig,
        parts: Collection[str] = PARTS,
        tokenizer: Any = None,
        inventory: PhonemeInventory | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.config, self.parts = config, tuple(part for part in PARTS if part in parts)
        self.tokenizer, self.inventory = tokenizer, inventory or PhonemeInventory.default()
        self.prompt = Prompt(config.prompt.template or TEMPLATE)
        encoder = config.encoder
        if "encoder" in parts:
            self.encoder = ConformerEncoder(bins=config.features.bins, **encoder)
        if "phoneme_head" in parts:
            self.phoneme_head = PhonemeHead(encoder.dim, len(self.inventory), config.phoneme_head.hidden)
        if "llm" in parts:
            self.llm = build_llm(config.llm.config, weights)
        if "adaptor" in parts:
            self.adaptor = Adaptor(encoder.dim, config.adaptor.stack, config.adaptor.hidden, self.llm_width)
        self._prompt_ids: tuple[list[int], list[int]] | None = None
        self._hinted_ids = lru_cache(maxsize=1 << 12)(self._suffix_ids)  # hints stay from chunk to chunk
        self.text_ids = lru_cache(maxsize=1 << 17)(self._text_ids)  # a text is tokenized once, not once an epoch

    @property
    def llm_width(self) -> int:
        """Hidden size of the LLM."""
        return self.llm.config.hidden_size if "llm" in self.parts else self.config.llm.config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def encode(self, features: Tensor, lengths: Tensor, chunk: Chunk = WHOLE) -> tuple[Tensor, Tensor]:
        """(B, T, F) log-mel features and lengths (B,) to encoder frames (B, T', D) and their lengths."""
        frames, lengths, _ = self.encoder(features, lengths, chunk)
        return frames, lengths

    @cached_property
    def end(self) -> int:
        """The token that ends a transcript: the one after it in the prompt's template."""
        return self.prompt.end_id(self.tokenizer)

    def tail_ids(self, hints: Sequence[str] = ()) -> list[int]:
        """Token ids of the prompt between the speech and the transcript."""
        return list(self._hinted_ids(tuple(hints))) if hints else list(self._plain_prompt()[1])

    def prompt_embeddings(self, hints: Sequence[Sequence[str]] | None, batch: int) -> list[Tensor]:
        """What follows the speech in each row's prompt: one (n, E) tensor a row."""
        table = self.llm.get_input_embeddings()
        if hints is None:
            return [table(self._tensor(self.tail_ids()))] * batch
        return [table(self._tensor(self.tail_ids(row))) for row in hints]

    def prefix_cache(self, batch: int) -> Any:
        """Keys and values of the static prefix, computed once and shared by all rows; gradients flow through it."""
        from transformers import DynamicCache

        ids = self._tensor(self._plain_prompt()[0])[None]
        cache = self.llm.model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
        cache.batch_repeat_interleave(batch)
        return cache

    def text_loss(
        self, speech: Tensor, lengths: Tensor, texts: Sequence[str], hints: Sequence[Sequence[str]] | None = None
    ) -> Tensor:
        """Cross-entropy of the transcripts, a token, given speech embeddings in the prompt.

        Args:
            speech: (B, S, E) speech embeddings; S may be 0 for text without speech.
            lengths: (B,) speech tokens.
            texts: B normalized transcripts.
            hints: hotwords of each row, or None for none at all.
        """
        table = self.llm.get_input_embeddings()
        rows, targets = [], []
        after = self.prompt_embeddings(hints, len(texts))
        for heard, size, tail, text in zip(speech, lengths.tolist(), after, texts, strict=True):
            ids = self._tensor(self.text_ids(text))  # (n,) ends with the end of turn
            rows.append(torch.cat([heard[:size], tail, table(ids[:-1])]))
            silent = ids.new_full((size + len(tail) - 1,), IGNORE)
            targets.append(torch.cat([silent, ids]))
        inputs = pad_sequence(rows, batch_first=True)  # (B, N, E)
        labels = pad_sequence(targets, batch_first=True, padding_value=IGNORE)
        cache = self.prefix_cache(len(rows))
        hidden = self.llm.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
        wanted = labels != IGNORE
        return F.cross_entropy(self.llm.lm_head(hidden[wanted]).float(), labels[wanted])

    def _plain_prompt(self) -> tuple[list[int], list[int]]:
        """Ids before the speech and, without hints, after it; tokenized once, not once a step."""
        if self._prompt_ids is None:
            self._prompt_ids = (self.prompt.prefix_ids(self.tokenizer), self.prompt.suffix_ids(self.tokenizer))
        return self._prompt_ids

    def _suffix_ids(self, hints: tuple[str, ...]) -> list[int]:
        return self.prompt.suffix_ids(self.tokenizer, hints)

    def _text_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.prompt.answer_ids(self.tokenizer, text))

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device)
