"""Everything about the kernels that needs a GPU, in one go and without network: `python -m kernels.on_gpu [FOLDER]`.

Correctness first: random ragged shapes, all gradients, fresh memory poisoned with NaN, errors held against those of
plain PyTorch in the same type. Then the benchmarks, whose providers are checked once more. Needs torch and triton only.
Exit code 1 if a check failed.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import benchmark
from kernels import chunk_attention as attention
from kernels import ctc_prefix as prefix
from kernels.ctc_prefix import reference

DEVICE = torch.device("cuda")
ctc_prefix: Any = prefix
ctc_reference: Any = reference
chunk_attention: Any = attention.chunk_attention
chunk_attention_stream: Any = attention.chunk_attention_stream
chunk_attention_reference: Any = attention.chunk_attention_reference
SLACK = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # of the largest value, beside the 2x rule


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory is NaN: what a kernel forgets to write shows."""
    plain = torch.empty

    def empty(*size: Any, **options: Any) -> Tensor:
        made = plain(*size, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    torch.empty = empty  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.empty = plain  # type: ignore[assignment]


def attention_case(seed: int, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, dict[str, int], Tensor]:
    """Tensors, lengths, chunking and the output's gradient of a random ragged shape."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    batch, heads, dim = number(1, 4), number(1, 4), (16, 32, 36, 64, 80, 128)[number(0, 5)]
    keys = (1, 15, 63, 64, 65, 111, 250, 500)[number(0, 7)]
    queries = keys if number(0, 2) else number(1, keys)
    chunk, left = number(0, 40), number(-1, 5)
    back = keys if chunk == 0 or left < 0 else min(keys, (left + 1) * chunk)
    rows = back - 1 + (queries if chunk == 0 else min(queries, chunk))
    shapes = [(batch, queries, heads, dim), *[(batch, keys, heads, dim)] * 2, (rows, heads, dim), *[(heads, dim)] * 2]
    tensors = [torch.randn(shape, generator=draw).to(DEVICE, dtype).requires_grad_() for shape in shapes]
    lengths = torch.randint(0, keys + 1, (batch,), generator=draw).to(DEVICE)
    grad = torch.randn(shapes[0], generator=draw).to(DEVICE, dtype)
    return tensors, lengths, {"chunk": chunk, "left": left, "far": back - 1}, grad


def check_attention(dtype: torch.dtype, seeds: range = range(24)) -> str:
    """Output and every gradient: no more than twice the error of plain PyTorch in the same type."""
    worst = 0.0
    for seed in seeds:
        tensors, lengths, options, grad = attention_case(seed, dtype)
        exact = [x.detach().double().requires_grad_() for x in tensors]

        def everything(inputs: list[Tensor], backend: str, given: Tensor = grad) -> list[Tensor]:
            out = chunk_attention(*inputs, lengths, **options, backend=backend)  # noqa: B023
            return [out.detach(), *torch.autograd.grad(out, inputs, given)]

        expected = everything(exact, "reference", grad.double())
        plain = everything(tensors, "reference")
        with poisoned():
            found = everything(tensors, "auto")
        for name, one, other, wanted in zip(("out", *"qkvtuw"), found, plain, expected, strict=True):
            error, allowed = ((x.double() - wanted).abs().max().item() for x in (one, other))
            limit = 2 * allowed + SLACK[dtype] * max(1.0, wanted.abs().max().item())
            assert error <= limit, f"seed {seed}, {name}: error {error:.2e}, PyTorch's {allowed:.2e}, {options}"
            worst = max(worst, error / limit)
    return f"{len(seeds)} shapes, at worst {worst:.2f} of what is allowed"


def check_determinism() -> str:
    """Twice the same input, twice the same bits."""
    for seed in range(6):
        tensors, lengths, options, grad = attention_case(seed, torch.float16)
        runs = [torch.autograd.grad(chunk_attention(*tensors, lengths, **options), tensors, grad) for _ in range(2)]
        assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True)), f"seed {seed}"
    return "6 shapes"


def check_streaming(graph: bool) -> str:
    """Chunk by chunk through the ring equals the whole pass; with `graph` by replaying one captured step."""
    chunk, left, batch, heads, dim, chunks = 16, 4, 3, 20, 64, 9
    draw, span, total = torch.Generator().manual_seed(7), 64, 144
    shapes = [*[(batch, total, heads, dim)] * 3, ((left + 2) * chunk - 1, heads, dim), *[(heads, dim)] * 2]
    q, k, v, table, u, w = (torch.randn(shape, generator=draw).to(DEVICE, torch.float16) for shape in shapes)
    lengths = torch.tensor([144, 100, 7], device=DEVICE, dtype=torch.int32)
    far = (left + 1) * chunk - 1
    exact = [x.double() for x in (q, k, v, table, u, w)]
    expected = chunk_attention_reference(*exact, lengths, chunk, left, far)
    rings = [torch.zeros(batch, span + chunk, heads, dim, dtype=q.dtype, device=DEVICE) for _ in range(2)]
    start, fresh = (torch.zeros(batch, dtype=torch.int32, device=DEVICE) for _ in range(2))
    slots = torch.arange(batch, dtype=torch.int32, device=DEVICE)
    pieces = [torch.zeros(batch, chunk, heads, dim, dtype=q.dtype, device=DEVICE) for _ in range(3)]

    def step() -> Tensor:
        out = chunk_attention_stream(*pieces, *rings, table, u, w, start, fresh, slots, span=span, far=far)
        start.add_(fresh)
        return out

    replay: Callable[[], Tensor] = step
    if graph:
        step()  # compiles; with nothing fresh it changes nothing
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            result = step()

        def replay() -> Tensor:
            captured.replay()
            return result

    worst = 0.0
    for index in range(chunks):
        for piece, whole in zip(pieces, (q, k, v), strict=True):
            piece.copy_(whole[:, index * chunk : (index + 1) * chunk])
        fresh.copy_((lengths - index * chunk).clamp(0, chunk))
        found = replay().double()
        for row in range(batch):
            size = int(fresh[row])
            wanted = expected[row, index * chunk : index * chunk + size]
            if size:
                worst = max(worst, (found[row, :size] - wanted).abs().max().item())
    assert worst < 6e-3, f"error {worst:.2e}"
    return f"{chunks} chunks, largest error {worst:.1e}"


def check_ctc() -> str:
    """All four operators against the recurrences in double."""
    worst = 0.0
    for seed in range(8):
        draw = torch.Generator().manual_seed(seed)
        batch, width, frames, symbols = 3, 5, (1, 17, 250, 1100)[seed % 4], 60 + 31 * seed
        exact = (3 * torch.randn(batch, frames, symbols, generator=draw).double()).log_softmax(-1).to(DEVICE)
        lengths = torch.randint(1, frames + 1, (batch,), generator=draw).to(DEVICE)

        def pick(high: int, *shape: int) -> Tensor:
            return torch.randint(1, high, shape, generator=draw).to(DEVICE)  # noqa: B023

        r_n, r_b = ctc_prefix.start(exact, lengths)
        last = torch.full((batch, 1), -1, device=DEVICE)
        first = torch.zeros(batch, width, dtype=torch.long, device=DEVICE)
        tokens = pick(symbols, batch, width)
        r_n, r_b = ctc_reference.extend(exact, lengths, r_n, r_b, last, first, tokens)
        states = (exact, lengths, r_n, r_b, tokens)
        single = [x.float() if x.is_floating_point() else x for x in states]
        parents, following = pick(width, batch, 4), pick(symbols, batch, 4)
        strings, sizes = pick(symbols, batch, 6, 9), pick(10, batch, 6)
        alphas = ctc_prefix.begin_strings(sizes, 9, exact)
        spotted = [row[0] for row in (pick(5, 1, 6) * 0, pick(frames + 1, 1, 6), strings, sizes)]
        expected = [
            ctc_reference.psi(*states),
            *ctc_reference.extend(*states, parents, following),
            *ctc_reference.forward_chunk(exact, lengths, strings, sizes, alphas),
            ctc_reference.spot(exact[0], *spotted)[0],
        ]
        with poisoned():
            found = [
                ctc_prefix.psi(*single),
                *ctc_prefix.extend(*single, parents, following),
                *ctc_prefix.forward_chunk(single[0], lengths, strings, sizes, alphas.float()),
                ctc_prefix.spot(single[0][0], *spotted)[0],
            ]
        for one, other in zip(found, expected, strict=True):
            possible = other > -5e3
            assert bool(torch.isfinite(one).all()), f"seed {seed}: not finite"
            error = ((one.double() - other).abs() / other.abs().clamp_min(1))[possible]
            worst = max(worst, error.max().item() if error.numel() else 0.0)
    assert worst < 1e-3, f"error {worst:.2e}"
    return f"8 shapes, largest error {worst:.1e}"


CHECKS: dict[str, Callable[[], str]] = {
    "attention fp32": lambda: check_attention(torch.float32),
    "attention fp16": lambda: check_attention(torch.float16),
    "attention bf16": lambda: check_attention(torch.bfloat16),
    "attention twice the same": check_determinism,
    "streaming": lambda: check_streaming(graph=False),
    "streaming, graph replay": lambda: check_streaming(graph=True),
    "ctc prefix": check_ctc,
}


def main() -> int:
    """Checks, benchmarks, summary."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "bench")
    if not torch.cuda.is_available():
        print("torch finds no GPU here", file=sys.stderr)
        return 1
    print(f"{benchmark.device_name(DEVICE)}, torch {torch.__version__}, commit {benchmark.commit() or 'unknown'}")
    failed = 0
    for name, check in CHECKS.items():
        begin = time.perf_counter()
        try:
            result = "ok      " + check()
        except Exception:  # one broken kernel must not hide what the others do
            failed += 1
            result = "FAILED  " + traceback.format_exc(limit=-3)
        print(f"{name:<26}{time.perf_counter() - begin:6.1f} s  {result}", flush=True)
    for name in benchmark.SUITES:
        rows = benchmark.run(benchmark.suite(name), DEVICE, seconds=0.5)
        benchmark.write(rows, folder / f"{name}.csv")
        for row in rows:
            numbers = ("ms_50", "graph_ms", "kernel_ms", "floor_ms", "speedup", "peak_mbytes")
            shown = "  ".join(f"{key} {row[key]:.4g}" for key in numbers if row.get(key) is not None)
            print(f"{row['case']:<40}{row['provider']:<10}{shown if row['correct'] else 'wrong: ' + str(row['error'])}")
            failed += row["provider"] == "ours" and not row["correct"]
    print("all checks passed" if not failed else f"{failed} checks failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
