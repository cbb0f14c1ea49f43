"""The Triton kernels against the recurrences: in the interpreter where there is no GPU."""

import math

import pytest
import torch

GPU = torch.cuda.is_available()
pytest.importorskip("triton")

from cases import prefix_states, random_log_probs, random_strings

from kernels import ctc_prefix
from kernels.ctc_prefix import reference, triton_kernels

DEVICE = "cuda" if GPU else "cpu"
PREFIXES = [[[()] * 2] * 2, [[(1,), (3,)], [(2,), (2,)]], [[(1, 1), (3, 2)], [(2, 5), (4, 4)]]]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory is NaN: what a kernel forgets to write shows."""

    def empty(*size, **options):
        return torch.full(size, math.nan, **options)

    monkeypatch.setattr(triton_kernels.torch, "empty", empty)


def on_device(*tensors):
    return [x.to(DEVICE) if x.is_floating_point() else x.to(DEVICE, torch.int32) for x in tensors]


def close(found, expected, dtype):
    assert found.dtype == dtype
    found, expected = found.cpu().double(), expected.double()
    possible = expected > -5e3  # below, sums of -1e4 differ in their rounding only
    torch.testing.assert_close(found[possible], expected[possible], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert (found[~possible] < -4e3).all()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "prefixes", [[[()] * 2] * 2, [[(1,), (3,)], [(2,), (2,)]], [[(1, 1), (3, 2)], [(2, 5), (4, 4)]]]
)
@pytest.mark.parametrize("frames", [1, 45])
def test_psi_and_extend(dtype, prefixes, frames, monkeypatch):
    log_probs = random_log_probs(2, frames, 70, seed=frames)
    lengths = torch.tensor([frames, max(1, frames - 9)])
    states = prefix_states(reference, log_probs, lengths, prefixes)
    inputs = on_device(log_probs.to(dtype), lengths, *[x.to(dtype) if x.is_floating_point() else x for x in states])
    close(triton_kernels.psi(*inputs), reference.psi(log_probs, lengths, *states), dtype)
    parents, tokens = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.tensor([[1, 3, 2], [2, 2, 69]])
    found = triton_kernels.extend(*inputs, *on_device(parents, tokens))
    expected = reference.extend(log_probs, lengths, *states, parents, tokens)
    for one, other in zip(found, expected, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("free_start", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_chunk_in_pieces(dtype, free_start):
    log_probs = random_log_probs(2, 21, 11, seed=4)
    lengths = torch.tensor([21, 16])
    strings, sizes = random_strings(2, 3, 5, 11, seed=4)
    sizes[1, 2] = 0
    expected = ctc_prefix.begin_strings(sizes, 5, log_probs)
    alphas = expected.to(DEVICE, dtype)
    for first, size in ((0, 8), (8, 5), (13, 8)):
        piece, fresh = log_probs[:, first : first + size], (lengths - first).clamp(0, size)
        expected, *traces = reference.forward_chunk(piece, fresh, strings, sizes, expected, free_start)
        alphas, *found = triton_kernels.forward_chunk(
            *on_device(piece.to(dtype).contiguous(), fresh, strings, sizes), alphas, free_start
        )
        close(alphas, expected, dtype)
        for one, other in zip(found, traces, strict=True):
            close(one, other, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_spot(dtype):
    log_probs = random_log_probs(1, 40, 11, seed=6)[0]
    strings, sizes = (x[0] for x in random_strings(1, 6, 5, 11, seed=6))
    sizes[-1] = 0
    first, count = torch.tensor([0, 3, 39, 10, 20, 5]), torch.tensor([40, 20, 1, 0, 20, 9])
    score, end = reference.spot(log_probs, first, count, strings, sizes)
    found, behind = triton_kernels.spot(*on_device(log_probs.to(dtype), first, count, strings, sizes))
    close(found, score, dtype)
    assert behind.tolist() == end.tolist()


def test_long_utterances_carry_over_blocks():
    """More frames than one scan holds."""
    log_probs, lengths = random_log_probs(1, 1100, 4, seed=2), torch.tensor([1090])
    states = prefix_states(reference, log_probs, lengths, [[(1, 2)]])
    inputs = on_device(log_probs, lengths, *states)
    parents, tokens = torch.tensor([[0]]), torch.tensor([[2]])
    found = triton_kernels.extend(*inputs, *on_device(parents, tokens))
    expected = reference.extend(log_probs, lengths, *states, parents, tokens)
    for one, other in zip(found, expected, strict=True):
        close(one, other, torch.float64)
