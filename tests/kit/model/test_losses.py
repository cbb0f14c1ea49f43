import itertools
import math

import pytest
import torch

from kit.errors import UsageError
from kit.model.losses import IGNORE, consistency_loss, ctc_loss, frame_loss


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


@pytest.mark.parametrize("size", [0, 3])
def test_an_utterance_without_symbols_counts_as_one(size):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3)
    lengths, none = torch.tensor([5, 4]), torch.zeros(2, dtype=torch.long)
    expected = sum(ctc_by_enumeration(row[:frames], []) for row, frames in zip(logits, (5, 4), strict=True)) / 2
    assert ctc_loss(logits, lengths, torch.zeros(2, size, dtype=torch.long), none).item() == pytest.approx(expected)
    views = torch.cat([logits, torch.randn(2, 5, 3)])
    frames = lengths.repeat(2)
    one = torch.ones(2, dtype=torch.long)
    assert consistency_loss(views, frames, none) == consistency_loss(views, frames, one)


def test_frame_loss_ignores_what_is_unknown_and_padding():
    logits = torch.randn(2, 6, 4)
    labels = torch.tensor([[1, 2, IGNORE, 0], [3, IGNORE, IGNORE, IGNORE]])
    picked = [logits[0, 0].log_softmax(-1)[1], logits[0, 1].log_softmax(-1)[2], logits[0, 3].log_softmax(-1)[0]]
    picked.append(logits[1, 0].log_softmax(-1)[3])
    assert frame_loss(logits, labels).item() == pytest.approx(-sum(picked).item() / 4, rel=1e-5)


def kl(target, other):
    return (target.softmax(-1) * (target.log_softmax(-1) - other.log_softmax(-1))).sum()


def test_consistency_equals_its_definition():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 5, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    lengths, symbols = torch.tensor([6, 4]), torch.tensor([3, 2])
    expected = sum(0.5 * (kl(b[r, :n], a[r, :n]) + kl(a[r, :n], b[r, :n])) for r, n in enumerate(lengths.tolist())) / 5
    found = consistency_loss(torch.cat([a, b]), lengths.repeat(2), symbols)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert consistency_loss(torch.cat([a, a]), lengths.repeat(2), symbols).item() == pytest.approx(0.0, abs=1e-6)


def test_each_view_is_drawn_to_the_other_as_it_is():
    torch.manual_seed(0)
    a, b = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    both = torch.cat([a, b]).requires_grad_()
    consistency_loss(both, torch.tensor([4, 4]), torch.tensor([2])).backward()
    for one, other, gradient in [(a, b, both.grad[:1]), (b, a, both.grad[1:])]:
        expected = 0.5 * (one.softmax(-1) - other.softmax(-1)) / 2  # of KL(other || one) with the other held still
        torch.testing.assert_close(gradient, expected)


def test_the_consistency_of_padding_does_not_count():
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 4)
    lengths, symbols = torch.tensor([4, 4]), torch.tensor([1])
    before = consistency_loss(logits, lengths, symbols)
    logits[:, 4:] = torch.randn(2, 3, 4)
    assert torch.equal(before, consistency_loss(logits, lengths, symbols))


def test_backends_are_named():
    arguments = (torch.randn(1, 4, 3), torch.tensor([4]), torch.tensor([[1]]), torch.tensor([1]))
    with pytest.raises(UsageError, match="known are auto, torch, k2"):
        ctc_loss(*arguments, backend="warp")


def test_without_k2_torch_does_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = (torch.randn(1, 4, 3), torch.tensor([4]), torch.tensor([[1]]), torch.tensor([1]))
    assert torch.equal(ctc_loss(*arguments, backend="auto"), ctc_loss(*arguments, backend="torch"))
    with pytest.raises(UsageError, match="k2 is not installed"):
        ctc_loss(*arguments, backend="k2")


def test_k2_gives_the_same_numbers():
    pytest.importorskip("k2")
    torch.manual_seed(0)
    logits = torch.randn(3, 12, 6, requires_grad=True)
    # The last target cannot be said in so few frames: it counts for nothing with both.
    lengths, sizes = torch.tensor([9, 12, 3]), torch.tensor([3, 4, 3])
    targets = torch.tensor([[1, 2, 2, 0], [3, 4, 5, 1], [2, 2, 2, 0]])
    found, gradients = [], []
    for backend in ("torch", "k2"):
        loss = ctc_loss(logits, lengths, targets, sizes, backend=backend)
        gradients += torch.autograd.grad(loss, logits)
        found.append(loss)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
