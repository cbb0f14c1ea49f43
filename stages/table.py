"""What fixed utterances turn into while a stage trains, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit.decoding.offline import generate
from kit.errors import UsageError
from kit.files import write_text
from kit.model.recognizer import Recognizer
from kit.runs import Run

COLUMNS = ("step", "utterance", "said", "written")
_NAME = "hypotheses"


class HypothesisTable(L.Callback):
    """Lets the LLM alone write down fixed utterances of the dev part, by greedy decoding without hints.

    The table is in MLflow, and as tab-separated text in the run's figures. A resumed run goes on with it.

    Args:
        every: steps; the first and the last one are always in it.
        utterances: of the dev part.

    Raises:
        UsageError: a value below 1.
    """

    def __init__(self, every: int, utterances: int) -> None:
        for name, value in {"every": every, "utterances": utterances}.items():
            if value < 1:
                raise UsageError(f"stage.callbacks.table.{name}={value} must be at least 1")
        self.every, self.utterances = every, utterances
        self.rows: list[list[Any]] = []
        self._probe: list[SpeechBatch] = []

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.rows = [list(row) for row in state_dict["rows"]]

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """What the stage begins with."""
        self._look(trainer, module)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Look, if it is time to."""
        if trainer.global_step % self.every == 0 and (index + 1) % trainer.accumulate_grad_batches == 0:
            self._look(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        """What the stage ends with."""
        self._look(trainer, module)

    def _look(self, trainer: L.Trainer, module: Any) -> None:
        step, data = trainer.global_step, trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(data, SpeechData) or any(row[0] == step for row in self.rows):
            return
        self._probe = self._probe or data.probe(self.utterances)
        for batch in self._probe:
            texts = written(module.recognizer, batch.to(module.device), module.config.decoding.max_tokens)
            names = [cut.id for cut in batch.cuts]
            self.rows += [[step, *row] for row in zip(names, batch.texts, texts, strict=True)]
        self._tell(trainer)

    def _tell(self, trainer: L.Trainer) -> None:
        lines = ["\t".join(map(str, row)) for row in (COLUMNS, *self.rows)]
        write_text(Run(Path(trainer.default_root_dir)).path / "figures" / f"{_NAME}.tsv", "\n".join(lines) + "\n")
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table(_NAME, COLUMNS, self.rows)


@torch.inference_mode()
def written(recognizer: Recognizer, batch: SpeechBatch, max_tokens: int) -> list[str]:
    """What the LLM alone writes of a batch, the most probable token at each place."""
    frames, lengths = recognizer.encode(batch.features, batch.lengths)
    greedy = DictConfig({"max_tokens": max_tokens, "beam": 1, "unhinted": False})
    speech, sizes = recognizer.adaptor(frames, lengths)
    return generate(recognizer, speech, sizes, greedy)
