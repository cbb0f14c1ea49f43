"""Studies: a grid of arms and seeds, trained and evaluated cell by cell, with a table and figures at the end.

Every stage run of a study is known by all that decides its weights, its upstream runs included; so what two arms, or
two studies, have in common is trained once, and a study that was interrupted goes on where it was. Everything stands
in <runs>/studies; the table and figures of study NAME in <runs>/studies/NAME.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kit import runs
from kit.callbacks import duration
from kit.config import CONFIGS, compose, fingerprint
from kit.errors import KitError, UsageError, nearest
from kit.files import write_atomic, write_text
from kit.plan import Plan, needed
from kit.progress import say
from kit.runs import Run
from kit.tracking import Tracker

EXPERIMENT = "studies"
_LOOK_SECONDS = 1.0
# What decides the figures of an evaluation, beside the export.
_DECIDING = ("data", "decoding", "split", "noise_at", "noise_from", "hints_from", "normalization", "model.features")
_MUST = {"question", "claim", "fit", "seeds", "overrides", "stages", "arms", "evaluate", "measures"}
_MAY = {"expect", "shared", "curves"}


@dataclass(frozen=True)
class Study:
    """What configs/study/NAME.yaml says.

    Attributes:
        name, question, claim: what is asked, and what the paper says to it.
        fit: the last stage of every cell.
        seeds: of every arm.
        overrides: of all stages and evaluations.
        stages: stage -> overrides, in all arms.
        arms: arm -> stage -> overrides.
        evaluate: evaluation -> overrides of `evaluate`.
        measures: column -> where its figure stands: (evaluation, way, group, rate) in a report, or (stage, figure) in
            the metrics of a run.
        expect: column -> the arm and the one that it should be lower than, [lower, higher], or several such pairs.
        shared: stages that are trained with the first seed of `seeds` only, whatever seeds are asked for.
        curves: for arms that differ in a quantity: its name -> line -> arm -> the quantity. Drawn instead of dots.
    """

    name: str
    question: str
    claim: str
    fit: str
    seeds: list[int]
    overrides: list[str]
    stages: dict[str, list[str]]
    arms: dict[str, dict[str, list[str]]]
    evaluate: dict[str, list[str]]
    measures: dict[str, list[str]]
    expect: dict[str, list[Any]] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    curves: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def expected(self) -> list[tuple[str, str, str]]:
        """Column, the arm that should be lower in it, and the one that should be higher."""
        pairs = {column: one if isinstance(one[0], list) else [one] for column, one in self.expect.items()}
        return [(column, *pair) for column, several in pairs.items() for pair in several]


def names(folders: Sequence[Path]) -> dict[str, Path]:
    """The studies that there are; those of later folders come before the kit's own."""
    return {path.stem: path for folder in (CONFIGS, *folders) for path in sorted((folder / "study").glob("*.yaml"))}


def load(name: str, folders: Sequence[Path] = ()) -> Study:
    """Read a study.

    Raises:
        UsageError: there is none of this name, or its file says something else than `Study` holds.
    """
    known = names(folders)
    if name not in known:
        guess = nearest(name, known)
        hint = f"did you mean {guess}? known: " if guess else "known: "
        raise UsageError(f"unknown study {name}; {hint}{', '.join(sorted(known))}")
    content: Any = OmegaConf.to_container(OmegaConf.load(known[name]))
    wrong = sorted(set(content) - _MUST - _MAY) or sorted(_MUST - set(content))
    if wrong:
        raise UsageError(f"{known[name]}: {wrong[0]} is missing or no part of a study")
    drawn = {arm for lines in content.get("curves", {}).values() for line in lines.values() for arm in line}
    if drawn - set(content["arms"]):
        raise UsageError(f"{known[name]}: curves name {min(drawn - set(content['arms']))}, which is no arm")
    content["arms"] = {arm: stages or {} for arm, stages in content["arms"].items()}
    found = Study(name=name, **content)
    _check_expected(found, known[name])
    return found


