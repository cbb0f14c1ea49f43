"""Callbacks of the training loop: exact seeds, checkpoints, timing, one line of progress."""

from __future__ import annotations

import hashlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kit.checkpoints import save_checkpoint
from kit.distributed import local
from kit.errors import KitError
from kit.interrupts import Interrupted, Interrupts
from kit.progress import say


class Clock(L.Callback):
    """Measures how long training took and which share of it waited for data; goes on counting when resumed.

    Stands first among the callbacks; whoever takes long between two steps calls `skip`.
    """

    def __init__(self, log_every: int, now: Callable[[], float] = time.perf_counter) -> None:
        self.log_every, self.now = log_every, now
        self.busy, self.waited = 0.0, 0.0
        self.before = 0.0  # seconds of earlier sessions of a resumed run
        self._mark = now()
        self._logged = (0.0, 0.0)

    @property
    def seconds(self) -> float:
        """Spent in steps and in waiting for their batches; validation and checkpoints are not in it."""
        return self.busy + self.waited

    @property
    def data_share(self) -> float:
        """Share of the time that waited for data."""
        return self.waited / self.seconds if self.seconds else 0.0

    def skip(self) -> None:
        """What happened since the last step counts for nothing."""
        self._mark = self.now()

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint."""
        return {"busy": self.busy, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting."""
        self.busy, self.waited = self._logged = (state_dict["busy"], state_dict["waited"])
        self.before = self.seconds

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The wait for the first batch counts too."""
        self.skip()

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        """A batch is there."""
        self.waited += self._lap()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """A batch is done."""
        self.busy += self._lap()
        if trainer.global_step and trainer.global_step % self.log_every == 0:
            self._log(module)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Validation is no waiting."""
        self.skip()

    def _lap(self) -> float:
        before, self._mark = self._mark, self.now()
        return self._mark - before

    def _log(self, module: L.LightningModule) -> None:
        busy, waited = self.busy - self._logged[0], self.waited - self._logged[1]
        self._logged = (self.busy, self.waited)
        if busy + waited > 0:
            module.log("train/data_share", waited / (busy + waited), batch_size=1)


class StepSeed(L.Callback):
    """Seeds every training step from (seed, stage, step), so that a resumed run draws the same numbers without keeping
    the state of any generator.
    """

    def __init__(self, seed: int, stage: str) -> None:
        self.seed, self.stage = seed, stage

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        """Just before the step; the step's own batch is drawn already."""
        place = f"{self.seed} {self.stage} {trainer.global_step} {index % trainer.accumulate_grad_batches}"
        drawn = int.from_bytes(hashlib.sha256(f"{place} {trainer.global_rank}".encode()).digest()[:4], "big")
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)


class Checkpoint(L.Callback):
    """Saves `path` every `every` optimizer steps, at the end, and when a signal asks to stop.

    A disk that takes no checkpoint is worth a warning, not the training: the checkpoint before stays as it was.
    """

    def __init__(self, path: Path, every: int, interrupts: Interrupts, clock: Clock) -> None:
        self.path, self.every, self.interrupts, self.clock = path, every, interrupts, clock
        self.saved = self._tried = 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """From here a signal waits for the end of the step."""
        self.interrupts.listen()  # Lightning's own handler waits for other processes, in the middle of whatever it is
        self.saved = self._tried = trainer.global_step
        self.interrupts.patient = True

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Keep the position in the data, save when it is time, and stop when asked to."""
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None and hasattr(batch, "position"):
            # That of the last batch trained on: a loader has read further ahead.
            datamodule.position = batch.position
        if (index + 1) % trainer.accumulate_grad_batches:
            return
        stop = self._asked_to_stop(trainer)
        if stop or trainer.global_step - self._tried >= self.every:
            self.save(trainer, module)
        if stop:
            raise Interrupted(stop)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """A signal is heard here as before."""
        self.interrupts.listen()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The last step's checkpoint; what comes after training may still fail."""
        self.interrupts.patient = False
        if trainer.global_step > self.saved:
            self.save(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """No more patience."""
        self.interrupts.patient = False

    def _asked_to_stop(self, trainer: L.Trainer) -> int | None:
        """The signal that asked to stop; of several processes one hears it, and all stop after the same step."""
        pending = self.interrupts.pending
        stop = trainer.strategy.reduce_boolean_decision(pending is not None, all=False)
        return (pending or signal.SIGTERM) if stop else None

    @contextmanager
    def waiting(self, trainer: L.Trainer, module: L.LightningModule) -> Iterator[None]:
        """A wait between two steps, which a signal may end at once: what was trained before it is saved."""
        if trainer.global_step > self.saved:
            self.save(trainer, module)
        self.interrupts.patient = False
        try:
            if self.interrupts.pending:
                raise Interrupted(self.interrupts.pending)
            yield
        finally:
            self.interrupts.patient = True
            self.clock.skip()

    def save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save now; a full disk gives a warning. All processes of a training come here together.

        Raises:
            KitError: a trained parameter is no longer finite.
        """
        _check_finite(module, trainer.global_step, self.saved)
        self._tried = trainer.global_step
        try:
            save_checkpoint(trainer, self.path)
            written = True
        except KitError as error:
            trainer.strategy.barrier()  # where the processes that had nothing to write are waiting
            say(f"warning: {error}; training goes on, a restart would go back to step {self.saved}")
            written = False
        if trainer.strategy.reduce_boolean_decision(written):
            self.saved = trainer.global_step
        self.clock.skip()


def _check_finite(module: L.LightningModule, step: int, saved: int) -> None:
    for name, parameter in module.named_parameters():
        value = parameter.detach()
        if parameter.requires_grad and not bool(torch.isfinite(local(value)).all()):
            raise KitError(
                f"training broke down before step {step}: {name} is no longer finite; lower stage.optimizer.lr and "
                f"start again (the checkpoint of step {saved} is kept)"
            )


class Line(L.Callback):
    """One line a stage on standard error: step, loss, learning rate, time left.

    On a terminal a moving bar; elsewhere (a log file) a plain line at every tenth of the way.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._begun, self._first, self._shown = 0.0, 0, 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Show where training starts."""
        self._begun, self._first = time.perf_counter(), trainer.global_step
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, speed_estimate_period=120)
            self._task = self._bar.add_task(self.label, total=trainer.max_steps, completed=self._first, figures="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Show where training is."""
        step, tenth = trainer.global_step, max(1, trainer.max_steps // 10)
        if self._bar is not None:
            now = time.perf_counter()
            if (
                now - self._shown > 0.5 or step == trainer.max_steps
            ):  # not every step: reading a loss waits for the device
                self._shown = now
                self._bar.update(self._task, completed=step, figures=_figures(trainer, outputs))
        elif step % tenth == 0 and (index + 1) % trainer.accumulate_grad_batches == 0:
            left = (time.perf_counter() - self._begun) / (step - self._first) * (trainer.max_steps - step)
            say(f"{self.label} {step}/{trainer.max_steps} {_figures(trainer, outputs)} {duration(left)} left")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the last state standing."""
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Leave the last state standing."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _figures(trainer: L.Trainer, outputs: Any) -> str:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
    return f"loss {float(loss):.3f} lr {rate:.1e}" if loss is not None else f"lr {rate:.1e}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
