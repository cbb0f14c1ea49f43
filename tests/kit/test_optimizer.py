"""Muon beside torch's own, AdamW beside torch's own, and a state that survives saving."""

import copy
import math

import pytest
import torch
from torch import nn

from kit.optimizer import MuonAdamW, orthogonalize


@pytest.mark.parametrize("shape", [(3, 40, 160), (2, 160, 40), (4, 48, 48), (1, 1, 7)])
def test_orthogonalize_brings_singular_values_towards_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    exact_u, values, exact_v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalize(matrices, 5)
    found_values = torch.linalg.svdvals(found)
    large = values > 0.05 * values.max()
    assert found_values.max() < 1.3
    # A polynomial of the singular values keeps their vectors: in the exact basis the result is diagonal.
    inside = exact_u.mT @ found @ exact_v.mT
    diagonal = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    assert diagonal[large].min() > 0.7


def test_more_iterations_come_closer():
    torch.manual_seed(1)
    matrices = torch.randn(2, 30, 90, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    distances = [float((orthogonalize(matrices, count) - u @ v).norm()) for count in range(2, 6)]
    assert distances == sorted(distances, reverse=True)


def test_a_matrix_of_zeros_stays_zero():
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_matrices_step_as_torchs_muon_does():
    torch.manual_seed(2)
    ours = nn.Parameter(torch.randn(24, 96))
    theirs = nn.Parameter(ours.detach().clone())
    optimizer = MuonAdamW([{"params": [ours], "lr": 0.01, "weight_decay": 0.1, "momentum": 0.95}], (0.9, 0.98), 5)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        before = ours.detach().clone()
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
        theirs.data.copy_(before)
        optimizer.step()
        reference.step()
        ours_moved, theirs_moved = (ours - before).flatten(), (theirs - before).flatten()
        # Other polynomials and bfloat16 over there: the same direction, and a length between 0.7 and 1.2 of unit ones.
        assert torch.cosine_similarity(ours_moved, theirs_moved, dim=0) > 0.97
        assert 0.8 < (ours_moved.norm() / theirs_moved.norm()).item() < 1.4


def test_other_groups_step_as_adamw_does():
    torch.manual_seed(3)
    vector, matrix = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(4, 6))
    twin = nn.Parameter(vector.detach().clone())
    optimizer = MuonAdamW(
        [
            {"params": [vector], "lr": 0.1, "weight_decay": 0.2},
            {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9},
        ],
        (0.8, 0.9),
    )
    reference = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), fused=True)
    for _ in range(5):
        vector.grad, matrix.grad = torch.randn(5), torch.randn(4, 6)
        twin.grad = vector.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(vector, twin)
    assert len(optimizer.param_groups) == 2


def test_equal_shapes_together_step_as_each_alone():
    torch.manual_seed(4)
    values, gradients = torch.randn(3, 8, 12), torch.randn(3, 8, 12)

    def stepped(parameters):
        optimizer = MuonAdamW([{"params": parameters, "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}], (0.9, 0.9))
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.grad = gradient.clone()
        optimizer.step()
        return parameters

    together = stepped([nn.Parameter(value.clone()) for value in values])
    torch.testing.assert_close(together[0], stepped([nn.Parameter(values[0].clone())])[0])


def test_goes_on_from_a_saved_state():
    def make(parameters):
        return MuonAdamW(
            [
                {"params": parameters[:1], "lr": 0.05, "weight_decay": 0.1, "momentum": 0.9},
                {"params": parameters[1:], "lr": 0.05, "weight_decay": 0.0},
            ],
            (0.9, 0.98),
        )

    def go(parameters, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()

    torch.manual_seed(5)
    through = [nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(7))]
    stopped = copy.deepcopy(through)
    go(through, make(through), range(6))
    first = make(stopped)
    go(stopped, first, range(3))
    second = make(stopped)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    go(stopped, second, range(3, 6))
    assert all(torch.equal(one, other) for one, other in zip(through, stopped, strict=True))


def test_a_closure_runs_once_and_may_zero_all_gradients():
    matrix, vector = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(2))
    optimizer = MuonAdamW(
        [
            {"params": [matrix], "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9},
            {"params": [vector], "lr": 0.1, "weight_decay": 0.0},
        ],
        (0.9, 0.98),
    )
    gradients = []

    def closure():
        optimizer.zero_grad()
        loss = matrix.sum() + vector.sum()
        loss.backward()
        gradients.append([matrix.grad.clone(), vector.grad.clone()])
        return loss.item()

    before = [matrix.detach().clone(), vector.detach().clone()]
    with torch.no_grad():
        assert optimizer.step(closure) == 5.0
        optimizer.step(closure)
    assert len(gradients) == 2
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)  # nothing is left from the step before
    assert not torch.equal(before[0], matrix)
    assert not torch.equal(before[1], vector)


def test_refuses_a_vector():
    group = {"params": [nn.Parameter(torch.zeros(3))], "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}
    with pytest.raises(ValueError, match="matrices only"):
        MuonAdamW([group], (0.9, 0.98))


def test_descends_on_a_plain_problem():
    torch.manual_seed(6)
    goal, weight = torch.randn(10, 20), nn.Parameter(torch.zeros(10, 20))
    optimizer = MuonAdamW([{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "momentum": 0.9}], (0.9, 0.98))
    losses = []
    for _ in range(60):
        loss = (weight - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    assert math.isfinite(losses[-1])
