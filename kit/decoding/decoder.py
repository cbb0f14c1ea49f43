"""The LLM as a decoder of many texts at once, each at its own place in its own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.decoding.beam import Beam, Continuation, step_together
from kit.decoding.stopwatch import Stopwatch
from kit.model.reading import read
from kit.model.recognizer import Recognizer

_ROUND = 64  # cache lengths are multiples of this
_MOST_ROWS = 64  # hypotheses that are searched together: more cost memory and gain little

Chooser = Callable[[Tensor], tuple[Tensor, Tensor]]  # (N, V) logits to log-probability and number of a token each


class TextCache:
    """Keys and values of N texts, a row each. A text is cut back by lowering its length: nothing is moved.

    Every layer calls `update`, as `kit.model.reading` and transformers expect of a cache. What lies behind a row's
    length is never seen, and is written over.

    Args:
        llm: a causal language model of transformers.
        rows: N.
        capacity: tokens a row at first; it grows.
    """

    def __init__(self, llm: Any, rows: int, capacity: int = 2 * _ROUND) -> None:
        config, like = llm.config, next(llm.parameters())
        self.shape = (
            config.num_key_value_heads,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        )
        self.keys, self.values = (
            [like.new_zeros(rows, self.shape[0], capacity, self.shape[1]) for _ in range(config.num_hidden_layers)]
            for _ in "kv"
        )
        self.lengths = [0] * rows
        self._rows: Tensor | None = None
        self._place = torch.zeros(0)
        self._seen = 0

    @property
    def capacity(self) -> int:
        """Tokens that a row has room for."""
        return self.keys[0].shape[2]

    def used(self, row: int) -> int:
        """Bytes that a row's tokens take."""
        each = self.keys[0].element_size() * self.shape[0] * self.shape[1]
        return 2 * len(self.keys) * each * self.lengths[row]

    def enlarge(self, rows: int, capacity: int) -> None:
        """Make room for so many rows and tokens; what there is stays."""
        old_rows, _, old, _ = self.keys[0].shape
        rows, capacity = max(rows, old_rows), -(-max(capacity, old) // _ROUND) * _ROUND
        if (rows, capacity) == (old_rows, old):
            return
        if capacity > old:
            capacity = max(capacity, 2 * old)
        for tensors in (self.keys, self.values):
            for index, tensor in enumerate(tensors):
                larger = tensor.new_zeros(rows, self.shape[0], capacity, self.shape[1])
                larger[:old_rows, :, :old] = tensor
                tensors[index] = larger
        self.lengths += [0] * (rows - old_rows)

    def append(self, llm: Any, rows: Sequence[int], inputs: Tensor, counts: Sequence[int]) -> Tensor:
        """Read `counts` (B,) of the embeddings `inputs` (B, n, E) at the ends of some rows.

        Returns:
            (B, n, E) hidden states; anything behind a row's count.
        """
        size = inputs.shape[1]
        before = [self.lengths[row] for row in rows]
        self.enlarge(len(self.lengths), max(before) + size)
        device = inputs.device
        self._place = torch.tensor(before, device=device)[:, None] + torch.arange(size, device=device)  # (B, n)
        everything = list(rows) == list(range(len(self.lengths)))
        self._rows = None if everything else torch.tensor(rows, device=device)
        self._seen = self.rounded(max(before) + size)
        hidden = self._read(llm, inputs)
        for row, count in zip(rows, counts, strict=True):
            self.lengths[row] += count
        return hidden

    def read_all(self, llm: Any, inputs: Tensor, place: Tensor, seen: int) -> Tensor:
        """One embedding of every row (N, 1, E) at `place` (N, 1), over the first `seen` tokens; lengths stay.

        Shapes and addresses depend on `seen` alone, so that a CUDA graph of it can be replayed. A row that takes no
        part may be read at its length, where nothing is seen.
        """
        self._rows, self._place, self._seen = None, place, seen
        return self._read(llm, inputs)

    def rounded(self, size: int) -> int:
        """A number of tokens that is seen instead of `size`, so that few shapes occur."""
        return min(self.capacity, -(-size // _ROUND) * _ROUND)

    def _read(self, llm: Any, inputs: Tensor) -> Tensor:
        mask = (torch.arange(self._seen, device=inputs.device) <= self._place[..., None])[:, None]  # (B, 1, n, seen)
        return read(llm, inputs, self._place, mask, self)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each layer with (B, H, n, D): store at the rows' places, give back what the rows hold."""
        rows = torch.arange(len(keys), device=keys.device) if self._rows is None else self._rows
        results = []
        for held, new in ((self.keys[layer], keys), (self.values[layer], values)):
            held[rows[:, None], :, self._place] = new.transpose(1, 2)
            seen = held[:, :, : self._seen]
            results.append(seen if self._rows is None else seen[rows])
        return results[0], results[1]

    def copy(self, source: int, targets: Sequence[int]) -> None:
        """Let rows hold what another row holds."""
        rows, size = list(targets), self.lengths[source]
        for tensor in (*self.keys, *self.values):
            tensor[rows, :, :size] = tensor[source, :, :size].clone()
        for row in rows:
            self.lengths[row] = size

    def reorder(self, order: Tensor) -> None:
        """Row i becomes what row order[i] was; all rows take part."""
        for tensors in (self.keys, self.values):
            for index, tensor in enumerate(tensors):
                tensors[index] = tensor.index_select(0, order)
        self.lengths = [self.lengths[row] for row in order.tolist()]

    def fork(self, llm: Any, rows: Sequence[int]) -> TextCache:
        """A cache of its own whose rows hold what these rows hold; one may be there several times."""
        fork, chosen = TextCache(llm, len(rows), self.capacity), torch.tensor(rows, device=self.keys[0].device)
        size = max(self.lengths[row] for row in rows)
        for mine, theirs in zip((*self.keys, *self.values), (*fork.keys, *fork.values), strict=True):
            theirs[:, :, :size] = mine[chosen, :, :size]
        fork.lengths = [self.lengths[row] for row in rows]
        return fork


def most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and number (N,) of the best token by (N, V) logits."""
    best, token = logits.float().log_softmax(-1).max(-1)
    return best, token


class GraphedStep:
    """The next token of every row from static buffers, on a GPU by replaying a CUDA graph.

    Launching the kernels of a token one by one takes longer than running them: a graph launches all at once. Graphs
    are kept by the number of tokens seen, and made anew when the cache moved.

    Args:
        capture: False runs the same code without a graph.
        choose: which token is next; what it reads beside the logits must keep its address, for the graph.
    """

    def __init__(self, llm: Any, cache: TextCache, capture: bool, choose: Chooser = most_probable) -> None:
        self.llm, self.cache, self.capture, self.choose = llm, cache, capture, choose
        self._replays: dict[int, Callable[[], None]] = {}
        self._address = -1

    def __call__(self, tokens: dict[int, int]) -> tuple[list[float], list[int]]:
        """Append a token to some rows (row -> token); gives log-probability and number of the next ones."""
        cache = self.cache
        cache.enlarge(len(cache.lengths), max(cache.lengths) + 1)
        if cache.keys[0].data_ptr() != self._address:
            self._allocate()
        seen = cache.rounded(max(cache.lengths) + 1)
        rows = list(tokens)
        self._numbers.copy_(torch.tensor([[tokens.get(row, 0)] for row in range(len(cache.lengths))]))
        self._place.copy_(torch.tensor(cache.lengths)[:, None])
        if seen not in self._replays:
            self._replays[seen] = self._captured(seen) if self.capture else partial(self._step, seen)
        self._replays[seen]()
        for row in rows:
            cache.lengths[row] += 1
        best, token = self._best.tolist(), self._token.tolist()
        return [best[row] for row in rows], [token[row] for row in rows]

    def _allocate(self) -> None:
        count, device = len(self.cache.lengths), self.cache.keys[0].device
        self._replays.clear()
        self._address = self.cache.keys[0].data_ptr()
        self._numbers, self._place = (torch.zeros(count, 1, dtype=torch.long, device=device) for _ in range(2))
        self._best = torch.zeros(count, device=device)
        self._token = torch.zeros(count, dtype=torch.long, device=device)

    def _step(self, seen: int) -> None:
        inputs = self.llm.get_input_embeddings()(self._numbers)
        hidden = self.cache.read_all(self.llm, inputs, self._place, seen)[:, 0]
        best, token = self.choose(self.llm.lm_head(hidden))
        self._best.copy_(best)
        self._token.copy_(token)

    def _captured(self, seen: int) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # what is written is written again
                self._step(seen)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(seen)
        return graph.replay


@dataclass
class Work:
    """What one text needs in a step.

    Attributes:
        row: of the cache.
        speech: (s, E) new speech embeddings; they stay in the cache.
        tail: token ids behind the speech, taken off again after decoding; nothing is decoded if None.
        beam: hypotheses to keep; 1 is greedy.
        draft: what the LLM will perhaps write. It is read along with the tail, and what the LLM would have written by
            itself need not be written token by token; the result is the same with any draft.
    """

    row: int
    speech: Tensor
    tail: Sequence[int] | None = None
    beam: int = 1
    draft: Sequence[int] = ()


class Writer(Protocol):
    """Who writes texts behind speech: `Decoder` in this process, or `kit.decoding.remote.RemoteDecoder`.

    Attributes:
        end: the token that ends a text.
        speech_read, tokens_read: speech embeddings and tokens that the LLM read, for those who count.
    """

    end: int
    speech_read: int
    tokens_read: int

    def enlarge(self, rows: int) -> None:
        """Make room for so many texts."""

    def reset(self, row: int) -> None:
        """Forget a row's speech."""

    def run(self, works: Sequence[Work]) -> list[list[Continuation]]:
        """Take the new speech of every work and, where a tail is given, write what follows it; best first."""


class Decoder:
    """Rows for texts that all begin with the prompt's static prefix, which is read once.

    Args:
        recognizer: with an LLM and its tokenizer.
        rows: texts that fit at first.
        max_tokens: longest continuation.
        watch: where to count the seconds of "prefill" and "decode".
    """

    def __init__(self, recognizer: Recognizer, rows: int, max_tokens: int, watch: Stopwatch | None = None) -> None:
        self.llm, self.max_tokens, self.watch = recognizer.llm, max_tokens, watch or Stopwatch()
        self.end = recognizer.end
        self.embed = self.llm.get_input_embeddings()
        self.cache = TextCache(self.llm, 0)
        self.prefix = recognizer.prompt.prefix_ids(recognizer.tokenizer)
        self.speech_read = self.tokens_read = 0  # speech embeddings and tokens that the LLM read, for those who count
        self.enlarge(rows)
        self.graphed = GraphedStep(self.llm, self.cache, capture=True) if self.embed.weight.is_cuda else None

    @torch.inference_mode()
    def enlarge(self, rows: int) -> None:
        """Make room for so many texts."""
        old = len(self.cache.lengths)
        if rows <= old:
            return
        self.cache.enlarge(rows, 0)
        if not self.prefix:
            return
        if not old:
            ids = torch.tensor([self.prefix], device=self.embed.weight.device)
            self.cache.append(self.llm, [0], self.embed(ids), [len(self.prefix)])
        self.cache.lengths[0], kept = len(self.prefix), self.cache.lengths[0]
        self.cache.copy(0, range(max(1, old), rows))
        self.cache.lengths[0] = kept

    def reset(self, row: int) -> None:
        """Forget a row's speech; the prefix stays."""
        self.cache.lengths[row] = len(self.prefix)

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> list[list[Continuation]]:
        """Read the new speech of every work and, where a tail is given, write what follows it; best first."""
        before = [self.cache.lengths[work.row] for work in works]
        with self.watch("prefill"):
            last = self._read(works)
        results: list[list[Continuation]] = [[] for _ in works]
        with self.watch("decode"):
            plain = [index for index in last if works[index].beam == 1]
            for index, found in zip(plain, self._greedy([(works[i], last[i]) for i in plain]), strict=True):
                results[index] = [found]
            wide = [index for index in last if works[index].beam > 1]
            while wide:
                some, wide = _first_within(wide, [works[index].beam for index in wide], _MOST_ROWS)
                for index, best in zip(some, self._beams([(works[i], last[i]) for i in some]), strict=True):
                    results[index] = best
        for work, length in zip(works, before, strict=True):
            self.cache.lengths[work.row] = length + len(work.speech)
        return results

    def _read(self, works: Sequence[Work]) -> dict[int, Tensor]:
        """Append speech, tails and drafts; gives hidden states (1 + draft, E) of each work with a tail, by its index.

        The first is that of the tail's last token, the others those of the draft's tokens.
        """
        device = self.embed.weight.device
        busy = [index for index, work in enumerate(works) if len(work.speech) or work.tail]
        if not busy:
            return {}
        drafts = [list(works[index].draft) if works[index].beam == 1 else [] for index in busy]
        tails = [list(works[index].tail or ()) for index in busy]
        rows = [
            torch.cat([works[index].speech, self.embed(torch.tensor(tail + draft, dtype=torch.long, device=device))])
            for index, tail, draft in zip(busy, tails, drafts, strict=True)
        ]
        counts = [len(row) for row in rows]
        hidden = self.cache.append(
            self.llm, [works[index].row for index in busy], pad_sequence(rows, batch_first=True), counts
        )
        self.speech_read += sum(len(works[index].speech) for index in busy)
        self.tokens_read += sum(map(len, tails)) + sum(map(len, drafts))
        return {
            index: hidden[place, counts[place] - 1 - len(drafts[place]) : counts[place]]
            for place, index in enumerate(busy)
            if works[index].tail is not None
        }

    def _greedy(self, works: Sequence[tuple[Work, Tensor]]) -> list[Continuation]:
        """The most probable token at each place, from works and the hidden states that `_read` gave for them."""
        if not works:
            return []
        found = [Continuation(0.0, []) for _ in works]
        best, token = self._best(torch.cat([hidden for _, hidden in works]))
        sizes = [len(hidden) for _, hidden in works]
        rows, waiting, at = [work.row for work, _ in works], {}, 0
        for index, ((work, _), size) in enumerate(zip(works, sizes, strict=True)):
            agreed = self._accept(found[index], work.draft, best[at : at + size], token[at : at + size])
            at += size
            self.cache.lengths[work.row] -= size - 1 - agreed
            if self._goes_on(found[index], token[at - size + agreed]):
                waiting[index] = token[at - size + agreed]
        while waiting:
            best, token = self._following({rows[index]: number for index, number in waiting.items()})
            following = {}
            for index, score, number in zip(waiting, best, token, strict=True):
                found[index].score += score
                if self._goes_on(found[index], number):
                    following[index] = number
            waiting = following
        for one in found:
            one.score /= max(1, min(len(one.ids) + 1, self.max_tokens))
        return found

    def _following(self, tokens: dict[int, int]) -> tuple[list[float], list[int]]:
        """Append a token to some rows (row -> token); gives log-probability and number of the best next ones."""
        self.tokens_read += len(tokens)
        if self.graphed and 2 * len(tokens) >= len(self.cache.lengths):  # it steps all rows
            return self.graphed(tokens)
        ids = torch.tensor([[number] for number in tokens.values()], device=self.embed.weight.device)
        return self._best(self.cache.append(self.llm, list(tokens), self.embed(ids), [1] * len(ids))[:, 0])

    def _best(self, hidden: Tensor) -> tuple[list[float], list[int]]:
        """Log-probability and number of the best token behind each of (n, E) hidden states."""
        best, token = most_probable(self.llm.lm_head(hidden))
        return best.tolist(), token.tolist()

    def _accept(self, found: Continuation, draft: Sequence[int], best: list[float], token: list[int]) -> int:
        """Take what of the draft the LLM writes too; the score of the token after it is counted as well."""
        agreed = 0
        found.score += best[0]
        while agreed < len(best) - 1 and token[agreed] == draft[agreed] and len(found.ids) < self.max_tokens - 1:
            found.ids.append(draft[agreed])
            agreed += 1
            found.score += best[agreed]
        return agreed

    def _goes_on(self, found: Continuation, token: int) -> bool:
        """Write a token, unless it is the end; whether another may follow."""
        if token == self.end:
            return False
        found.ids.append(token)
        return len(found.ids) < self.max_tokens

    def _beams(self, works: Sequence[tuple[Work, Tensor]]) -> list[list[Continuation]]:
        """What beam searches find, all a step further at once, from works and the hidden states that `_read` gave."""
        beams = [Beam(work.beam, self.end, self.max_tokens) for work, _ in works]
        cache = self.cache.fork(self.llm, [work.row for work, _ in works for _ in range(work.beam)])
        last = torch.cat([hidden[:1].expand(work.beam, -1) for work, hidden in works])
        going = beams
        while True:
            order = step_together(going, self.llm.lm_head(last).float().log_softmax(-1))
            going = [beam for beam in going if not beam.done]
            if not going:
                return [beam.found() for beam in beams]
            cache.reorder(order)
            tokens = torch.tensor([[token] for beam in going for token in beam.tokens], device=last.device)
            last = cache.append(self.llm, range(len(tokens)), self.embed(tokens), [1] * len(tokens))[:, 0]
            self.tokens_read += len(tokens)


def _first_within(indices: list[int], sizes: Sequence[int], most: int) -> tuple[list[int], list[int]]:
    """As many of the first as have no more than `most` in all, at least one, and the others."""
    count = max(1, sum(total <= most for total in accumulate(sizes)))
    return indices[:count], indices[count:]
