"""Which stages must run before the one that was asked for, and which finished runs they build on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import DictConfig

from kit.config import for_stage
from kit.errors import UsageError
from kit.progress import say
from kit.runs import Run, export_of, newest_export, newest_finished, read_json, under_way
from kit.snapshots import Pretraining


@dataclass
class Plan:
    """What to train, in order, and what is there already.

    Attributes:
        todo: configurations of the stages to train; the last one is what was asked for.
        exports: stage name -> export folder of an upstream stage; fills up while the plan is carried out.
        init: the export that the last stage starts from instead of its upstream stages.
        followed: stage name -> run under way, in this command or elsewhere, whose snapshots are taken as they come.
    """

    todo: list[DictConfig] = field(default_factory=list)
    exports: dict[str, Path] = field(default_factory=dict)
    init: Path | None = None
    followed: dict[str, Run] = field(default_factory=dict)

    def starts(self, config: DictConfig) -> dict[str, Path]:
        """Stage name -> export folder, for the stage of `config`; waits for the snapshot of a run under way."""
        init = self.init if config is self.todo[-1] else None
        starts = {}
        for name in needed(config, init):
            if name in self.followed:
                starts[name] = first_snapshot(self.followed[name])
            elif name in self.exports:
                starts[name] = _taken(config, name, self.exports[name])
        return {**starts, "init": init} if init else starts

    def set_beside(self, pipeline: str) -> DictConfig | None:
        """Take out of `todo` the stage that another one follows, where it is to be trained in a process of its own."""
        found = [one for one in self.todo[:-1] if any(follows(other, str(one.stage.name)) for other in self.todo)]
        ready = [one for one in found if not one.stage.requires]
        if not ready or not _apart(pipeline, ready[0]):
            return None
        self.todo.remove(ready[0])
        return ready[0]


def _apart(pipeline: str, config: DictConfig) -> bool:
    """Whether two processes are wanted; "auto" wants them where two share cores better than one uses them."""
    if pipeline != "auto":
        return pipeline == "async"
    alone = config.trainer.devices == 1 and config.trainer.accelerator in ("auto", "cpu")
    return alone and not torch.cuda.is_available() and torch.get_num_threads() > 1


def make(config: DictConfig) -> Plan:
    """Plan the stage of `config` and what it needs, saying what is taken from where and what is missing.

    Raises:
        UsageError: something is missing and `upstream=never`, a path is no export, or stages need each other.
    """
    plan = Plan(init=_init(config))
    direct = needed(config, plan.init)
    if config.upstream not in ("auto", "never"):
        plan.exports.update(_given(config, direct))
    _visit(config, direct, plan, ())
    missing = [str(stage.stage.name) for stage in plan.todo]
    for name, export in plan.exports.items():
        say(f"using {name} from {export.parent}{_steps(export)}")
    for name, run in plan.followed.items():
        say(f"following {name} in {run.path}, which another process trains")
    if missing:
        lacking = [name for name in direct if name in missing]
        have = "has no finished run" if len(lacking) == 1 else "have no finished runs"
        what = f"stage {config.stage.name} needs {' and '.join(lacking)}, which {have}"
        if config.upstream == "never":
            raise UsageError(f"{what}; run it first or leave out upstream=never")
        say(f"{what}: running {', '.join(missing)} first")
    plan.todo.append(config)
    return plan


def needed(config: DictConfig, init: Path | None = None) -> list[str]:
    """The stages that a stage builds on directly; those that only give parts which `init` has are left out."""
    stage = config.stage
    names = list(dict.fromkeys(str(name) for name in stage.get("requires", [])))
    if config.model.get("llm", {}).get("pretrained"):
        names = [name for name in names if name != "language_model"]
    if init is None:
        return names
    sources = stage.get("starts_from", {})
    lacking = set(stage.parts) - set(read_json(init / "export.json").get("parts", ()))
    return [name for name in names if name in {sources.get(part, sources.get("*")) for part in lacking}]


def _init(config: DictConfig) -> Path | None:
    if config.init is None:
        return None
    if config.init != "newest":
        return export_of(config.init)
    found = newest_export(Path(config.runs), config.stage.parts, config.model)
    if found is None:
        raise UsageError(f"init=newest: {config.runs} has no finished run of this model; train one or give init=PATH")
    return found


def _given(config: DictConfig, direct: list[str]) -> Mapping[str, Path]:
    """What `upstream=PATH` stands for."""
    export = export_of(config.upstream)
    if not direct:
        raise UsageError(f"stage {config.stage.name} needs no other stage; to start from an export write init=PATH")
    stage = read_json(export / "export.json").get("meta", {}).get("stage")
    if stage not in direct and len(direct) > 1:
        raise UsageError(
            f"upstream={config.upstream} is a run of stage {stage}, but stage {config.stage.name} needs "
            f"{' and '.join(direct)}; give a run of one of these, or init=PATH to take all it has"
        )
    return {stage if stage in direct else direct[0]: export}


def _visit(config: DictConfig, names: list[str], plan: Plan, above: tuple[str, ...]) -> None:
    path = (*above, str(config.stage.name))
    for name in names:
        if name in path:
            raise UsageError(f"stages need each other in a circle: {' -> '.join((*path, name))}; mend their requires")
        if name in plan.exports or any(stage.stage.name == name for stage in plan.todo):
            continue
        run = newest_finished(Path(config.runs), str(config.experiment), name, config.model)
        if run is not None:
            plan.exports[name] = run.export
            continue
        living = under_way(config, name)
        if living is not None and follows(config, name):
            plan.followed[name] = living
            continue
        upstream = for_stage(config, name)
        _visit(upstream, needed(upstream), plan, path)
        plan.todo.append(upstream)


def follows(config: DictConfig, name: str) -> bool:
    """Whether a stage begins with the first snapshot of another one rather than with what that ends with."""
    return bool(config.stage.get("snapshot")) and config.stage.starts_from.get("encoder") == name


def _taken(config: DictConfig, name: str, export: Path) -> Path:
    """What a stage takes from a finished one: its export, or its first snapshot."""
    if not follows(config, name):
        return export
    first = Pretraining(Run(export.parent)).first()
    return first.path if first else export


def first_snapshot(run: Run) -> Path:
    """The first snapshot of a run under way, waited for; its export if it ends without."""
    source = Pretraining(run)
    if source.first() is None:
        say(f"waiting for the first snapshot of {run.path}")
    source.wait(lambda: source.first() is not None)
    found = source.first()
    assert found is not None
    return found.path


def _steps(export: Path) -> str:
    steps = read_json(Run(export.parent).metrics).get("steps")
    return f" ({steps} steps)" if steps else ""
