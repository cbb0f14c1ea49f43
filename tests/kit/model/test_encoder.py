"""The equality that guards the house: streaming gives the numbers of the masked offline pass."""

import pytest
import torch
from torch import nn

from kit.model.attention import RelativeAttention
from kit.model.encoder import WHOLE, Chunk, ConformerEncoder, chunk_features, draw_chunk
from kit.model.subsampling import CONTEXT, STRIDE, output_length


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = ConformerEncoder(bins=20, dim=16, heads=2, layers=3, kernel=7, channels=4).eval()
    for name, parameter in encoder.named_parameters():
        if "bias_" in name:  # zero at first; without them half of the attention would go untested
            torch.nn.init.normal_(parameter)
    encoder.set_normalization(torch.randn(20), torch.rand(20) + 0.5)
    return encoder


def stream(encoder, features, chunk, seed):
    """All frames of `features` (B, T, F) pushed in random pieces, empty ones too."""
    draw = torch.Generator().manual_seed(seed)
    cache, done, at = encoder.start(chunk, len(features)), [], 0
    while at < features.shape[1]:
        size = int(torch.randint(0, 90, (), generator=draw))
        frames, cache = encoder.stream(features[:, at : at + size], cache)
        done.append(frames)
        at += size
    frames, _ = encoder.stream(features[:, :0], cache, final=True)
    return torch.cat([*done, frames], 1)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [Chunk(16, 4), Chunk(8, -1), Chunk(1, 2), Chunk(5, 0), Chunk(25, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, 63, 64, 65, 66, 67, 68, 131, 300])
def test_streaming_equals_the_masked_pass(encoder, chunk, size):
    features = torch.randn(2, size, 20, generator=torch.Generator().manual_seed(size))
    whole, lengths, _ = encoder(features, torch.tensor([size, size]), chunk)
    pieces = stream(encoder, features, chunk, seed=size)
    assert pieces.shape == whole.shape
    assert lengths.tolist() == [whole.shape[1]] * 2
    assert (pieces - whole).abs().max() < 1e-4


@torch.inference_mode()
def test_one_maximal_chunk_is_the_whole_pass(encoder):
    features = torch.randn(1, 100, 20)
    whole, _, _ = encoder(features, torch.tensor([100]))
    pieces = stream(encoder, features, Chunk(1000), seed=1)
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [WHOLE, Chunk(8, 2), Chunk(3)])
def test_neither_padding_nor_neighbors_matter(encoder, chunk):
    features = torch.randn(3, 120, 20)
    lengths = torch.tensor([120, 61, 5])
    together, frames, _ = encoder(features, lengths, chunk)
    for row, size in enumerate(lengths.tolist()):
        alone, _, _ = encoder(features[row : row + 1, :size], lengths[row : row + 1], chunk)
        assert alone.shape[1] == frames[row] == output_length(size)
        torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_no_frame_sees_past_its_chunk(encoder):
    chunk, size = Chunk(4, 3), 160
    features = torch.randn(1, size, 20)
    before, _, _ = encoder(features, torch.tensor([size]), chunk)
    edge = 2 * chunk.frames  # the first frame of the third chunk
    reach = (edge - 1) * STRIDE + CONTEXT  # the last feature that frame edge - 1 may see
    changed = features.clone()
    changed[:, reach:] += 1
    after, _, _ = encoder(changed, torch.tensor([size]), chunk)
    assert torch.equal(before[:, :edge], after[:, :edge])
    assert not torch.allclose(before[:, edge:], after[:, edge:])


@torch.inference_mode()
def test_left_context_is_limited(encoder):
    """Only subsampling, convolutions and attention within `left` chunks a layer reach back."""
    features = torch.randn(1, 400, 20)
    chunk, layers = Chunk(4, 1), 3
    before, _, _ = encoder(features, torch.tensor([400]), chunk)
    changed = features.clone()
    changed[:, :40] += 1
    after, _, _ = encoder(changed, torch.tensor([400]), chunk)
    assert not torch.allclose(before[:, :10], after[:, :10])
    far = 10 + layers * (2 * chunk.frames + 3)
    torch.testing.assert_close(before[:, far:], after[:, far:])


