"""The objective against a plain loop over tokens, against trl's own loss, and by what it must not do."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from kit.rl.objective import Objective, advantages_of, k3, off_policy_weights


def batch(seed=0, sequences=12, longest=9, apart=0.3):
    """Log-probabilities (N, L) of now, before and the reference, advantages (N,) and a mask of uneven lengths."""
    draw = torch.Generator().manual_seed(seed)
    now = -torch.rand(sequences, longest, generator=draw, dtype=torch.float64) * 3
    old, reference = (now + apart * torch.randn(now.shape, generator=draw, dtype=torch.float64) for _ in range(2))
    lengths = torch.randint(1, longest + 1, (sequences,), generator=draw)
    mask = torch.arange(longest) < lengths[:, None]
    advantages = torch.randn(sequences, generator=draw, dtype=torch.float64)
    return now.requires_grad_(), old, reference, advantages, mask


def by_loop(objective, now, old, reference, advantages, mask):
    """The definition, token by token."""
    high = objective.clip if objective.clip_high is None else objective.clip_high
    sums, counts = [], mask.sum(1).tolist()
    for row, advantage in enumerate(advantages.tolist()):
        ratios = [math.exp(now[row, t] - old[row, t]) for t in range(counts[row])]
        if objective.ratio == "sequence":
            ratios = [math.prod(ratios) ** (1 / len(ratios))] * len(ratios)
        total = 0.0
        for t, ratio in enumerate(ratios):
            clipped = min(max(ratio, 1 - objective.clip), 1 + high)
            apart = float(reference[row, t] - now[row, t])
            total += -min(ratio * advantage, clipped * advantage)
            total += objective.kl * (math.exp(apart) - apart - 1)
        sums.append(total)
    if objective.mean == "token":
        return sum(sums) / sum(counts)
    if objective.mean == "constant":
        return sum(sums) / (len(sums) * objective.longest)
    return sum(total / count for total, count in zip(sums, counts, strict=True)) / len(sums)


CASES = [
    Objective(clip=0.2, kl=0.04),
    Objective(clip=0.2, clip_high=0.28, mean="token"),
    Objective(clip=0.1, mean="constant", longest=16),
    Objective(clip=0.05, kl=0.1, ratio="sequence"),
    Objective(clip=0.05, mean="token", ratio="sequence"),
]


@pytest.mark.parametrize("objective", CASES, ids=str)
def test_the_loss_is_that_of_a_plain_loop(objective):
    now, old, reference, advantages, mask = batch()
    found, told = objective(now, old, advantages, mask, reference)
    assert found.item() == pytest.approx(by_loop(objective, now.detach(), old, reference, advantages, mask), rel=1e-10)
    assert told["clipped"] > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("loss", "mean", "high", "level"),
    [
        ("grpo", "sequence", 0.2, "token"),
        ("grpo", "sequence", 0.2, "sequence"),
        ("bnpo", "token", 0.2, "token"),
        ("dapo", "token", 0.28, "token"),
        ("dr_grpo", "constant", 0.2, "token"),
    ],
)
@pytest.mark.parametrize("corrected", [False, True])
def test_loss_gradient_and_figures_are_those_of_trl(loss, mean, high, level, beta, corrected, seed):
    """With trl's own trainer code, unchanged, on log-probabilities that are given to it."""
    trainer_class = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    now, old, reference, advantages, mask = batch(seed)
    weights = off_policy_weights(old + 0.1, old, 1.05).clone() if corrected else None
    theirs = now.detach().clone().requires_grad_()
    trainer = stand_in(loss, level, beta, high, theirs, corrected)
    inputs = {
        "prompt_ids": torch.zeros(len(now), 1),
        "prompt_mask": torch.ones(len(now), 1),
        "completion_ids": torch.zeros(now.shape),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "importance_sampling_ratio": weights,
        "num_items_in_batch": mask.sum(),
    }
    wanted = trainer_class._compute_loss(trainer, None, inputs)
    objective = Objective(0.2, high, beta, mean, level, longest=16)
    found, told = objective(now, old, advantages, mask, reference if beta else None, weights)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*torch.autograd.grad(found, now), *torch.autograd.grad(wanted, theirs))
    figures = trainer._metrics["train"]
    if level == "token":
        assert told["clipped"].item() == pytest.approx(figures["clip_ratio/region_mean"][0], rel=1e-5)
    assert ("kl" in told) == bool(beta)
    if beta:
        assert told["kl"].item() == pytest.approx(figures["kl"][0], rel=1e-5)


def stand_in(loss, level, beta, high, log_probs, corrected):
    """What of a trainer its loss looks at; one process, no accumulation."""
    alone = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        loss_type=loss,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=high,
        max_completion_length=16,
        use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        accelerator=alone,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
    )


def test_advantages_are_those_of_the_group():
    rewards = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    found = advantages_of(rewards)
    wanted = [(x - 3) / (torch.tensor([1.0, 2.0, 3.0, 6.0]).std().item() + 1e-4) for x in (1, 2, 3, 6)]
    assert found[0].tolist() == pytest.approx(wanted)
    assert found[1].tolist() == [0, 0, 0, 0], "nothing to learn where all are alike"
    assert advantages_of(rewards, normalize=False)[0].tolist() == [-2, -1, 0, 3]


def test_on_policy_the_gradient_is_the_advantage_times_that_of_the_log_probability():
    now, _, _, advantages, mask = batch()
    loss, told = Objective()(now, now.detach(), advantages, mask)
    (gradient,) = torch.autograd.grad(loss, now)
    wanted = -(advantages / len(advantages) / mask.sum(1))[:, None] * mask
    torch.testing.assert_close(gradient, wanted)
    assert told["clipped"] == 0


@pytest.mark.parametrize("mean", ["sequence", "token", "constant"])
def test_what_stands_behind_a_sequence_counts_for_nothing(mean):
    now, old, reference, advantages, mask = batch()
    objective = Objective(kl=0.1, mean=mean, longest=9)
    found, _ = objective(now, old, advantages, mask, reference)
    other, _ = objective(now + 5.0 * ~mask, old - 3.0 * ~mask, advantages, mask, reference + 1.0 * ~mask)
    assert found.item() == pytest.approx(other.item(), rel=1e-12)


def test_a_clipped_token_has_no_gradient_and_one_that_is_to_come_back_has():
    old = torch.zeros(4, 1)
    now = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, told = Objective(clip=0.2)(now, old, advantages, torch.ones(4, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, now)
    assert (gradient[:, 0] != 0).tolist() == [False, True, True, False]
    assert told["clipped"] == 0.5


def test_the_divergence_is_that_of_the_distributions():
    """k3 under the policy has the divergence as its mean, and is nowhere negative."""
    torch.manual_seed(0)
    now, reference = torch.randn(2, 6, dtype=torch.float64).log_softmax(-1)
    exact = (now.exp() * (now - reference)).sum()
    assert (now.exp() * k3(now, reference)).sum().item() == pytest.approx(exact.item(), rel=1e-10)
    assert (k3(now, reference) >= 0).all()


def test_weights_of_an_engine_that_is_a_little_off_are_capped():
    weights = off_policy_weights(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.1, -1.0]]), 2.0)
    assert weights[0].tolist() == pytest.approx([math.exp(-0.1), 2.0])
