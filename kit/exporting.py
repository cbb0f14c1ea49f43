"""`python -m kit export`: what was trained, in the files of other runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.decoding.phonemes import greedy
from kit.errors import UsageError
from kit.evaluation.metrics import PhonemeErrorRate
from kit.files import folder_atomic
from kit.model.encoder import Chunk
from kit.model.export import load_export
from kit.model.onnx_file import SMALL, WHOLE, OnnxStep, check_packages, write_onnx
from kit.model.recognizer import Recognizer
from kit.options import split_off, sub_command, whole_number
from kit.progress import say, track

DEFAULTS = {"out": "", "quantize": "", "check": "0"}
PARTS = ("encoder", "phoneme_head")
BITS = "int8"
_TIMED = 30  # steps

Listen = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # features, lengths to log-probabilities, lengths


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Carry out what the first word says; returns the exit code.

    Raises:
        KitError: no such kind of file, or it cannot be written.
    """
    command = sub_command("export", COMMANDS, files)
    if len(files) > 1:
        raise UsageError(f"export {files[0]} takes no files, got {files[1]}; values are written key=value")
    return command(overrides)


def options(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options of the command, and the overrides of the configuration."""
    from kit.cli import as_stream

    chosen, others = split_off(DEFAULTS, overrides)
    return chosen, as_stream(others)


def _onnx(overrides: Sequence[str]) -> int:
    from kit.cli import with_export

    chosen, others = options(overrides)
    out, count = Path(chosen["out"]), whole_number("check", chosen["check"], least=0)
    if not chosen["out"]:
        raise UsageError("export onnx needs a folder: python -m kit export onnx out=FOLDER")
    if chosen["quantize"] not in ("", BITS):
        raise UsageError(f"quantize={chosen['quantize']} must be {BITS}, or not be given")
    check_packages()
    config, source = with_export(others)
    chunk = Chunk(config.decoding.chunk, config.decoding.left)
    if chunk.frames < 1 or chunk.left < 0:
        raise UsageError(
            f"an exported step has finite caches: decoding.chunk={chunk.frames} must be 1 or more, and "
            f"decoding.left={chunk.left} 0 or more"
        )
    recognizer = load_export(source, PARTS)
    with folder_atomic(out) as folder:
        say(f"exporting chunks of {chunk.frames} frames that see {chunk.left} chunks to the left")
        difference = write_onnx(recognizer, chunk, folder, bool(chosen["quantize"]), {"source": str(source)})
        say(f"streams as the kit does, to {difference:.1e} of the largest number")
    if count:
        print(_table(_measured(config, recognizer, chunk, out, count)))
    print(f"export: {out}")
    return 0


def _measured(config: Any, recognizer: Recognizer, chunk: Chunk, out: Path, count: int) -> list[tuple[str, ...]]:
    """A row for the kit and each file: its size, phoneme error rate, what a step of one stream costs."""
    from kit.fit import data_module

    data = data_module(config)
    data.use_model(recognizer)
    split = config.split or data.test_parts()[0]
    batches = data.probe(count, split)
    said = sum(len(batch) for batch in batches)
    say(f"phoneme error rate on {said} utterances of {config.data.name}/{split}")

    @torch.inference_mode()
    def kit(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames, sizes = recognizer.encode(features, lengths, chunk)
        return recognizer.phoneme_head(frames), sizes

    rows: list[tuple[str, ...]] = [("the kit", "", f"{_errors(kit, batches, 'the kit'):.2f}", "")]
    for file in (WHOLE, SMALL):
        if not (out / file).is_file():
            continue
        step = OnnxStep(out, file, torch.get_num_threads())
        rate = _errors(lambda x, sizes, step=step: step.stream(x, sizes)[::2], batches, file)  # type: ignore[misc]
        size = sum(path.stat().st_size for path in out.glob(f"{file}*"))
        rows.append((file, f"{size / 1e6:.1f}", f"{rate:.2f}", f"{_milliseconds(step):.1f}"))
    return rows


def _errors(listen: Listen, batches: Sequence[Any], label: str) -> float:
    """Phoneme error rate in percent."""
    errors = PhonemeErrorRate()
    for batch in track(batches, label):
        wanted = [row[:size].tolist() for row, size in zip(batch.phonemes, batch.phoneme_lengths, strict=True)]
        errors.update_strings(greedy(*listen(batch.features, batch.lengths)), wanted)
    return 100 * float(errors.compute())


def _milliseconds(step: OnnxStep) -> float:
    """The median time of a step of one stream."""
    features = torch.randn(1, step.features, int(step.about["audio"]["bins"])).numpy()
    length, caches, times = torch.full((1,), step.features).numpy(), step.start(1), []
    for _ in range(_TIMED):
        begin = time.perf_counter()
        _, _, _, *caches = step(features, length, caches)
        times.append(time.perf_counter() - begin)
    return 1e3 * sorted(times)[_TIMED // 2]


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    shown = [("", "MB", "PER %", "ms a chunk"), *rows]
    return "\n".join(f"{name:<20}{size:>8}{rate:>8}{cost:>12}".rstrip() for name, size, rate, cost in shown)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"onnx": _onnx}
