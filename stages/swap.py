"""Hot swaps: IA-SFT takes each newer encoder of the pre-training between two steps, without starting anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from kit.callbacks import Checkpoint
from kit.errors import KitError, UsageError
from kit.progress import say
from kit.runs import Run
from kit.snapshots import Pretraining, Snapshot, source_of

CLOCKS = ("lockstep", "free")


class EncoderSwap(L.Callback):
    """Keeps the frozen encoder of a stage up with the pre-training that it comes from.

    The steps before the last `final` share go beside pre-training, from the step of the first encoder to the last.
    With the "lockstep" clock each of them belongs to a step of pre-training, proportionally, takes the newest snapshot
    up to that, and waits while pre-training has not come so far: so a run beside pre-training and a replay of its
    snapshots afterwards give the same weights. With the "free" clock a step takes the newest snapshot that there is.
    Before the last `final` share of the steps, pre-training's own last encoder is taken, whatever its CKA, and waited
    for if need be. Optimizer state is not touched: the encoder has none here. run.json keeps the swaps.

    Args:
        final: share of the steps that are trained on the last encoder.
        clock: "lockstep" or "free".
        limit: at most so many swaps before the last one; None is no limit.
    """

    def __init__(self, final: float, clock: str = "lockstep", limit: int | None = None) -> None:
        if clock not in CLOCKS:
            raise UsageError(f"stage.callbacks.swap.clock={clock}: known are {', '.join(CLOCKS)}")
        if not 0 <= final <= 1:
            raise UsageError(f"stage.callbacks.swap.final={final}: it is a share of the steps, from 0 to 1")
        self.final, self.clock, self.limit = final, clock, limit
        self.swaps: list[list[int]] = []  # (step here, step of pre-training)
        self.loaded = 0
        self._refused: set[Path] = set()
        self._source: Pretraining | None = None
        self._begin = 0  # the step of pre-training at which this stage begins

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; the encoder's weights are in it anyway."""
        return {"swaps": self.swaps, "loaded": self.loaded}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the encoder of the checkpoint."""
        self.swaps, self.loaded = state_dict["swaps"], state_dict["loaded"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find the pre-training that the encoder comes from."""
        starts = Run(Path(trainer.default_root_dir)).notes().get("starts", {})
        found = next(filter(None, (source_of(Path(path)) for path in starts.values())), None)
        if found is None:
            say("its encoder has no pre-training run with snapshots any more: it stays as it is")
            return
        if self.clock == "free" and trainer.world_size > 1:
            raise UsageError("stage.callbacks.swap.clock=free: several processes must swap alike; write lockstep")
        self._source, self._begin = found
        self.loaded = self.loaded or self._begin

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int) -> None:
        """Swap, if it is time to."""
        if self._source is None or index % trainer.accumulate_grad_batches:
            return
        step, beside = trainer.global_step, round((1 - self.final) * trainer.max_steps)
        if step >= beside:
            self._swap_last(trainer, module, self._source)
            return
        place = self._source.total
        if self.clock == "lockstep":
            place = self._begin + (self._source.total - self._begin) * step // beside
            self._wait(trainer, module, self._source, place)
        self._swap(trainer, module, self._source, place)

    def _swap_last(self, trainer: L.Trainer, module: L.LightningModule, source: Pretraining) -> None:
        if self.loaded == source.total:
            return
        self._wait(trainer, module, source, source.total)
        self._take(source.last(), trainer, module)

    def _swap(self, trainer: L.Trainer, module: L.LightningModule, source: Pretraining, place: int) -> None:
        """Take the newest snapshot up to a step of pre-training that is neither older than ours nor refused."""
        if self.limit is not None and len(self.swaps) >= self.limit:
            return
        for snapshot in reversed(source.snapshots()):
            if snapshot.step <= self.loaded:
                return
            if snapshot.step <= place and self._fits(snapshot, trainer, module):
                return

    def _fits(self, snapshot: Snapshot, trainer: L.Trainer, module: L.LightningModule) -> bool:
        if snapshot.path in self._refused:
            return False
        try:
            self._take(snapshot, trainer, module)
        except KitError as error:
            say(f"warning: {error}; it is not used")
            self._refused.add(snapshot.path)
            return False
        return True

    def _take(self, snapshot: Snapshot, trainer: L.Trainer, module: Any) -> None:
        snapshot.load_into(module.recognizer)
        self.loaded = snapshot.step
        self.swaps.append([trainer.global_step, snapshot.step])
        if trainer.is_global_zero:
            Run(Path(trainer.default_root_dir)).note(swaps=self.swaps)
        say(f"{module.config.stage.name} {trainer.global_step}: encoder of pre-training's step {snapshot.step}")
        module.log("encoder_step", float(snapshot.step), batch_size=1, rank_zero_only=True)

    def _wait(self, trainer: L.Trainer, module: L.LightningModule, source: Pretraining, place: int) -> None:
        """Wait until pre-training has come to `place`; to its end, where that is its last step."""

        def there() -> bool:
            return source.finished or (source.step >= place and place < source.total)

        if trainer.strategy.broadcast(there()):  # all processes wait, or none
            return
        checkpoint = next(one for one in trainer.callbacks if isinstance(one, Checkpoint))  # type: ignore[attr-defined]
        with checkpoint.waiting(trainer, module):
            source.wait(there)
