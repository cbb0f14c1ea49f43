"""The Triton kernels: in the interpreter where there is no GPU (fp32, fp16), and compiled for sm_90 ahead of time.

The interpreter computes bfloat16 products wrongly, so bfloat16 is left to a real GPU.
"""

import math

import pytest
import torch

# A masked score far above its row is raised to a power and thrown away.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp2")
GPU = torch.cuda.is_available()
triton = pytest.importorskip("triton")

from cases import NAMES, inputs, streamed

from kernels.chunk_attention import chunk_attention, chunk_attention_reference, triton_kernels

DEVICE = "cuda" if GPU else "cpu"
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if GPU else [])
TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}
# queries, keys, chunk, left, dim, lengths
CASES = {
    "chunks": (70, 70, 7, 2, 16, [70, 33]),
    "whole": (40, 40, 40, 0, 16, [40, 1]),
    "all to the left": (50, 50, 8, 50, 16, [50, 0]),
    "one frame": (1, 1, 1, 0, 16, [1, 1]),
    "chunk longer than all": (20, 20, 33, 1, 16, [20, 11]),
    "own chunk alone": (45, 45, 4, 0, 16, [45, 44]),
    "odd head": (37, 37, 16, 1, 36, [37, 30]),
    "cached keys": (9, 50, 50, 0, 16, [50, 47]),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    if not GPU:  # few large programs suit the interpreter, but small tiles try the seams
        tiles = {"forward": (16, 32, 4, 1), "query": (16, 32, 4, 1), "key": (16, 16, 4, 1), "table": (16, 32, 4, 1)}
        monkeypatch.setattr(triton_kernels, "TILES", tiles)
        monkeypatch.setattr(triton_kernels, "SPLITS", 2)


def poisoned(monkeypatch):
    """Make fresh memory NaN: what a kernel forgets to write shows."""

    def empty(*size, **options):
        return torch.full(size[0] if len(size) == 1 else size, math.nan, **options)

    monkeypatch.setattr(triton_kernels.torch, "empty", empty)


def arguments(case, dtype):
    queries, keys, chunk, left, dim, lengths = CASES[case]
    far = min(keys, (left + 1) * chunk) - 1
    rows = far + min(queries, chunk)
    tensors = inputs(2, queries, keys, rows, dim=dim, dtype=dtype, seed=len(case))
    return (
        [x.detach().to(DEVICE) for x in tensors],
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        chunk,
        left,
        far,
    )


def reference(tensors, *options, grad=None):
    """Output and gradients in double from the same rounded inputs."""
    exact = [x.double().requires_grad_() for x in tensors]
    out = chunk_attention_reference(*exact, *options)
    return out, torch.autograd.grad((out * grad.double()).sum(), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_forward_and_all_gradients(case, dtype, monkeypatch):
    tensors, lengths, chunk, left, far = arguments(case, dtype)
    grad = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    expected, wanted = reference(tensors, lengths, chunk, left, far, grad=grad)
    with monkeypatch.context() as patch:
        poisoned(patch)
        out, lse = triton_kernels.forward(*tensors, lengths, chunk, left, far)
        given = triton_kernels.backward(grad, *tensors, out, lse, lengths, chunk, left, far)
    assert out.dtype == dtype
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    for name, one, other in zip(NAMES, given, wanted, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(
            one.double() / scale, other / scale, atol=tolerance, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_lse_is_the_fast_paths():
    tensors, lengths, chunk, left, far = arguments("chunks", torch.float32)
    _, found = triton_kernels.forward(*tensors, lengths, chunk, left, far)
    _, expected = torch.ops.kit_kernels.chunk_attention(*tensors, lengths, chunk, left, far)
    seen = expected > -1e29
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-4, rtol=1e-4)
    assert (found[~seen] < -1e29).all()


def test_backward_gives_the_same_bits_twice():
    tensors, lengths, chunk, left, far = arguments("chunks", torch.float32)
    out, lse = triton_kernels.forward(*tensors, lengths, chunk, left, far)
    runs = [triton_kernels.backward(out, *tensors, out, lse, lengths, chunk, left, far) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_streaming_is_the_whole_pass(dtype):
    """Chunk by chunk through rings that wrap, two streams of different length: the same as all at once."""
    found, expected, lengths = streamed(triton_kernels.stream, dtype, DEVICE)
    for row, size in enumerate(lengths):
        torch.testing.assert_close(
            found[row, :size].double(), expected[row, :size], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]
        )
        assert found[row, size:].abs().max() == 0


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.gpu
def test_the_public_function_takes_the_gpu_path():
    tensors, lengths, chunk, left, _ = arguments("whole", torch.float16)
    found = chunk_attention(*tensors, lengths, chunk=chunk, left=left)
    expected = chunk_attention(*tensors, lengths, chunk=chunk, left=left, backend="reference")
    torch.testing.assert_close(found, expected, atol=6e-3, rtol=6e-3)
