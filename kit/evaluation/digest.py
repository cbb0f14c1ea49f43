"""What the report of a benchmark says, as tables; all of it is computed from the JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from kit.evaluation.charts import Point
from kit.evaluation.comparing import differ, told
from kit.evaluation.metrics import LONGER, OVERLAP
from kit.evaluation.significance import interval
from kit.evaluation.tables import told_faults

NONE = "–"
LONGEST = 240  # characters of a reason
WITH = " + retrieval"
Row = Mapping[str, Any]
Report = Mapping[str, Any]

DURATIONS = (0.0, 2.0, 4.0, 7.0, 12.0, 20.0)  # seconds, where bins begin
RATIOS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # dB


@dataclass(frozen=True)
class Table:
    """A table of texts; `note` stands below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def markdown(report: Report, short: bool = False) -> str:
    """The report in Markdown; `short` leaves out what only a page has room for."""
    lines = [f"# Benchmark {_escaped(str(report['benchmark']))}", "", *(f"- {_escaped(one)}" for one in about(report))]
    for table in tables(report)[: 2 if short else None]:
        lines += ["", f"## {_escaped(table.title)}", "", *_lines(table)]
        lines += ["", _escaped(table.note)] if table.note else []
    return "\n".join([*lines, ""])


def _lines(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(_escaped, table.columns))} |"
    yield f"| {' | '.join(['---'] * len(table.columns))} |"
    for row in table.rows:
        yield f"| {' | '.join(map(_escaped, row))} |"


def _escaped(text: str) -> str:
    """Text that Markdown, and the HTML in it, takes for nothing else."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{one}" if one in "\\`*_[]|" else one for one in text)


def about(report: Report) -> list[str]:
    """How the report was made, a sentence each."""
    system = f"system: {report['system']}" if report["system"] else f"export: {report['export']}"
    noise = "none added" if report["noise_at"] is None else f"{report['noise_at']:g} dB"
    spelled = report["normalization"]
    return [
        system,
        f"normalization: {spelled['name']} ({spelled['about']})",
        f"noise: {noise}",
        f"made: {report['made']}",
        "intervals: 95 %, by resampling utterances",
        *(f"{name}: {crash}" for name, crash in report["crash"].items()),
    ]


def tables(report: Report) -> list[Table]:
    """All tables that have a row, the paper's first."""
    made = (against_paper, pairs, retrieval, by_group, hallucinations, latencies, by_condition, problems)
    return [table for table in (make(report) for make in made) if table.rows]


# --- figures ----------------------------------------------------------------------------------------------------------


def point(rows: Sequence[Row]) -> Point | None:
    """The mixed error rate of utterances; None without a reference unit."""
    wrong, lengths = [errors(row) for row in rows], [row["errors"]["length"] for row in rows]
    if not sum(lengths):
        return None
    low, high = interval(wrong, lengths)
    return Point(len(rows), 100 * sum(wrong) / sum(lengths), 100 * low, 100 * high)


def errors(row: Row) -> int:
    """All errors of an utterance."""
    return sum(row["errors"][kind] for kind in ("substitutions", "deletions", "insertions"))


def duration_of(row: Row) -> str:
    """The bin of an utterance's duration."""
    return _bin(row["seconds"], DURATIONS, "s")


def ratio_of(row: Row) -> str | None:
    """The bin of an utterance's signal-to-noise ratio."""
    return None if row["snr"] is None else _bin(row["snr"], RATIOS, "dB")


def language_of(row: Row) -> str:
    """The language of an utterance."""
    return str(row["language"])


CONDITIONS: dict[str, Callable[[Row], str | None]] = {
    "duration": duration_of,
    "signal-to-noise ratio": ratio_of,
    "language": language_of,
}


def binned(rows: Sequence[Row], kind: Callable[[Row], str | None]) -> dict[str, Point]:
    """Bin -> rate, in the order of the bins."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = kind(row)
        if name is not None:
            found.setdefault(name, []).append(row)
    points = {name: point(found[name]) for name in sorted(found, key=_place)}
    return {name: one for name, one in points.items() if one is not None}


def _bin(value: float, edges: Sequence[float], unit: str) -> str:
    place = max(index for index, edge in enumerate(edges) if value >= edge or index == 0)
    if place == len(edges) - 1:
        return f"{edges[-1]:g}+ {unit}"
    return f"{edges[place]:g}–{edges[place + 1]:g} {unit}"


def _place(name: str) -> tuple[float, str]:
    first = name.split("–")[0].split("+")[0]
    return (float(first), "") if first.replace(".", "").isdigit() else (0.0, name)


# --- tables -----------------------------------------------------------------------------------------------------------


def against_paper(report: Report) -> Table:
    """The paper's figures and ours, a row a set, those that were not run among them."""
    rows = []
    for one in report["sets"]:
        figures = report["paper"]["errors"].get(one["paper"]) or {}
        ways = report["utterances"].get(one["name"], {})
        whole, stream = _way(ways, "offline"), _way(ways, "streaming")
        ours = [NONE if way is None else str(point(ways[way]) or NONE) for way in (whole, stream)]
        theirs = [f"{figures[key]:.2f}" if key in figures else NONE for key in ("offline", "streaming")]
        said = shorten(f"not run: {one['not_run']}", LONGEST) if one["not_run"] else one["comparable"]
        count = str(len(next(iter(ways.values())))) if ways else NONE
        rows.append([one["name"], count, one["rate"], theirs[0], ours[0], theirs[1], ours[1], said])
    columns = ["set", "utterances", "rate", "paper, whole", "whole", "paper, streams", "streams", "comparable"]
    note = f"Paper: {report['paper']['source']}. Rates in percent; a unit is a Han character or a Latin word."
    return Table("Error rates beside the paper's", columns, rows, note)


