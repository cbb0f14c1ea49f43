"""`python -m kit bench retrieval`: what finding hotwords costs at any number of names, and how much is found.

Speed is measured on a stream's chunks of 640 ms, each searched three times, of which the fastest counts, so that what
else the machine does is left out. Quality is measured on real speech, where names of the database are said in it, and
on names of the database put into real sentences with any rate of phoneme errors (`kit.evaluation.mishearing`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from kernels.benchmark import commit, device_name
from kit.errors import KitError, UsageError
from kit.evaluation.listening import PARTS, Listened, listen
from kit.evaluation.mishearing import Snippets
from kit.evaluation.retrieval import (
    Dense,
    Edits,
    Exact,
    Hybrid,
    Spoken,
    Way,
    error_rate,
    has_name,
    measure,
    simulated,
    spoken,
)
from kit.files import append_rows
from kit.options import choose, share, whole_number
from kit.processors import processors
from kit.progress import say, track
from kit.retrieval.build import build
from kit.retrieval.database import Database
from kit.retrieval.exact import ExactSearch
from kit.retrieval.hybrid import Hearing, HybridSearch, Progress, compete, search_in, verify
from kit.retrieval.lexicon import Entry, Lexicon, MemoryLexicon
from kit.text.invented import Inventor
from kit.text.phonemes import PhonemeInventory
from kit.text.variants import pronunciations

DEFAULTS = {
    "database": "", "names": "100000", "sizes": "10000,100000", "streams": "1,8", "errors": "0,5,10,15,20",
    "utterances": "200", "edits": "20", "precision": "0.98", "out": "bench",
}  # fmt: skip
_REPEATS = 3
_SPED = 0.1  # phoneme error rate of the utterances that the clock runs on
_SPED_UTTERANCES = 100
_COLORS = {"exact": "C0", "hybrid": "C1", "dense": "C2", "edit distance": "C3"}
TARGETS = {"exact": 0.1, "hybrid": 5.0}  # ms that 99 of 100 chunks are to stay below


def bench(overrides: Sequence[str]) -> int:
    """Print the tables, write retrieval-speed.csv, retrieval-quality.csv and a plot.

    Raises:
        KitError: no such option, no export, a database that does not fit to it, or the results cannot be written.
    """
    from kit.cli import with_export
    from kit.fit import data_module, quiet
    from kit.model.export import load_export

    own = [override for override in overrides if override.partition("=")[0] in DEFAULTS]
    chosen = options(own)
    config, export = with_export(["decoding=chunked", "retrieval=hybrid", *(o for o in overrides if o not in own)])
    with quiet():
        data = data_module(config)
        recognizer = load_export(export, PARTS)
        data.use_model(recognizer)
        parts = {part: list(listen(recognizer, data, part, config.decoding)) for part in ["dev", *data.test_parts()]}
    with tempfile.TemporaryDirectory() as scratch:
        database = _database(chosen, data, recognizer.inventory, Path(scratch))
        search = search_in(database, database.inventory, config.retrieval.margin, config.retrieval.shortest)
        snippets = Snippets(
            ((one.log_probs, one.phonemes) for part in parts.values() for one in part), recognizer.inventory
        )
        carriers = [(bytes(one.phonemes), one.text) for part in parts.values() for one in part]
        quality = list(_qualities(chosen, database, search, snippets, carriers, _real(parts, database, data)))
        _show(quality, "recall and precision", QUALITY)
        sped = simulated(database, snippets, carriers, _SPED_UTTERANCES, _SPED)
        speed = list(_speeds(chosen, database, search, sped, Path(scratch)))
        _show(speed, "what a chunk of 640 ms costs on the CPU", SPEED)
    folder = Path(chosen["out"])
    try:
        append_rows(quality, folder / "retrieval-quality.csv")
        append_rows(speed, folder / "retrieval-speed.csv")
        _plot(speed, quality, folder / "retrieval-cpu.svg")
    except OSError as error:
        raise KitError(f"cannot write to {folder} ({error.strerror}); name another folder with out=") from error
    return 0


def options(overrides: Sequence[str]) -> dict[str, str]:
    """DEFAULTS with the values given on the command line.

    Raises:
        UsageError: no such option, or a value of the wrong kind.
    """
    chosen = choose("bench retrieval", DEFAULTS, overrides)
    for key in ("names", "utterances"):
        whole_number(key, chosen[key])
    whole_number("edits", chosen["edits"], least=0)
    for key in ("sizes", "streams"):
        _numbers(key, chosen[key])
    for errors in chosen["errors"].split(","):
        if not errors.isdecimal() or int(errors) > 100:
            raise UsageError(f"errors={chosen['errors']} must be percentages, such as 0,5,10")
    chosen["precision"] = str(share("precision", chosen["precision"]))
    return chosen


def _numbers(key: str, written: str) -> list[int]:
    return [whole_number(key, one) for one in written.split(",")]


# What is searched in


def _database(chosen: Mapping[str, str], data: Any, inventory: PhonemeInventory, scratch: Path) -> Database:
    """The one that was named, or one of made-up names."""
    if chosen["database"]:
        return Database.open(chosen["database"], inventory)
    known = data.keywords(["train"])
    draw = Random(0)
    invent = Inventor(known, draw.choice)
    names = {invent(draw.choice(known)) for _ in range(int(chosen["names"]))}
    names |= set(data.keywords(data.test_parts()))  # so that some of them are said
    (scratch / "names.tsv").write_text("".join(f"{name}\n" for name in sorted(names)), "utf-8")
    return build(scratch / "names.tsv", scratch / "all", inventory, processors())


def _part_of(database: Database, count: int, scratch: Path) -> Database:
    """A database of some of another one's strings."""
    chosen = sorted(Random(0).sample(range(database.keys), count))
    symbols = database.inventory.symbols
    lines = (
        f"{database.entries(key)[0].text}\t\t\t{' '.join(symbols[number] for number in database.phonemes(key))}\n"
        for key in chosen
    )
    (scratch / f"{count}.tsv").write_text("".join(lines), "utf-8")
    return build(scratch / f"{count}.tsv", scratch / str(count), database.inventory)


