"""The table of error rates: what a checkpoint does on the held-out parts, by language and domain."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kit.decoding.engine import Engine
from kit.decoding.offline import recognize
from kit.evaluation import streaming
from kit.evaluation.hints import Names
from kit.evaluation.metrics import (
    RATE_NAMES,
    EntityRecall,
    HallucinationRate,
    HintPrecision,
    HintRecall,
    HintVerbatim,
    MixedErrorRate,
    PhonemeErrorRate,
    RecitedRate,
    Share,
    rate_of_language,
)
from kit.files import write_text
from kit.model.export import load_export
from kit.model.recognizer import Recognizer
from kit.progress import say
from kit.text.normalize import normalize

if TYPE_CHECKING:
    from datamodules.base import SpeechData

STREAMING = {"chunk": 16, "left": 4}  # the paper's 640 ms chunks that see four earlier ones
FRAME_MS = 40
EXAMPLES = 5
SHARES = {
    "entity recall": "names found",
    "recited": "wrong hints recited",
    "hallucination": "utterances hallucinated",
    "hints an utterance": "hints an utterance (a number)",
    "hints said": "hints that were said",
    "hints verbatim": "... in the same letters",
    "names hinted": "names said that were hints",
}


@dataclass(frozen=True)
class Scored:
    """One utterance and what came out."""

    id: str
    language: str
    domain: str
    seconds: float
    reference: str
    hypothesis: str | None
    phonemes: list[str]
    reference_phonemes: list[str]
    names: list[str] = field(default_factory=list)  # that the reference has
    hints: list[str] = field(default_factory=list)  # that the recognizer was given or found by itself
    shown: list[str] = field(default_factory=list)  # those of them that the LLM saw


def decode_part(
    recognizer: Recognizer,
    data: SpeechData,
    part: str,
    decoding: DictConfig,
    names: Names,
    noise_at: float | None = None,
) -> Iterator[Scored]:
    """Recognize every utterance of a part, with its hints, in noise at so many dB where that is given."""
    for batch in data.part_dataloader(part, noise_at):
        batch = batch.to(recognizer.device)
        hints = [names.hints(cut, text) for cut, text in zip(batch.cuts, batch.texts, strict=True)]
        found = recognize(recognizer, batch.features, batch.lengths, decoding, hints)
        for row, (cut, hypothesis) in enumerate(zip(batch.cuts, found, strict=True)):
            wanted = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
            domain = (cut.supervisions[0].custom or {}).get("domain", "-")
            yield Scored(
                id=cut.id,
                language=batch.languages[row],
                domain=domain,
                seconds=cut.duration,
                reference=batch.texts[row],
                hypothesis=None if hypothesis.text is None else normalize(hypothesis.text),
                phonemes=data.inventory.decode(hypothesis.phonemes),
                reference_phonemes=data.inventory.decode(wanted),
                names=names.said(cut, batch.texts[row]),
                hints=list(dict.fromkeys([*hints[row], *hypothesis.hints])),
                shown=hypothesis.hints,
            )


def rates(rows: list[Scored]) -> dict[str, float]:
    """Error rates in percent: PER of the head; with an LLM also MER, the customary rate of each language, the share of
    hallucinated utterances and, where there is anything to count, of names found and of wrong hints recited.
    """
    if not any(row.reference for row in rows):
        return in_silence(rows)
    mixed, phonemes = MixedErrorRate(), PhonemeErrorRate()
    phonemes.update_strings([row.phonemes for row in rows], [row.reference_phonemes for row in rows])
    result = {"PER": _percent(phonemes)}
    if any(row.hypothesis is None for row in rows):
        return result
    mixed.update([row.hypothesis or "" for row in rows], [row.reference for row in rows])
    result["MER"] = _percent(mixed)
    for language in sorted({row.language for row in rows}):
        chosen = [row for row in rows if row.language == language]
        rate = rate_of_language(language)
        rate.update([row.hypothesis or "" for row in chosen], [row.reference for row in chosen])
        result[f"{language} {RATE_NAMES.get(language, 'MER')}"] = _percent(rate)
    return {**result, **_shares(rows)}


def in_silence(rows: list[Scored]) -> dict[str, float]:
    """In how many clips without speech something was heard, and their share in percent: a text, or phonemes if there
    is no LLM.
    """
    texts = all(row.hypothesis is not None for row in rows)
    count = sum(bool(row.hypothesis if texts else row.phonemes) for row in rows)
    name = "with text" if texts else "with phonemes"
    return {name: count, f"{name}, %": round(100 * count / max(1, len(rows)), 2)}


def _shares(rows: list[Scored]) -> dict[str, float]:
    texts, references = [row.hypothesis or "" for row in rows], [row.reference for row in rows]
    invented, recall, recited = HallucinationRate(), EntityRecall(), RecitedRate()
    invented.update(texts, references)
    recall.update(texts, [row.names for row in rows])
    recited.update(texts, references, [row.hints for row in rows])
    shares = {"hallucination": invented, "entity recall": recall, "recited": recited}
    return {name: _percent(share) for name, share in shares.items() if share.whole} | _hint_figures(rows)


def _hint_figures(rows: list[Scored]) -> dict[str, float]:
    """How many hints the LLM saw, and in percent how many of them were said, and how many names were among them."""
    hints = [row.shown for row in rows]
    if not any(row.hints for row in rows):
        return {}
    said, verbatim, recall = HintPrecision(), HintVerbatim(), HintRecall()
    for share in (said, verbatim):
        share.update(hints, [row.reference for row in rows])
    recall.update(hints, [row.names for row in rows])
    shares: dict[str, Share] = {"hints said": said, "hints verbatim": verbatim, "names hinted": recall}
    figures = {"hints an utterance": round(sum(map(len, hints)) / len(rows), 2)}
    return figures | {name: _percent(share) for name, share in shares.items() if share.whole}


def _percent(metric: Any) -> float:
    return round(100 * float(metric.compute()), 2)


def ways(decoding: DictConfig) -> dict[str, DictConfig]:
    """The decodings to report: whole utterances and 640 ms chunks, or just the chunk that was asked for."""
    if decoding.chunk:
        return {f"{decoding.chunk * FRAME_MS} ms": decoding}
    chunked = decoding.copy()
    chunked.update(STREAMING)
    return {"whole": decoding, f"{STREAMING['chunk'] * FRAME_MS} ms": chunked}


def groups(rows: list[Scored]) -> dict[str, list[Scored]]:
    """All rows, then those of each language, then those of each domain."""
    result = {"all": rows}
    for name in ("language", "domain"):
        for value in sorted({getattr(row, name) for row in rows} - {"-"}):
            result[value] = [row for row in rows if getattr(row, name) == value]
    return result


def measure(
    config: DictConfig, recognizer: Recognizer, data: SpeechData, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """Decode the parts of `config.split` (all held-out parts if null) in each way and score them.

    Args:
        wanted: names of the ways that are; None for all. Streams are always measured beside the whole.

    Returns:
        plain values: "names" and "hints" -> where they are from; "noise_at" -> dB; "parts" -> part -> way -> group ->
        rates in percent and "utterances"; "examples"; "seconds" of audio and of decoding.
    """
    data.use_inventory(recognizer.inventory)
    if config.decoding.stream:
        return measure_streams(config, recognizer, data)
    names = Names(data, config.split, config.hints_from)
    report: dict[str, Any] = {"parts": {}, "examples": [], "seconds": {"audio": 0.0, "decoding": 0.0}}
    report.update(_about(names, config))
    for part in [config.split] if config.split else data.test_parts():
        for way, decoding in ways(config.decoding).items():
            if wanted is not None and way not in wanted:
                continue
            begin = time.perf_counter()
            rows = list(decode_part(recognizer, data, part, decoding, names, config.noise_at))
            report["seconds"]["decoding"] += time.perf_counter() - begin
            report["seconds"]["audio"] += sum(row.seconds for row in rows)
            scores = {name: {"utterances": len(chosen), **rates(chosen)} for name, chosen in groups(rows).items()}
            report["parts"].setdefault(part, {})[way] = scores
            say(f"{part}, {way}: {', '.join(f'{key} {value}' for key, value in scores['all'].items())}")
            report["examples"] = report["examples"] or [asdict(row) for row in _spread(rows, EXAMPLES)]
    return report


def _about(names: Names, config: DictConfig) -> dict[str, Any]:
    source = "annotated" if names.annotated else "mined"
    return {"names": source, "hints": names.kind or "none", "noise_at": config.noise_at}


def measure_streams(config: DictConfig, recognizer: Recognizer, data: SpeechData) -> dict[str, Any]:
    """As `measure`, by sessions that hear the audio as it comes, beside the same decoding with one maximal chunk.

    Returns:
        also "latency" -> part -> figures, and "silence" -> kind -> clips and those with text, unless they are the part.
    """
    streamed = streaming.needs_timing(config.decoding)
    name = f"stream, {config.decoding.chunk * FRAME_MS} ms"
    ways = {"whole": streaming.offline(config.decoding), name: streamed}
    names = Names(data, config.split, config.hints_from)
    report: dict[str, Any] = {"parts": {}, "examples": [], "latency": {}, "seconds": {"audio": 0.0, "decoding": 0.0}}
    report.update(_about(names, config))
    for part in [config.split] if config.split else data.test_parts():
        for way, decoding in ways.items():
            *found, engine = streaming.listen_to_part(recognizer, data, part, decoding, names, config.noise_at)
            rows = [_scored(cut, text, wanted, heard, names) for cut, text, wanted, heard in found]
            scores = {group: {"utterances": len(chosen), **rates(chosen)} for group, chosen in groups(rows).items()}
            report["parts"].setdefault(part, {})[way] = scores
            report["seconds"]["decoding"] += sum(heard.computing for *_, heard in found)
            report["seconds"]["audio"] += sum(heard.seconds for *_, heard in found)
            say(f"{part}, {way}: {', '.join(f'{key} {value}' for key, value in scores['all'].items())}")
        report["latency"][part] = streaming.latency([heard for *_, heard in found], engine)
        report["examples"] = report["examples"] or [asdict(row) for row in _spread(rows, EXAMPLES)]
    if config.split == data.SILENCE:
        return report
    say("clips without speech")
    report["silence"] = streaming.words_in_silence(Engine(recognizer, config.decoding))
    return report


def _scored(cut: Any, text: str, wanted: list[int], heard: streaming.Heard, names: Names) -> Scored:
    return Scored(
        id=cut.id,
        language=cut.supervisions[0].language,
        domain=(cut.supervisions[0].custom or {}).get("domain", "-"),
        seconds=cut.duration,
        reference=text,
        hypothesis=normalize(heard.text if text else heard.told),
        phonemes=names.data.inventory.decode(heard.phonemes),
        reference_phonemes=names.data.inventory.decode(wanted),
        names=names.said(cut, text),
        hints=list(dict.fromkeys([*names.hints(cut, text), *heard.hints])),
        shown=heard.hints,
    )


def evaluate(config: DictConfig, export: Path, data: SpeechData) -> dict[str, Any]:
    """Measure an export, print the table and five examples, and write them to `config.out` if that is set."""
    report = {"export": str(export), **measure(config, load_export(export), data)}
    show(report)
    if config.out:
        write_text(config.out, json.dumps(report, indent=1, ensure_ascii=False))
    return report


def _spread(rows: list[Scored], count: int) -> list[Scored]:
    """Some rows, evenly from the corpus in the order of ids: no picking."""
    ordered = sorted(rows, key=lambda row: row.id)
    return ordered[:: max(1, len(ordered) // count)][:count]


def show(report: dict[str, Any]) -> None:
    """Print the report on standard output: one table a part, then the examples."""
    console = Console(width=100, highlight=False)
    for part, by_way in report["parts"].items():
        if "PER" in next(iter(by_way.values()))["all"]:
            console.print(_table(part, by_way, _conditions(report)))
            console.print(_shares_table(by_way))
        else:
            console.print(_silence_table(part, by_way))
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
    console.print(f"\n{seconds['audio']:.0f} s of audio decoded in {seconds['decoding']:.1f} s, {speed:.0f}x real time")


def _conditions(report: dict[str, Any]) -> str:
    hints = "" if report["hints"] == "none" else f", with hints ({report['hints']})"
    noise = "" if report["noise_at"] is None else f", in noise at {report['noise_at']:g} dB"
    return hints + noise


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
            cells += [f"{score['PER']:.1f}", *([_text_rate(group, score)] if texts else [])]
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
            table.add_row(label, *("-" if value is None else f"{value:.1f}" for value in values))
    return table


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
    return f"{name} {score.get(f'{group} {name}', score['MER']):.1f}"
