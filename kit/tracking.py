"""What MLflow gets to see: one run a `fit` command, a nested run a stage. Training never depends on it.

Everything stands in <runs>/mlflow.db (sqlite) and <runs>/artifacts; `make ui` shows it. A run says in words what it is
and what it reached (kit/notes.py); a recognizer becomes a version of a registered model (kit/pyfunc.py).
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig

from kit import notes
from kit.commit import commit
from kit.config import fingerprint, flatten
from kit.files import linked_tree
from kit.progress import say
from kit.runs import Run

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_LONGEST_VALUE, _LARGEST_BATCH = 500, 100  # MLflow's own bounds
_PARENT = "mlflow.parentRunId"
_TABLES = "mlflow.loggedArtifacts"  # tells the user interface which files are tables
_NOTE = "mlflow.note.content"  # Markdown, shown above all else of a run or an experiment


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
        self._tags: dict[str, str] = {}
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
                above = {name: self._link(path) for name, path in upstream.items()}
                tags = {**_tags(config), "folder": str(run.path), **_upstream_tags(upstream)}
                tags[_NOTE] = notes.begun(config, run, above)
                child = self._create(f"{config.stage.name} {run.path.name}", tags)
                self._log_params(child, config)
                self._log_data(child, config)
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
            if status == "FINISHED":
                self._keep_files(child, run)
                self._add_to_note(child, notes.ended(run))
            self._api.set_terminated(child, status)

    def report(self, run: Run, report: Mapping[str, Any]) -> None:
        """Add the report of an evaluation to a stage's run, which may have ended, and its figures to the command's."""
        child = run.notes().get("mlflow_run")
        if not self.on or child is None:
            return
        with self.guarded():
            figures, text = notes.figures(report), notes.error_rates(report)
            for run_id in dict.fromkeys([child, str(self.parent)]):
                self._log_figures(run_id, figures)
                self._add_to_note(run_id, text)
            for name, (columns, rows) in notes.tables(report).items():
                self._log_table(child, name, columns, rows)
            if (run.path / "report.json").exists():
                self._api.log_artifact(child, str(run.path / "report.json"))

    def register(self, run: Run, config: DictConfig) -> None:
        """Make the export of a stage, a whole recognizer, the newest version of the experiment's registered model.

        `mlflow.pyfunc.load_model("models:/EXPERIMENT.MODEL@newest")` loads it.
        """
        child = run.notes().get("mlflow_run")
        if not self.on or child is None:
            return
        with self.guarded():
            model = self._log_model(child, run, config)
            name = f"{config.experiment}.{config.model.get('name', 'model')}".replace("/", "-").replace(":", "-")
            if not self._api.search_registered_models(f"name = '{name}'"):
                text = f"Recognizers of experiment {config.experiment}; the alias newest is the one trained last."
                self._api.create_registered_model(name, description=text)
            note = self._api.get_run(child).data.tags.get(_NOTE, "")
            version = self._api.create_model_version(
                name,
                model.artifact_location,
                run_id=child,
                tags=_tags(config),
                description=note,
                model_id=model.model_id,
            )
            self._api.set_registered_model_alias(name, "newest", version.version)
            versions = json.dumps([{"name": name, "version": version.version}])
            self._api.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})
            self._add_to_note(child, notes.registered(name, version.version))

    @contextmanager
    def nested(self, name: str, params: Mapping[str, str]) -> Iterator[Cell]:
        """A nested run for the time of the block, which may have others nested in it."""
        cell = Cell(self, None)
        if self.on:
            with self.guarded():
                created = self._create(name, {**self._tags, **params})
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
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        client = MlflowClient(self.uri)
        name = str(config.experiment)
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        artifacts = (Path(config.runs).resolve() / "artifacts").as_uri()
        about = {_NOTE: notes.EXPERIMENT, "mlflow.experimentKind": "custom_model_development"}  # opens with the runs
        self._experiment = (
            found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts, tags=about)
        )
        self._client = client
        self._tags = _tags(config)
        if self.parent is None:
            note = {_NOTE: notes.command(config, self._name)}
            self.parent = client.create_run(
                self._experiment, run_name=self._name, tags={**self._tags, **note}
            ).info.run_id
            self._log_params(self.parent, config)
            self._log_data(self.parent, config)

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
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(_name(key), float(value), now, 0) for key, value in figures.items()]
        for start in range(0, len(points), _LARGEST_BATCH):
            self._api.log_batch(run_id, metrics=points[start : start + _LARGEST_BATCH])

    def _log_data(self, run_id: str, config: DictConfig) -> None:
        """The data that a stage learns from, known by its section of the configuration."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, section = str(config.data.get("name", "data")), flatten(config.data)
        source = json.dumps({key: str(value) for key, value in section.items()}, ensure_ascii=False)
        data = Dataset(name, fingerprint(config, ["data"])[:8], "configuration", source)
        self._api.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])

    def _log_table(self, run_id: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table in the place of the one of this name."""
        file, content = f"{name}.json", {"columns": list(columns), "data": [list(row) for row in rows]}
        self._api.log_text(run_id, json.dumps(content, ensure_ascii=False), file)
        known = json.loads(self._api.get_run(run_id).data.tags.get(_TABLES, "[]"))
        if file not in [one["path"] for one in known]:
            self._api.set_tag(run_id, _TABLES, json.dumps([*known, {"path": file, "type": "table"}]))

    def _keep_files(self, run_id: str, run: Run) -> None:
        """Configuration, figures and the export as artifacts; an export's files are linked to, where that can be."""
        for file in (run.path / "config.yaml", run.metrics, *sorted((run.path / "figures").glob("*"))):
            if file.exists():
                self._api.log_artifact(run_id, str(file))
        home = _local(self._api.get_run(run_id).info.artifact_uri)
        if run.finished and home is not None:
            linked_tree(run.export, home / "export")
        elif run.finished:
            self._api.log_artifacts(run_id, str(run.export), "export")

    def _log_model(self, run_id: str, run: Run, config: DictConfig) -> Any:
        from mlflow.models import Model

        from kit import pyfunc

        name = str(config.model.get("name", "model"))
        model = self._api.create_logged_model(self._experiment, name, run_id, _tags(config), model_type="recognizer")
        about = Model(model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id)
        home = _local(model.artifact_location)
        try:
            if home is not None:
                pyfunc.save_model(run.export, config, home, about)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    pyfunc.save_model(run.export, config, Path(scratch, "model"), about)
                    self._api.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
        except BaseException:
            self._api.finalize_logged_model(model.model_id, "FAILED")
            raise
        return self._api.finalize_logged_model(model.model_id, "READY")

    def _add_to_note(self, run_id: str, text: str) -> None:
        before = self._api.get_run(run_id).data.tags.get(_NOTE, "")
        if text and text not in before:
            self._api.set_tag(run_id, _NOTE, f"{before}\n\n{text}")

    def _link(self, export: Path) -> str:
        """An upstream export in Markdown: a link to the MLflow run that made it, where there is one."""
        path = export.parent if export.name == "export" else export
        known = Run(path).notes().get("mlflow_run")
        if not known or not self._known(known):
            return f"`{path}`"
        experiment = self._api.get_run(known).info.experiment_id
        return f"[{path.parent.name} {path.name}](#/experiments/{experiment}/runs/{known})"


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
                self._tracker._log_table(str(self.run_id), name, columns, rows)

    def finalize(self, status: str = "success") -> None:
        """The tracker ends the run."""

    @property
    def experiment(self) -> Any:
        """The client; None when MLflow went wrong since."""
        with self._tracker.guarded():
            return super().experiment
        return None


def _tags(config: DictConfig) -> dict[str, str]:
    """What runs are looked for by, and what MLflow shows in columns of its own."""
    about = {
        "stage": str(config.stage.name),
        "model": str(config.model.get("name", "")),
        "data": str(config.data.get("name", "")),
        "seed": str(config.get("seed", "")),
        "mlflow.user": _user(),
        "mlflow.source.name": f"kit fit stage={config.stage.name}",  # MLflow shows what is behind the last slash
        "mlflow.source.type": "LOCAL",
    }
    found = _commit()
    return {**about, "commit": found, "mlflow.source.git.commit": found.rstrip("+")} if found else about


_commit = cache(commit)  # asked once a process: git takes a tenth of a second


def _upstream_tags(upstream: Mapping[str, Path]) -> dict[str, str]:
    """Where each export comes from, and the MLflow run that made it."""
    made = {name: Run(path.parent).notes().get("mlflow_run") for name, path in upstream.items()}
    return {
        **{f"upstream.{name}": str(path) for name, path in upstream.items()},
        **{f"upstream_run.{name}": str(run_id) for name, run_id in made.items() if run_id},
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a number without a name, as in some containers
        return "unknown"


def _local(uri: str) -> Path | None:
    """The folder that an artifact location is on this machine; None where it is elsewhere."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "") else None


def _name(key: str) -> str:
    """MLflow knows fewer characters than configurations do."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-./ ") else "_" for letter in key)
