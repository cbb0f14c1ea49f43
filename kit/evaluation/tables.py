"""The report of an evaluation on standard output."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kit.evaluation.metrics import RATE_NAMES

SHARES = {
    "MER interval": "MER, 95 % interval",
    "entity recall": "names found",
    "entity precision": "names written that were said",
    "recited": "wrong hints recited",
    "hallucination": "utterances hallucinated",
    "hints an utterance": "hints an utterance (a number)",
    "hints said": "hints that were said",
    "hints verbatim": "... in the same letters",
    "names hinted": "names said that were hints",
}


def show(report: dict[str, Any]) -> None:
    """Print the report on standard output: one table a part, then the examples."""
    console = Console(width=100, highlight=False)
    for part, by_way in report["parts"].items():
        if {"PER", "MER"} & set(next(iter(by_way.values()))["all"]):
            console.print(_table(part, by_way, _conditions(report)))
            shares = _shares_table(by_way)
            if shares.row_count:
                console.print(shares)
        else:
            console.print(_silence_table(part, by_way))
    for line in told_faults(report["faults"]):
        console.print(line, markup=False)
    for example in report["examples"]:
        said, heard = example["reference"], example["hypothesis"]
        if heard is None:  # no LLM: what the phoneme head heard
            said, heard = (" ".join(example[name]) for name in ("reference_phonemes", "phonemes"))
        hints = f"\n  hints  {', '.join(example['hints'])}" if example["hints"] else ""
        console.print(f"{example['id']}{hints}\n  said   {said}\n  heard  {heard}", markup=False)
    for part, figures in report.get("latency", {}).items():
        console.print(_latency_table(part, figures))
    if "silence" in report:
        said, clips = (sum(row[key] for row in report["silence"].values()) for key in ("with text", "clips"))
        console.print(f"clips of 10 s without speech: {clips}, of which {said} got a text")
    seconds = report["seconds"]
    speed = seconds["audio"] / max(1e-9, seconds["decoding"])
    times = f"{speed:.0f}" if speed >= 1 else f"{speed:.2f}"
    console.print(f"\n{seconds['audio']:.0f} s of audio decoded in {seconds['decoding']:.1f} s, {times}x real time")


def told_faults(faults: dict[str, Any]) -> list[str]:
    """What is wrong with references and answers, a line a part and fault."""
    lines: dict[str, None] = {}
    for part, by_way in faults.items():
        for found in by_way.values():
            for fault, about in found.items():
                more = ", ..." if about["count"] > len(about["ids"]) else ""
                lines[f"{part}: {fault} ({about['count']}): {', '.join(about['ids'])}{more}"] = None
    return list(lines)


def _conditions(report: dict[str, Any]) -> str:
    hints = "" if report["hints"] == "none" else f", with hints ({report['hints']})"
    noise = "" if report["noise_at"] is None else f", in noise at {report['noise_at']:g} dB"
    return f"{hints}{noise}, normalization {report['normalization']['name']}"


def _silence_table(part: str, by_way: dict[str, Any]) -> Table:
    """Clips without speech by kind: how many there are, and in how many something was heard."""
    table = Table(title=f"{part}: clips without speech", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("kind")
    table.add_column("clips", justify="right")
    for way, by_kind in by_way.items():
        what = "with text" if "with text" in by_kind["all"] else "with phonemes"
        table.add_column(f"{what}\n{way}", justify="right")
    for kind, scores in next(iter(by_way.values())).items():
        heard = (list(by_kind[kind].values())[1:] for by_kind in by_way.values())
        table.add_row(kind, str(scores["utterances"]), *(f"{count} ({share:.0f} %)" for count, share in heard))
    return table


def _table(part: str, by_way: dict[str, Any], conditions: str) -> Table:
    table = Table(title=f"{part}: error rates in percent{conditions}", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("group")
    table.add_column("utterances", justify="right")
    texts = all("MER" in groups["all"] for groups in by_way.values())
    for way in by_way:
        for kind in ("phonemes (PER)", "text")[: 1 + texts]:
            table.add_column(f"{kind}\n{way}", justify="right")
    for group, scores in next(iter(by_way.values())).items():
        cells = []
        for score in (by_way[way][group] for way in by_way):
            cells += [
                "-" if "PER" not in score else f"{score['PER']:.1f}",
                *([_text_rate(group, score)] if texts else []),
            ]
        table.add_row(group, str(scores["utterances"]), *cells)
    return table


def _shares_table(by_way: dict[str, Any]) -> Table:
    """What is no error rate, over all utterances of a part."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("in percent")
    for way in by_way:
        table.add_column(way, justify="right")
    for key, label in SHARES.items():
        values = [groups["all"].get(key) for groups in by_way.values()]
        if any(value is not None for value in values):
            table.add_row(label, *map(_told, values))
    return table


def _told(value: Any) -> str:
    if value is None:
        return "-"
    return "-".join(f"{end:.1f}" for end in value) if isinstance(value, list) else f"{value:.1f}"


def _latency_table(part: str, figures: dict[str, Any]) -> Table:
    table = Table(title=f"\n{part}: streams", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("95 %", justify="right")
    for name, value in figures.items():
        pair = (value["median"], value["95 %"]) if isinstance(value, dict) else (value, "")
        table.add_row(name, *("-" if one is None else str(one) for one in pair))
    return table


def _text_rate(group: str, score: dict[str, Any]) -> str:
    name = RATE_NAMES.get(group, "MER")
    rate = score.get(f"{group} {name}", score.get("MER"))
    return "-" if rate is None else f"{name} {rate:.1f}"
