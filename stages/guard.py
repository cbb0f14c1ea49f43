"""Early stop: a policy that runs away from where it began is worth less than the one before it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from kit.errors import UsageError
from kit.progress import say
from kit.runs import Run

_NAMES = {"kl": "the divergence from the reference", "length": "the length", "mismatch": "the engine's mismatch"}
_FIGURES = {"kl": "kl", "length": "length_ratio", "mismatch": "mismatch"}  # where a stage tells of it


class RunawayGuard(L.Callback):
    """Looks every so many steps at the means of what the stage told since the last look.

    Where one is above its limit, or no number, training ends: with the weights of the last look at which all was
    well, which are in every checkpoint; run.json says when and why.

    Args:
        every: steps between two looks.
        kl: nats a token.
        length: mean length of the hypotheses, times that of the transcripts.
        mismatch: mean absolute difference of log-probabilities, engine against training.

    Raises:
        UsageError: a value that is not above 0.
    """

    def __init__(self, every: int, kl: float, length: float, mismatch: float) -> None:
        self.every, self.limits = every, {"kl": kl, "length": length, "mismatch": mismatch}
        for name, value in {"every": every, **self.limits}.items():
            if not value > 0:
                raise UsageError(f"stage.callbacks.guard.{name}={value} must be above 0")
        self.kept: dict[str, Tensor] = {}
        self.step = 0  # at which they were kept
        self.why = ""
        self._told: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"kept": self.kept, "step": self.step, "why": self.why, "told": self._told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on watching."""
        self.kept, self.step, self.why = state_dict["kept"], state_dict["step"], state_dict["why"]
        self._told = [list(row) for row in state_dict["told"]]

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """What the stage begins with is well; one that was ended stays so."""
        if not self.kept:
            self._keep(trainer, module)
        trainer.should_stop = trainer.should_stop or bool(self.why)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Remember what was told, and look when it is time."""
        self._told.append([module.told.get(figure, 0.0) for figure in _FIGURES.values()])
        if (index + 1) % trainer.accumulate_grad_batches == 0 and trainer.global_step % self.every == 0:
            self._look(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        """The steps since the last look."""
        self._look(trainer, module)

    def _look(self, trainer: L.Trainer, module: Any) -> None:
        if self.why or not self._told:
            return
        means = torch.tensor(self._told, dtype=torch.float64).mean(0).tolist()
        self._told = []
        bad = [
            f"{_NAMES[name]} is {mean:.3g}, above {self.limits[name]:g}"
            for name, mean in zip(_FIGURES, means, strict=True)
            if not mean <= self.limits[name]
        ]
        # All processes end together, whichever of them saw it.
        if not trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            self._keep(trainer, module)
            return
        self.why = f"step {trainer.global_step}: {', '.join(bad) or 'another process saw it run away'}"
        self._restore(module)
        trainer.should_stop = True
        if trainer.is_global_zero:
            Run(Path(trainer.default_root_dir)).note(ran_away=self.why, weights_of_step=self.step)
            name = module.config.stage.name
            say(f"stage {name} ran away: {self.why}; it ends with the weights of step {self.step}")
            say("to go further: a lower stage.optimizer.lr, a higher stage.kl, or higher stage.callbacks.guard limits")

    def _keep(self, trainer: L.Trainer, module: Any) -> None:
        self.step = trainer.global_step
        self.kept = {name: value.detach().cpu().clone() for name, value in _moving(module).items()}

    @torch.no_grad()
    def _restore(self, module: Any) -> None:
        for name, value in _moving(module).items():
            value.copy_(self.kept[name])


def _moving(module: Any) -> dict[str, Tensor]:
    return {name: one for name, one in module.recognizer.named_parameters() if one.requires_grad}