def _strings(database: Database, count: int) -> Lexicon:
    """So many strings for the exact search: those of a database, or some, or also two of them behind one another."""
    if count == database.keys:
        return database
    draw, names = Random(0), [Entry("name")]
    several = {database.phonemes(key) for key in draw.sample(range(database.keys), min(count, database.keys))}
    while len(several) < count:
        one, other = draw.randrange(database.keys), draw.randrange(database.keys)
        several.add(database.phonemes(one) + database.phonemes(other))
    return MemoryLexicon({string: names for string in several}, str(count))


def _real(parts: Mapping[str, Sequence[Listened]], database: Database, data: Any) -> dict[str, list[Spoken]]:
    """Real speech by part; the names in it are those that the database has."""

    def known(name: str) -> bool:
        strings = (bytes(database.inventory.encode(one)) for one in pronunciations(name))
        return has_name(database, strings, name)

    def names(one: Listened) -> Iterable[str]:
        return filter(known, dict.fromkeys(data.entities(one.cut) or ()))

    return {
        part: [spoken(one.log_probs, one.phonemes, one.text, names(one)) for one in all_]
        for part, all_ in parts.items()
    }


# Quality

QUALITY = {
    "speech": "speech", "phoneme errors": "per", "names": "names", "way": "way", "recall": "recall",
    "precision": "precision", "found an utterance": "hints", "threshold": "margin",
}  # fmt: skip


def _qualities(
    chosen: Mapping[str, str],
    database: Database,
    search: HybridSearch,
    snippets: Snippets,
    carriers: Sequence[tuple[bytes, str]],
    real: Mapping[str, Sequence[Spoken]],
) -> Iterator[dict[str, Any]]:
    """Rows of the table: real speech by part, then simulated errors."""
    ways: dict[str, Way] = {"exact": Exact(database), "dense": Dense(database.dense()), "hybrid": Hybrid(search)}
    if int(chosen["edits"]) and _has_rapidfuzz():
        ways["edit distance"] = Edits(database)
    kinds = {part: list(utterances) for part, utterances in real.items()}
    for errors in map(int, chosen["errors"].split(",")):
        kinds[f"simulated {errors} %"] = simulated(
            database, snippets, carriers, int(chosen["utterances"]), errors / 100
        )
    for speech, utterances in track(list(kinds.items()), "searching"):
        most = {"edit distance": int(chosen["edits"])}
        for way, reached in measure(database, ways, utterances, search.margin, float(chosen["precision"]), most):
            yield {
                "speech": speech,
                "per": error_rate(utterances),
                "names": sum(len(one.names) for one in utterances[: most.get(way)]),
                "way": way,
                "recall": 100 * reached.recall,
                "precision": 100 * reached.precision,
                "hints": reached.hints,
                "margin": reached.margin if ways[way].evidence else None,
                "entries": database.keys,
                "commit": commit(),
            }


def _has_rapidfuzz() -> bool:
    """Whether names can be compared by it; says so if not."""
    try:
        import rapidfuzz  # noqa: F401
    except ImportError:
        say("edit distance is left out: it needs rapidfuzz, which pip install nim4-kit[dev] brings")
        return False
    return True


# Speed

SPEED = {
    "way": "way", "phoneme strings": "entries", "streams": "streams", "steps": "steps", "median ms": "ms_50",
    "99 % ms": "ms_99", "most ms": "ms_100",
}  # fmt: skip


