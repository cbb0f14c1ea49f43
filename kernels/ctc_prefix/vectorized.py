"""The CPU path: no loop over frames for prefixes, a lean one over the chunk's frames for whole strings.

`psi` is a reduction over frames, and in the probability domain a matrix product. `extend` is a first-order recurrence
in the log semiring, so it is a cumulative log-sum-exp of its inputs divided by the product of the factors so far. Both
are computed in double, where dividing by such products costs nothing that single precision would show.
`forward_chunk` keeps states on the first axis, so that a step to the next state is a shift of one contiguous buffer.
`spot` does the same with probabilities, three operations a frame: nothing that it tells can get lost in double.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ctc_prefix.reference import FAINT, FLOOR, NOTHING

__all__ = ["extend", "forward_chunk", "psi", "spot"]

_LEAST = -60.0  # a summand this far below the largest is lost in double, too; the exponential of less is slow
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
    longest = strings.shape[1]
    symbols = strings.new_full((2 * longest - 1, len(strings)), blank, dtype=torch.long)
    beyond = torch.arange(longest, device=strings.device)[:, None] >= sizes
    symbols[::2] = strings.T.masked_fill(beyond, blank)
    skips = log_probs.new_zeros(symbols.shape, dtype=torch.double)
    skips[2::2] = symbols[2::2] != symbols[:-2:2]
    emitted = _emitted(log_probs, first, count, frames, symbols)
    # The state in front of the first symbol is always entered, and two in front of it there is nothing.
    states = skips.new_zeros(frames + 1, 2 * longest + 1, len(strings))
    states[:, 1] = 1.0
    two, one, here = (states[:, start : start + 2 * longest - 1].unbind(0) for start in range(3))
    entered = torch.empty_like(skips)
    for t, symbol in enumerate(emitted.unbind(0)):
        torch.addcmul(one[t], two[t], skips, out=entered)
        torch.mul(entered.add_(here[t]), symbol, out=here[t + 1])
    ends = (2 * sizes.long()).expand(frames, 1, -1)
    best, end = states[1:].gather(1, ends)[:, 0].max(0)
    score = best.log().masked_fill(sizes == 0, FAINT)
    heard = score > FAINT
    return torch.where(heard, score, FAINT).to(log_probs.dtype), torch.where(heard, first + end.to(first.dtype) + 1, 0)


def _emitted(log_probs: Tensor, first: Tensor, count: Tensor, frames: int, symbols: Tensor) -> Tensor:
    """(frames, states, N): probabilities of the states' symbols (states, N) in each string's frames; 0 behind them."""
    probabilities = torch.cat([log_probs.double().clamp_max(0.0).exp(), log_probs.new_zeros(1, log_probs.shape[1])])
    place = torch.arange(frames, device=first.device)[:, None]
    rows = torch.where(place < count, first + place, len(log_probs)).long() * log_probs.shape[1]
    places = rows[:, None] + symbols
    return probabilities.flatten().index_select(0, places.flatten()).view(places.shape)


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
