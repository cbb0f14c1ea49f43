"""The report of a checkpoint on the held-out parts: error rates by language and domain, and every utterance."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from kit.audio.loudness import signal_to_noise
from kit.decoding.engine import Engine
from kit.decoding.offline import recognize
from kit.decoding.remote import load_recognizer
from kit.decoding.timing import with_timing
from kit.evaluation import streaming
from kit.evaluation.hints import Names
from kit.evaluation.latency import latency
from kit.evaluation.scored import Scored, as_dict, check_ids, faults, groups, rates
from kit.evaluation.tables import show
from kit.files import write_text
from kit.model.recognizer import Recognizer
from kit.plugins import build_named
from kit.progress import say
from kit.text.scoring import Normalization

if TYPE_CHECKING:
    from datamodules.base import SpeechData

STREAMING = {"chunk": 16, "left": 4}  # the paper's 640 ms chunks that see four earlier ones
FRAME_MS = 40
EXAMPLES = 5


@dataclass(frozen=True)
class Answer:
    """What a system made of an utterance.

    Attributes:
        text: None without an LLM.
        phonemes: ids; None from a system that tells none.
        hints: that it was given or found; shown: those of them that the LLM saw.
        answered: whether it said anything, and be it that it heard nothing.
    """

    text: str | None
    phonemes: list[int] | None = None
    hints: Sequence[str] = ()
    shown: Sequence[str] = ()
    answered: bool = True


class Judge:
    """Puts what a system made of an utterance beside what was said.

    Args:
        config: reads `split`, `hints_from`, `noise_at` and `normalization`.
    """

    def __init__(self, config: DictConfig, data: SpeechData) -> None:
        self.data, self.noise_at = data, config.noise_at
        self.names = Names(data, config.split, config.hints_from)
        self.normalize = normalization(config)

    def about(self) -> dict[str, Any]:
        """What a reader of the report must know of how it was made."""
        return {
            "names": "annotated" if self.names.annotated else "mined",
            "hints": self.names.kind or "none",
            "noise_at": self.noise_at,
            "normalization": {"name": self.normalize.name, "about": self.normalize.about},
        }

    def scored(self, cut: Any, text: str, wanted: list[int], answer: Answer) -> Scored:
        """One utterance; `text` is its label and `wanted` its phonemes."""
        supervision, decode = cut.supervisions[0], self.data.inventory.decode
        hypothesis = None if answer.text is None else self.normalize(answer.text)
        return Scored(
            id=cut.id,
            language=supervision.language,
            domain=(supervision.custom or {}).get("domain", "-"),
            seconds=cut.duration,
            reference=self.normalize(supervision.text or ""),
            hypothesis=hypothesis,
            phonemes=None if answer.phonemes is None else decode(answer.phonemes),
            reference_phonemes=decode(wanted),
            names=self.names.said(cut, text),
            hints=list(dict.fromkeys(answer.hints)),
            shown=list(answer.shown),
            written=supervision.text or "",
            told=answer.text,
            named=self.names.written(answer.text or ""),
            snr=self._snr(cut) if text else None,
            answered=answer.answered,
        )

    def _snr(self, cut: Any) -> float:
        if self.noise_at is not None:
            return float(self.noise_at)
        return round(signal_to_noise(self.data.samples(cut).numpy()), 1)


def normalization(config: DictConfig) -> Normalization:
    """What the configuration scores texts by.

    Raises:
        KitError: it cannot be made.
    """
    base: Any = Normalization  # an abstract class is no type[T] to the type checker
    (found,) = build_named({config.normalization.name: config.normalization}, base, "normalization")
    return found


class Measurement:
    """A report that grows, part by part and way by way.

    Attributes:
        report: plain values: "names", "hints", "noise_at" and "normalization" say how it was made; "parts" -> part
            -> way -> group -> rates in percent and "utterances"; "faults" -> part -> way -> fault -> count and ids;
            "utterances" -> part -> way -> utterances; "examples"; "seconds" of audio and of decoding.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.report: dict[str, Any] = {"parts": {}, "faults": {}, "examples": [], "seconds": {}}
        self.report |= {"seconds": {"audio": 0.0, "decoding": 0.0}, **judge.about(), "utterances": {}}

    def add(self, part: str, way: str, rows: list[Scored], decoding: float) -> None:
        """Put a part to it, which took so many seconds of decoding."""
        check_ids((row.id for row in rows), part)
        scores = {name: {"utterances": len(chosen), **rates(chosen)} for name, chosen in groups(rows).items()}
        self.report["parts"].setdefault(part, {})[way] = scores
        self.report["utterances"].setdefault(part, {})[way] = [as_dict(row) for row in rows]
        self.report["seconds"]["decoding"] += decoding
        self.report["seconds"]["audio"] += sum(row.seconds for row in rows)
        if any(row.reference for row in rows):
            self.report["faults"].setdefault(part, {})[way] = faults(rows, self.judge.data.left_out.get(part, ()))
        figures = ((key, value) for key, value in scores["all"].items() if not isinstance(value, list))
        say(f"{part}, {way}: {', '.join(f'{key} {value}' for key, value in figures)}")

    def exemplify(self, rows: list[Scored]) -> None:
        """Take examples from these rows, unless there are some."""
        self.report["examples"] = self.report["examples"] or [as_dict(row) for row in _spread(rows, EXAMPLES)]