def _speeds(
    chosen: Mapping[str, str], database: Database, search: HybridSearch, utterances: Sequence[Spoken], scratch: Path
) -> Iterator[dict[str, Any]]:
    """Rows of the table."""
    sizes = sorted({*_numbers("sizes", chosen["sizes"]), database.keys})
    for entries in track(sizes, "searching among"):
        yield _timed("exact", entries, 1, exact_times(ExactSearch(_strings(database, entries)), utterances))
        if entries > database.keys:
            continue
        some = search
        if entries < database.keys:
            some = search_in(_part_of(database, entries, scratch), database.inventory, search.margin)
        for streams in _numbers("streams", chosen["streams"]):
            yield _timed("hybrid", entries, streams, hybrid_times(some, utterances, streams))


def _timed(way: str, entries: int, streams: int, seconds: Sequence[float]) -> dict[str, Any]:
    quantiles = {f"ms_{share}": 1e3 * float(np.percentile(seconds, share)) for share in (50, 99, 100)}
    about = {"device": device_name(torch.device("cpu")), "torch": torch.__version__, "commit": commit()}
    return {"way": way, "entries": entries, "streams": streams, "steps": len(seconds), **quantiles, **about}


def exact_times(search: ExactSearch, utterances: Iterable[Spoken]) -> list[float]:
    """Seconds of each chunk."""
    found = []
    for utterance in utterances:
        state = None
        for fresh in _fresh(utterance):
            seconds, (_, state) = _fastest(partial(search.search, fresh, state))
            found.append(seconds)
    return found


def hybrid_times(search: HybridSearch, utterances: Sequence[Spoken], streams: int) -> list[float]:
    """Seconds of each step, in which every stream brings a chunk."""
    found = []
    for first in range(0, len(utterances) - streams + 1, streams):
        rows = [_Stream(utterance) for utterance in utterances[first : first + streams]]
        for number in range(1, max(len(one.chunks) for one in utterances[first : first + streams]) + 1):
            for row in rows:
                row.hearing.hear(row.utterance.chunks[:number])
            seconds, progress = _fastest(partial(_step, search, rows))
            found.append(seconds)
            rows = [replace(row, progress=done) for row, done in zip(rows, progress, strict=True)]
    return found


@dataclass(frozen=True)
class _Stream:
    utterance: Spoken
    hearing: Hearing = field(default_factory=Hearing)
    progress: Progress = field(default_factory=Progress)


def _step(search: HybridSearch, rows: Sequence[_Stream]) -> list[Progress]:
    proposed = search.propose([(row.hearing, row.progress) for row in rows])
    for found in verify([row.hearing for row in rows], [proposals for proposals, _ in proposed]):
        compete(found)
    return [progress for _, progress in proposed]


def _fresh(utterance: Spoken) -> Iterator[list[int]]:
    """The phonemes of the greedy path that each chunk brings."""
    hearing, before = Hearing(), 0
    for number in range(1, len(utterance.chunks) + 1):
        hearing.hear(utterance.chunks[:number])
        yield hearing.phonemes[before:]
        before = len(hearing.phonemes)


def _fastest(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of some calls, and what it gives."""
    best, result = float("inf"), None
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - begin)
    return best, result


# Results


def _show(rows: Sequence[Mapping[str, Any]], title: str, columns: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}, commit {commit() or 'unknown'}", title_justify="left")
    for name, key in columns.items():
        table.add_column(name, justify="left" if key in ("speech", "way") else "right")
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in columns.values()))
    Console(width=None if Console().is_terminal else 120).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _plot(speed: Sequence[Mapping[str, Any]], quality: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Left the time of a chunk over the number of names, right the recall over the rate of simulated errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for way, target in TARGETS.items():
        rows = [row for row in speed if row["way"] == way and row["streams"] == 1]
        entries = [row["entries"] for row in rows]
        left.plot(entries, [row["ms_99"] for row in rows], "o-", color=_COLORS[way], label=f"{way}, 99 % of chunks")
        left.plot(entries, [row["ms_50"] for row in rows], "o:", color=_COLORS[way], label=f"{way}, half of them")
        left.axhline(target, color=_COLORS[way], linewidth=0.8, alpha=0.5)
    left.set(xscale="log", yscale="log", xlabel="phoneme strings", ylabel="ms a chunk of 640 ms")
    left.set_title("lines without dots: targets", loc="left", fontsize=9)
    simulated_rows = [row for row in quality if row["speech"].startswith("simulated")]
    for way in dict.fromkeys(row["way"] for row in simulated_rows):
        rows = [row for row in simulated_rows if row["way"] == way]
        right.plot([row["per"] for row in rows], [row["recall"] for row in rows], "o-", color=_COLORS[way], label=way)
    right.set(xlabel="phoneme error rate, %", ylabel="names found, %", ylim=(0, 102))
    right.set_title(f"among {quality[0]['entries']:,} phoneme strings", loc="left", fontsize=9)
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False, loc=(0.05, 0.48) if axes is left else "upper right")
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
