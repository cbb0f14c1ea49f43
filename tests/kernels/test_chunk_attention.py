"""The definition against plain loops, the fast path against the definition, the operator against torch's own checks."""

import math

import pytest
import torch
from cases import NAMES, inputs, streamed
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.chunk_attention import chunk_attention, chunk_attention_stream, chunk_mask, tiles


def attention_by_loops(q, k, v, table, u, w, mask, far):
    """The definition, one pair of positions at a time."""
    batch, queries, heads, dim = q.shape
    keys = k.shape[1]
    out = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                seen = [j for j in range(keys) if mask[b, i, j]]
                if not seen:
                    continue
                place = keys - queries + i
                score = torch.stack(
                    [(q[b, i, h] + u[h]) @ k[b, j, h] + (q[b, i, h] + w[h]) @ table[far - (place - j), h] for j in seen]
                )
                weight = (score / math.sqrt(dim)).softmax(0)
                out[b, i, h] = sum(p * v[b, j, h] for p, j in zip(weight, seen, strict=True))
    return out


def random_case(seed):
    """Sizes, chunking, lengths and a table just as long as needed, or longer."""
    draw = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (), generator=draw))

    keys = number(1, 150)
    queries = keys if number(0, 2) else number(1, keys)
    chunk, left = number(0, 20), number(-1, 4)
    lengths = torch.randint(0, keys + 1, (2,), generator=draw)
    far = keys - 1 if chunk == 0 or left < 0 else min(keys, (left + 1) * chunk) - 1
    near = queries - 1 if chunk == 0 else min(queries, chunk) - 1
    surplus = number(0, 1) * number(0, 5)
    return queries, keys, {"lengths": lengths, "chunk": chunk, "left": left, "far": far}, far + near + 1 + surplus


def gradients(function, tensors, seed=3):
    out = function(*tensors)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return out, torch.autograd.grad((out * weight).sum(), tensors)


@pytest.mark.parametrize("seed", range(10))
def test_the_reference_is_the_definition(seed):
    queries, keys, options, rows = random_case(seed)
    queries, keys = min(queries, 12), min(keys, 12)
    keys = max(queries, keys)
    options["lengths"] = options["lengths"].clamp(max=keys)
    options["far"] = max(options["far"], keys - 1)
    tensors = inputs(2, queries, keys, rows + keys + queries, seed=seed)
    mask = chunk_mask(queries, keys, options["lengths"], options["chunk"], options["left"])
    found = chunk_attention(*tensors, **options, backend="reference")
    torch.testing.assert_close(found, attention_by_loops(*tensors, mask, options["far"]))


@pytest.mark.parametrize("seed", range(40))
def test_the_fast_path_is_the_reference(seed):
    queries, keys, options, rows = random_case(100 + seed)
    tensors = inputs(2, queries, keys, rows, seed=seed)
    expected, wanted = gradients(lambda *x: chunk_attention(*x, **options, backend="reference"), tensors)
    found, given = gradients(lambda *x: chunk_attention(*x, **options), tensors)
    torch.testing.assert_close(found, expected)
    for name, one, other in zip(NAMES, given, wanted, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"gradient of {name}: {text}")


def test_blocks_are_really_used():
    plan = tiles.layout(750, 750, 16, 4)
    assert plan.count == 24
    assert plan.window == 96
    assert tiles.layout(50, 50, 16, 4).count == 1


def largest_allocation(frames):
    """Bytes of the largest tensor made by a forward and backward pass."""
    tensors = inputs(1, frames, frames, 95, dtype=torch.float32)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for x in made if isinstance(made, tuple | list) else [made]:
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.untyped_storage().nbytes())
            return made

    with Watch():
        out = chunk_attention(*tensors, chunk=16, left=4, far=79)
        torch.autograd.grad(out.sum(), tensors)
    return largest


def test_memory_is_linear_in_time():
    assert largest_allocation(1920) <= 2 * largest_allocation(960)


def test_queries_that_see_nothing_get_zero():
    tensors = inputs(2, 70, 70)
    lengths = torch.tensor([0, 20])
    found, given = gradients(lambda *x: chunk_attention(*x, lengths=lengths, chunk=5, left=1), tensors)
    assert found[0].abs().max() == 0
    assert found[1, 30:].abs().max() == 0
    assert all(torch.isfinite(one).all() for one in given)
    assert given[1][1, 20:].abs().max() == 0  # padding gets no gradient


