"""`fit`: the stages that are missing and the one that was asked for, each trained, tracked and exported."""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from kit import distributed, runs
from kit import plan as plans
from kit.beside import Beside
from kit.callbacks import Checkpoint, Clock, Line, StepSeed, duration
from kit.checkpoints import AtomicCheckpointIO, step_of
from kit.config import dump, fingerprint
from kit.curves import CurveFile
from kit.distributed import Task, Team
from kit.errors import KitError, UsageError
from kit.files import check_writable, folder_atomic, write_text
from kit.interrupts import Interrupted, Interrupts
from kit.plugins import build_named, import_class
from kit.progress import say
from kit.runs import Run
from kit.tracking import Tracker

_NEVER = 1_000_000_000  # batches between two validations where none is wanted


@dataclass(frozen=True)
class Outcome:
    """What training one stage came to: `seconds` of wall time, `data_share` of the training time spent waiting."""

    stage: str
    run: Run
    steps: int
    seconds: float
    data_share: float


def fit(config: DictConfig, plan: plans.Plan | None = None, parent: str | None = None, report: bool = True) -> Path:
    """Train the stage of `config` and whatever it needs; returns the export folder.

    Figures and example transcripts of the last stage go to standard output where its configuration has `report: true`.

    Args:
        plan: what to train and what is there; made from `config` if None.
        parent: MLflow run to nest in; one of its own if None.
        report: whether to print figures and the export; otherwise whoever called does.

    Raises:
        KitError: anything that a person can mend.
        SystemExit: 130 or 143 after SIGINT or SIGTERM; the next call with the same configuration goes on from there.
    """
    check_writable(config.runs)
    _limit_threads(config.threads)
    with quiet(), Interrupts() as interrupts:
        pipeline = _Pipeline(config, interrupts, report)
        status = "FAILED"
        try:
            export = pipeline.carry_out(plan or plans.make(config), parent)
            status = "FINISHED"
        except Interrupted as stop:
            status = "KILLED"
            say(f"interrupted; {pipeline.whereabouts()}")
            raise SystemExit(128 + stop.signum) from stop
        finally:
            distributed.dismiss()
            pipeline.stop_beside()
            if pipeline.tracker is not None:
                pipeline.tracker.finish(status)
        return export


