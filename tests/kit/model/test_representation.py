import math

import pytest
import torch

from kit.model.representation import (
    linear_cka,
    phoneme_probe,
    semantic_probe,
    sentence_vectors,
    spectral_entropy,
)


def by_definition(one, other):
    """Linear CKA from centered Gram matrices, as the paper writes it."""
    n = len(one)
    center = torch.eye(n, dtype=torch.float64) - 1 / n
    a, b = (center @ x.double() @ x.double().T @ center for x in (one, other))
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


# More frames than features, fewer, and different widths: both ways of computing it.
@pytest.mark.parametrize(("frames", "one", "other"), [(50, 4, 6), (5, 30, 20), (30, 3, 60), (2, 1, 1)])
def test_cka_equals_its_definition(frames, one, other):
    torch.manual_seed(frames)
    x, y = torch.randn(frames, one) + 3, torch.randn(frames, other)
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), rel=1e-10)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)


def test_cka_does_not_see_rotation_scale_and_shift():
    torch.manual_seed(0)
    x = torch.randn(40, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert linear_cka(x, 3.0 * x.double() @ rotation + 5) == pytest.approx(1.0, abs=1e-12)


def test_cka_of_large_numbers_is_computed_in_double():
    torch.manual_seed(0)
    x = torch.randn(60, 5) + 1e4
    y = torch.randn(60, 5) + 1e4
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), rel=1e-6)


def test_cka_of_nothing():
    assert linear_cka(torch.ones(5, 3), torch.randn(5, 3)) == 0.0
    with pytest.raises(ValueError, match="same frames"):
        linear_cka(torch.randn(5, 3), torch.randn(6, 3))
    with pytest.raises(ValueError, match="at least two"):
        linear_cka(torch.randn(1, 3), torch.randn(1, 3))


def test_spectral_entropy_of_one_direction_and_of_all():
    torch.manual_seed(0)
    line = torch.randn(100, 1) @ torch.randn(1, 10)
    assert spectral_entropy(line) == pytest.approx(0.0, abs=1e-6)
    orthogonal = torch.linalg.qr(torch.randn(100, 11))[0][:, :10]
    orthogonal = torch.linalg.qr(orthogonal - orthogonal.mean(0))[0]
    assert spectral_entropy(orthogonal) == pytest.approx(1.0, abs=1e-4)
    # Two directions of equal variance among ten.
    assert spectral_entropy(orthogonal[:, :2] @ torch.eye(2, 10)) == pytest.approx(math.log(2) / math.log(10), abs=1e-3)


def test_a_phoneme_probe_finds_what_is_linear_and_nothing_in_noise():
    torch.manual_seed(0)
    labels = torch.randint(3, 9, (600,))
    held_out = torch.arange(600) % 2 == 1
    readable = torch.nn.functional.one_hot(labels, 10).float() @ torch.randn(10, 12) + 0.1 * torch.randn(600, 12)
    assert phoneme_probe(readable, labels, held_out) > 0.99
    assert phoneme_probe(torch.randn(600, 12), labels, held_out) < 0.3


def test_a_semantic_probe_counts_only_what_phonemes_do_not_say():
    torch.manual_seed(0)
    held_out = torch.arange(400) % 4 == 0
    phonemes = torch.randint(0, 4, (400, 6)).float()
    meaning = torch.randn(400, 3)
    sentences = torch.cat([phonemes @ torch.randn(6, 3), 2 * meaning], 1)
    knows = meaning @ torch.randn(3, 8)
    repeats = phonemes @ torch.randn(6, 8)
    assert semantic_probe(knows, phonemes, sentences, held_out) > 0.2
    assert abs(semantic_probe(repeats, phonemes, sentences, held_out)) < 0.02
    assert semantic_probe(torch.randn(400, 8), phonemes, sentences, held_out) < 0.02


def test_sentences_of_the_same_words_lie_together():
    bags = torch.tensor([[2, 1, 0, 0, 1], [1, 2, 0, 0, 1], [0, 0, 1, 2, 1], [0, 0, 2, 1, 1]])
    vectors = torch.nn.functional.normalize(sentence_vectors(bags, 2))
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.9
    assert likeness[2, 3] > 0.9
    assert likeness[0, 2] < 0.5
