"""The CKA watch of pre-training: when the encoder has moved on far enough, the stages after it get a new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.batch import SpeechBatch
from kit.errors import UsageError
from kit.files import remove_leftovers, write_atomic
from kit.model.encoder import ConformerEncoder
from kit.model.representation import linear_cka
from kit.progress import say
from kit.runs import Run
from kit.snapshots import FOLDER, note_progress, publish


@torch.no_grad()
def frames_of(encoder: ConformerEncoder, batches: Sequence[SpeechBatch]) -> list[Tensor]:
    """The frames (T', D) of every utterance of some batches, on the CPU, seen whole and without dropout."""
    device, training = encoder.mean.device, encoder.training
    encoder.eval()
    found = []
    for batch in batches:
        frames, lengths, _ = encoder(batch.features.to(device), batch.lengths.to(device))
        found += [row[:size].float().cpu() for row, size in zip(frames, lengths.tolist(), strict=True)]
    encoder.train(training)
    return found


class CkaWatch(L.Callback):
    """Compares the encoder's frames on a fixed set of utterances with those of a reference, by linear CKA.

    The reference is first taken after `start` of the steps. Whenever CKA falls below the threshold, the encoder is
    published as a snapshot and becomes the reference (NIM4-ASR: 0.975, reference after 500 k of 2 M steps, every 10 k).

    Args:
        start: share of the steps after which the first reference is taken.
        every: steps between two looks.
        threshold: CKA below which a snapshot is published.
        utterances: of the dev part that are compared.
    """

    def __init__(self, start: float, every: int, threshold: float, utterances: int) -> None:
        if every < 1 or utterances < 1:
            raise UsageError("stage.callbacks.watch: every and utterances must be at least 1")
        self.start, self.every, self.threshold, self.utterances = start, every, threshold, utterances
        self.reference: Tensor | None = None
        self.seen: list[list[float]] = []  # (step, CKA, whether it triggered)
        self._probe: list[SpeechBatch] = []

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"reference": self.reference, "seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on watching."""
        self.reference, self.seen = state_dict["reference"], state_dict["seen"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Let others see that there is something to wait for."""
        if trainer.is_global_zero:
            remove_leftovers(_run(trainer).path / FOLDER)  # of snapshots that a killed process was writing
            note_progress(_run(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Look, after every `every`th step."""
        step = trainer.global_step
        whole = (index + 1) % trainer.accumulate_grad_batches == 0
        if whole and step % self.every == 0 and trainer.is_global_zero:
            if step >= self.start * trainer.max_steps:
                self._look(trainer, module, step)
            note_progress(_run(trainer), step)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw what was seen."""
        if self.seen and trainer.is_global_zero:
            draw(_run(trainer).path / "figures" / "cka.svg", self.seen, self.threshold)

    def _look(self, trainer: L.Trainer, module: Any, step: int) -> None:
        if not self._probe:
            self._probe = trainer.datamodule.probe(self.utterances)  # type: ignore[attr-defined]
        frames = torch.cat(frames_of(module.recognizer.encoder, self._probe))
        if self.reference is None:
            self.reference = frames
            return
        cka = linear_cka(frames, self.reference)
        triggered = cka < self.threshold
        if triggered:
            publish(_run(trainer), module.recognizer, step, cka)
            self.reference = frames
            say(f"{module.config.stage.name} {step}: CKA {cka:.4f}, a new encoder for the stages after this one")
        self.seen.append([step, cka, float(triggered)])
        module.log("cka", cka, batch_size=1, rank_zero_only=True)


def draw(path: Path, seen: Sequence[Sequence[float]], threshold: float) -> None:
    """The CKA curve with its threshold, triggers marked, as SVG.

    Args:
        seen: rows of step, CKA, whether it triggered.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    steps, values, _ = zip(*seen, strict=True)
    marked = [row for row in seen if row[2]]
    axes.axhline(threshold, color="0.6", linewidth=1, linestyle="--", label=f"threshold {threshold:g}")
    axes.plot(steps, values, color="#1f77b4", linewidth=1.5, marker=".", label="CKA to the reference")
    axes.scatter(
        [row[0] for row in marked],
        [row[1] for row in marked],
        color="#d62728",
        zorder=3,
        label="snapshot, new reference",
    )
    axes.set(xlabel="step of pre-training", ylabel="linear CKA")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    FigureCanvasSVG(figure)
    write_atomic(path, lambda file: figure.savefig(file, format="svg"))


def _run(trainer: L.Trainer) -> Run:
    return Run(Path(trainer.default_root_dir))
