"""Run folders: runs/<experiment>/<stage>/<id>/ with config.yaml, run.json, last.ckpt, metrics.json and export/.

An export appears whole or not at all, and its presence says that the run is finished.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kit import config as configs
from kit.errors import KitError, UsageError
from kit.files import held, remove_leftovers, write_text

ALL_PARTS = ("encoder", "phoneme_head", "adaptor", "llm")

# What has no influence on the weights that a run ends with.
_IMMATERIAL = {
    "overrides",
    "configs",
    "runs",
    "cache",
    "threads",
    "checkpoint",
    "split",
    "noise_at",
    "noise_from",
    "out",
    "manifest",
    "engine",
    "batch",
    "cluster",
    "hints_from",
    "hotwords",
    "personal",
    "retrieval",
    "decoding",
    "tracking",
    "pipeline",
}


# Keys of the model section that matter only where the part is built.
_OF_PART = {"adaptor": ("adaptor",), "llm": ("llm", "prompt")}


@dataclass(frozen=True)
class Run:
    """One run of one stage; knows where its things are."""

    path: Path

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.path.parent.name

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that a killed run goes on from."""
        return self.path / "last.ckpt"

    @property
    def export(self) -> Path:
        """What the run ends with."""
        return self.path / "export"

    @property
    def metrics(self) -> Path:
        """Steps, seconds and final figures."""
        return self.path / "metrics.json"

    @property
    def finished(self) -> bool:
        """Whether the export is there."""
        return self.export.is_dir()

    def config(self) -> DictConfig:
        """The configuration that the run was made with."""
        return configs.load(self.path / "config.yaml")

    def notes(self) -> dict[str, Any]:
        """What the run remembers about itself: its upstream exports, its MLflow run."""
        return read_json(self.path / "run.json")

    def note(self, **values: Any) -> None:
        """Remember more."""
        write_text(self.path / "run.json", json.dumps({**self.notes(), **values}, indent=1, ensure_ascii=False))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: no other process takes it meanwhile. The kernel lets go when the holder dies, however it dies.

        Raises:
            KitError: another process holds it.
        """
        (self.path / "lock").touch()
        with held(self.path / "lock") as mine:
            if not mine:
                raise KitError(f"another process is training {self.path}; wait for it or stop it")
            remove_leftovers(self.path)
            yield

    def busy(self) -> bool:
        """Whether a living process holds the run."""
        try:
            with held(self.path / "lock") as free:
                return not free
        except FileNotFoundError:
            return False


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when the file is missing or damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def create(config: DictConfig) -> Run:
    """A new run folder for `config`, with the configuration in it.

    Raises:
        KitError: the runs folder cannot be written.
    """
    home = stage_folder(config)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        run = Run(home / (stamp if number == 1 else f"{stamp}-{number}"))
        try:
            run.path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise KitError(
                f"cannot make the run folder {run.path}: {error.strerror}; choose another runs=..."
            ) from error
        configs.save(config, run.path / "config.yaml")
        return run
    raise KitError(f"{home} already has a thousand runs of this second; try again")


def stage_folder(config: DictConfig) -> Path:
    """Where the runs of this experiment's stage stand."""
    return Path(config.runs) / str(config.experiment) / str(config.stage.name)


def runs_in(folder: Path) -> list[Run]:
    """All runs of one stage folder, oldest first; a folder without a configuration is none."""
    return [Run(path.parent) for path in sorted(folder.glob("*/config.yaml"))]


def newest_finished(root: Path, experiment: str, stage: str, model: DictConfig) -> Run | None:
    """The run of `stage` that finished last among those with the model section `model`, as far as they build it."""
    return _newest(run for run in runs_in(root / experiment / stage) if _has_model(run, model))


def under_way(config: DictConfig, stage: str) -> Run | None:
    """The newest run of another stage of the same experiment and model that a living process holds."""
    folder = Path(config.runs) / str(config.experiment) / stage
    return next((run for run in reversed(runs_in(folder)) if run.busy() and _has_model(run, config.model)), None)