def test_gradients_of_the_reference():
    tensors = inputs(1, 3, 4, heads=1, dim=2)
    lengths = torch.tensor([3])
    options = {"lengths": lengths, "chunk": 2, "left": 0, "backend": "reference"}
    assert torch.autograd.gradcheck(lambda *args: chunk_attention(*args, **options), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_within_its_rounding(dtype):
    tensors = inputs(2, 90, 90, dim=16, dtype=dtype)
    exact = chunk_attention(*[x.double() for x in tensors], chunk=8, left=1, backend="reference")
    found = chunk_attention(*tensors, chunk=8, left=1)
    assert found.dtype == dtype
    plain = chunk_attention(*tensors, chunk=8, left=1, backend="reference")
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max()
    assert all(one.dtype == dtype for one in torch.autograd.grad(found.sum(), tensors))


def test_strided_tensors_work():
    q, k, v, *others = inputs(2, 40, 40)
    packed = torch.cat([q, k, v], -1).detach()
    views = packed.chunk(3, -1)
    torch.testing.assert_close(
        chunk_attention(*views, *others, chunk=4, left=1), chunk_attention(q, k, v, *others, chunk=4, left=1)
    )


def test_the_same_numbers_twice():
    tensors = inputs(2, 120, 120, dtype=torch.float32)

    def run():
        out = chunk_attention(*tensors, chunk=6, left=2)
        return out, *torch.autograd.grad(out.sum(), tensors)

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def stream_step(backend):
    def step(*tensors):
        *inputs, slots, start, fresh, span, far = tensors
        return chunk_attention_stream(*inputs, start, fresh, slots, span=span, far=far, backend=backend)

    return step


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("seed", range(8))
def test_streaming_is_the_whole_pass(seed, backend):
    draw = torch.Generator().manual_seed(seed)
    chunk, left, long, short = (int(torch.randint(low, 40, (), generator=draw)) % 12 + low for low in (1, 0, 1, 1))
    frames = (3 * long, short)
    found, expected, _ = streamed(stream_step(backend), chunk=chunk, left=left, frames=frames, seed=seed)
    for row, size in enumerate(frames):
        torch.testing.assert_close(found[row, :size], expected[row, :size])
        assert (found[row, size:] == 0).all()


def stream_arguments(dtype=torch.float32):
    q, k, v, table, u, w = (x.detach() for x in inputs(2, 4, 4, 15, dtype=dtype))
    rings = [torch.randn(3, 13, 2, 4, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2)]
    counts = [torch.tensor(x, dtype=torch.int32) for x in ((30, 0, 5), (4, 3), (2, 1))]
    return [q, k, v, *rings, table, u, w, *counts]


def test_streaming_keeps_the_chunk_in_its_ring_and_touches_nothing_else():
    arguments = stream_arguments()
    before = [ring.clone() for ring in arguments[3:5]]
    chunk_attention_stream(*arguments, span=8)
    for ring, kept, new in zip(arguments[3:5], before, arguments[1:3], strict=True):
        expected = kept.clone()
        for m in range(4):
            expected[2, (5 + m) % 13] = new[0, m]
        for m in range(3):
            expected[1, m] = new[1, m]
        ring[1, 3] = expected[1, 3]  # the place of the frame that is not there yet is free
        assert torch.equal(ring, expected)


def test_streaming_operator_checks():
    *tensors, start, fresh, slots = stream_arguments()
    arguments = (*tensors, slots, start, fresh, 8, 11)
    torch.library.opcheck(torch.ops.kit_kernels.chunk_attention_stream.default, arguments)


def test_streaming_compiles_whole():
    def step(*tensors):
        return chunk_attention_stream(*tensors, span=8)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    one, other = stream_arguments(), stream_arguments()
    torch.testing.assert_close(compiled(*one), step(*other))
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("place", "given", "message"),
    [
        (0, torch.zeros(2, 4, 2), r"q must be \(B, Tq, H, D\)"),
        (1, torch.zeros(2, 5, 2, 4), r"k must be \(2, 4, 2, 4\)"),
        (3, torch.zeros(3, 11, 2, 4), r"ring_keys must be \(N, S >= 12, 2, 4\)"),
        (4, torch.zeros(3, 14, 2, 4), "must have one shape and be contiguous"),
        (5, torch.zeros(14, 2, 4), "table has 14 rows .* needs 15"),
        (8, torch.zeros(2, dtype=torch.int32), r"start must be \(3,\)"),
        (9, torch.zeros(2), "fresh must be whole numbers"),
        (10, torch.zeros(3, dtype=torch.int32), r"slots must be \(2,\)"),
    ],
)
def test_a_wrong_streaming_argument_is_named(place, given, message):
    arguments = stream_arguments()
    arguments[place] = given
    with pytest.raises(ValueError, match=message):
        chunk_attention_stream(*arguments, span=8)


