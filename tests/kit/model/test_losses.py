import itertools
import math

import pytest
import torch

from kit.model.losses import IGNORE, ctc_loss, frame_loss


def collapse(path):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]


def ctc_by_enumeration(logits, target):
    """Sum of the probabilities of all paths that spell the target."""
    scores = logits.double().log_softmax(-1)
    frames, symbols = logits.shape
    total = sum(
        math.exp(sum(scores[t, s].item() for t, s in enumerate(path)))
        for path in itertools.product(range(symbols), repeat=frames)
        if collapse(path) == target
    )
    return -math.log(total)


def test_ctc_equals_enumeration():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3)
    targets, sizes = torch.tensor([[1, 1], [2, 0]]), torch.tensor([2, 1])
    lengths = torch.tensor([5, 4])
    expected = (ctc_by_enumeration(logits[0], [1, 1]) + ctc_by_enumeration(logits[1, :4], [2])) / 3
    assert ctc_loss(logits, lengths, targets, sizes).item() == pytest.approx(expected, rel=1e-5)


def test_an_impossible_target_does_not_poison_the_batch():
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([2]), torch.tensor([[1, 1, 1]]), torch.tensor([3]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_frame_loss_ignores_what_is_unknown_and_padding():
    logits = torch.randn(2, 6, 4)
    labels = torch.tensor([[1, 2, IGNORE, 0], [3, IGNORE, IGNORE, IGNORE]])
    picked = [logits[0, 0].log_softmax(-1)[1], logits[0, 1].log_softmax(-1)[2], logits[0, 3].log_softmax(-1)[0]]
    picked.append(logits[1, 0].log_softmax(-1)[3])
    assert frame_loss(logits, labels).item() == pytest.approx(-sum(picked).item() / 4, rel=1e-5)