def decode_part(
    recognizer: Recognizer, data: SpeechData, part: str, decoding: DictConfig, judge: Judge
) -> Iterator[Scored]:
    """Recognize every utterance of a part, with its hints, in noise where the judge says so."""
    for batch in data.part_dataloader(part, judge.noise_at):
        batch = batch.to(recognizer.device)
        hints = [judge.names.hints(cut, text) for cut, text in zip(batch.cuts, batch.texts, strict=True)]
        found = recognize(recognizer, batch.features, batch.lengths, decoding, hints)
        for row, (cut, heard) in enumerate(zip(batch.cuts, found, strict=True)):
            wanted = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
            answer = Answer(heard.text, heard.phonemes, [*hints[row], *heard.hints], heard.hints)
            yield judge.scored(cut, batch.texts[row], wanted, answer)


def ways(decoding: DictConfig) -> dict[str, DictConfig]:
    """The decodings to report: whole utterances and 640 ms chunks, or just the chunk that was asked for."""
    if decoding.chunk:
        return {f"{decoding.chunk * FRAME_MS} ms": decoding}
    chunked = decoding.copy()
    chunked.update(STREAMING)
    return {"whole": decoding, f"{STREAMING['chunk'] * FRAME_MS} ms": chunked}


def parts(config: DictConfig, data: SpeechData) -> list[str]:
    """The parts to evaluate: `config.split`, or all held-out ones."""
    return [config.split] if config.split else data.test_parts()


def measure(
    config: DictConfig, recognizer: Recognizer, data: SpeechData, wanted: Collection[str] | None = None
) -> dict[str, Any]:
    """Decode the parts of `config.split` (all held-out parts if null) in each way and score them.

    Args:
        wanted: names of the ways that are; None for all. Streams are always measured beside the whole.

    Returns:
        what `Measurement.report` has.

    Raises:
        KitError: two utterances have one id.
    """
    data.use_model(recognizer)
    if config.decoding.stream:
        return measure_streams(config, recognizer, data)
    judge = Judge(config, data)
    result = Measurement(judge)
    for part in parts(config, data):
        check_ids((cut.id for cut in data.cuts(part)), part)
        for way, decoding in ways(config.decoding).items():
            if wanted is not None and way not in wanted:
                continue
            begin = time.perf_counter()
            rows = list(decode_part(recognizer, data, part, decoding, judge))
            result.add(part, way, rows, time.perf_counter() - begin)
            result.exemplify(rows)
    return result.report


def measure_streams(
    config: DictConfig, recognizer: Recognizer, data: SpeechData, silence: bool = True
) -> dict[str, Any]:
    """As `measure`, by sessions that hear the audio as it comes, beside the same decoding with one maximal chunk.

    Args:
        silence: whether to count, too, in how many clips without speech a text was told.

    Returns:
        also "latency" -> part -> figures, and "silence" -> kind -> clips and those with text, unless they are the part.
    """
    streamed = with_timing(config.decoding)
    name = f"stream, {config.decoding.chunk * FRAME_MS} ms"
    judge = Judge(config, data)
    result = Measurement(judge)
    result.report["latency"] = {}
    for part in parts(config, data):
        check_ids((cut.id for cut in data.cuts(part)), part)
        for way, decoding in {"whole": streaming.offline(config.decoding), name: streamed}.items():
            *found, engine = streaming.listen_to_part(recognizer, data, part, decoding, judge.names, judge.noise_at)
            rows = [
                judge.scored(cut, text, wanted, _answer(heard, text, judge.names.hints(cut, text)))
                for cut, text, wanted, heard in found
            ]
            result.add(part, way, rows, sum(heard.computing for *_, heard in found))
        result.report["latency"][part] = latency([heard for *_, heard in found], engine)
        result.exemplify(rows)
    if config.split == data.SILENCE or not silence:
        return result.report
    say("clips without speech")
    result.report["silence"] = streaming.words_in_silence(Engine(recognizer, config.decoding))
    return result.report


def _answer(heard: streaming.Heard, said: str, given: Sequence[str]) -> Answer:
    """What came of a stream; where nothing was said, a text counts that was told for a moment."""
    return Answer(heard.text if said else heard.told, heard.phonemes, [*given, *heard.hints], heard.hints)


def evaluate(config: DictConfig, export: Path, data: SpeechData) -> dict[str, Any]:
    """Measure an export, print the table and five examples, and write them to `config.out` if that is set."""
    report = {"export": str(export), **measure(config, load_recognizer(export, config.decoding), data)}
    show(report)
    if config.out:
        write_text(config.out, json.dumps(report, indent=1, ensure_ascii=False))
    return report


def _spread(rows: list[Scored], count: int) -> list[Scored]:
    """Some rows, evenly from the corpus in the order of ids: no picking."""
    ordered = sorted(rows, key=lambda row: row.id)
    return ordered[:: max(1, len(ordered) // count)][:count]
