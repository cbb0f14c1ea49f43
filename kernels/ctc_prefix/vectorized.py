"""The CPU path: no loop over frames for prefixes, a lean one over the chunk's frames for whole strings.

`psi` is a reduction over frames, and in the probability domain a matrix product. `extend` is a first-order recurrence
in the log semiring, so it is a cumulative log-sum-exp of its inputs divided by the product of the factors so far. Both
are computed in double, where dividing by such products costs nothing that single precision would show.
`forward_chunk` keeps states on the first axis, so that a step to the next state is a shift of one contiguous buffer.
`spot` does the same with probabilities, three operations a frame: nothing that it tells can get lost in double.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.ctc_prefix.reference import FAINT, FLOOR, NOTHING

__all__ = ["extend", "forward_chunk", "psi", "spot"]

_LEAST = -60.0  # a summand this far below the largest is lost in double, too; the exponential of less is slow
_Array = NDArray[Any]
_TINY = 1e-280  # below this a sum of products may have lost terms to underflow


def psi(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int = 0) -> Tensor:
    """As `reference.psi`."""
    x = log_probs.double().clamp_min(FLOOR)
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None, None]  # (B, 1, T)
    begin = torch.where(last < 0, 0.0, NOTHING).double()
    before = _delayed(torch.logaddexp(r_n, r_b).double(), begin).masked_fill(~inside, NOTHING)
    top = before.amax(-1, keepdim=True)
    sums = (before - top).exp() @ x.exp()  # (B, W, V)
    scores = sums.log() + top
    if bool((sums < _TINY).any()):
        scores = torch.where(sums < _TINY, _exact(before, x), scores)
    symbol = last.clamp_min(0).long()
    of_last = x.gather(2, symbol[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)  # (B, W, T)
    held = _delayed(r_b.double(), begin).masked_fill(~inside, NOTHING)
    repeated = (held + of_last).logsumexp(-1)
    kept = scores.gather(2, symbol[..., None])[..., 0]
    scores = scores.scatter(2, symbol[..., None], torch.where(last < 0, kept, repeated)[..., None])
    scores[..., blank] = NOTHING
    return scores.clamp_min(NOTHING).to(r_n.dtype)


def extend(
    log_probs: Tensor,
    lengths: Tensor,
    r_n: Tensor,
    r_b: Tensor,
    last: Tensor,
    parents: Tensor,
    tokens: Tensor,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `reference.extend`."""
    frames = log_probs.shape[1]
    index = parents.long()[..., None].expand(-1, -1, frames)
    parent_n, parent_b = r_n.gather(1, index).double(), r_b.gather(1, index).double()
    parent_last = last.gather(1, parents.long())
    phi = torch.where((parent_last == tokens)[..., None], parent_b, torch.logaddexp(parent_n, parent_b))
    emitted = log_probs.gather(2, tokens.long()[:, None].expand(-1, frames, -1)).transpose(1, 2)
    silent = log_probs[:, None, :, blank].expand_as(emitted)
    n = _recurrence(_delayed(phi, torch.where(parent_last < 0, 0.0, NOTHING).double()), emitted)
    b = _recurrence(_delayed(n, torch.full_like(n[..., 0], NOTHING)), silent)
    outside = torch.arange(frames, device=n.device) >= lengths[:, None, None]
    return n.masked_fill(outside, NOTHING).to(r_n.dtype), b.masked_fill(outside, NOTHING).to(r_b.dtype)


