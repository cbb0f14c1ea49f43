"""Random inputs, and sums over all paths, that the tests of the kernels share."""

import itertools
import math

import torch

from kernels import ctc_prefix
from kernels.chunk_attention import chunk_attention_reference

NAMES = ("q", "k", "v", "table", "u", "w")


def inputs(batch, queries, keys, rows=None, heads=2, dim=4, seed=0, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)
    rows = keys + queries - 1 if rows is None else rows
    shapes = [(batch, queries, heads, dim), *[(batch, keys, heads, dim)] * 2, (rows, heads, dim), *[(heads, dim)] * 2]
    return [torch.randn(shape, generator=make, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def streamed(step, dtype=torch.float64, device="cpu", chunk=5, left=2, frames=(33, 23), seed=0):
    """Two streams of different length, chunk by chunk through rings 2 and 0 of 3, and the whole pass in double.

    Args:
        step: (q, k, v, ring_keys, ring_values, table, u, w, slots, start, fresh, span, far) to a chunk's output.
    """
    heads, dim, span, total = 2, 16, chunk * left, -(-max(frames) // chunk) * chunk
    far = (left + 1) * chunk - 1
    tensors = inputs(2, total, total, (left + 2) * chunk - 1, heads, dim, seed=seed, dtype=dtype)
    q, k, v, table, u, w = (x.detach().to(device) for x in tensors)
    lengths = torch.tensor(frames, dtype=torch.int32, device=device)
    expected = chunk_attention_reference(*[x.double() for x in (q, k, v, table, u, w)], lengths, chunk, left, far)
    rings = [torch.full((3, span + chunk + 1, heads, dim), 9.0, dtype=dtype, device=device) for _ in "kv"]
    slots, start = (torch.tensor(x, dtype=torch.int32, device=device) for x in ((2, 0), (0, 0, 0)))
    done = []
    for first in range(0, total, chunk):
        fresh = (lengths - first).clamp(0, chunk)
        pieces = [x[:, first : first + chunk].contiguous() for x in (q, k, v)]
        done.append(step(*pieces, *rings, table, u, w, slots, start, fresh, span, far))
        start[slots.long()] += fresh
    return torch.cat(done, 1), expected, frames


def random_log_probs(batch, frames, symbols, seed, sharp=2.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(batch, frames, symbols, generator=draw, dtype=torch.float64)).log_softmax(-1).to(dtype)


def prefix_states(module, log_probs, lengths, prefixes):
    """r_n, r_b, last of each row's prefixes (all of one length), one symbol after another."""
    r_n, r_b = ctc_prefix.start(log_probs, lengths)
    batch, width = len(prefixes), len(prefixes[0])
    r_n, r_b = (x.expand(-1, width, -1).contiguous() for x in (r_n, r_b))
    last = torch.full((batch, width), -1)
    parents = torch.arange(width).expand(batch, -1)
    for step in range(len(prefixes[0][0])):
        tokens = torch.tensor([[prefix[step] for prefix in row] for row in prefixes])
        r_n, r_b = module.extend(log_probs, lengths, r_n, r_b, last, parents, tokens)
        last = tokens
    return r_n, r_b, last


def random_strings(batch, count, longest, symbols, seed):
    draw = torch.Generator().manual_seed(seed)
    strings = torch.randint(1, symbols, (batch, count, longest), generator=draw)
    strings[0, 0, 1:2] = strings[0, 0, 0:1]  # a double letter
    return strings, torch.randint(1, longest + 1, (batch, count), generator=draw)


def collapse(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def said_best(log_probs, string, first, count):
    """The largest probability, over ends, of the paths that begin anywhere in the stretch and say just the string."""
    probabilities, best = log_probs.exp().tolist(), (0.0, 0)
    for end in range(first + 1, first + count + 1):
        total = 0.0
        for begin in range(first, end):
            for path in itertools.product({0, *string}, repeat=end - begin):
                if path[0] == string[0] and path[-1] == string[-1] and collapse(path) == string:
                    total += math.prod(probabilities[begin + i][symbol] for i, symbol in enumerate(path))
        best = max(best, (total, end))
    return best
