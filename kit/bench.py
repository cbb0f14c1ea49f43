"""`python -m kit bench`: the kernels' benchmark suites as a table, a CSV and a plot."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.errors import KitError, UsageError, nearest
from kit.options import choose

# With options of their own.
ALONE = {
    "streaming": "kit.bench_streaming",
    "retrieval": "kit.bench_retrieval",
    "serving": "kit.bench_serving",
    "rl": "kit.bench_rl",
}
DEFAULTS = {"device": "auto", "only": "", "seconds": "1", "out": "bench"}


def bench(names: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the named suites; 1 if our own provider failed its check.

    Raises:
        KitError: no such suite, option or device.
    """
    import torch

    from kernels import benchmark

    for alone in ALONE:
        if alone in names:
            if len(names) > 1:
                raise UsageError(f"bench {alone} runs alone; it has options of its own")
            return int(importlib.import_module(ALONE[alone]).bench(overrides))
    chosen = options(overrides)
    device = device_of(chosen["device"])
    suites = [*benchmark.SUITES, *ALONE]
    if not names:
        raise UsageError(f"bench needs a suite: {' or '.join(suites)}")
    for name in names:
        if name not in suites:
            guess = nearest(name, suites)
            raise UsageError(f"unknown suite {name}; {f'did you mean {guess}?' if guess else ' or '.join(suites)}")
    failed = False
    with torch.random.fork_rng():
        for name in names:
            suite = benchmark.suite(name)
            rows = benchmark.run(suite, device, float(chosen["seconds"]), chosen["only"])
            if not rows:
                raise UsageError(f"no case of {name} on {device.type} has {chosen['only']!r} in its name")
            _show(name, rows)
            folder = Path(chosen["out"])
            try:
                benchmark.write(rows, folder / f"{name}.csv")
                _plot(rows, suite.baseline, folder / f"{name}-{device.type}.svg")
            except OSError as error:
                raise KitError(f"cannot write to {folder} ({error.strerror}); name another folder with out=") from error
            failed |= any(row["provider"] == "ours" and not row["correct"] for row in rows)
    return int(failed)


def options(overrides: Sequence[str]) -> dict[str, str]:
    """DEFAULTS with the values given on the command line.

    Raises:
        UsageError: no such option, or seconds that are no number.
    """
    chosen = choose("bench", DEFAULTS, overrides)
    try:
        if not 0 < float(chosen["seconds"]) < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(f"seconds={chosen['seconds']} must be a number above 0") from None
    return chosen


def device_of(name: str) -> Any:
    """The torch device of `device=NAME`."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"device={name} must be cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise KitError("device=cuda, but torch finds no GPU here; take device=cpu")
    return torch.device(name)


def _show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    gpu = any("kernel_ms" in row for row in rows)
    table = Table(title=f"{name} on {rows[0]['device']}, commit {rows[0]['commit'] or 'unknown'}", title_justify="left")
    table.add_column("case", overflow="fold")
    table.add_column("provider")
    columns = {"ms": "ms_50", "20 %": "ms_20", "80 %": "ms_80"}
    if gpu:
        columns |= {"graph ms": "graph_ms", "kernel ms": "kernel_ms", "floor ms": "floor_ms", "peak MB": "peak_mbytes"}
    columns |= {"speed-up": "speedup", "saved MB": "saved_mbytes", "error": "error"}
    for title in columns:
        table.add_column(title, justify="right")
    before = None
    for row in rows:
        case = row["case"] if row["case"] != before else ""
        if case and before is not None:
            table.add_section()
        before = row["case"]
        table.add_row(case, row["provider"], *(_cell(row, key) for key in columns.values()))
    Console(width=None if Console().is_terminal else 120).print(table)


def _cell(row: Mapping[str, Any], key: str) -> str:
    if not row["correct"] and key != "error":
        return "wrong" if key == "ms_50" else ""
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.1e}" if key == "error" else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _plot(rows: Sequence[Mapping[str, Any]], baseline: str, path: Path) -> None:
    """Speed-ups over the baseline, a group of bars a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row.get("speedup")]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.28 * (len(rows) + len(cases))), layout="constrained")
    colors = {provider: f"C{index}" for index, provider in enumerate(providers)}
    place, ticks = 0.0, []
    for case in cases:
        group = [row for row in rows if row["case"] == case]
        ticks.append(place + (len(group) - 1) / 2)
        for row in group:
            color = colors[row["provider"]]
            axes.barh(place, row["speedup"], color=color, height=0.85, alpha=1 if row["provider"] == "ours" else 0.55)
            axes.text(row["speedup"], place, f" {row['provider']}  {row['speedup']:.2g}x", va="center", fontsize=8)
            place += 1
        place += 1
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.set_yticks(ticks, cases, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"times as fast as {baseline}")
    axes.set_title(rows[0]["device"], loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
