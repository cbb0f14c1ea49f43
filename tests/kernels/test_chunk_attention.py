import math

import pytest
import torch

from kernels.chunk_attention import chunk_attention, chunk_mask


def attention_by_loops(q, k, v, table, u, w, mask):
    """The definition, one pair of positions at a time, in double."""
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
                    [
                        (q[b, i, h] + u[h]) @ k[b, j, h] + (q[b, i, h] + w[h]) @ table[keys - 1 - (place - j), h]
                        for j in seen
                    ]
                )
                weight = (score / math.sqrt(dim)).softmax(0)
                out[b, i, h] = sum(p * v[b, j, h] for p, j in zip(weight, seen, strict=True))
    return out


def inputs(batch, queries, keys, heads=2, dim=4, seed=0):
    make = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=make, dtype=torch.float64, requires_grad=True)

    shapes = [(batch, queries, heads, dim)] + [(batch, keys, heads, dim)] * 2
    return [
        *(draw(*shape) for shape in shapes),
        draw(keys + queries - 1, heads, dim),
        draw(heads, dim),
        draw(heads, dim),
    ]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (1, 7), (3, 8), (6, 6)])
def test_equals_the_definition(queries, keys):
    tensors = inputs(2, queries, keys, seed=queries * 10 + keys)
    mask = torch.rand(2, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.7
    torch.testing.assert_close(chunk_attention(*tensors, mask), attention_by_loops(*tensors, mask))


def test_a_query_that_sees_nothing_gets_zero():
    tensors = inputs(1, 3, 3)
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[0, 1] = False
    assert chunk_attention(*tensors, mask)[0, 1].abs().max() == 0


def test_no_mask_is_a_full_mask():
    tensors = inputs(2, 4, 6)
    full = torch.ones(2, 4, 6, dtype=torch.bool)
    torch.testing.assert_close(chunk_attention(*tensors), chunk_attention(*tensors, full))


def test_gradients_of_every_input():
    tensors = inputs(1, 3, 4, heads=1, dim=2)
    mask = torch.tensor([[[True, True, False, False], [True, True, True, True], [False, False, False, False]]])
    assert torch.autograd.gradcheck(lambda *args: chunk_attention(*args, mask), tensors)


def test_a_table_of_the_wrong_size_is_refused():
    q, k, v, table, u, w = inputs(1, 3, 3)
    with pytest.raises(ValueError, match="table has 4 rows, but 3 queries on 3 keys need 5"):
        chunk_attention(q, k, v, table[:4], u, w)


@pytest.mark.parametrize("seed", range(6))
def test_mask_against_its_definition(seed):
    draw = torch.Generator().manual_seed(seed)
    size = int(torch.randint(1, 40, (), generator=draw))
    chunk = int(torch.randint(0, 12, (), generator=draw))
    left = int(torch.randint(-1, 4, (), generator=draw))
    lengths = torch.randint(0, size + 1, (3,), generator=draw)
    mask = chunk_mask(size, lengths, chunk, left)
    for b in range(3):
        for i in range(size):
            for j in range(size):
                visible = j < lengths[b]
                if chunk:
                    ahead = i // chunk - j // chunk
                    visible = visible and ahead >= 0 and (left < 0 or ahead <= left)
                assert mask[b, i, j] == visible