@torch.inference_mode()
@pytest.mark.parametrize("left", [2, -1])
def test_streams_out_of_step_do_not_meet(encoder, left):
    """Three streams in two slots, a random one or both at a step, one after another: each as if alone."""
    chunk, draw = Chunk(4, left), torch.Generator().manual_seed(left)
    size = chunk_features(4)
    heard = [torch.randn(1, n, 20, generator=draw) for n in (150, 333, 97)]
    expected = [encoder(x, torch.tensor([x.shape[1]]), chunk)[0][0] for x in heard]
    cache, slots, found = encoder.start(chunk, 2), {0: 0, 1: 1}, {0: [], 1: [], 2: []}
    at = [0, 0, 0]
    while slots:
        busy = [s for s in slots if len(slots) == 1 or float(torch.rand((), generator=draw)) < 0.6]
        if not busy:
            continue
        pieces = [encoder.normalize(heard[s][:, at[s] : at[s] + size]) for s in busy]
        fresh = [min(4, output_length(heard[s].shape[1] - at[s])) for s in busy]
        batch = torch.cat([nn.functional.pad(x, (0, 0, 0, size - x.shape[1])) for x in pieces])
        counts = [torch.tensor(x, dtype=torch.int32) for x in (fresh, [slots[s] for s in busy])]
        frames = encoder.step(batch, cache, *counts)
        for row, s in enumerate(busy):
            found[s].append(frames[row, : fresh[row]])
            at[s] += 4 * STRIDE
            if at[s] >= heard[s].shape[1]:
                cache.reset([slots[s]])
                if s == 0:
                    slots[2] = slots[0]
                del slots[s]
    for s, wanted in enumerate(expected):
        torch.testing.assert_close(torch.cat(found[s]), wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_the_cache_of_a_limited_past_does_not_grow(encoder):
    cache = encoder.start(Chunk(4, 2))
    sizes = []
    for _ in range(30):
        _, cache = encoder.stream(torch.randn(1, 16, 20), cache)
        sizes.append(sum(x.numel() for m in cache.memory for x in (m.keys, m.values)) + cache.features.numel())
    assert max(sizes[3:]) == min(sizes[3:])


def test_gradients_reach_every_parameter(encoder):
    encoder.zero_grad()
    frames, _, _ = encoder(torch.randn(2, 90, 20), torch.tensor([90, 50]), Chunk(6, 2))
    frames.square().sum().backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a norm's bias on the keys adds the same to every score of a query; softmax cannot see it through content alone
    assert not [name for name in still if not name.endswith("norm_k.bias")]


def test_drawn_chunks_follow_the_recipe():
    torch.manual_seed(3)
    drawn = [draw_chunk(100) for _ in range(4000)]
    whole = sum(chunk.frames == 0 for chunk in drawn) / len(drawn)
    assert whole == pytest.approx(49 / 99, abs=0.03)  # c > L/2
    sizes = {chunk.frames for chunk in drawn if chunk.frames}
    assert sizes == set(range(1, 26))
    limited = [chunk for chunk in drawn if chunk.frames and chunk.left >= 0]
    assert all(chunk.left <= max(0, 99 // chunk.frames - 1) for chunk in limited)
    assert draw_chunk(1) == WHOLE


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"encoder.dim=10 is not a multiple of encoder.heads=4"):
        ConformerEncoder(bins=20, dim=10, heads=4, layers=1, kernel=7)
    with pytest.raises(ValueError, match="needs an odd size"):
        ConformerEncoder(bins=20, dim=8, heads=2, layers=1, kernel=6)


def test_folded_norms_are_three_norms():
    """One product for queries, keys and values gives what three norms and three projections give."""
    torch.manual_seed(0)
    layer = RelativeAttention(16, 2).double()
    for norm in (layer.norm_q, layer.norm_k, layer.norm_v):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    expected = [layer.q(layer.norm_q(x)), layer.k(layer.norm_k(x)), layer.v(layer.norm_v(x))]
    found = [part.flatten(2) for part in layer._parts(x, *layer._folded())]
    torch.testing.assert_close(found, expected)