def test_streaming_says_that_it_has_no_gradient():
    arguments = stream_arguments()
    arguments[6].requires_grad_()
    with pytest.raises(ValueError, match="no gradient"):
        chunk_attention_stream(*arguments, span=8)


def test_operator_checks():
    tensors = [x.detach() for x in inputs(2, 40, 40, dtype=torch.float32)]
    arguments = (*tensors, torch.tensor([40, 17], dtype=torch.int32), 4, 1, 39)
    torch.library.opcheck(torch.ops.kit_kernels.chunk_attention.default, arguments)
    out, lse = torch.ops.kit_kernels.chunk_attention(*arguments)
    backward = (torch.randn_like(out), *tensors, out, lse, *arguments[6:])
    torch.library.opcheck(torch.ops.kit_kernels.chunk_attention_backward.default, backward)


def test_compiles_whole_for_any_length():
    compiled = torch.compile(
        lambda *x: chunk_attention(*x, chunk=4, left=1), backend="aot_eager", fullgraph=True, dynamic=True
    )
    for size in (90, 120, 143):
        tensors = inputs(2, size, size, dtype=torch.float32, seed=size)
        found, given = gradients(compiled, tensors)
        expected, wanted = gradients(lambda *x: chunk_attention(*x, chunk=4, left=1), tensors)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(given, wanted)


def test_exports():
    class Attend(nn.Module):
        def forward(self, *tensors):
            return chunk_attention(*tensors, chunk=4, left=1)

    tensors = tuple(x.detach() for x in inputs(1, 90, 90, dtype=torch.float32))
    program = torch.export.export(Attend(), tensors)
    assert any("chunk_attention" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*tensors), Attend()(*tensors))


def test_the_environment_can_ask_for_the_reference(monkeypatch):
    tensors = inputs(1, 8, 8)
    monkeypatch.setenv("KIT_KERNELS", "reference")
    monkeypatch.setattr(tiles, "forward", None)
    found = chunk_attention(*tensors)
    assert "ChunkAttention" not in type(found.grad_fn).__name__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (1, 5, 2)}, r"q must be \(B, Tq, H, D\)"),
        ({"k": (1, 3, 2, 4)}, r"k must be \(1, Tk >= 5, 2, 4\), not \(1, 3, 2, 4\)"),
        ({"v": (1, 5, 2, 3)}, r"v must be \(1, 5, 2, 4\), not \(1, 5, 2, 3\)"),
        ({"table": (9, 1, 4)}, r"table must be \(R, 2, 4\), not \(9, 1, 4\)"),
        ({"table": (8, 2, 4)}, r"table has 8 rows .* needs 9"),
        ({"u": (2, 5)}, r"u must be \(2, 4\)"),
        ({"w": (4,)}, r"w must be \(2, 4\)"),
    ],
)
def test_a_wrong_shape_is_named(change, message):
    tensors = dict(zip(NAMES, inputs(1, 5, 5), strict=True))
    tensors |= {name: torch.zeros(shape, dtype=torch.float64) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        chunk_attention(**tensors)


def test_other_wrong_arguments_are_named():
    tensors = inputs(1, 5, 5)
    with pytest.raises(ValueError, match="k is torch.float32, but q is torch.float64"):
        chunk_attention(tensors[0], tensors[1].float(), *tensors[2:])
    with pytest.raises(ValueError, match=r"lengths must be \(1,\)"):
        chunk_attention(*tensors, lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="backend='fast' is not one of auto, reference"):
        chunk_attention(*tensors, backend="fast")
    with pytest.raises(ValueError, match="u is on meta"):
        chunk_attention(*tensors[:4], tensors[4].to("meta"), tensors[5])
    with pytest.raises(ValueError, match="table begins with the distance 3 .* 4"):
        chunk_attention(*tensors, far=3)


@pytest.mark.parametrize("seed", range(6))
def test_mask_against_its_definition(seed):
    draw = torch.Generator().manual_seed(seed)
    keys = int(torch.randint(1, 40, (), generator=draw))
    queries = int(torch.randint(1, keys + 1, (), generator=draw))
    chunk = int(torch.randint(0, 12, (), generator=draw))
    left = int(torch.randint(-1, 4, (), generator=draw))
    lengths = torch.randint(0, keys + 1, (3,), generator=draw)
    mask = chunk_mask(queries, keys, lengths, chunk, left)
    for b in range(3):
        for i in range(queries):
            for j in range(keys):
                visible = j < lengths[b]
                if chunk:
                    ahead = (keys - queries + i) // chunk - j // chunk
                    visible = visible and ahead >= 0 and (left < 0 or ahead <= left)
                assert mask[b, i, j] == visible
