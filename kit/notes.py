"""What a run says of itself in MLflow: Markdown at its top, headline figures, and tables of a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from kit.callbacks import duration
from kit.runs import Run, read_json

EXPERIMENT = (
    "A row is a command. Open it for its stages: each has its curves, its figures, the configuration, the export, and "
    "links to the runs that it started from.\n\n"
    "To compare: tick rows, then *Compare*. Useful columns: `test/whole/MER`, `unseen/whole/MER`, `dev/text_loss`, and "
    "the parameters that differ. Recognizers stand under *Models*, with the alias `newest`."
)
Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
_RATES = ("MER", "CER", "WER", "PER")
_SHARES = ("entity recall", "entity precision", "recited", "hallucination", "hints said", "names hinted")


def command_line(config: DictConfig) -> str:
    """What was typed, as far as the configuration knows it."""
    words = [str(word) for word in config.get("overrides") or []]
    stage = [] if any(word.startswith("stage=") for word in words) else [f"stage={config.stage.name}"]
    return " ".join(["python -m kit fit", *map(shlex.quote, [*stage, *words])])


def command(config: DictConfig, name: str) -> str:
    """A whole command: its name and how to have it again."""
    data, model = config.data.get("name", ""), config.model.get("name", "")
    return f"**{name}**: data `{data}`, model `{model}`, seed {config.get('seed')}.\n\n`{command_line(config)}`"


def begun(config: DictConfig, run: Run, upstream: Mapping[str, str]) -> str:
    """A stage that begins: what it is to train, from what, and where.

    Args:
        upstream: of each export that it starts from, a link or a path in Markdown.
    """
    stage = config.stage
    first = (
        f"Stage **{stage.name}**: data `{config.data.get('name', '')}`, model `{config.model.get('name', '')}`, "
        f"seed {config.get('seed')}. Run folder `{run.path}`."
    )
    moved = stage.get("trains")
    lines = [first, f"Trains: `{'`, `'.join(map(str, moved))}`." if moved else ""]
    lines.append("".join(f"\n- starts from {name}: {where}" for name, where in upstream.items()))
    return "\n\n".join(line.strip("\n") for line in lines if line)


def ended(run: Run) -> str:
    """A stage that ended well: steps, time and the figures of the dev part."""
    about = read_json(run.metrics)
    if not about:
        return ""
    waited = f"{100 * about['data_share']:.1f} % of it waiting for data"
    took = f"{about['steps']} steps in {duration(about['seconds'])}, {waited}."
    dev = {name: value for name, value in about.get("metrics", {}).items() if name.startswith("dev/")}
    return "\n".join([took, "", *_markdown((["dev", ""], [[name[4:], f"{value:.4g}"] for name, value in dev.items()]))])


def registered(name: str, version: str) -> str:
    """How to use the recognizer that a run became."""
    return (
        f"Registered as `{name}` version {version}:\n\n"
        f'```python\nmlflow.set_tracking_uri("sqlite:///runs/mlflow.db")\n'
        f'mlflow.pyfunc.load_model("models:/{name}/{version}").predict(pandas.DataFrame({{"path": ["a.wav"]}}))\n```'
    )


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report over all utterances, by PART/WAY/FIGURE; all others stand in its tables."""
    found: dict[str, float] = {}
    for part, way, group, scores in _scores(report):
        if group == "all":
            plain = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
            found |= {f"{part}/{way}/{name}": float(value) for name, value in plain.items() if name != "utterances"}
    for part, latencies in report.get("latency", {}).items():
        medians = {name: value["median"] if isinstance(value, dict) else value for name, value in latencies.items()}
        found |= {f"{part}/latency/{name}": float(value) for name, value in medians.items() if value is not None}
    return found


def tables(report: Mapping[str, Any]) -> dict[str, Table]:
    """Tables of a report by name: error rates of every group, and the examples."""
    names = [name for name in (*_RATES, *_SHARES) if any(name in scores for *_, scores in _scores(report))]
    rows = [
        [part, way, group, scores.get("utterances"), *(scores.get(name) for name in names)]
        for part, way, group, scores in _scores(report)
    ]
    found: dict[str, Table] = {}
    if rows:
        found["error_rates"] = ["part", "way", "group", "utterances", *names], rows
    examples = [[one.get("id"), one.get("reference"), one.get("hypothesis")] for one in report.get("examples", ())]
    if examples:
        found["examples"] = ["utterance", "said", "heard"], examples
    return found


def error_rates(report: Mapping[str, Any]) -> str:
    """The error rates over all utterances, and by language, in Markdown."""
    rows = []
    for part, way, group, scores in _scores(report):
        shown = {name: scores[name] for name in _RATES if isinstance(scores.get(name), (int, float))}
        if shown and group in ("all", "en", "zh", "mixed"):
            rates = ", ".join(f"{name} {value:.1f}" for name, value in shown.items())
            rows.append([part, way, group, str(scores.get("utterances", "")), rates])
    lines = list(_markdown((["part", "way", "group", "utterances", "error rates, %"], rows)))
    return "\n".join(["#### Held-out speech", "", *lines]) if rows else ""


def _scores(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    for part, ways in report.get("parts", {}).items():
        for way, groups in ways.items():
            for group, scores in groups.items():
                yield part, way, group, scores


def _markdown(table: Table) -> Iterator[str]:
    columns, rows = table
    if rows:
        yield f"| {' | '.join(columns)} |"
        yield f"| {' | '.join(['---'] * len(columns))} |"
        yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
