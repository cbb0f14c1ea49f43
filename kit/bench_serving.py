"""`python -m kit bench serving`: how many paced streams a server holds, and how long their last words take.

The server is a process of its own, as `kit serve` starts it; this process is its clients, a thread each, on loopback. A
client says an utterance at the speed of speech, asks for its end, and notes when all of it was told.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kit.commit import commit
from kit.errors import KitError, UsageError
from kit.files import append_rows
from kit.options import split_off, whole_number
from kit.progress import say
from kit.serving.client import Event, ServerError, Stream

DEFAULTS = {"streams": "1,4,8,12", "seconds": "30", "minutes": "0", "cycles": "0", "audio": "", "out": "bench"}
RATE = 16000
BLOCK = RATE // 10
TARGET = 500.0  # ms within which 95 % of the last words are to be told
_FLAT = 0.05  # of the memory that may come on between the first third of a soak and its end
_STARTING = 600.0  # seconds until a server listens, at most


@dataclass
class Measured:
    """What the clients of one load saw; of several threads, which only append.

    Attributes:
        finalization: seconds from the request for the end to the answer behind the final text, an utterance each.
        partial: seconds from when audio was sent to the text that it gave.
        faults: events that were lost, doubled or out of place.
        refused: streams that the server did not take, by code.
    """

    finalization: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def bench(overrides: Sequence[str]) -> int:
    """Print a table, write serving.csv and a plot; 1 if an event was lost or memory grew.

    Raises:
        KitError: no such option, no export, no audio, or the server does not start.
    """
    chosen, rest = split_off(DEFAULTS, overrides)
    counts = options(overrides)
    recordings = _recordings(chosen["audio"], rest)
    rows, failed = [], False
    most = f"serving.streams={max(counts)}"
    with _server([most, *rest]) as address:
        for count in counts:
            row, faults = _load(address, count, float(chosen["seconds"]), recordings)
            rows.append(row)
            failed |= bool(faults)
            _tell(row, faults)
        if float(chosen["minutes"]):
            failed |= _soak(address, max(counts), 60 * float(chosen["minutes"]), recordings)
        if int(chosen["cycles"]):
            failed |= _cycles(address, int(chosen["cycles"]), recordings[0])
    folder = Path(chosen["out"])
    try:
        append_rows(rows, folder / "serving.csv")
        _plot(rows, folder / "serving-cpu.svg")
    except OSError as error:
        raise KitError(f"cannot write to {folder} ({error.strerror}); name another folder with out=") from error
    return int(failed)


def options(overrides: Sequence[str]) -> list[int]:
    """The numbers of streams, after all options were checked.

    Raises:
        UsageError: one has a wrong value.
    """
    chosen, _ = split_off(DEFAULTS, overrides)
    for key, least in (("seconds", 1), ("minutes", 0), ("cycles", 0)):
        whole_number(key, chosen[key], least)
    return [whole_number("streams", count) for count in chosen["streams"].split(",")]


def _recordings(folder: str, overrides: Sequence[str]) -> list[np.ndarray]:
    """What is said: the recordings in a folder, or held-out utterances of the data."""
    if folder:
        from kit.audio.reading import read_audio

        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".mp3"))
        if not paths:
            raise UsageError(f"audio={folder} has no wav, flac, ogg or mp3 files")
        return [read_audio(path).numpy() for path in paths[:50]]
    from kit.config import compose
    from kit.fit import data_module, quiet

    with quiet():
        data = data_module(compose([one for one in overrides if not one.startswith(("serving.", "checkpoint="))]))
        batch = next(iter(data.part_dataloader(data.test_parts()[0])))
        return [data.samples(cut).numpy() for cut in batch.cuts]


@contextmanager
def _server(overrides: Sequence[str]) -> Iterator[str]:
    """A server of its own, and its address."""
    command = [sys.executable, "-m", "kit", "serve", "serving.port=0", *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found: list[str] = []
    listening = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            say(line.rstrip("\n"))
            found.extend(re.findall(r"listening on http://(\S+)", line))
            if found:
                listening.set()
        listening.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        listening.wait(_STARTING)
        if not found:
            raise KitError("the server did not start; see above")
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def _load(
    address: str, count: int, seconds: float, recordings: Sequence[np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """So many clients for so many seconds: a row of the table, and what was wrong with the events."""
    measured, begin, before = Measured(), time.monotonic(), metrics(address)
    until = begin + seconds
    threads = [
        threading.Thread(target=_client, args=(address, number, until, recordings, measured)) for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent, after = time.monotonic() - begin, metrics(address)
    row: dict[str, Any] = {"streams": count, "utterances": len(measured.finalization)}
    row |= {f"final_ms_{share}": _quantile(measured.finalization, share) for share in (50, 95, 99)}
    row["partial_ms_95"] = _quantile(measured.partial, 95)
    row["refused"] = sum(measured.refused.values())
    for name in ("front", "engine0"):
        cpu = f"kit_{name}_process_cpu_seconds_total"
        row[f"{name}_cpu"] = round((after.get(cpu, 0.0) - before.get(cpu, 0.0)) / spent, 3)
        row[f"{name}_mb"] = round(after.get(f"kit_{name}_process_resident_memory_bytes", 0.0) / 1e6, 1)
    return {**row, "seconds": round(spent, 1), "commit": commit()}, measured.faults


def _client(address: str, number: int, until: float, recordings: Sequence[np.ndarray], measured: Measured) -> None:
    """One stream, utterance by utterance."""
    time.sleep(0.37 * number % 1.0)  # people do not begin together
    try:
        with Stream(address, timeout=120.0) as stream:
            events: list[Event] = [stream.ready]
            turn = number
            while time.monotonic() < until:
                _say(stream, recordings[turn % len(recordings)], events, measured)
                turn += 1
            events += stream.finish()
    except ServerError as error:
        measured.refused[error.code] += 1
        return
    except KitError as error:
        measured.faults.append(f"stream {number}: {error}")
        return
    measured.faults.extend(f"stream {number}: {fault}" for fault in faults_of(events))


def _say(stream: Stream, samples: np.ndarray, events: list[Event], measured: Measured) -> None:
    """An utterance at the speed of speech, and how long its last words took."""
    begin, base = time.monotonic(), float(getattr(stream, "said", 0.0))
    for index in range(0, len(samples), BLOCK):
        due = begin + index / RATE
        for event in stream.events(wait=max(0.0, due - time.monotonic())):
            events.append(event)
            if event["event"] == "partial":
                sent = begin + max(0.0, event["time"] - base - BLOCK / RATE)
                measured.partial.append(max(0.0, time.monotonic() - sent))
        stream.send(samples[index : index + BLOCK])
    asked = time.monotonic()
    events += stream.flush()
    measured.finalization.append(time.monotonic() - asked)
    stream.said = base + len(samples) / RATE  # type: ignore[attr-defined]


def faults_of(events: Sequence[Event]) -> list[str]:
    """What is lost, doubled or out of place among the events of a whole stream."""
    found = []
    if [event["seq"] for event in events] != list(range(len(events))):
        found.append("the numbers of the events have gaps or repeats")
    for kind in ("began", "final"):
        numbers = [event["utterance"] for event in events if event["event"] == kind]
        if numbers != list(range(len(numbers))):
            found.append(f"the {kind} events are of utterances {numbers[:20]}")
    if not events or events[-1]["event"] != "ended":
        found.append("the end was not told")
    elif events[-1]["utterances"] != sum(event["event"] == "final" for event in events):
        found.append(f"{events[-1]['utterances']} utterances ended, but not as many final texts came")
    return found


def _soak(address: str, count: int, seconds: float, recordings: Sequence[np.ndarray]) -> bool:
    """The load for long; whether events were lost or memory grew."""
    memory: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(min(5.0, seconds / 20)):
            memory.append(_memory(address))

    watcher = threading.Thread(target=watch)
    watcher.start()
    row, faults = _load(address, count, seconds, recordings)
    over.set()
    watcher.join()
    _tell(row, faults)
    third = memory[len(memory) // 4 : len(memory) // 3 + 1] or [_memory(address)]
    grown = max(memory[-3:] or third) / max(third) - 1
    say(f"soak of {seconds / 60:g} min: memory {max(third):.0f} MB after a third, {100 * grown:+.1f} % at the end")
    return bool(faults) or grown > _FLAT


def _cycles(address: str, count: int, samples: np.ndarray) -> bool:
    """Connect and go, every other time without a goodbye; whether anything is left behind."""
    import socket

    found = []
    for cycle in range(count):
        if cycle in (count // 10, 0):
            found = [_left(address)]
        with Stream(address) as stream:
            stream.send(samples[:RATE])
            if cycle % 2:
                stream._socket.socket.shutdown(socket.SHUT_RDWR)
            else:
                list(stream.finish())
    deadline = time.monotonic() + 60
    while (left := _left(address))["streams"] and time.monotonic() < deadline:
        time.sleep(0.2)
    say(f"{count} connections: {found[0]} before, {left} behind")
    grown = left["mb"] / found[0]["mb"] - 1
    return left["streams"] > 0 or left["files"] > found[0]["files"] + 2 or grown > _FLAT


def _left(address: str) -> dict[str, float]:
    known = metrics(address)
    streams = sum(value for name, value in known.items() if name.startswith("kit_streams{"))
    files = sum(value for name, value in known.items() if name.endswith("process_open_fds"))
    return {"streams": streams, "files": files, "mb": round(_memory(address), 1)}


def _memory(address: str) -> float:
    """Megabytes of all processes of the server."""
    known = metrics(address)
    return sum(value for name, value in known.items() if name.endswith("resident_memory_bytes")) / 1e6


def metrics(address: str) -> dict[str, float]:
    """The server's figures by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def _quantile(seconds: Sequence[float], share: int) -> float:
    return round(1e3 * float(np.percentile(seconds, share)), 1) if seconds else float("nan")


def _tell(row: Mapping[str, Any], faults: Sequence[str]) -> None:
    shown = ", ".join(f"{key} {value}" for key, value in row.items() if key != "commit")
    print(shown, flush=True)
    for fault in faults[:10]:
        print(f"  {fault}", flush=True)


def _plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Latencies over the number of streams."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
    streams = [row["streams"] for row in rows]
    for share in (50, 95, 99):
        axes.plot(streams, [row[f"final_ms_{share}"] for row in rows], "o-", label=f"final text, {share} %")
    axes.plot(streams, [row["partial_ms_95"] for row in rows], "s--", color="0.5", label="text under way, 95 %")
    axes.axhline(TARGET, color="0.4", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("paced streams")
    axes.set_ylabel("ms")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
