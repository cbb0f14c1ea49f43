"""The report of a benchmark as one HTML file: styled, sortable, with playable audio, and nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kit.evaluation.alignment import Pair, align
from kit.evaluation.charts import chart, marker
from kit.evaluation.clips import LONGEST, Clips, worst
from kit.evaluation.digest import CONDITIONS, Report, Table, about, binned, tables
from kit.text.scoring import units

_HERE = Path(__file__).parent
_GONE = "no audio here: longer than 30 s, or more than a page may hold"
_KEY = (
    '<p class="key">In the alignments: right, <del>left out</del>, <ins>put in</ins>, '
    "<b><s>said</s><u>heard</u></b> where one was taken for the other.</p>"
)


def page(report: Report, clips: Clips) -> str:
    """The whole page. All that comes from data, ids and texts among it, is escaped."""
    title = f"Benchmark {report['benchmark']}"
    found = tables(report)
    body = [
        f"<h1>{escape(title)}</h1>",
        _about(report),
        *map(_table, found[:2]),
        *_charts(report),
        *_worst(report, clips),
    ]
    body += map(_table, found[2:])
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}\n<style>{style}</style></head>\n<body><main>\n'
        + "\n".join(body)
        + f"\n</main><script>{script}</script></body></html>\n"
    )


def _about(report: Report) -> str:
    return f'<ul class="about">{"".join(f"<li>{escape(line)}</li>" for line in about(report))}</ul>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"><button>{escape(name)}</button></th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    grid = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<section><h2>{escape(table.title)}</h2>{grid}{note}</section>"


def _cell(text: str) -> str:
    """A cell; numbers stand on the right."""
    number = text[:1].isdigit() or text[:2].lstrip("+-−")[:1].isdigit() or text == "–"
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


# --- charts -----------------------------------------------------------------------------------------------------------


def _charts(report: Report) -> Iterator[str]:
    for name, ways in report["utterances"].items():
        drawn = [
            (condition, chart({way: binned(rows, kind) for way, rows in ways.items()}, f"{name} by {condition}"))
            for condition, kind in CONDITIONS.items()
        ]
        figures = "".join(f"<figure><figcaption>by {one}</figcaption>{svg}</figure>" for one, svg in drawn if svg)
        if figures:
            title = f"<h2>Error rate in percent: {escape(name)}</h2>"
            yield f'<section>{title}{_legend(list(ways))}<div class="charts">{figures}</div></section>'


def _legend(ways: Sequence[str]) -> str:
    marks = (
        f'<span><svg class="sign" viewBox="0 0 16 16" aria-hidden="true">{marker(place)}</svg>{escape(way)}</span>'
        for place, way in enumerate(ways)
    )
    return f'<p class="legend">{"".join(marks)}</p>'


# --- utterances -------------------------------------------------------------------------------------------------------


def _worst(report: Report, clips: Clips) -> Iterator[str]:
    for name, ways in report["utterances"].items():
        ids = worst(ways)
        if not ids:
            continue
        by_way = {way: {row["id"]: row for row in rows} for way, rows in ways.items()}
        shown = "".join(_utterance(name, one, by_way, clips) for one in ids)
        yield f"<section><h2>Most errors: {escape(name)}</h2>{_KEY}{shown}</section>"
    if clips.left_out:
        why = f"longer than {LONGEST:g} s, or the page would be too big"
        yield f'<p class="note">{clips.left_out} clips are left out: {why}.</p>'


def _utterance(name: str, one: str, by_way: Mapping[str, Mapping[str, Any]], clips: Clips) -> str:
    rows = {way: rows[one] for way, rows in by_way.items() if one in rows}
    first = next(iter(rows.values()))
    facts = [one, first["language"], f"{first['seconds']:.1f} s"]
    facts += [f"{first['snr']:.0f} dB"] if first["snr"] is not None else []
    hints = sorted({hint for row in rows.values() for hint in row["hints"]})
    facts += [f"hints: {', '.join(hints)}"] if hints else []
    sound = clips.found.get((name, one))
    player = f'<audio controls preload="none" src="{sound}"></audio>' if sound else f'<p class="note">{_GONE}</p>'
    said = f"<dt>said</dt><dd>{escape(first['written'])}</dd>"
    texts: dict[str, list[str]] = {}
    for way, row in rows.items():
        texts.setdefault(_aligned(row), []).append(way)
    heard = "".join(f"<dt>{escape('; '.join(same))}</dt><dd>{text}</dd>" for text, same in texts.items())
    return f"<article><h3>{escape(' · '.join(facts))}</h3>{player}<dl>{said}{heard}</dl></article>"


def _aligned(row: Mapping[str, Any]) -> str:
    """The alignment of a hypothesis with its reference, errors marked by color and by line."""
    pairs = align(units(row["reference"]), units(row["hypothesis"] or ""))
    text = "".join(_unit(pair, after) for pair, after in zip(pairs, [*pairs[1:], None], strict=True))
    return text or '<span class="note">nothing</span>'


def _unit(pair: Pair, after: Pair | None) -> str:
    said, heard = (None if one is None else escape(one) for one in pair)
    if said == heard:
        marked = f"{said}"
    elif heard is None:
        marked = f'<del title="left out">{said}</del>'
    elif said is None:
        marked = f'<ins title="put in">{heard}</ins>'
    else:
        marked = f'<b title="taken for another"><s>{said}</s><u>{heard}</u></b>'
    return marked + (" " if after is not None and _latin(pair) | _latin(after) else "")


def _latin(pair: Pair) -> bool:
    return any(one is not None and one[:1].isascii() for one in pair)
