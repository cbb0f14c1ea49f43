import pytest
import torch
import torch.nn.functional as F

from kit.model.convolution import ChunkConvolution


def by_windows(layer, gated, chunk):
    """Each frame's own window, with what lies behind its chunk's end set to zero."""
    size, reach, kernel = gated.shape[1], layer.reach, layer.depthwise.weight[:, 0]  # (C, K)
    out = torch.zeros_like(gated)
    for t in range(size):
        end = min(size, (t // chunk + 1) * chunk)
        for tap in range(-reach, reach + 1):
            if 0 <= t + tap < end:
                out[:, t] += gated[:, t + tap] * kernel[:, tap + reach]
    return out


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("chunk", [1, 2, 5, 16])
@pytest.mark.parametrize("size", [1, 4, 16, 33])
def test_chunked_equals_windows(kernel, chunk, size):
    torch.manual_seed(kernel * 100 + chunk)
    layer = ChunkConvolution(6, kernel).double()
    x = torch.randn(2, size, 6, dtype=torch.float64)
    valid = torch.ones(2, size, 1, dtype=torch.bool)
    gated = layer._gate(x)
    expected = x + layer.reduce(F.silu(layer.depthwise_norm(by_windows(layer, gated, chunk))))
    torch.testing.assert_close(layer(x, valid, chunk), expected)


def test_whole_is_an_ordinary_convolution():
    torch.manual_seed(0)
    layer = ChunkConvolution(6, 7).double()
    gated = torch.randn(2, 20, 12, dtype=torch.float64)
    expected = F.conv1d(gated.mT, layer.depthwise.weight, padding=3, groups=12).mT
    torch.testing.assert_close(layer._whole(gated), expected)
