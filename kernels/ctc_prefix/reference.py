"""CTC prefix scoring by its recurrences, frame by frame, as the toolkits do it. Any floating type, double included.

For a prefix g and a further symbol c, with h = g c and x_t the log-probabilities (Watanabe et al. 2017, "Hybrid
CTC/attention architecture", algorithm 2; Graves 2012):

    phi_t    = r^b_t(g)                       if c is the last symbol of g, else r^n_t(g) (+) r^b_t(g)
    r^n_t(h) = (r^n_{t-1}(h) (+) phi_{t-1}) + x_t(c)
    r^b_t(h) = (r^n_{t-1}(h) (+) r^b_{t-1}(h)) + x_t(blank)
    psi(h)   = (+)_t (phi_{t-1} + x_t(c))

(+) adds in the log domain; for the empty prefix phi_{-1} is 0 and elsewhere nothing. All logarithms are natural.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = -1e30  # the logarithm of a probability of zero; finite, so that differences are no NaN
FLOOR = -1e4  # log-probabilities are read as at least this
FAINT = -500.0  # what `spot` finds is told as at least this


def start(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> tuple[Tensor, Tensor]:
    """The empty prefix: r^n and r^b, both (B, 1, T)."""
    emitted = log_probs[:, :, blank].clamp_min(FLOOR).cumsum(1)
    inside = torch.arange(log_probs.shape[1], device=log_probs.device) < lengths[:, None]
    r_b = emitted.masked_fill(~inside, NOTHING)[:, None]
    return torch.full_like(r_b, NOTHING), r_b


def psi(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int = 0) -> Tensor:
    """(B, W, V): the log-probability that the string begins with the prefix and then the symbol.

    Args:
        log_probs: (B, T, V).
        lengths: (B,) frames.
        r_n, r_b: (B, W, T) of the prefixes.
        last: (B, W) last symbol of each prefix, -1 for the empty one.
    """
    batch, width, frames = r_n.shape
    symbols = log_probs.shape[2]
    x = log_probs.clamp_min(FLOOR)
    repeated = torch.arange(symbols, device=x.device) == last[..., None]  # (B, W, V)
    total = r_n.new_full((batch, width, symbols), NOTHING)
    before = torch.where(last < 0, 0.0, NOTHING).to(r_n.dtype)[..., None].expand_as(total)  # phi before frame 0
    for t in range(frames):
        inside = (t < lengths)[:, None, None]
        total = torch.where(inside, torch.logaddexp(total, before + x[:, None, t]), total)
        both = torch.logaddexp(r_n[:, :, t], r_b[:, :, t])
        before = torch.where(repeated, r_b[:, :, t, None], both[..., None])
    total = total.clamp_min(NOTHING)
    total[..., blank] = NOTHING
    return total


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
    """r^n and r^b (B, N, T) of the survivors: prefix `parents` (B, N) of each row, extended by `tokens` (B, N)."""
    frames = log_probs.shape[1]
    x = log_probs.clamp_min(FLOOR)
    index = parents.long()[..., None].expand(-1, -1, frames)
    parent_n, parent_b = r_n.gather(1, index), r_b.gather(1, index)
    parent_last = last.gather(1, parents.long())
    both = torch.logaddexp(parent_n, parent_b)
    phi = torch.where((parent_last == tokens)[..., None], parent_b, both)
    emitted = x.gather(2, tokens.long()[:, None].expand(-1, frames, -1)).transpose(1, 2)  # (B, N, T)
    silent = x[:, None, :, blank]
    begin = torch.where(parent_last < 0, 0.0, NOTHING).to(x.dtype)
    n, b = torch.full_like(begin, NOTHING), torch.full_like(begin, NOTHING)
    all_n, all_b = [], []
    for t in range(frames):
        inside = (t < lengths)[:, None]
        entering = phi[:, :, t - 1] if t else begin
        next_n = torch.logaddexp(n, entering) + emitted[:, :, t]
        next_b = torch.logaddexp(n, b) + silent[:, :, t]
        n = torch.where(inside, next_n, NOTHING).clamp_min(NOTHING)
        b = torch.where(inside, next_b, NOTHING).clamp_min(NOTHING)
        all_n.append(n)
        all_b.append(b)
    return torch.stack(all_n, -1), torch.stack(all_b, -1)


def begin_strings(sizes: Tensor, longest: int, like: Tensor) -> Tensor:
    """alphas (B, N, 2 S + 1) before the first frame: all probability on the blank before the first symbol."""
    alphas = like.new_full((*sizes.shape, 2 * longest + 1), NOTHING)
    alphas[..., 0] = 0.0
    return alphas


def forward_chunk(
    log_probs: Tensor,
    fresh: Tensor,
    strings: Tensor,
    sizes: Tensor,
    alphas: Tensor,
    free_start: bool = False,
    blank: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry whole strings over the next frames by the CTC forward recurrence (Graves et al. 2006, equations 6 to 8).

    Args:
        log_probs: (B, F, V) of the new frames.
        fresh: (B,) how many of them count.
        strings: (B, N, S) symbols.
        sizes: (B, N) their lengths.
        alphas: (B, N, 2 S + 1) from `begin_strings` or an earlier call.
        free_start: let a string begin at any frame, at no cost for what went before: to spot it.

    Returns:
        New alphas, and after each frame the log-probability of the string so far ending in its last symbol and in
        blank, r^n and r^b, both (B, N, F).
    """
    batch, count, longest = strings.shape
    x = log_probs.clamp_min(FLOOR)
    symbols = strings.new_full((batch, count, 2 * longest + 1), blank)
    symbols[..., 1::2] = strings
    place = torch.arange(2 * longest + 1, device=x.device)
    beyond = place > 2 * sizes[..., None]
    symbols = symbols.masked_fill(beyond, blank).long()
    skips = (place % 2 == 1) & (place >= 3) & (symbols != symbols.roll(2, -1))
    ends = 2 * sizes.long()[..., None]
    all_n, all_b = [], []
    for t in range(x.shape[1]):
        one = torch.cat([torch.full_like(alphas[..., :1], NOTHING), alphas[..., :-1]], -1)
        two = torch.cat([torch.full_like(alphas[..., :2], NOTHING), alphas[..., :-2]], -1)[..., : 2 * longest + 1]
        two = two.masked_fill(~skips, NOTHING)
        if free_start:
            one = one.masked_fill(place == 1, 0.0)
        entered = torch.logaddexp(torch.logaddexp(alphas, one), two)
        moved = entered + x[:, t].gather(1, symbols.flatten(1)).view_as(alphas)
        moved = moved.masked_fill(beyond, NOTHING).clamp_min(NOTHING)
        alphas = torch.where((t < fresh)[:, None, None], moved, alphas)
        all_n.append(alphas.gather(-1, (ends - 1).clamp_min(0))[..., 0].masked_fill(sizes == 0, NOTHING))
        all_b.append(alphas.gather(-1, ends)[..., 0])
    empty = x.new_zeros(batch, count, 0)
    return alphas, torch.stack(all_n, -1) if all_n else empty, torch.stack(all_b, -1) if all_b else empty


