"""The reference that the policy is not to leave: the LLM as it was when the stage began."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from kit.model.lora import is_adapter, without_adapters
from kit.rl.policy import Prompts, Samples, score


class Reference:
    """Frozen. It reads the same speech embeddings as the policy, as in the paper: what encoder and adaptor learn is not
    held against them.

    No module, so that no checkpoint and no export has it. Where the LLM has adapters, only they move, and it is the
    LLM without them; otherwise a copy.

    Args:
        llm: the policy's, before any step.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self._adapted = any(is_adapter(name) for name, _ in llm.named_parameters())
        if not self._adapted:
            self.llm = deepcopy(llm).eval().requires_grad_(False)

    @torch.no_grad()
    def score(self, prompts: Prompts, samples: Samples, temperature: float) -> Tensor:
        """Log-probabilities (B, K, L) of hypotheses, 0 behind them."""
        if not self._adapted:
            self.llm.to(prompts.speech.device)
            return score(self.llm, prompts, samples, temperature)[0]
        with without_adapters(self.llm):
            return score(self.llm, prompts, samples, temperature)[0]
