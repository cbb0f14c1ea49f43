"""Muon for the hidden matrices and AdamW for everything else, as the one optimizer that a stage has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Polynomials a x + b x^3 + c x^5 that drive all singular values towards one, each the best after those before it
# (Polar Express, Amsel et al. 2025, arXiv 2505.16932, table 1).
_POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_MARGIN = 1.01  # the first polynomial leaves its range at one; rounding must not push a singular value over it
_LIKE_ADAMW = 0.2  # root mean square of an AdamW update (Liu et al. 2025, arXiv 2502.16982, section 2.2)


def orthogonalize(matrices: Tensor, iterations: int = 4) -> Tensor:
    """The orthogonal factor of each matrix's polar decomposition, roughly: U V^T of its U S V^T.

    Works on the smaller Gram matrix, and multiplies the long side only twice.

    Args:
        matrices: (N, R, C).
        iterations: 1 to 5; after four, singular values from a hundredth of the norm upwards lie around 0.4 to 1.6.

    Returns:
        (N, R, C).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / (_MARGIN * wide.norm(dim=(-2, -1), keepdim=True)).clamp_min(1e-12)
    gram = wide @ wide.mT
    factor = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    for index, (a, b, c) in enumerate(_POLYNOMIALS[:iterations]):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        factor = polynomial @ factor if index else polynomial
        if index < iterations - 1:
            gram = polynomial @ gram @ polynomial
    return (factor @ wide).mT if tall else factor @ wide


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with a "momentum" are stepped by Muon instead (Jordan et al. 2024, "Muon").

    Nesterov momentum, made orthogonal and scaled to the root mean square of an AdamW update, so that rates and decay
    mean the same in both. torch.optim.Muon does one matrix at a time in bfloat16, which costs four times as much on a
    CPU (docs/results.md); equal shapes go together here.

    Args:
        groups: parameter groups with "lr" and "weight_decay"; those for Muon hold matrices and have "momentum" too.
        betas: AdamW's.
        iterations: of the orthogonalization.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], iterations: int = 4) -> None:
        for group in groups:
            if "momentum" in group and any(parameter.ndim != 2 for parameter in group["params"]):
                raise ValueError("Muon steps matrices only")
        super().__init__(groups, betas=betas, fused=True)
        self._step_supports_amp_scaling = False  # a gradient scaler must unscale the matrices' gradients as well
        self.iterations = iterations

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step all groups."""
        loss = None
        if closure is not None:  # before the groups are parted: a closure that zeroes gradients means all of them
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if "momentum" in group:
                self._step_matrices(group)
        return loss

    @torch.no_grad()
    def _step_matrices(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in shapes.items():
            updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
            updates = orthogonalize(updates.float(), self.iterations) * (_LIKE_ADAMW * max(shape) ** 0.5)
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"])

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's look ahead along the running mean of the gradient."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW expects one in every state it loads
            state["mean"] = torch.zeros_like(parameter)
        state["step"] += 1
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)
