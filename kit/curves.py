"""The curves of a run as plain text, with or without MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from kit.progress import say


class CurveFile(Logger):
    """Curves as text: metrics.csv in the run folder with rows of step, name, value.

    Args:
        done: steps that a resumed run keeps; rows after that are taken away, for they come again.
    """

    def __init__(self, path: Path, done: int) -> None:
        super().__init__()
        self._path, self._broken = path, False
        rows = path.read_text("utf-8").splitlines()[1:] if path.exists() else []
        kept = [row for row in rows if row.split(",")[0].isdigit() and int(row.split(",")[0]) < done]
        with self._guarded():
            path.write_text("\n".join(["step,name,value", *kept]) + "\n", "utf-8")

    @property
    def name(self) -> str:
        """Of the logger."""
        return "curves"

    @property
    def version(self) -> str:
        """There is but one."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row a metric."""
        kept = {name: value for name, value in metrics.items() if name != "epoch"}  # Lightning adds it everywhere
        rows = "".join(f"{step or 0},{name},{float(value):.8g}\n" for name, value in kept.items())
        with self._guarded(), open(self._path, "a", encoding="utf-8") as file:
            file.write(rows)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._broken:
                say(f"warning: cannot write {self._path}: {error.strerror}; training goes on without curves")
            self._broken = True