def newest_export(root: Path, parts: Collection[str] = ALL_PARTS, model: DictConfig | None = None) -> Path | None:
    """The export that was finished last over all experiments and stages.

    Args:
        parts: exports that have all these are preferred.
        model: only runs with this model section, as far as they build it.
    """
    finished = [Run(path.parent) for path in root.glob("*/*/*/export") if path.is_dir()]
    known = [run for run in finished if model is None or _has_model(run, model)]
    run = _newest(run for run in known if set(parts) <= parts_of(run)) or _newest(known)
    return run.export if run else None


def export_of(path: str | Path) -> Path:
    """The export folder that a person means by `path`: an export, or a run.

    Raises:
        UsageError: it is neither.
    """
    path = Path(path).expanduser()
    for folder in (path / "export", path):
        if (folder / "export.json").is_file():
            return folder
    if (path / "config.yaml").is_file():
        raise UsageError(f"the run {path} is not finished and has no export yet; repeat its fit command to finish it")
    what = "is no export and no run" if path.exists() else "does not exist"
    raise UsageError(f"{path} {what}; give a run folder such as runs/default/sft/ID or the export folder in one")


def parts_of(run: Run) -> set[str]:
    """The parts of the recognizer that a finished run exported."""
    return set(read_json(run.export / "export.json").get("parts", ()))


def find_resumable(config: DictConfig) -> Run | None:
    """The newest run of the same stage and the same configuration that was begun, is not finished and is not busy."""
    wanted = material(config)
    for run in reversed(runs_in(stage_folder(config))):
        if (run.finished and not run.notes().get("report_pending")) or run.busy():
            continue
        if _same(run, wanted):
            return run
    return None


def find_finished(config: DictConfig) -> Run | None:
    """The newest finished run of the same stage and the same configuration."""
    wanted = material(config)
    return next((run for run in reversed(runs_in(stage_folder(config))) if run.finished and _same(run, wanted)), None)


def find_busy(config: DictConfig) -> Run | None:
    """The run of the same stage and the same configuration that a living process holds."""
    wanted = material(config)
    return next((run for run in reversed(runs_in(stage_folder(config))) if run.busy() and _same(run, wanted)), None)


def material(config: DictConfig) -> str:
    """Fingerprint of all that decides which weights a run ends with."""
    if "made" in (config.get("data") or {}) and not config.stage.get("made_names"):
        config = config.copy()  # a part of the data that this stage does not take
        OmegaConf.set_struct(config, False)
        config.data.pop("made")
    sections = [str(key) for key in config if key not in {*_IMMATERIAL, "trainer", "model"}]
    trainer = [f"trainer.{key}" for key in config.trainer if key != "progress"]
    model = [f"model.{key}" for key in _built(config.model, config.stage.get("parts", ALL_PARTS))]
    return configs.fingerprint(config, [*sections, *trainer, *model])


def model_fingerprint(model: DictConfig, parts: Collection[str] = ALL_PARTS) -> str:
    """Fingerprint of what a model section says about these parts of the recognizer."""
    return configs.fingerprint(model, _built(model, parts))


def _built(model: DictConfig, parts: Collection[str]) -> list[str]:
    """The keys of a model section that decide about these parts: a stage without an LLM is the same under all LLMs."""
    lacking = {key for part, keys in _OF_PART.items() if part not in parts for key in keys}
    return [str(key) for key in model if key not in lacking]


def _newest(runs: Iterable[Run]) -> Run | None:
    finished = [run for run in runs if run.finished]
    return max(finished, key=lambda run: (run.export.stat().st_mtime_ns, run.path.name), default=None)


def _has_model(run: Run, model: DictConfig) -> bool:
    try:
        config = run.config()
        parts = config.stage.get("parts", ALL_PARTS)
        return model_fingerprint(config.model, parts) == model_fingerprint(model, parts)
    except (KitError, AttributeError):  # a run of a damaged or much older configuration is nobody's upstream
        return False


def _same(run: Run, wanted: str) -> bool:
    try:
        return material(run.config()) == wanted
    except (KitError, AttributeError):
        return False
