"""Rollout: K hypotheses an utterance, drawn from the LLM as it is. Engines stand behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.decoding.decoder import GraphedStep, TextCache
from kit.errors import UsageError
from kit.model.recognizer import Recognizer
from kit.rl.policy import Prompts, Samples

_BUSY = 0.75  # share of a cache's rows that must still be written for it to be stepped as it is


class Rollouts:
    """An engine that draws hypotheses.

    Args:
        recognizer: whose LLM they are drawn from.
        max_tokens: longest hypothesis, its end included.
    """

    def __init__(self, recognizer: Recognizer, max_tokens: int) -> None:
        self.recognizer, self.max_tokens = recognizer, max_tokens
        self.end = recognizer.end

    def sample(self, prompts: Prompts, group: int, temperature: float, seeds: Sequence[int]) -> Samples:
        """Draw `group` hypotheses an utterance.

        Args:
            seeds: one an utterance: what is drawn for it depends on nothing else, least of all on its neighbors.
        """
        raise NotImplementedError

    def synchronize(self) -> None:
        """Take the weights that the LLM has now; called before each rollout."""

    def samples(self, found: Sequence[Sequence[tuple[list[int], list[float]]]], like: Tensor) -> Samples:
        """Tokens and log-probabilities of K hypotheses for each of B utterances, as tensors where `like` is."""
        flat = [one for row in found for one in row]
        ids = pad_sequence([torch.tensor(ids) for ids, _ in flat], batch_first=True, padding_value=self.end)
        scores = pad_sequence([torch.tensor(scores, dtype=torch.float32) for _, scores in flat], batch_first=True)
        lengths = torch.tensor([len(ids) for ids, _ in flat])
        ended = torch.tensor([ids[-1] == self.end for ids, _ in flat])
        shape = (len(found), len(found[0]))
        tensors = (ids.unflatten(0, shape), lengths.view(shape), scores.unflatten(0, shape), ended.view(shape))
        return Samples(*(tensor.to(like.device) for tensor in tensors))


class Draw:
    """Chooses tokens by chance from a distribution (inverse of its sum), at a temperature.

    Args:
        rows: N.

    Attributes:
        chance: (N,) uniform numbers from 0 to 1, to be filled before each token.
        temperature: (1,).
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.chance = torch.zeros(rows, dtype=torch.float64, device=device)
        self.temperature = torch.ones(1, device=device)

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and number (n,) of a token drawn by each of the first n chances, from (n, V) logits."""
        scores = (logits.float() / self.temperature).log_softmax(-1)
        reached = scores.exp().cumsum(-1, dtype=torch.float64)
        place = self.chance[: len(logits), None] * reached[:, -1:]
        token = torch.searchsorted(reached, place, right=True).clamp_max(logits.shape[1] - 1)
        return scores.gather(1, token)[:, 0], token[:, 0]


class Local(Rollouts):
    """In this process, by the decoder's own cache: a prompt is read once and its rows copied, then all rows write.

    On a GPU the cache stays from rollout to rollout, all shapes are static and a CUDA graph is replayed for each token
    (not run on a GPU yet). Elsewhere rows that have ended are dropped once they are a quarter of all.
    """

    def __init__(self, recognizer: Recognizer, max_tokens: int) -> None:
        super().__init__(recognizer, max_tokens)
        self._kept: tuple[TextCache, Draw, GraphedStep] | None = None

    @torch.no_grad()
    def sample(self, prompts: Prompts, group: int, temperature: float, seeds: Sequence[int]) -> Samples:
        """See `Rollouts.sample`."""
        count = len(prompts) * group
        cache, draw, step = self._ready(count, prompts)
        draw.temperature.fill_(temperature)
        self._prefill(cache, prompts, group)
        chances = torch.cat([uniform(seed, group, self.max_tokens) for seed in seeds])  # (B K, L)
        found: list[tuple[list[int], list[float]]] = [([], []) for _ in range(count)]
        names = list(range(count))  # the hypothesis that a row of the cache belongs to
        tokens = dict(enumerate(token for token in prompts.last() for _ in range(group)))
        for place in range(self.max_tokens):
            draw.chance[: len(names)] = chances[names, place].to(draw.chance.device)
            rows = list(tokens)
            tokens = {row: token for row, token in self._write(step, tokens, names, found) if token != self.end}
            if not tokens:
                break
            if not step.capture and len(tokens) < _BUSY * len(names):
                kept = [row for row in rows if row in tokens]
                cache.reorder(torch.tensor(kept, device=prompts.speech.device))
                names = [names[row] for row in kept]
                tokens = {place: tokens[row] for place, row in enumerate(kept)}
        return self.samples([found[at : at + group] for at in range(0, count, group)], prompts.speech)

    @staticmethod
    def _write(step: GraphedStep, tokens: dict[int, int], names: Sequence[int], found: Any) -> list[tuple[int, int]]:
        """The next token of each row, put to what was found."""
        scores, numbers = step(tokens)
        for row, score, number in zip(tokens, scores, numbers, strict=True):
            ids, log_probs = found[names[row]]
            ids.append(number)
            log_probs.append(score)
        return list(zip(tokens, numbers, strict=True))

    def _ready(self, count: int, prompts: Prompts) -> tuple[TextCache, Draw, GraphedStep]:
        """A cache of at least `count` rows, empty, with room for everything; on a GPU the one of last time."""
        llm, device = self.recognizer.llm, prompts.speech.device
        longest = max(size + len(tail) for size, tail in zip(prompts.sizes, prompts.tails, strict=True))
        room = len(prompts.prefix) + longest + self.max_tokens
        ready = self._kept
        if ready is None or len(ready[0].lengths) < count:
            cache, draw = TextCache(llm, 0), Draw(count, device)
            ready = cache, draw, GraphedStep(llm, cache, device.type == "cuda", draw)
        ready[0].enlarge(count, room)
        ready[0].lengths = [0] * len(ready[0].lengths)
        self._kept = ready if device.type == "cuda" else None
        return ready

    def _prefill(self, cache: TextCache, prompts: Prompts, group: int) -> None:
        """Read each prompt but its last token once, and let all of its rows hold it."""
        llm = self.recognizer.llm
        table, heads = llm.get_input_embeddings(), range(0, len(prompts) * group, group)
        if prompts.prefix:
            ids = torch.tensor([list(prompts.prefix)], device=prompts.speech.device)
            cache.append(llm, [0], table(ids), [len(prompts.prefix)])
            cache.copy(0, heads[1:])
        rows = prompts.rows(table)
        counts = [len(row) for row in rows]
        if max(counts):
            cache.append(llm, list(heads), pad_sequence(rows, batch_first=True), counts)
        for row in heads:
            cache.copy(row, range(row + 1, row + group))


def uniform(seed: int, rows: int, columns: int) -> Tensor:
    """(rows, columns) numbers from 0 to 1, the same for the same seed on any device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, columns, dtype=torch.float64, generator=generator)


def engine(options: Any, recognizer: Recognizer, max_tokens: int) -> Rollouts:
    """The engine that the section `stage.rollout` names.

    Raises:
        KitError: it is not known, or its server is not as it must be.
    """
    if options.engine == "local":
        return Local(recognizer, max_tokens)
    if options.engine == "vllm":
        from kit.rl.vllm import Server

        return Server(recognizer, max_tokens, options.url, options.folder, options.timeout)
    raise UsageError(f"stage.rollout.engine={options.engine}: known are local, vllm")
