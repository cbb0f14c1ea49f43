"""`python -m kit bench streaming`: what a chunk costs, where the time goes, and how many streams a machine can hold.

The load is the same for every model, trained or not: all streams bring 640 ms of noise at once, and every chunk the LLM
writes `tokens` tokens, as many as are rolled back and newly said in such a chunk of speech; it never ends by itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kernels.benchmark import commit, device_name
from kit.audio.features import SAMPLE_RATE
from kit.decoding.engine import Engine
from kit.decoding.session import Session
from kit.errors import KitError, UsageError
from kit.files import append_rows
from kit.options import choose

DEFAULTS = {
    "model": "tiny", "streams": "1,8", "chunks": "30", "tokens": "8", "minutes": "0", "device": "auto", "out": "bench",
}  # fmt: skip
PARTS = ("features", "encoder", "head", "adaptor", "prefill", "decode", "partial")
_WARM = 4  # chunks before the clock runs
_CHUNK = 16  # encoder frames
_SECONDS = 0.64


def bench(overrides: Sequence[str]) -> int:
    """Print the table, write streaming.csv and, with `minutes`, a plot of what the chunks of a long stream cost.

    Raises:
        KitError: no such option, or the results cannot be written.
    """
    chosen = options(overrides)
    device = _device(chosen["device"])
    recognizer = _recognizer(chosen["model"], device)
    counts = [int(count) for count in chosen["streams"].split(",")]
    rows = [_row(recognizer, count, chosen) for count in counts]
    _show(rows, chosen)
    folder = Path(chosen["out"])
    try:
        append_rows(rows, folder / "streaming.csv")
        if float(chosen["minutes"]):
            costs = long_stream(recognizer, float(chosen["minutes"]), int(chosen["tokens"]))
            _plot(costs, folder / f"streaming-{chosen['model']}-{device.type}.svg")
    except OSError as error:
        raise KitError(f"cannot write to {folder} ({error.strerror}); name another folder with out=") from error
    return 0


def options(overrides: Sequence[str]) -> dict[str, str]:
    """DEFAULTS with the values given on the command line.

    Raises:
        UsageError: no such option, or a value that is no number above 0.
    """
    chosen = choose("bench streaming", DEFAULTS, overrides)
    for key in ("streams", "chunks", "tokens"):
        several = key == "streams"
        parts = chosen[key].split(",") if several else [chosen[key]]
        if not all(part.isdecimal() and int(part) for part in parts):
            raise UsageError(f"{key}={chosen[key]} must be a whole number above 0{' or several' * several}")
    try:
        if not 0 <= float(chosen["minutes"]) < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(f"minutes={chosen['minutes']} must be a number") from None
    return chosen


def _device(name: str) -> torch.device:
    from kit.bench import device_of

    return device_of(name)


def _recognizer(model: str, device: torch.device) -> Any:
    """A random one, in bfloat16 on a GPU."""
    from kit.config import compose
    from kit.model.recognizer import Recognizer
    from kit.text.tokens import train_tokenizer

    config = compose([f"model={model}"]).model
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        recognizer = Recognizer(config, tokenizer=train_tokenizer(["打开天窗", "turn on the radio"] * 3, 600))
    return recognizer.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()


def _engine(recognizer: Any, streams: int, tokens: int) -> Engine:
    from kit.config import compose

    names = ("endpoint", "gate", "trim", "veto", "splice", "guard", "timing")
    plain = [f"decoding.callbacks.{name}=null" for name in names]
    decoding = compose(["decoding=streaming", f"decoding.max_tokens={tokens}", "decoding.beam=1", *plain]).decoding
    engine = Engine(recognizer, decoding, streams, max_batch=streams, exact=True)
    engine.decoder.end = -1
    return engine


def _noise(index: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(index)
    return 0.1 * torch.randn(round(SAMPLE_RATE * _SECONDS), generator=draw)


def steps(engine: Engine, sessions: Sequence[Session], chunks: int) -> Iterable[dict[str, float]]:
    """Seconds of each step in all ("step") and by part; a chunk of all sessions a step."""
    for chunk in range(chunks):
        before = dict(engine.watch.seconds)
        samples = _noise(chunk % 8)
        begin = time.perf_counter()
        for session in sessions:
            session.feed(samples)
        while engine.step():
            pass
        spent = time.perf_counter() - begin
        for session in sessions:
            session.take()
        now = engine.watch.seconds
        yield {"step": spent} | {part: now.get(part, 0.0) - before.get(part, 0.0) for part in PARTS}


def _row(recognizer: Any, streams: int, chosen: Mapping[str, str]) -> dict[str, Any]:
    engine = _engine(recognizer, streams, int(chosen["tokens"]))
    sessions = [engine.session() for _ in range(streams)]
    found = list(steps(engine, sessions, _WARM + int(chosen["chunks"])))[_WARM:]
    times = torch.tensor([step["step"] for step in found], dtype=torch.float64)
    middle, high = (float(times.quantile(q)) for q in (0.5, 0.95))
    parts = {part: float(torch.tensor([step[part] for step in found]).median()) for part in PARTS}
    return {
        "model": chosen["model"],
        "streams": streams,
        "step_ms": 1e3 * middle,
        "step_ms_95": 1e3 * high,
        **{f"{part}_ms": 1e3 * seconds for part, seconds in parts.items()},
        "real_time_factor": middle / _SECONDS,
        "in_real_time": high < _SECONDS,
        "tokens": int(chosen["tokens"]),
        "device": device_name(next(recognizer.parameters()).device),
        "torch": torch.__version__,
        "commit": commit(),
    }


def long_stream(recognizer: Any, minutes: float, tokens: int) -> list[dict[str, float]]:
    """The steps of one stream of so many minutes, cut into utterances where they get too long."""
    engine = _engine(recognizer, 1, tokens)
    return list(steps(engine, [engine.session()], max(1, round(60 * minutes / _SECONDS))))


def _show(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{chosen['model']}, a chunk of {1e3 * _SECONDS:.0f} ms of every stream at once, {chosen['tokens']} tokens "
        f"each, on {rows[0]['device']}, commit {rows[0]['commit'] or 'unknown'}"
    )
    table = Table(title=title, title_justify="left")
    columns = {"streams": "streams", "step ms": "step_ms", "95 %": "step_ms_95"}
    columns |= {f"{part} ms": f"{part}_ms" for part in PARTS} | {"real-time factor": "real_time_factor"}
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        cells = [row[key] for key in columns.values()]
        table.add_row(*(str(cell) if isinstance(cell, int) else f"{cell:.3g}" for cell in cells))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    held = [row["streams"] for row in rows if row["in_real_time"]]
    console.print(f"in real time (95 % of the steps within {1e3 * _SECONDS:.0f} ms): {max(held, default=0)} streams")


def _plot(costs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Milliseconds a chunk over the minutes of a stream, the parts stacked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
    minutes = [index * _SECONDS / 60 for index in range(len(costs))]
    parts = {part: [1e3 * step[part] for step in costs] for part in PARTS}
    axes.stackplot(minutes, list(parts.values()), labels=list(parts), linewidth=0)
    limit = float(torch.tensor([1e3 * step["step"] for step in costs]).quantile(0.995))
    axes.set_ylim(0, 1.25 * limit)
    axes.set_xlim(0, minutes[-1] if len(minutes) > 1 else 1)
    axes.set_xlabel("minutes of the stream")
    axes.set_ylabel("ms a chunk of 640 ms")
    axes.legend(ncols=len(parts), fontsize=7, loc="upper center", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
