"""Times the providers of an operator against each other: same inputs, one run, and none that gives wrong numbers.

A suite names its cases (shapes) and its providers; each provider is checked against the reference first, and one that
fails the check gets no time and no speed-up. Providers take turns, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import csv
import importlib
import io
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]
SUITES = {  # where the suites of `python -m kit bench` are
    "chunk_attention": "kernels.chunk_attention.bench",
    "chunk_attention_stream": "kernels.chunk_attention.bench_stream",
    "ctc_prefix": "kernels.ctc_prefix.bench",
}
QUANTILES = (0.2, 0.5, 0.8)
COLUMNS = (
    "suite", "case", "provider", "correct", "error", "ms_20", "ms_50", "ms_80", "graph_ms", "kernel_ms", "speedup",
    "gbytes", "gflops", "floor_ms", "share_of_floor", "saved_mbytes", "peak_mbytes", "device", "torch", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One shape.

    Attributes:
        name: as in the table.
        make: random inputs on a device; the same for every provider.
        sizes: what `make` was told, for the providers.
        bytes, flops: that the operation cannot do without.
        devices: where it is small enough to run.
        tolerance: largest error, relative to the reference's largest value.
    """

    name: str
    make: Callable[[torch.device], Any]
    sizes: Mapping[str, Any]
    bytes: float = 0.0
    flops: float = 0.0
    devices: tuple[str, ...] = ("cpu", "cuda")
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Provider:
    """One way to compute it: `prepare(inputs, case)` gives a call without arguments that returns tensors."""

    name: str
    prepare: Callable[[Any, Case], Call]
    devices: tuple[str, ...] = ("cpu", "cuda")
    graph: bool = True  # may be captured in a CUDA graph


@dataclass(frozen=True)
class Suite:
    """What `python -m kit bench` runs under one name; speed-ups are over `baseline`."""

    name: str
    cases: Sequence[Case]
    providers: Sequence[Provider]
    reference: Callable[[Any, Case], Any]
    baseline: str
    peaks: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # device name part -> bytes/s, FLOP/s


def suite(name: str) -> Suite:
    """One of SUITES."""
    return importlib.import_module(SUITES[name]).SUITE


def run(suite: Suite, device: torch.device, seconds: float = 1.0, only: str = "") -> list[dict[str, Any]]:
    """Rows of COLUMNS for every case and provider that this device can run.

    Args:
        seconds: time to spend on a provider in a case.
        only: part of the names of the cases to run.
    """
    rows = []
    for case in suite.cases:
        if device.type in case.devices and only in case.name:
            rows += _run_case(suite, case, device, seconds)
    return rows


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Add rows to a CSV, with a header if it is new; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.StringIO(path.read_text("utf-8") if path.exists() else "", newline="")
    fresh = not content.seek(0, io.SEEK_END)
    writer = csv.DictWriter(content, COLUMNS, restval="", lineterminator="\n")
    if fresh:
        writer.writeheader()
    writer.writerows(rows)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(content.getvalue(), "utf-8", newline="")
    beside.replace(path)


def _run_case(suite: Suite, case: Case, device: torch.device, seconds: float) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    inputs = case.make(device)
    expected = _flat(suite.reference(inputs, case))
    calls: dict[str, Call] = {}
    rows: dict[str, dict[str, Any]] = {}
    for provider in suite.providers:
        if device.type not in provider.devices:
            continue
        row = rows[provider.name] = {"suite": suite.name, "case": case.name, "provider": provider.name}
        row |= {"device": device_name(device), "torch": torch.__version__, "commit": commit()}
        try:
            call = provider.prepare(inputs, case)
            row["error"] = _error(_flat(call()), expected)
        except NotImplementedError:  # not made for this case
            del rows[provider.name]
            continue
        except RuntimeError as problem:  # out of memory among others
            row |= {"correct": False, "error": str(problem).splitlines()[0][:80]}
            continue
        row["correct"] = row["error"] <= case.tolerance
        if row["correct"]:
            row |= _memory(call, device)
            calls[provider.name] = call
    for name, times in _times(calls, device, seconds).items():
        quantiles = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor(QUANTILES, dtype=torch.float64))
        rows[name] |= {f"ms_{round(100 * q)}": 1e3 * float(t) for q, t in zip(QUANTILES, quantiles, strict=True)}
    if device.type == "cuda":
        for provider in suite.providers:
            if provider.name in calls:
                rows[provider.name] |= _on_gpu(calls[provider.name], provider.graph)
    for row in rows.values():
        _judge(row, rows.get(suite.baseline, {}), case, suite)
    return list(rows.values())


def _judge(row: dict[str, Any], baseline: Mapping[str, Any], case: Case, suite: Suite) -> None:
    """Speed-up over the baseline, and the share of the floor, from the best time there is."""
    best = row.get("graph_ms") or row.get("ms_50")
    if best is None:
        return
    row |= {"gbytes": case.bytes / 1e9, "gflops": case.flops / 1e9}
    other = baseline.get("graph_ms") or baseline.get("ms_50")
    if other is not None:
        row["speedup"] = other / best
    for part, (bandwidth, arithmetic) in suite.peaks.items():
        if part in row["device"]:
            row["floor_ms"] = 1e3 * max(case.bytes / bandwidth, case.flops / arithmetic)
            row["share_of_floor"] = row["floor_ms"] / best


def _times(calls: Mapping[str, Call], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Seconds a call, in turns until the slowest has had its time (at least five, at most two hundred turns)."""
    once = {}
    for name, call in calls.items():
        call()
        once[name] = _timed(call, device)
    turns = min(200, max(5, int(seconds / max([*once.values(), 1e-6]))))
    repeats = {name: max(1, min(50, int(0.002 / max(cost, 1e-7)))) for name, cost in once.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            count = repeats[name]

            def several(call: Call = call, count: int = count) -> None:
                for _ in range(count):
                    call()

            times[name].append(_timed(several, device) / count)
    return times


def _timed(call: Call, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _on_gpu(call: Call, graph: bool) -> dict[str, float]:
    """Time of the kernels alone, by the profiler, and of a replayed CUDA graph."""
    from torch.profiler import ProfilerActivity, profile

    repeats = 10
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    kernels = sum(event.self_device_time_total for event in profiled.key_averages())
    found = {"kernel_ms": kernels / repeats / 1e3}
    if not graph:
        return found
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(captured):
            call()
    except RuntimeError:
        return found  # something in it waits for the GPU
    times = []
    for _ in range(50):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        captured.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return found | {"graph_ms": sorted(times)[len(times) // 2]}


def _memory(call: Call, device: torch.device) -> dict[str, float]:
    """What is kept for a backward pass, and on a GPU the peak beside the inputs."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    found = {"saved_mbytes": sum(kept.values()) / 1e6}
    if device.type == "cuda":
        found["peak_mbytes"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return found


def _flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference, relative to the expected tensor's largest value; infinite where it is no number."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        possible = other > -1e9  # impossible scores stand for minus infinity
        one, other = one.double()[possible], other.double()[possible]
        if one.numel():
            difference = ((one - other).abs().max() / other.abs().max().clamp_min(1e-9)).item()
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    return f"{model or 'CPU'}, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit that is checked out, with + where files differ from it; empty outside a repository."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=folder, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
