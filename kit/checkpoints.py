"""Checkpoints of running training: written whole or not at all, read without pickle's freedom."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy

from kit.errors import KitError
from kit.files import replace_folder, write_atomic, write_text

_STEP = "step"  # the file in a checkpoint that is a folder


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk: a checkpoint replaces the one before only when all of it is there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            KitError: the disk is full or not to be written; what stood at `path` is untouched.
        """
        write_atomic(path, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read tensors and plain values; whatever else stands in the file is refused.

        Raises:
            KitError: the file is missing, damaged, or holds more than tensors and plain values.
        """
        return _load(path, map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file if it is there."""
        Path(path).unlink(missing_ok=True)


def save_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Save what training needs to go on; what stood at `path` is replaced only when all of it is there.

    Mostly a file, by `AtomicCheckpointIO`. DeepSpeed writes a folder, to which every process adds its share.

    Raises:
        KitError: the disk is full or not to be written.
    """
    if not isinstance(trainer.strategy, DeepSpeedStrategy):
        trainer.save_checkpoint(path, weights_only=False)
        return
    part = path.with_name(f".{path.name}.part")
    trainer.save_checkpoint(part)  # ends when all processes are done
    if trainer.is_global_zero:
        write_text(part / _STEP, str(trainer.global_step))
        replace_folder(part, path)
    trainer.strategy.barrier()


def step_of(path: str | Path) -> int:
    """The optimizer step at which a checkpoint was saved; its tensors stay on the disk.

    Raises:
        KitError: the file is missing or damaged.
    """
    if Path(path).is_dir():
        try:
            return int((Path(path) / _STEP).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise KitError(f"the checkpoint {path} is damaged; delete it to start this stage anew") from error
    return int(_load(path, map_location="cpu", mmap=True)["global_step"])


def _load(path: str | Path, **options: Any) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, weights_only=True, **options)
    except Exception as error:  # zip, pickle and tensor readers each raise their own
        raise KitError(f"the checkpoint {path} {_reason(error)}; delete it to start this stage anew") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= checkpoint.keys():
        raise KitError(f"{path} is no checkpoint of a training run; delete it to start this stage anew")
    return checkpoint


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, pickle.UnpicklingError):
        return "is damaged, or holds more than tensors and plain values"
    return f"is damaged ({(str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')})"
