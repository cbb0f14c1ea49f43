"""What MLflow gets to see: one run a `fit` command, a nested run a stage. Training never depends on it.

Everything stands in <runs>/mlflow.db (sqlite) and <runs>/artifacts; `make ui` shows it. The curves are also written to
the run folder as plain text, with or without MLflow.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig

from kit.commit import commit
from kit.config import flatten
from kit.progress import say
from kit.runs import Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_LONGEST_VALUE, _LARGEST_BATCH = 500, 100  # MLflow's own bounds
_PARENT = "mlflow.parentRunId"
_TABLES = "mlflow.loggedArtifacts"  # tells the user interface which files are tables


class Tracker:
    """The MLflow side of one `fit` command. When MLflow fails it says so once and is silent from then on.

    Args:
        config: of the stage that was asked for.
        name: of the run for the whole command; "fit STAGE" if None.
        parent: another MLflow run, to nest stages in; one of its own if None.
    """

    def __init__(self, config: DictConfig, name: str | None = None, parent: str | None = None) -> None:
        self.uri = f"sqlite:///{Path(config.runs).resolve() / 'mlflow.db'}"
        self._client: MlflowClient | None = None
        self.parent, self._owner = parent, parent is None
        self._name = name or f"fit {config.stage.name}"
        self._broken = False
        if config.tracking:
            with self.guarded():
                self._open(config)

    @property
    def on(self) -> bool:
        """Whether anything is being tracked."""
        return self._client is not None and not self._broken

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let no failure of MLflow or its database out of the block."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:  # whatever the database, its driver or MLflow raise: curves are not worth a run
            if not self._broken:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                say(f"warning: MLflow is off for this run ({reason}); curves still go to metrics.csv in the run folder")
            self._broken = True

    def begin_stage(self, run: Run, config: DictConfig, upstream: Mapping[str, Path]) -> Logger | None:
        """A nested run for a stage, or the one that it had before it was interrupted; None without MLflow."""
        if not self.on:
            return None
        with self.guarded():
            child = run.notes().get("mlflow_run")
            if child is None or not self._known(child):
                child = self._create(f"{config.stage.name} {run.path.name}", _tags(config, run, upstream))
                self._log_params(child, config)
                run.note(mlflow_run=child)
            else:
                self._adopt(child)
            return _GuardedLogger(self, child)
        return None

    def end_stage(self, run: Run, status: str, figures: Mapping[str, float]) -> None:
        """Final figures and files of a stage; `status` is FINISHED, FAILED or KILLED."""
        child = run.notes().get("mlflow_run")
        if not self.on or child is None:
            return
        with self.guarded():
            self._log_figures(child, figures)
            for file in (run.path / "config.yaml", run.metrics, *sorted((run.path / "figures").glob("*"))):
                if status == "FINISHED" and file.exists():
                    self._api.log_artifact(child, str(file))
            self._api.set_terminated(child, status)

    def log(self, run: Run, figures: Mapping[str, float]) -> None:
        """Add figures to a stage's run, after it ended too."""
        child = run.notes().get("mlflow_run")
        if self.on and child is not None:
            with self.guarded():
                self._log_figures(child, figures)

    @contextmanager
    def nested(self, name: str, params: Mapping[str, str]) -> Iterator[Cell]:
        """A nested run for the time of the block, which may have others nested in it."""
        cell = Cell(self, None)
        if self.on:
            with self.guarded():
                created = self._create(name, dict(params))
                cell = Cell(self, created)
                for key, value in params.items():
                    self._api.log_param(created, key, value)
        status = "FAILED"
        try:
            yield cell
            status = "FINISHED"
        finally:
            if self.on and cell.run_id:
                with self.guarded():
                    self._api.set_terminated(cell.run_id, status)

    def attach(self, files: Iterable[Path]) -> None:
        """Keep files with the run of the whole command."""
        if self.on and self.parent is not None:
            with self.guarded():
                for file in files:
                    self._api.log_artifact(self.parent, str(file))

    def finish(self, status: str) -> None:
        """End the run of the whole command."""
        if self.on and self.parent is not None and self._owner:
            with self.guarded():
                self._api.set_terminated(self.parent, status)

    @property
    def _api(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _open(self, config: DictConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        client = MlflowClient(self.uri)
        name = str(config.experiment)
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        artifacts = (Path(config.runs).resolve() / "artifacts").as_uri()
        self._experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
        self._client = client
        if self.parent is None:
            self.parent = client.create_run(self._experiment, run_name=self._name).info.run_id
            self._log_params(self.parent, config)

    def _create(self, name: str, tags: dict[str, str]) -> str:
        created = self._api.create_run(self._experiment, run_name=name, tags={**tags, _PARENT: str(self.parent)})
        return created.info.run_id

    def _known(self, child: str) -> bool:
        try:
            return self._api.get_run(child).info.lifecycle_stage == "active"
        except Exception:  # removed by hand, or the database was: a new run takes its place
            return False

    def _adopt(self, child: str) -> None:
        """Nest a run that goes on under this command; the command that began it was killed, and now says so."""
        before = self._api.get_run(child).data.tags.get(_PARENT)
        if before and self._known(before) and self._api.get_run(before).info.status == "RUNNING":
            self._api.set_terminated(before, "KILLED")
        self._api.set_tag(child, _PARENT, self.parent)
        self._api.update_run(child, status="RUNNING")

    def _log_params(self, run_id: str, config: DictConfig) -> None:
        from mlflow.entities import Param

        params = [Param(_name(key), str(value)[:_LONGEST_VALUE]) for key, value in flatten(config).items()]
        for start in range(0, len(params), _LARGEST_BATCH):
            self._api.log_batch(run_id, params=params[start : start + _LARGEST_BATCH])

    def _log_figures(self, run_id: str, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            self._api.log_metric(run_id, _name(key), value)


@dataclass(frozen=True)
class Cell:
    """A nested run: its id (None without MLflow), and a way to add figures to it."""

    tracker: Tracker
    run_id: str | None

    def log(self, figures: Mapping[str, float]) -> None:
        """Add figures."""
        if self.tracker.on and self.run_id:
            with self.tracker.guarded():
                self.tracker._log_figures(self.run_id, figures)


class _GuardedLogger(MLFlowLogger):
    """Lightning's logger on a run that exists already; how the run ends is the tracker's to say."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        super().__init__(tracking_uri=tracker.uri, run_id=run_id)
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add points to the curves."""
        if self._tracker.on:
            with self._tracker.guarded():
                super().log_metrics(metrics, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The tracker wrote them already."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in the place of the one of this name."""
        if self._tracker.on:
            with self._tracker.guarded():
                file, content = f"{name}.json", {"columns": list(columns), "data": [list(row) for row in rows]}
                self.experiment.log_text(self.run_id, json.dumps(content, ensure_ascii=False), file)
                self.experiment.set_tag(self.run_id, _TABLES, json.dumps([{"path": file, "type": "table"}]))

    def finalize(self, status: str = "success") -> None:
        """The tracker ends the run."""

    @property
    def experiment(self) -> Any:
        """The client; None when MLflow went wrong since."""
        with self._tracker.guarded():
            return super().experiment
        return None


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


def _tags(config: DictConfig, run: Run, upstream: Mapping[str, Path]) -> dict[str, str]:
    tags = {
        "stage": str(config.stage.name),
        "model": str(config.model.get("name", "")),
        "data": str(config.data.get("name", "")),
        "folder": str(run.path),
        **{f"upstream.{name}": str(path) for name, path in upstream.items()},
    }
    found = commit()
    return {**tags, "commit": found} if found else tags


def _name(key: str) -> str:
    """MLflow knows fewer characters than configurations do."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-./ ") else "_" for letter in key)
