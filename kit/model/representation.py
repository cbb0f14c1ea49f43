"""What encoder frames hold: how near two encoders are (CKA), how rich they are, what a linear reader finds in them.

Linear CKA is that of Kornblith et al. 2019 (arXiv 1905.00414), which NIM4-ASR watches. The other three are this kit's
own definitions, in the spirit of the companion paper (arXiv 2604.08003), whose formulas are not public: compare them
with each other, not with the paper's figures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried for each probe, relative to the mean variance of its inputs


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear centered kernel alignment of two representations of the same N frames, in float64: 1 when one is a
    rotation, a scaling and a shift of the other, near 0 when they have nothing in common.

    <Ka, Kb> / sqrt(<Ka, Ka> <Kb, Kb>) for centered Gram matrices Ka, Kb (N, N). The inner products are also squared
    norms of products of centered features, (D, D) instead of (N, N): whichever is cheaper is computed.

    Args:
        one: (N, D); other: (N, E).

    Raises:
        ValueError: not the same number of frames, or fewer than two.
    """
    if one.shape[0] != other.shape[0] or one.shape[0] < 2:
        raise ValueError(f"CKA compares the same frames, at least two, not {one.shape[0]} and {other.shape[0]}")
    x, y = _centered(one), _centered(other)
    if _by_features(x.shape[0], x.shape[1], y.shape[1]):
        cross, own, theirs = (_squared(a.T @ b) for a, b in ((x, y), (x, x), (y, y)))
    else:
        grams = (x @ x.T, y @ y.T)
        cross, own, theirs = (
            float((a * b).sum()) for a, b in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1]))
        )
    return cross / math.sqrt(own * theirs) if own > 0 and theirs > 0 else 0.0


def spectral_entropy(frames: Tensor) -> float:
    """Entropy of the shares that the principal components of frames (N, D) have in the variance, over that of equal
    shares: 1 when all directions are used alike, 0 when there is but one. Our own normalization: log min(N - 1, D).
    """
    variances = torch.linalg.svdvals(_centered(frames)).square()
    shares = variances / variances.sum().clamp_min(1e-300)
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    return entropy / math.log(max(2, min(frames.shape[0] - 1, frames.shape[1])))


def phoneme_probe(frames: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """Share of held-out frames whose phoneme a linear reader (ridge regression to one-hot labels) finds.

    Args:
        frames: (N, D); labels: (N,) phoneme ids.
        held_out: (N,) bool: not to fit on but to count.
    """
    symbols, targets = labels.unique(return_inverse=True)
    wanted = torch.nn.functional.one_hot(targets, len(symbols)).double()
    found = _predicted(frames, wanted, held_out).argmax(1)
    return float((found == targets[held_out]).double().mean())


def semantic_probe(frames: Tensor, phonemes: Tensor, sentences: Tensor, held_out: Tensor) -> float:
    """How much better an utterance's frames and phonemes explain held-out sentences than its phonemes alone.

    The gain in explained variance of ridge regression onto sentence vectors. What a sentence says follows to a good
    part from which phonemes are in it; what remains is order and meaning.

    Args:
        frames: (U, D) mean frames of utterances; phonemes: (U, V) counts; sentences: (U, S) vectors.
        held_out: (U,) bool.
    """
    both = torch.cat([_standardized(frames, held_out), _standardized(phonemes, held_out)], 1)
    return _explained(both, sentences, held_out) - _explained(phonemes, sentences, held_out)


def sentence_vectors(bags: Tensor, size: int = 16) -> Tensor:
    """(U, W) counts of units in U sentences to their `size` first latent dimensions (LSA: log counts, inverse document
    frequency, singular value decomposition): (U, size).
    """
    documents = (bags > 0).double().sum(0)
    weighed = bags.double().log1p() * (len(bags) / documents.clamp_min(1)).log()
    left, values, _ = torch.linalg.svd(weighed, full_matrices=False)
    return (left * values)[:, :size]


def _by_features(frames: int, one: int, other: int) -> bool:
    """Whether three products of features cost less than two Gram matrices."""
    return one * other + one**2 + other**2 <= frames * (one + other)


def _centered(x: Tensor) -> Tensor:
    x = x.detach().double()
    return x - x.mean(0)


def _squared(x: Tensor) -> float:
    return float(x.square().sum())


def _standardized(x: Tensor, held_out: Tensor) -> Tensor:
    x = x.detach().double()
    kept = x[~held_out]
    return (x - kept.mean(0)) / kept.std(0).clamp_min(1e-6)


def _explained(inputs: Tensor, targets: Tensor, held_out: Tensor) -> float:
    """Share of the variance of held-out targets that ridge regression explains; may be negative."""
    wanted = targets[held_out].double()
    error = (wanted - _predicted(inputs, targets, held_out)).square().sum()
    return float(1 - error / (wanted - targets[~held_out].double().mean(0)).square().sum())


def _predicted(inputs: Tensor, targets: Tensor, held_out: Tensor) -> Tensor:
    """Ridge regression fitted on the rows that are not held out, on those that are: (held out, S).

    The ridge is the one of `_RIDGES` with the least generalized cross-validation error on the fitted rows.
    """
    x = _standardized(inputs, held_out)
    fitted, mean = x[~held_out], targets[~held_out].double().mean(0)
    y = targets[~held_out].double() - mean
    left, values, right = torch.linalg.svd(fitted, full_matrices=False)
    turned = left.T @ y

    def shrunk(ridge: float) -> Tensor:
        return values.square() / (values.square() + ridge * len(fitted))

    def error(ridge: float) -> float:
        residual = _squared(y - left @ (shrunk(ridge)[:, None] * turned))
        return residual / max(1e-9, 1 - float(shrunk(ridge).sum()) / len(fitted)) ** 2

    inverse = values / (values.square() + min(_RIDGES, key=error) * len(fitted))
    return x[held_out] @ (right.T @ (inverse[:, None] * turned)) + mean