class _Pipeline:
    """The stages of one command, with what they share: the data module and the tracker."""

    def __init__(self, config: DictConfig, interrupts: Interrupts, report: bool) -> None:
        self.config, self.interrupts, self.report = config, interrupts, report
        self.begun = time.perf_counter()
        self.beside: Beside | None = None
        self.tracker: Tracker | None = None
        self.outcomes: list[Outcome] = []
        self._data: tuple[str, L.LightningDataModule] | None = None
        self._training: _Training | None = None

    def carry_out(self, plan: plans.Plan, parent: str | None) -> Path:
        """Train every stage of the plan, in order; report on the last."""
        tracker = self.tracker = Tracker(self.config, parent=parent)
        self._start_beside(plan, tracker)
        for config in plan.todo:
            last = config is self.config and self.report
            run = self._stage(config, plan, tracker, report=bool(last and config.stage.get("report")))
            plan.exports[str(config.stage.name)] = run.export
        distributed.dismiss()
        self._join_beside()
        if self.report:
            self._report(run, tracker)
            self._close(run)
        return run.export

    def stop_beside(self) -> None:
        """End a process that still trains beside this one; what it has done is saved."""
        if self.beside is not None:
            self.beside.stop()

    def _start_beside(self, plan: plans.Plan, tracker: Tracker) -> None:
        """Give the stage whose snapshots others follow a process and a share of the cores of its own."""
        config = plan.set_beside(self.config.pipeline)
        if config is None:
            return
        data = self._data_for(config)
        if hasattr(data, "warm_up"):
            data.warm_up()  # once, not by two processes at the same time
        run = runs.find_resumable(config) or runs.create(config)
        threads = max(1, torch.get_num_threads() // 2)
        say(f"stage {config.stage.name}: training in {run.path}, beside the others")
        self.beside = Beside(run, threads, tracker.parent)
        plan.followed[str(config.stage.name)] = run

    def _join_beside(self) -> None:
        if self.beside is None:
            return
        self.beside.join()
        figures = runs.read_json(self.beside.run.metrics)
        name, steps = str(figures["stage"]), int(figures["steps"])
        self.outcomes.append(Outcome(name, self.beside.run, steps, figures["seconds"], figures["data_share"]))

    def whereabouts(self) -> str:
        """Where the same command goes on, in words."""
        if self._training is None:
            return "the same command goes on from here"
        step, name = self._training.checkpoint.saved, self._training.config.stage.name
        return f"the same command goes on from step {step} of stage {name}"

    def _stage(self, config: DictConfig, plan: plans.Plan, tracker: Tracker, report: bool) -> Run:
        run = runs.find_resumable(config)
        begun = run is not None
        run = run or runs.create(config)
        with run.locked():
            if run.finished:
                say(f"stage {config.stage.name}: {run.path} is trained, its report is still to come")
                return run
            starts = _starts(run, plan, config)
            run.note(starts={name: str(path) for name, path in starts.items()}, report_pending=report)
            say(f"stage {config.stage.name}: {'going on with' if begun else 'training in'} {run.path}")
            logger = tracker.begin_stage(run, config, starts)
            status, figures = "FAILED", {}
            try:
                figures = self._train(run, config, starts, logger)
                status = "FINISHED"
            except Interrupted:
                status = "KILLED"
                raise
            finally:
                tracker.end_stage(run, status, figures)
        return run

    def _train(
        self, run: Run, config: DictConfig, starts: Mapping[str, Path], logger: Logger | None
    ) -> dict[str, float]:
        self._training = _Training(run, config, starts, self._data_for(config), self.interrupts, logger)
        outcome = self._training.carry_out()
        self._training = None
        self.outcomes.append(outcome)
        return {"steps": outcome.steps, "seconds": outcome.seconds, "data_share": outcome.data_share}

    def _data_for(self, config: DictConfig) -> L.LightningDataModule:
        """The data module, built once for all stages with the same data; every stage begins at its first batch."""
        key = fingerprint(config, ["data", "model", "cache", "augmentation", "noise_from"])
        if self._data is not None and self._data[0] == key and hasattr(self._data[1], "begin"):
            self._data[1].begin(config)
            return self._data[1]
        data = data_module(config)
        self._data = (key, data)
        return data

    def _report(self, run: Run, tracker: Tracker) -> None:
        if not run.notes().get("report_pending"):
            return
        evaluate = importlib.import_module("kit.evaluation.report").evaluate
        report = evaluate(self.config, run.export, self._data_for(self.config))
        write_text(run.path / "report.json", json.dumps(report, indent=1, ensure_ascii=False, default=float))
        run.note(report_pending=False)
        tracker.report(run, report)
        if set(runs.ALL_PARTS) <= runs.parts_of(run):
            tracker.register(run, self.config)

    def _close(self, run: Run) -> None:
        if self.outcomes:
            say(_table(self.outcomes, time.perf_counter() - self.begun))
        print(f"export: {run.export}", flush=True)
        if set(runs.ALL_PARTS) <= runs.parts_of(run):
            say(f"next: python -m kit transcribe FILE.wav checkpoint={run.export}")


class _Training:
    """One run of one stage."""

    def __init__(
        self,
        run: Run,
        config: DictConfig,
        starts: Mapping[str, Path],
        data: L.LightningDataModule,
        interrupts: Interrupts,
        logger: Logger | None,
        rank: int = 0,
    ) -> None:
        distributed.check(config)
        self.begun = time.perf_counter()
        self.run, self.config, self.data, self.logger = run, config, data, logger
        self.starts, self.rank = starts, rank
        self.shares: dict[str, Any] = {}  # the whole state dict where the processes had but shares of it
        self.clock = Clock(config.trainer.log_every)
        self.checkpoint = Checkpoint(run.checkpoint, config.trainer.checkpoint_every, interrupts, self.clock)
        self.module = self._module()

    def carry_out(self) -> Outcome:
        """Train from the last checkpoint if there is one, validate, write the figures and the export."""
        run, name = self.run, str(self.config.stage.name)
        curves = CurveFile(run.path / "metrics.csv", done=self._steps_done())
        trainer = self.trainer([curves, self.logger] if self.logger else [curves])
        if trainer.world_size > 1:  # what is computed once must be there before several processes look for it
            _ = self.data.train_dataloader(), self.data.val_dataloader()
        with Team(trainer, self._task()):
            figures = self.take_part(trainer)
        if self.shares:
            self.module = self._module()
            self.module.load_state_dict(self.shares)
        seconds = self.clock.before + time.perf_counter() - self.begun
        outcome = Outcome(name, run, trainer.global_step, seconds, self.clock.data_share)
        self._write(outcome, figures)
        return outcome

    def take_part(self, trainer: L.Trainer) -> dict[str, float]:
        """What all processes of a training do together: train, validate, and put the weights together."""
        resume = str(self.run.checkpoint) if self.run.checkpoint.exists() else None
        trainer.fit(self.module, datamodule=self.data, ckpt_path=resume, weights_only=True)
        figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
        for found in trainer.validate(self.module, datamodule=self.data, verbose=False):
            figures.update(found)
        if distributed.shares_parameters(trainer):
            self.shares = trainer.strategy.lightning_module_state_dict()
        return figures

    def _module(self) -> Any:
        stage: Any = import_class(self.config.stage._target_, L.LightningModule, "stage._target_")
        L.seed_everything(self.config.seed, workers=True, verbose=False)
        return stage(recognizer=stage.build(self.config, self.data, self.starts), config=self.config)

    def _task(self) -> Task:
        starts = {name: str(path) for name, path in self.starts.items()}
        return Task(str(self.run.path), dump(self.config), starts)

    def _steps_done(self) -> int:
        if not self.run.checkpoint.exists():
            return 0
        self.checkpoint.saved = step_of(self.run.checkpoint)
        say(f"stage {self.config.stage.name}: from step {self.checkpoint.saved} on")
        return self.checkpoint.saved

    def trainer(self, loggers: list[Logger]) -> L.Trainer:
        """Lightning's trainer for this stage.

        Raises:
            UsageError: Lightning has no use for the trainer section.
        """
        wanted = self.config.trainer
        callbacks: list[L.Callback] = [self.clock, StepSeed(self.config.seed, str(self.config.stage.name))]
        callbacks += [Line(str(self.config.stage.name))] if wanted.progress and not self.rank else []
        for section in ("stage.callbacks", "trainer.callbacks"):
            callbacks += build_named(OmegaConf.select(self.config, section), L.Callback, section)
        validate_every = wanted.validate_every * wanted.accumulate if wanted.validate_every else _NEVER
        with _misconfigured():
            return distributed.make_trainer(
                str(wanted.strategy),
                self.rank,
                skips=bool(getattr(self.module, "skips_parameters", False)),
                accelerator=wanted.accelerator,
                devices=wanted.devices,
                precision=wanted.precision,
                max_steps=wanted.max_steps,
                max_epochs=-1,
                accumulate_grad_batches=wanted.accumulate,
                gradient_clip_val=wanted.gradient_clip,
                gradient_clip_algorithm="norm",
                callbacks=[*callbacks, self.checkpoint],
                logger=loggers,
                log_every_n_steps=wanted.log_every,
                check_val_every_n_epoch=None,
                val_check_interval=validate_every,
                num_sanity_val_steps=0,
                plugins=[AtomicCheckpointIO()],
                default_root_dir=self.run.path,
                use_distributed_sampler=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

    def _write(self, outcome: Outcome, figures: Mapping[str, float]) -> None:
        """metrics.json first: the export comes last, for its presence says that all is there."""
        summary = {
            "stage": outcome.stage,
            "steps": outcome.steps,
            "seconds": round(outcome.seconds, 2),
            "train_seconds": round(self.clock.seconds, 2),
            "data_share": round(outcome.data_share, 4),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": dict(figures),
        }
        write_text(self.run.metrics, json.dumps(summary, indent=1, ensure_ascii=False))
        meta = {**summary, "run": str(self.run.path), "starts": {name: str(path) for name, path in self.starts.items()}}
        save_export = importlib.import_module("kit.model.export").save_export
        try:
            with folder_atomic(self.run.export) as folder:
                save_export(self.module.recognizer, folder, meta)
        except KitError as error:
            raise KitError(f"{error}; the trained weights are kept in {self.run.checkpoint}") from error


def take_part(task: Task, ready: Callable[[], None]) -> None:
    """What a process does that was started to train with others; all else is the first one's business.

    Args:
        ready: called when only the others are missing.

    Raises:
        KitError: as in `fit`.
        Interrupted: the first process was asked to stop, and has saved what was trained.
    """
    config = DictConfig(OmegaConf.create(task.config))
    starts = {name: Path(path) for name, path in task.starts.items()}
    with quiet():
        data = data_module(config)
        training = _Training(Run(Path(task.run)), config, starts, data, Interrupts(), None, task.rank)
        trainer = training.trainer([])
        ready()
        with distributed.joined(trainer, task):
            training.take_part(trainer)


def data_module(config: DictConfig) -> Any:
    """The data module that `data._target_` names, with its corpus prepared."""
    kind: Any = import_class(config.data._target_, L.LightningDataModule, "data._target_")
    data = kind(config)
    data.prepare_data()
    return data


def _starts(run: Run, plan: plans.Plan, config: DictConfig) -> dict[str, Path]:
    """The upstream exports; a resumed run keeps those that it began with, newer ones or not."""
    noted = {name: Path(path) for name, path in run.notes().get("starts", {}).items()}
    return noted if noted and all(path.is_dir() for path in noted.values()) else plan.starts(config)


def _table(outcomes: Sequence[Outcome], wall: float) -> str:
    rows = [f"{'stage':<16}{'steps':>8}{'time':>10}{'waiting for data':>20}"]
    for outcome in outcomes:
        share = f"{100 * outcome.data_share:.1f} %"
        rows.append(f"{outcome.stage:<16}{outcome.steps:>8}{duration(outcome.seconds):>10}{share:>20}")
    rows.append(f"{'by the clock':<16}{sum(outcome.steps for outcome in outcomes):>8}{duration(wall):>10}")
    return "\n".join(rows)


def _limit_threads(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


@contextmanager
def _misconfigured() -> Iterator[None]:
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"Lightning refuses the trainer section: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's and torch's chatter off the screen; what matters is said in one line here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message="Grad strides do not match")  # ddp; it copies them
        yield