def forward_chunk(
    log_probs: Tensor,
    fresh: Tensor,
    strings: Tensor,
    sizes: Tensor,
    alphas: Tensor,
    free_start: bool = False,
    blank: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.forward_chunk`."""
    symbols, beyond, no_skip = _states(strings, sizes, alphas, blank)
    frames, ends = log_probs.shape[1], 2 * sizes.long()[None]
    held = torch.cat([alphas.new_full((2, *sizes.shape), NOTHING), alphas.permute(2, 0, 1)])
    here, one, two = held[2:], held[1:-1], held[:-2]  # (states, B, N); the states that each is entered from
    row = torch.arange(log_probs.shape[0], device=symbols.device)[:, None] * log_probs.shape[2]
    place = (symbols + row).flatten()
    emitted = log_probs.clamp_min(FLOOR).transpose(0, 1).flatten(1)  # (F, B V)
    at_last, at_blank = (alphas.new_empty(frames, *sizes.shape) for _ in range(2))
    for t in range(frames):
        moved = _entered(here, one, two + no_skip, free_start)
        moved.add_(emitted[t].index_select(0, place).view_as(moved)).masked_fill_(beyond, NOTHING).clamp_min_(NOTHING)
        here.copy_(torch.where((t < fresh)[:, None], moved, here))
        at_last[t] = here.gather(0, (ends - 1).clamp_min(0))[0].masked_fill(sizes == 0, NOTHING)
        at_blank[t] = here.gather(0, ends)[0]
    return tuple(x.permute(1, 2, 0).contiguous() for x in (here, at_last, at_blank))  # type: ignore[return-value]


def spot(
    log_probs: Tensor, first: Tensor, count: Tensor, strings: Tensor, sizes: Tensor, blank: int = 0
) -> tuple[Tensor, Tensor]:
    """As `reference.spot`."""
    if not strings.numel() or not (frames := int(count.max())):
        return log_probs.new_full(sizes.shape, FAINT), sizes.new_zeros(sizes.shape)
    scores, begins, counts, symbols, lengths = (x.detach().numpy() for x in (log_probs, first, count, strings, sizes))
    states = _spotted(
        _emitted(scores, begins, counts, symbols, lengths, frames, blank), _skips(symbols, lengths, blank)
    )
    names = np.arange(len(symbols))
    ends = states[1:, 2 * lengths, names]
    end = ends.argmax(0)
    with np.errstate(divide="ignore"):
        score = np.log(ends[end, names])
    heard = (lengths > 0) & (score > FAINT)
    found = torch.from_numpy(np.where(heard, score, FAINT)).to(log_probs.dtype)
    return found, torch.from_numpy(np.where(heard, begins + end + 1, 0)).to(first.dtype)


def _spotted(emitted: _Array, skips: _Array) -> _Array:
    """The states (frames + 1, 2 S + 1, N) before and after every frame, by NumPy: a step costs half of torch's.

    The state in front of the first symbol is always entered, and two in front of it there is nothing.
    """
    frames, width, count = emitted.shape
    states = np.zeros((frames + 1, width + 2, count))
    states[:, 1] = 1.0
    entered = np.empty_like(skips)
    for before, after, symbol in zip(states[:-1], states[1:], emitted, strict=True):
        np.multiply(before[:-2], skips, entered)
        np.add(entered, before[1:-1], entered)
        np.add(entered, before[2:], entered)
        np.multiply(entered, symbol, after[2:])
    return states


def _skips(strings: _Array, sizes: _Array, blank: int) -> _Array:
    """(2 S - 1, N): 1 where a state may be entered from the one two before."""
    symbols = _without_rest(strings, sizes, blank)
    skips = np.zeros((2 * len(symbols) - 1, len(sizes)))
    skips[2::2] = symbols[1:] != symbols[:-1]
    return skips


def _emitted(
    scores: _Array, first: _Array, count: _Array, strings: _Array, sizes: _Array, frames: int, blank: int
) -> _Array:
    """(frames, 2 S - 1, N): probabilities of the states' symbols in each string's frames; 0 behind them."""
    symbols = _without_rest(strings, sizes, blank)
    place = np.arange(frames)[:, None]
    inside = place < np.minimum(count, len(scores) - first)
    rows = np.where(inside, first + place, 0)  # (frames, N)
    emitted = np.empty((frames, 2 * len(symbols) - 1, len(sizes)))
    emitted[:, ::2] = np.exp(np.minimum(scores[rows[:, None], symbols], 0.0), dtype=np.float64)
    emitted[:, 1::2] = np.exp(np.minimum(scores[rows, blank], 0.0), dtype=np.float64)[:, None]
    emitted *= inside[:, None]
    return emitted


def _without_rest(strings: _Array, sizes: _Array, blank: int) -> _Array:
    """(S, N): the symbols, blanks behind them."""
    return np.where(np.arange(strings.shape[1])[:, None] < sizes, strings.T, blank)


def _states(strings: Tensor, sizes: Tensor, like: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the 2 S + 1 states: symbols, which lie behind the string's end, NOTHING where no state may be skipped."""
    states = 2 * strings.shape[2] + 1
    place = torch.arange(states, device=strings.device)[:, None, None]
    beyond = place > 2 * sizes
    symbols = strings.new_full((states, *sizes.shape), blank, dtype=torch.long)
    symbols[1::2] = strings.permute(2, 0, 1).long()
    symbols = symbols.masked_fill(beyond, blank)
    skips = (place % 2 == 1) & (place >= 3) & (symbols != symbols.roll(2, 0))
    return symbols, beyond, torch.where(skips, 0.0, NOTHING).to(like.dtype)


def _entered(here: Tensor, one: Tensor, two: Tensor, free_start: bool) -> Tensor:
    """Log-sum of staying and of coming from one and two states before; `two` is used up."""
    top = torch.maximum(torch.maximum(here, one), two)
    if free_start:
        top[1:2].clamp_min_(0.0)
    from_one = (one - top).clamp_min_(_LEAST)
    if free_start:  # the first symbol is entered at no cost
        from_one[1:2] = -top[1:2]
    total = (here - top).clamp_min_(_LEAST).exp_()
    total += from_one.exp_()
    total += two.sub_(top).clamp_min_(_LEAST).exp_()
    return total.log_().add_(top)


def _delayed(values: Tensor, first: Tensor) -> Tensor:
    """Values of the frame before, `first` (B, W) before the first."""
    return torch.cat([first[..., None], values[..., :-1]], -1)


def _recurrence(entering: Tensor, emitted: Tensor) -> Tensor:
    """r_t = (r_{t-1} (+) entering_t) + emitted_t over the last axis, with nothing before."""
    emitted = emitted.double().clamp_min(FLOOR)
    product = emitted.cumsum(-1)
    return ((entering - (product - emitted)).logcumsumexp(-1) + product).clamp_min(NOTHING)


def _exact(before: Tensor, x: Tensor) -> Tensor:
    """The same sums without leaving the log domain, one prefix at a time to bound memory."""
    rows = [(before[:, i, :, None] + x).logsumexp(1) for i in range(before.shape[1])]
    return torch.stack(rows, 1)
