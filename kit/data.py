"""`python -m kit data`: list the known corpora, prepare a downloaded one, export any data as Lhotse Shar."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kit.errors import UsageError
from kit.options import choose, sub_command, whole_number
from kit.progress import say

DEFAULTS: dict[str, dict[str, str]] = {
    "list": {"cache": "cache"},
    "prepare": {"corpus": "", "root": "", "parts": "", "out": "", "cache": "cache"},
    "export": {"out": "", "shards": "1000"},
}
WIDTH = 170
ROUNDED = 0.05  # by which hours may differ from the published ones, which are rounded


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Carry out what the first word says; returns the exit code.

    Raises:
        KitError: no such command or option, or it failed.
    """
    command = sub_command("data", COMMANDS, files)
    if len(files) > 1:
        raise UsageError(f"data {files[0]} takes no files, got {files[1]}; values are written key=value")
    return command(overrides)


def options(command: str, overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options of a command, and what is left for the configuration: only `export` has one.

    Raises:
        UsageError: it has no such option.
    """
    known = DEFAULTS[command]
    others = [one for one in overrides if command == "export" and one.partition("=")[0] not in known]
    return choose(f"data {command}", known, [one for one in overrides if one not in others]), others


def _list(overrides: Sequence[str]) -> int:
    chosen, _ = options("list", overrides)
    module = _module("data")
    table = _table("corpus", "language", "hours >", "parts >", "prepared >", "license", "from")
    for corpus in _module("registry").CORPORA.values():
        folder = module.corpus_folder(chosen["cache"], corpus.name)
        ready = sum((folder / part / "about.json").is_file() for part in corpus.parts)
        hours = "?" if corpus.hours is None else f"{corpus.hours:,.0f}"
        row = (corpus.name, corpus.language, hours, len(corpus.parts), ready or "-", corpus.license, corpus.homepage)
        table.add_row(*map(str, row))
    _show(table)
    return 0


def _prepare(overrides: Sequence[str]) -> int:
    chosen, _ = options("prepare", overrides)
    corpus = _module("registry").find(chosen["corpus"])
    if not chosen["root"]:
        raise UsageError(f"data prepare needs root=FOLDER, to which {corpus.title} was unpacked ({corpus.homepage})")
    out = Path(chosen["out"] or _module("data").corpus_folder(chosen["cache"], corpus.name))
    prepare = _module("prepare")
    parts = [part for part in chosen["parts"].strip("[]").replace(" ", "").split(",") if part]
    found = prepare.prepare(corpus, chosen["root"], parts, out)
    _show(_counts(corpus, found))
    for part in found:
        _warn(corpus, part, out / part.part / prepare.PROBLEMS)
    absent = [part for part in prepare.check_parts(corpus, parts) if part not in {one.part for one in found}]
    if absent:
        say(f"not there, and passed over: {', '.join(absent)}")
    print(f"prepared: {out}")
    say(f"next: python -m kit evaluate data={corpus.name}" + f" data.folder={out}" * bool(chosen["out"]))
    return 0


def _counts(corpus: Any, found: Sequence[Any]) -> Table:
    """What was found of each part beside what is published of it."""
    kinds = [kind for kind in _module("prepare").KINDS if any(part.problems.get(kind) for part in found)]
    table = _table(
        "part", "listed >", "usable >", "published >", "hours >", "published >", "missing %>", *_right(kinds)
    )
    for part in found:
        published = corpus.parts[part.part]
        hours = part.seconds / 3600
        cells = [part.part, f"{part.listed:,}", f"{part.usable:,}", _told(published.utterances, ",")]
        cells += [f"{hours:,.2f}", _told(published.hours, ",.2f"), _lost(part.usable, hours, published)]
        table.add_row(*cells, *(f"{part.problems.get(kind, 0):,}" for kind in kinds))
    return table


def _right(kinds: Sequence[str]) -> list[str]:
    return [f"{kind} >" for kind in kinds]


def _told(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def _lost(usable: int, hours: float, published: Any) -> str:
    """Percent by which less (or, below 0, more) can be used than is published: of utterances, or else of hours."""
    if published.utterances:
        return f"{100 - 100 * usable / published.utterances:.2f}"
    return f"{100 - 100 * hours / published.hours:.1f}" if published.hours else "?"


def _warn(corpus: Any, part: Any, problems: Path) -> None:
    published = corpus.parts[part.part]
    if part.problems:
        told = ", ".join(f"{kind} {number}" for kind, number in part.problems.items())
        say(f"warning: {part.part}: {told}; by name in {problems}")
    if published.utterances and part.listed != published.utterances:
        told = f"the corpus lists {part.listed} utterances, {published.utterances} are published"
        say(f"warning: {part.part}: {told}")
    elif published.hours and abs(part.seconds / 3600 / published.hours - 1) > ROUNDED:
        say(f"warning: {part.part}: {part.seconds / 3600:.2f} h can be used, {published.hours:g} are published")


def _export(overrides: Sequence[str]) -> int:
    chosen, others = options("export", overrides)
    size = whole_number("shards", chosen["shards"])
    if not chosen["out"]:
        raise UsageError("data export needs a folder that is not there yet: out=FOLDER")
    from kit.config import compose
    from kit.fit import data_module, quiet

    config = compose(others)
    with quiet():
        data = data_module(config)
        parts = {name: data.cuts(name) for name in _present(data, config.split)}
        counts = importlib.import_module("datamodules.shar").export(parts, Path(chosen["out"]), size)
    for name, number in counts.items():
        print(f"{Path(chosen['out']) / name.replace('/', '-')}\t{len(parts[name])} utterances\t{number} archives")
    return 0


def _present(data: Any, wanted: str | None) -> list[str]:
    """The part that is wanted, or all that there are; those that cannot be had are told."""
    names = [wanted] if wanted else ["train", "dev", *data.test_parts()]
    found = []
    for name in names:
        try:
            if len(data.cuts(name)):
                found.append(name)
        except UsageError as error:
            if wanted:
                raise
            say(f"without {name}: {error}")
    return found


def _module(name: str) -> Any:
    """The corpora lie on a floor above this one and are reached by name."""
    return importlib.import_module(f"datamodules.corpora.{name}")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(" >"), justify="right" if right else "left", no_wrap=True)
    return table


def _show(table: Table) -> None:
    Console(width=WIDTH, highlight=False).print(table)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"list": _list, "prepare": _prepare, "export": _export}
