"""The LLM as a policy: what it reads before it writes, and the log-probabilities of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.model.recognizer import Recognizer


@dataclass(frozen=True)
class Prompts:
    """What the LLM reads before the hypotheses of B utterances.

    Attributes:
        prefix: token ids before the speech, the same for all.
        speech: (B, S, E) speech embeddings.
        sizes: how many of them each utterance has.
        tails: token ids behind the speech, at least one.
    """

    prefix: Sequence[int]
    speech: Tensor
    sizes: Sequence[int]
    tails: Sequence[Sequence[int]]

    @classmethod
    def of(
        cls, recognizer: Recognizer, speech: Tensor, sizes: Tensor, hints: Sequence[Sequence[str]] | None
    ) -> Prompts:
        """The recognizer's own prompt around speech (B, S, E) of `sizes` (B,) tokens."""
        tails = [recognizer.tail_ids(row) for row in (hints or [()] * len(speech))]
        return cls(recognizer.prompt.prefix_ids(recognizer.tokenizer), speech, sizes.tolist(), tails)

    def __len__(self) -> int:
        return len(self.tails)

    def detached(self) -> Prompts:
        """The same, for passes through which no gradient goes."""
        return replace(self, speech=self.speech.detach())

    def rows(self, table: Any) -> list[Tensor]:
        """What each utterance's cache holds behind the prefix: speech and tail (n, E) without its last token."""
        return [
            torch.cat([heard[:size], table(_ids(tail[:-1], self.speech))])
            for heard, size, tail in zip(self.speech, self.sizes, self.tails, strict=True)
        ]

    def last(self) -> list[int]:
        """The last token of each prompt: the first that is read together with a hypothesis."""
        return [tail[-1] for tail in self.tails]


@dataclass(frozen=True)
class Samples:
    """K hypotheses for each of B utterances.

    Attributes:
        ids: (B, K, L) tokens, the end among them; behind a hypothesis anything.
        lengths: (B, K) tokens.
        log_probs: (B, K, L) at the temperature of sampling, as the engine computed them; 0 behind a hypothesis.
        ended: (B, K) false where a hypothesis was cut off at the largest number of tokens.
    """

    ids: Tensor
    lengths: Tensor
    log_probs: Tensor
    ended: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, K, L) true where there is a token."""
        return torch.arange(self.ids.shape[2], device=self.ids.device) < self.lengths[..., None]

    def texts(self, recognizer: Recognizer) -> list[list[str]]:
        """What they say, K a row."""
        decode = recognizer.tokenizer.decode
        return [
            [decode(ids[:size], skip_special_tokens=True).strip() for ids, size in zip(rows, sizes, strict=True)]
            for rows, sizes in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)
        ]


def score(llm: Any, prompts: Prompts, samples: Samples, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of hypotheses by teacher forcing; gradients flow into the LLM and the speech.

    A prompt is read once for all of its hypotheses. These stand one behind the other in one row, where none sees
    another, so that a long one costs its own tokens and nothing is repeated.

    Args:
        llm: a causal language model of transformers.
        temperature: that the logits are divided by.

    Returns:
        (B, K, L) log-probabilities, 0 behind a hypothesis; and (B, K, L) entropies in nats, without gradient.
    """
    cache, sizes = _read(llm, prompts)
    packed = _Packed.of(prompts, samples)
    past = cache.get_seq_length()
    begin = past - int(sizes.max())  # tokens of the prefix, which all rows see
    seen = torch.arange(past, device=sizes.device) < begin + sizes[:, None]  # (B, P)
    hidden = llm.model(
        input_ids=packed.ids,
        attention_mask=packed.mask(seen),
        position_ids=(begin + sizes)[:, None] + packed.times,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    wanted = samples.mask
    scores = (llm.lm_head(hidden[packed.real]).float() / temperature).log_softmax(-1)
    found = scores.gather(1, samples.ids[wanted][:, None])[:, 0]
    with torch.no_grad():
        entropy = -(scores.exp() * scores).sum(-1)
    empty = torch.zeros(samples.ids.shape, dtype=found.dtype, device=found.device)
    return empty.masked_scatter(wanted, found), empty.masked_scatter(wanted, entropy)


@dataclass(frozen=True)
class _Packed:
    """The K hypotheses of an utterance in one row of up to T tokens.

    Attributes:
        ids: (B, T) what is read: the prompt's last token and all but the last of a hypothesis, K times.
        groups: (B, T) which hypothesis a token belongs to; -1 for none.
        times: (B, T) its place in that.
    """

    ids: Tensor
    groups: Tensor
    times: Tensor

    @classmethod
    def of(cls, prompts: Prompts, samples: Samples) -> _Packed:
        """In the order of the hypotheses."""
        batch, count, longest = samples.ids.shape
        first = _ids(prompts.last(), samples.ids)[:, None, None].expand(batch, count, 1)
        read = torch.cat([first, samples.ids[..., :-1]], -1)
        group = torch.arange(count, device=read.device)[:, None].expand(count, longest)
        time = torch.arange(longest, device=read.device).expand(count, longest)
        valid = samples.mask
        rows = [[values[mask] for values in (ids, group, time)] for ids, mask in zip(read, valid, strict=True)]
        ids, groups, times = (
            pad_sequence([row[place] for row in rows], batch_first=True, padding_value=padding)
            for place, padding in enumerate((0, -1, 0))
        )
        return cls(ids, groups, times)

    @property
    def real(self) -> Tensor:
        """(B, T) true where there is a token."""
        return self.groups >= 0

    def mask(self, seen: Tensor) -> Tensor:
        """(B, 1, T, P + T) what each token sees of the prompt, `seen` (B, P), and of what stands in its own row."""
        own = (self.groups[:, :, None] == self.groups[:, None]) & (self.times[:, :, None] >= self.times[:, None])
        prompt = seen[:, None].expand(-1, self.ids.shape[1], -1)
        return torch.cat([prompt, own], 2)[:, None]


def _read(llm: Any, prompts: Prompts) -> tuple[Any, Tensor]:
    """Keys and values of the prompts but for their last token, and how many tokens each row has behind the prefix."""
    from transformers import DynamicCache

    table = llm.get_input_embeddings()
    rows = prompts.rows(table)
    sizes = torch.tensor([len(row) for row in rows], device=prompts.speech.device)
    cache = DynamicCache()
    if prompts.prefix:
        cache = llm.model(
            input_ids=_ids(prompts.prefix, prompts.speech)[None], past_key_values=cache, use_cache=True
        ).past_key_values
        cache.batch_repeat_interleave(len(rows))
    inputs = pad_sequence(rows, batch_first=True)
    if inputs.shape[1]:
        cache = llm.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).past_key_values
    return cache, sizes


def _ids(values: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long, device=like.device)