def _check_expected(study: Study, path: Path) -> None:
    """Before hours of training, not behind them."""
    for column, pairs in study.expect.items():
        several = pairs if isinstance(pairs, list) and pairs and isinstance(pairs[0], list) else [pairs]
        wrong = [
            pair for pair in several if not isinstance(pair, list) or len(pair) != 2 or set(pair) - set(study.arms)
        ]
        if column not in study.measures or wrong:
            what = f"expects {wrong[0]} of {column}" if wrong else f"expects something of {column}, which is no measure"
            raise UsageError(f"{path}: {what}; write [lower, higher] with two of its arms, or a list of such pairs")


def study(name: str, overrides: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Path:
    """Carry a study out, or on, and print its table; returns the folder with table, figures and results.json.

    Args:
        overrides: for all stages and evaluations, after the study's own.
        seeds: instead of the study's.

    Raises:
        KitError: anything that a person can mend; what is done stays done.
    """
    folders = compose([text for text in overrides if text.startswith("configs=")]).configs or []
    found = load(name, [Path(folder) for folder in folders])
    base = compose([*found.overrides, *overrides, f"experiment={EXPERIMENT}"])  # keys that the study brings may be set
    work = _Work(found, list(overrides), list(seeds or found.seeds), base)
    return work.carry_out()


def options(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """`name` and `seeds` of the command line, and the overrides that are for configurations."""
    own = {key: value for key, _, value in (text.partition("=") for text in overrides) if key in ("name", "seeds")}
    return own, [text for text in overrides if text.partition("=")[0] not in own]


def main(overrides: Sequence[str]) -> int:
    """The command line: carries out the study of `name`, or lists those that there are."""
    own, rest = options(overrides)
    if "name" not in own:
        _list([Path(folder) for folder in compose(rest).configs or []])
        return 0
    study(own["name"], rest, _seeds(own["seeds"]) if "seeds" in own else None)
    return 0


def _list(folders: Sequence[Path]) -> None:
    for name in sorted(names(folders)):
        print(f"{name}\t{load(name, folders).question}")


def _seeds(text: str) -> list[int]:
    try:
        found = [int(one) for one in text.strip("[]").split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise UsageError(f"seeds={text}: write whole numbers from 0, for example seeds=[1,2,3]")
    return found


class _Work:
    """One carrying out of a study."""

    def __init__(self, study: Study, overrides: list[str], seeds: list[int], base: DictConfig) -> None:
        self.study, self.overrides, self.seeds, self.base = study, overrides, seeds, base
        self.folder = Path(base.runs) / EXPERIMENT / study.name
        self.tracker = Tracker(base, name=f"study {study.name}")

    def carry_out(self) -> Path:
        begun = time.perf_counter()
        cells = [(arm, seed) for seed in self.seeds for arm in self.study.arms]
        results: dict[str, dict[str, list[float]]] = {
            arm: {column: [] for column in self.study.measures} for arm in self.study.arms
        }
        status = "FAILED"
        try:
            for place, (arm, seed) in enumerate(cells, 1):
                say(f"study {self.study.name}: {arm}, seed {seed} ({place} of {len(cells)})")
                for column, value in self._cell(arm, seed).items():
                    results[arm][column].append(value)
            say(f"study {self.study.name}: {len(cells)} cells in {duration(time.perf_counter() - begun)}")
            self.tracker.attach(self._write(results))
            status = "FINISHED"
        finally:
            self.tracker.finish(status)
        return self.folder

    def _cell(self, arm: str, seed: int) -> dict[str, float]:
        with self.tracker.nested(f"{arm} seed {seed}", {"arm": arm, "seed": str(seed)}) as cell:
            trained: dict[str, Run] = {}
            run = self._train(self.study.fit, arm, seed, trained, cell.run_id)
            reports = {name: self._evaluated(name, run) for name in self.study.evaluate}
            values = {column: _figure(where, reports, trained) for column, where in self.study.measures.items()}
            cell.log(values)
        return values

    def _train(self, stage: str, arm: str, seed: int, trained: dict[str, Run], tracker: str | None) -> Run:
        """The finished run of a stage, trained now if there is none; its upstream runs first."""
        seed = self.study.seeds[0] if stage in self.study.shared else seed
        own = [*self.study.overrides, *self.study.stages.get(stage, []), *self.study.arms[arm].get(stage, [])]
        config = self._composed([f"stage={stage}", f"seed={seed}", *own])  # an arm may name its own seed
        upstream = {name: self._train(name, arm, seed, trained, tracker) for name in needed(config)}
        keys = {name: runs.material(run.config()) for name, run in upstream.items()}
        config.lineage = fingerprint(OmegaConf.create(keys), list(keys))
        run = runs.find_finished(config) or _awaited(config)
        if run is None:
            from kit.fit import fit

            plan = Plan(todo=[config], exports={name: one.export for name, one in upstream.items()})
            fit(config, plan, tracker, report=False)
            run = runs.find_finished(config)
            assert run is not None
        trained[stage] = run
        return run

    def _evaluated(self, name: str, run: Run) -> dict[str, Any]:
        """The report of an evaluation, made now if there is none, in the ways of decoding that are measured."""
        config = self._composed([*self.study.overrides, *self.study.evaluate[name], f"seed={self.seeds[0]}"])
        wanted = sorted({where[1] for where in self.study.measures.values() if where[0] == name})
        known = " ".join([fingerprint(config, _DECIDING)[:16], *names_digest(config), *wanted])
        path = run.path / "evaluations" / f"{known}.json"
        report = runs.read_json(path)
        if not report:
            from kit.evaluation.report import measure
            from kit.fit import data_module, quiet
            from kit.model.export import load_export

            say(f"evaluating {run.path}: {name}")
            with quiet():
                report = measure(config, load_export(run.export), data_module(config), wanted)
            write_text(path, json.dumps(report, indent=1, ensure_ascii=False, default=float))
        return report

    def _composed(self, own: Sequence[str]) -> DictConfig:
        return compose([*own, *self.overrides, f"experiment={EXPERIMENT}"])

    def _write(self, results: Mapping[str, Mapping[str, list[float]]]) -> list[Path]:
        """Print the table; write it, the figures and the numbers, and tell where."""
        table_file, figure, numbers = (self.folder / name for name in ("table.md", "figure.svg", "results.json"))
        text = table(self.study, self.seeds, results, self.overrides)
        write_text(numbers, json.dumps({"seeds": self.seeds, "arms": results}, indent=1))
        write_text(table_file, text)
        draw(figure, self.study, results)
        print(text)
        say(f"written to {self.folder}: table.md, figure.svg, results.json")
        return [table_file, figure, numbers]


def names_digest(config: DictConfig) -> list[str]:
    """One digest of the hotwords that an evaluation looks for, which change in place; none where there are none."""
    files = [Path(config.hotwords) / "manifest.json"] if config.hotwords else []
    files += [Path(config.personal)] if config.personal else []
    content = b"".join(path.read_bytes() for path in files if path.is_file())
    return [hashlib.sha256(content).hexdigest()[:16]] if files else []


def _awaited(config: DictConfig) -> Run | None:
    """The run of this configuration that another process is training, waited for; None where nobody does."""
    busy = runs.find_busy(config)
    if busy is None:
        return None
    say(f"waiting for {busy.path}, which another process trains")
    while busy.busy():
        time.sleep(_LOOK_SECONDS)
    return runs.find_finished(config)


def _figure(where: Sequence[str], reports: Mapping[str, Any], trained: Mapping[str, Run]) -> float:
    """A figure of a report, or of a stage's metrics.

    Raises:
        KitError: there is no such figure.
    """
    first, *path = where
    if first in reports:  # of one part; of none, where the way is not one of this decoding
        found: Any = next(iter(reports[first]["parts"].values()), {})
    else:
        found = runs.read_json(trained[first].metrics).get("metrics", {}) if first in trained else {}
    for key in path:
        if not isinstance(found, dict) or key not in found:
            known = ", ".join(found) if isinstance(found, dict) else found
            raise KitError(f"measure {list(where)}: there is no {key!r}, only {known}; mend the study's measures")
        found = found[key]
    return float(found)


# --- telling ----------------------------------------------------------------------------------------------------------


def told(values: Sequence[float]) -> str:
    """Mean and sample deviation."""
    mean = statistics.fmean(values)
    digits = 3 if abs(mean) < 2 else 1
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{deviation}"


def verdict(lower: Sequence[float], higher: Sequence[float]) -> str:
    """Whether one arm is lower than another, by their differences seed by seed.

    "holds" where all seeds say so and the mean difference is more than two standard errors; "reversed" where that is so
    the other way round; otherwise "not decided".
    """
    differences = [one - other for one, other in zip(lower, higher, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    clear = abs(mean) > 2 * error and len({one > 0 for one in differences}) == 1
    word = ("holds" if mean < 0 else "reversed") if clear else "not decided"
    digits = 3 if abs(mean) < 2 else 1
    spread = f"± {error:.{digits}f}" if math.isfinite(error) else "with one seed"
    return f"{word}: {mean:+.{digits}f} {spread}"


def table(
    study: Study,
    seeds: Sequence[int],
    results: Mapping[str, Mapping[str, Sequence[float]]],
    overrides: Sequence[str] = (),
) -> str:
    """The study in Markdown: question, claim, a row an arm with mean and deviation, what became of expectations, and
    the command that makes it again."""
    columns = list(study.measures)
    rows = [_row("arm", columns), _row("---", ["---"] * len(columns))]
    rows += [_row(arm, [told(values[column]) for column in columns]) for arm, values in results.items()]
    lines = [f"**{study.question}** The paper: {study.claim}", "", *rows, ""]
    listed = ", ".join(map(str, seeds))
    over = f"Mean ± deviation over {len(seeds)} seeds" if len(seeds) > 1 else "One seed"
    lines += [f"{over} ({listed}).", ""]
    for column, lower, higher in study.expected():
        lines.append(f"- {column}, {lower} below {higher}: {verdict(results[lower][column], results[higher][column])}.")
    own = [] if list(seeds) == study.seeds else [f"seeds=[{','.join(map(str, seeds))}]"]
    command = shlex.join([f"name={study.name}", *own, *overrides])
    lines += ["", f"`python -m kit study {command}`", ""]
    return "\n".join(lines)


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def draw(path: Path, study: Study, results: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """The figure of a study as SVG: its curves where it has some, else dots."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure = _curves(study, results) if study.curves else _dots(study, results)
    FigureCanvasSVG(figure)
    write_atomic(path, lambda file: figure.savefig(file, format="svg"))


def _dots(study: Study, results: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """A panel a measure: a dot a seed, a line at each arm's mean."""
    from matplotlib.figure import Figure

    columns, arms = list(study.measures), list(results)
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure = Figure(figsize=(3.1 * across, 0.9 + down * (0.7 + 0.36 * len(arms))), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for place, axes in enumerate(panels.flat):
        if place >= len(columns):
            axes.set_visible(False)
            continue
        for row, arm in enumerate(arms):
            values, color = results[arm][columns[place]], f"C{row}"
            axes.plot(values, [row] * len(values), "o", color=color, alpha=0.6, markersize=5)
            axes.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_title(columns[place], fontsize="medium")
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    return figure


def _curves(study: Study, results: Mapping[str, Mapping[str, Sequence[float]]]) -> Any:
    """A row a quantity, a panel a measure in it: a dot a seed, lines through the means, the quantity doubling."""
    from matplotlib.figure import Figure

    columns = list(study.measures)
    size = (0.6 + 2.6 * len(columns), 2.6 * len(study.curves))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(study.curves), len(columns), squeeze=False)
    for row, (quantity, lines) in zip(panels, study.curves.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            for place, (line, points) in enumerate(lines.items()):
                _curve(axes, line, f"C{place}", {x: results[arm][column] for arm, x in points.items()})
            axes.set(xscale="log", xlabel=quantity, title=column, ylim=(0, 1.08 * axes.dataLim.ymax or None))
            _ticks(axes, sorted({x for points in lines.values() for x in points.values()}))
        if len(lines) > 1:
            row[0].legend(frameon=False, fontsize="small")
    return figure


def _curve(axes: Any, name: str, color: str, points: Mapping[float, Sequence[float]]) -> None:
    places = sorted(points)
    axes.plot(places, [statistics.fmean(points[x]) for x in places], color=color, linewidth=2, label=name)
    for x in places:
        axes.plot([x] * len(points[x]), points[x], "o", color=color, alpha=0.6, markersize=5)


def _ticks(axes: Any, places: Sequence[float]) -> None:
    """Ticks where there are arms, and nowhere else; light lines across."""
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.minorticks_off()
    axes.title.set_fontsize("medium")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