def _way(ways: Mapping[str, Any], kind: str) -> str | None:
    """The way without retrieval that is offline or streaming."""
    plain = [way for way in ways if not way.endswith(WITH)]
    streams = [way for way in plain if way.endswith(" ms")]
    chosen = streams if kind == "streaming" else [way for way in plain if way not in streams]
    return chosen[0] if chosen else None


def pairs(report: Report) -> Table:
    """What streaming and retrieval change, on the same utterances."""
    rows = []
    for name, ways in report["utterances"].items():
        for first, second in _pairs(list(ways)):
            found, _ = differ(ways[first], ways[second])
            rows.append([name, first, second, *told(found)[3:]])
    columns = ["set", "first", "second", "difference, points", "wins", "losses", "ties", "p", "verdict"]
    note = "Wins are utterances in which the second has fewer errors. Matched-pairs permutation test; 5 % level, each "
    return Table("Wins and losses", columns, rows, f"{note}row for itself.")


def _pairs(ways: Sequence[str]) -> list[tuple[str, str]]:
    plain = [way for way in ways if not way.endswith(WITH)]
    return [(plain[0], other) for other in plain[1:]] + [(way, way + WITH) for way in plain if way + WITH in ways]


def retrieval(report: Report) -> Table:
    """Error rate and names found without and with retrieval; the paper's below."""
    rows = []
    for name, ways in report["parts"].items():
        about_set = next(one for one in report["sets"] if one["name"] == name)
        for way in [way for way in ways if way + WITH in ways]:
            before, after = ways[way]["all"], ways[way + WITH]["all"]
            cells = [_figure(one, key) for key in _RETRIEVAL for one in (before, after)]
            rows.append([name, way, *cells, about_set.get("retrieval", "")])
    for name, one in report["paper"]["retrieval"].items() if rows else ():
        theirs = (one["error"], one["error_with"], one["recall"], one["recall_with"])
        cells = [f"{value:.2f}" for value in theirs]
        rows.append([f"paper: {name}", "streams", *cells, NONE, NONE, "not comparable: other sets, other names"])
    labels = ("error", "error with it", "names found", "with it", "names right", "with it")
    return Table("Retrieval", ["set", "way", *labels, "searched in"], rows, _RETRIEVAL_NOTE)


_RETRIEVAL = ("MER", "entity recall", "entity precision")
_RETRIEVAL_NOTE = (
    "In percent. Names found: names said that are in the text, letter by letter. Names right: names of the set in the "
    "text that were said."
)


def _figure(scores: Mapping[str, Any], key: str) -> str:
    return f"{scores[key]:.2f}" if key in scores else NONE


def by_group(report: Report) -> Table:
    """Error rates and kinds of errors by language and domain."""
    rows = []
    for name, ways in report["parts"].items():
        for way, groups in ways.items():
            for group, scores in groups.items():
                if "MER edits" not in scores:
                    continue
                substituted, deleted, inserted, length = scores["MER edits"]
                low, high = scores["MER interval"]
                rate = f"{scores['MER']:.2f} ({low:.2f}–{high:.2f})"
                kinds = [str(one) for one in (length, substituted, deleted, inserted)]
                rows.append([name, way, group, str(scores["utterances"]), rate, *kinds])
    columns = ["set", "way", "group", "utterances", "rate", "units", "substituted", "deleted", "inserted"]
    return Table("Error rates by language and domain", columns, rows)


def hallucinations(report: Report) -> Table:
    """Utterances hallucinated; the paper's below."""
    rows = [
        [name, way, str(ways[way]["all"]["utterances"]), _figure(ways[way]["all"], "hallucination")]
        for name, ways in report["parts"].items()
        for way in ways
    ]
    rows += [
        [f"paper: {name}, after RL", NONE, NONE, f"{value:.3f}"]
        for name, value in report["paper"]["hallucination"].items()
    ]
    note = (
        f"A text more than {LONGER:g} times as long as its reference that has less than {100 * OVERLAP:.0f} % of it. "
        "The paper says “negligible overlap” and gives no figure for that."
    )
    return Table("Hallucinated utterances, %", ["set", "way", "utterances", "hallucinated"], rows, note)


def latencies(report: Report) -> Table:
    """Latency and stability of streams."""
    rows = []
    for name, ways in report["latency"].items():
        for way, figures in ways.items():
            for what, value in figures.items():
                cells = (value["median"], value["95 %"]) if isinstance(value, dict) else (value, None)
                rows.append([name, way, what, *(NONE if cell is None else str(cell) for cell in cells)])
    return Table("Streams", ["set", "way", "figure", "median, or all", "95 %"], rows)


def by_condition(report: Report) -> Table:
    """Error rates by duration, signal-to-noise ratio and language."""
    rows = []
    for name, ways in report["utterances"].items():
        for condition, kind in CONDITIONS.items():
            for way, utterances in ways.items():
                for bin_name, one in binned(utterances, kind).items():
                    rows.append([name, condition, bin_name, way, str(one.utterances), str(one)])
    source = "known, noise was mixed in" if report["noise_at"] is not None else "estimated from the quietest frames"
    note = f"Signal-to-noise ratio: {source}."
    return Table("Error rates by condition", ["set", "by", "bin", "way", "utterances", "rate"], rows, note)


def problems(report: Report) -> Table:
    """What is wrong with references and answers."""
    rows = [line.split(": ", 1) for line in told_faults(report["faults"])]
    note = "All of these are scored, with what reference they have, but those left out of a part."
    return Table("Faults", ["set", "fault"], rows, note)
