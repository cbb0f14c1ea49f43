"""Checkpoints of running training: written whole or not at all, read without pickle's freedom."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from kit.errors import KitError
from kit.files import write_atomic


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


def step_of(path: str | Path) -> int:
    """The optimizer step at which a checkpoint was saved; its tensors stay on the disk.

    Raises:
        KitError: the file is missing or damaged.
    """
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
