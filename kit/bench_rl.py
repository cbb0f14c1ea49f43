"""`python -m kit bench rl`: what a step of RL costs beside one of supervised training on the same audio.

Both begin with the newest export (or checkpoint=PATH) and take turns on the same batches, so that what else the machine
does meets both alike.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch

from kernels.benchmark import commit, device_name
from kit.decoding.stopwatch import Stopwatch
from kit.errors import KitError
from kit.files import append_rows
from kit.options import choose, whole_number

DEFAULTS = {"steps": "6", "than": "context_sft", "device": "auto", "out": "bench"}
PARTS = {"rollout": ("rollouts", "sample"), "reference": ("reference", "score"), "rewards": ("", "_rewarded")}
_WARM = 1  # steps before the clock runs


def bench(overrides: Sequence[str]) -> int:
    """Print the table and write rl.csv.

    Raises:
        KitError: no such option, no export, or the results cannot be written.
    """
    from kit.bench import device_of

    chosen, rest = options(overrides)
    rows = _rows(chosen["than"], rest, int(chosen["steps"]), device_of(chosen["device"]))
    _show(rows)
    try:
        append_rows(rows, Path(chosen["out"]) / "rl.csv")
    except OSError as error:
        raise KitError(f"cannot write to {chosen['out']} ({error.strerror}); name another folder with out=") from error
    return 0


def options(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """DEFAULTS with the values given on the command line, and what of that is for the configuration.

    Raises:
        UsageError: a value of the wrong kind.
    """
    own = [override for override in overrides if override.partition("=")[0] in DEFAULTS]
    chosen = choose("bench rl", DEFAULTS, own)
    whole_number("steps", chosen["steps"])
    return chosen, [override for override in overrides if override not in own]


def _rows(than: str, overrides: Sequence[str], steps: int, device: torch.device) -> list[dict[str, Any]]:
    from kit.cli import with_export
    from kit.config import compose
    from kit.fit import data_module, quiet

    config, export = with_export(["stage=rl", *overrides])
    seconds = config.stage.batch_seconds
    common = [override for override in overrides if not override.startswith("stage.")]
    other = compose([f"stage={than}", *common, f"stage.batch_seconds={seconds}"])
    with quiet():
        data = data_module(config)
        contenders = {than: Contender(other, data, export, device), "rl": Contender(config, data, export, device)}
        batches = [batch.to(device) for batch in islice(data.train_dataloader(), steps + _WARM)]
        for number, batch in enumerate(batches):
            for contender in contenders.values():
                contender.step(batch, counts=number >= _WARM)
    first = statistics.median(contenders[than].seconds)
    return [
        {
            "stage": name,
            "batch_seconds": seconds,
            "group": config.stage.group if name == "rl" else 1,
            "steps": len(one.seconds),
            "seconds": statistics.median(one.seconds),
            "times": statistics.median(one.seconds) / first,
            **{part: one.part(part) for part in PARTS},
            "before_mbytes": one.before,
            "peak_mbytes": one.peak,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "commit": commit(),
        }
        for name, one in contenders.items()
    ]


class Contender:
    """A stage that is trained step by step.

    Attributes:
        seconds: of each step that counts.
        before, peak: MB in use before the step that took most, and at its height; None where the system does not tell.
    """

    def __init__(self, config: Any, data: Any, export: Path, device: torch.device) -> None:
        from kit.model.export import load_export
        from kit.plugins import import_class

        stage: Any = import_class(config.stage._target_, L.LightningModule, "stage._target_")
        self.stage = stage(load_export(export), config).to(device)
        self.stage.log_dict = lambda *_, **__: None  # there is no trainer
        self.stage.learn_keywords(data)
        self.stage.train()
        self.optimizer = self.stage.configure_optimizers()["optimizer"]
        self.stage.optimizers = lambda use_pl_optimizer: self.optimizer
        self.seconds: list[float] = []
        self.before: float | None = None
        self.peak: float | None = None
        self._watch = Stopwatch(exact=True)
        for part, (owner, name) in PARTS.items():
            thing = getattr(self.stage, owner, None) if owner else self.stage
            if hasattr(thing, name):
                setattr(thing, name, _timed(getattr(thing, name), self._watch, part))

    def step(self, batch: Any, counts: bool) -> None:
        """One of training."""
        self._watch.seconds = self._watch.seconds if counts else {}
        with _peak(next(self.stage.parameters()).device) as used:
            watch = Stopwatch(exact=True)
            with watch("step"):
                self.stage.training_step(batch, 0).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not counts:
            return
        self.seconds.append(watch.seconds["step"])
        if used and (self.peak is None or used["peak"] > self.peak):
            self.before, self.peak = used["before"], used["peak"]

    def part(self, name: str) -> float | None:
        """Mean seconds of a part of a step."""
        spent = self._watch.seconds.get(name)
        return None if spent is None else spent / len(self.seconds)


def _timed(call: Any, watch: Stopwatch, part: str) -> Any:
    @wraps(call)
    def timed(*args: Any, **options: Any) -> Any:
        with watch(part):
            return call(*args, **options)

    return timed


@contextmanager
def _peak(device: torch.device) -> Iterator[dict[str, float]]:
    """What is in use before and at the height of what is done inside, in MB: of the GPU, else of this process."""
    found: dict[str, float] = {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        found["before"] = torch.cuda.memory_allocated(device) / 1e6
        yield found
        found["peak"] = torch.cuda.max_memory_allocated(device) / 1e6
        return
    told = _reset_peak()
    if told:
        found["before"] = _resident("VmRSS")
    yield found
    if told:
        found["peak"] = _resident("VmHWM")


def _reset_peak() -> bool:
    """Let the kernel measure this process's largest size anew; whether it does (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


COLUMNS = {
    "stage": "stage",
    "audio s": "batch_seconds",
    "group": "group",
    "steps": "steps",
    "median s": "seconds",
    "times": "times",
    "rollout s": "rollout",
    "reference s": "reference",
    "rewards s": "rewards",
    "MB before": "before_mbytes",
    "peak MB": "peak_mbytes",
}


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"a step on {rows[0]['device']}, commit {commit() or 'unknown'}", title_justify="left")
    for name, key in COLUMNS.items():
        table.add_column(name, justify="left" if key == "stage" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row[key]) for key in COLUMNS.values()))
    Console(width=None if Console().is_terminal else 120).print(table)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