def total(alphas: Tensor, sizes: Tensor) -> Tensor:
    """(B, N): the log-probability of each string, should the utterance end here."""
    ends = 2 * sizes.long()[..., None]
    last = alphas.gather(-1, (ends - 1).clamp_min(0))[..., 0].masked_fill(sizes == 0, NOTHING)
    return torch.logaddexp(last, alphas.gather(-1, ends)[..., 0])


def spot(
    log_probs: Tensor, first: Tensor, count: Tensor, strings: Tensor, sizes: Tensor, blank: int = 0
) -> tuple[Tensor, Tensor]:
    """The stretch of frames that contains each string best, by `forward_chunk` with a free start.

    Args:
        log_probs: (T, V), not above 0.
        first, count: (N,) where to look for each string: frames [first, first + count).
        strings: (N, S) symbols.
        sizes: (N,) their lengths.

    Returns:
        (N,) the largest log-probability of the string ending at some frame, summed over where it begins and over all
        alignments, at least FAINT; and (N,) the frame behind that end, 0 for what is FAINT.
    """
    frames = torch.arange(int(count.max()) if len(count) else 0, device=log_probs.device)
    rows = (first[:, None] + torch.minimum(frames, count[:, None] - 1)).clamp(0, max(0, len(log_probs) - 1))
    alphas = begin_strings(sizes[:, None], strings.shape[1], log_probs)
    x = log_probs.clamp_max(0.0)[rows]
    _, at_last, _ = forward_chunk(x, count, strings[:, None], sizes[:, None], alphas, True, blank)
    if not len(frames):
        return log_probs.new_full(sizes.shape, FAINT), sizes.new_zeros(sizes.shape)
    score, end = at_last[:, 0].masked_fill(frames >= count[:, None], NOTHING).max(-1)
    heard = score > FAINT
    return torch.where(heard, score, FAINT), torch.where(heard, first + end + 1, 0)
