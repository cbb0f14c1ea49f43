"""The objective of group-relative policy optimization, on log-probabilities: advantages, ratios, clipping, divergence.

GRPO: Shao et al. 2024, arXiv 2402.03300. What the field changed since is a choice each:

- mean "token", and a wider clip upwards: DAPO, Yu et al. 2025, arXiv 2503.14476
- mean "constant", and advantages that are not divided by the deviation: Dr. GRPO, Liu et al. 2025, arXiv 2503.20783
- ratio "sequence": GSPO, Zheng et al. 2025, arXiv 2507.18071
- weights for samples of an engine whose probabilities are a little off: Yao et al. 2025, "Your Efficient RL Framework
  Secretly Brings You Off-Policy RL Training"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEANS = ("sequence", "token", "constant")
RATIOS = ("token", "sequence")
_LITTLE = 1e-4  # added to the deviation of a group; the paper gives none


@dataclass(frozen=True)
class Objective:
    """How the terms of the tokens are made and put together.

    Attributes:
        clip: how far below 1 a ratio counts.
        clip_high: how far above 1; None is as far as below.
        kl: weight of the divergence from the reference.
        mean: "sequence" takes the mean of each sequence and then of all, "token" that of all tokens, "constant"
            divides the sum by the number of sequences and `longest`, so that no length is favored.
        ratio: "token", or "sequence" for the geometric mean of those of a sequence.
        longest: tokens that a sequence may have, for the mean "constant".
    """

    clip: float = 0.2
    clip_high: float | None = None
    kl: float = 0.0
    mean: str = "sequence"
    ratio: str = "token"
    longest: int = 1

    def __call__(
        self,
        now: Tensor,
        old: Tensor,
        advantages: Tensor,
        mask: Tensor,
        reference: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of N sequences of up to L tokens, and what there is to tell of it.

        Args:
            now: (N, L) log-probabilities of the policy.
            old: (N, L) those under which the ratio is 1; no gradient flows through them.
            advantages: (N,) of the sequences.
            mask: (N, L) true where there is a token.
            reference: (N, L) log-probabilities of the reference; None leaves the divergence out.
            weights: (N, L) of the tokens; None for 1.

        Returns:
            the loss; and detached "kl" and "clipped" (the share of the tokens whose ratio counts for nothing).
        """
        ratio = self._ratios(now, old.detach(), mask)
        wanted = advantages[:, None]
        low, high = 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)
        terms = -torch.minimum(ratio * wanted, ratio.clamp(low, high) * wanted)
        terms = terms if weights is None else terms * weights
        outside = ((ratio < low) & (wanted < 0)) | ((ratio > high) & (wanted > 0))
        told = {"clipped": share(outside, mask)}
        if reference is not None:
            divergence = k3(now, reference)
            terms = terms + self.kl * divergence
            told["kl"] = share(divergence, mask).detach()
        return self.average(terms, mask), told

    def _ratios(self, now: Tensor, old: Tensor, mask: Tensor) -> Tensor:
        """(N, L), or (N, 1) where a sequence has but one."""
        difference = now - old
        if self.ratio == "sequence":
            difference = (difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
            # Each token gets the gradient of its sequence.
        return difference.exp().expand_as(now)

    def average(self, terms: Tensor, mask: Tensor) -> Tensor:
        """The loss of (N, L) terms."""
        terms = terms.masked_fill(~mask, 0.0)
        if self.mean == "token":
            return terms.sum() / mask.sum().clamp_min(1)
        if self.mean == "constant":
            return terms.sum() / (len(terms) * self.longest)
        return (terms.sum(1) / mask.sum(1).clamp_min(1)).mean()


def advantages_of(rewards: Tensor, normalize: bool = True) -> Tensor:
    """How much better than its group each of (B, K) rewards is: less the mean and, if so, in deviations of the group.

    A group whose rewards are all the same gives zeros.
    """
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / (rewards.std(1, keepdim=True) + _LITTLE) if normalize else centered


def k3(now: Tensor, reference: Tensor) -> Tensor:
    """Schulman's third estimator of the divergence from a reference, a token: exp(d) - d - 1, with d = reference - now.

    Never negative, and without bias where tokens are drawn from `now` (joschu.net/blog/kl-approx.html).
    """
    difference = reference - now
    return difference.exp() - difference - 1


def off_policy_weights(rollout: Tensor, trained: Tensor, cap: float) -> Tensor:
    """What makes up for samples of an engine that computes other probabilities: the ratio to them, at most `cap`.

    Args:
        rollout: (N, L) log-probabilities as the engine told them.
        trained: (N, L) those of the first training pass.
    """
    return (trained.detach() - rollout).exp().clamp_max(cap)


def share(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values (N, L) where the mask is true."""
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)
