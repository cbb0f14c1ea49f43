"""Training with several processes on one machine: which one this is, starting the others, watching and ending them.

The process that a person started trains as the first of them and does all else alone: planning, tracking, curves,
exports, reports. The others (`kit.worker`) take part in `trainer.fit` and `trainer.validate` of the stages that they
are told, wait for the next one in between, and end with the command.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from types import TracebackType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.parallel import ParallelStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kit.errors import KitError, UsageError
from kit.progress import say

READY, DONE = "ready", "done"  # what a worker answers when only the others are missing, and at the end of its task
FAILED = "failed: "  # and what it puts before the sentence that says why there is no such end
_NOT_STARTED = "a process of this training did not start; run the same command again"
_PATIENCE = 30.0  # seconds for a process to come to its end before it is made to
_LOST = re.compile(r"gloo|nccl|connection (closed|reset)|broken pipe", re.IGNORECASE)  # another process is at its end
_UNUSED = "ddp_find_unused_parameters_true"
_WHOLE = ("auto", "single_device", "ddp", "ddp_find_unused_parameters_false", _UNUSED)
_SHARDED = ("fsdp", "deepspeed", "deepspeed_stage_1", "deepspeed_stage_2")
_idle: dict[int, subprocess.Popen[str]] = {}  # workers between two stages, by rank
_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


def place() -> tuple[int, int]:
    """The rank of this process among those that train together, and their number: (0, 1) alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def check(config: DictConfig) -> None:
    """Refuse a strategy that cannot work, before anything is built for it.

    Raises:
        UsageError: it is not known, or the machine, the installation or the optimizer is not made for it.
    """
    name = str(config.trainer.strategy)
    if name not in _WHOLE + _SHARDED:
        raise UsageError(f"trainer.strategy={name} is not supported; choose one of {', '.join(_WHOLE + _SHARDED)}")
    if name in _WHOLE:
        return
    if name.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"trainer.strategy={name} needs the package deepspeed; install nim4-kit[deepspeed]")
    if name.startswith("deepspeed") and (config.trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        raise UsageError(f"trainer.strategy={name} needs a GPU; on CPUs write trainer.strategy=ddp")
    if config.stage.get("optimizer", {}).get("muon"):
        raise UsageError(
            f"trainer.strategy={name} splits the matrices, which Muon steps whole; write stage.optimizer.muon=null, "
            "and do so for each stage that is still to be trained"
        )
    for section in ("stage.callbacks", "trainer.callbacks"):
        for callback, description in (OmegaConf.select(config, section) or {}).items():
            if description is not None:
                key = f"{section}.{callback}"
                raise UsageError(f"trainer.strategy={name} splits the weights that {key} reads; write {key}=null")


def make_trainer(strategy: str, rank: int, skips: bool, plugins: list[Any], **options: Any) -> L.Trainer:
    """Lightning's trainer for the process of rank `rank`.

    Args:
        strategy: as in the configuration.
        skips: some steps of the stage leave trained parameters without a gradient, which ddp must be told.
        plugins, options: for `L.Trainer`.

    Raises:
        UsageError: somebody else started several processes.
    """
    options["plugins"] = [*plugins, Environment(rank)]
    if strategy == "fsdp":  # validation must not make parameters that cannot be trained any more
        return _checked(L.Trainer(strategy=Shards(), inference_mode=False, **options), rank)
    trainer = _checked(L.Trainer(strategy=_UNUSED if skips and strategy == "ddp" else strategy, **options), rank)
    if skips and strategy == "auto" and isinstance(trainer.strategy, DDPStrategy):
        return L.Trainer(strategy=_UNUSED, **options)
    return trainer


def _checked(trainer: L.Trainer, rank: int) -> L.Trainer:
    if trainer.world_size > 1 and rank == 0 and "LOCAL_RANK" in os.environ:
        raise UsageError("fit starts its processes itself; start it once, without torchrun and the like")
    return trainer


class Shards(ModelParallelStrategy):
    """Fully sharded training (PyTorch's FSDP2): parameters, gradients and optimizer state are shared out among the
    processes; checkpoints are whole, in one file.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """All processes are for data."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_processes, 1
        super().setup_environment()


def shares_parameters(trainer: L.Trainer) -> bool:
    """Whether each process has only its share of the weights, which must be put together for an export."""
    return isinstance(trainer.strategy, Shards)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def share_parameters(module: L.LightningModule) -> None:
    """Leave this process its share of the parameters, if the strategy is to do so and it was not done before.

    For the time of a step they are put together, all at once and not block by block: the keys and values of the
    prompt's prefix go from pass to pass beside the outputs of the LLM's blocks, where FSDP does not follow.
    """
    if not shares_parameters(module.trainer) or isinstance(module, FSDPModule):
        return
    assert module.device_mesh is not None
    mesh = module.device_mesh["data_parallel"]
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # in memory too: fully_shard cuts no channels-last kernel
    fully_shard(module, mesh=mesh)
    for method in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, method)


class Environment(LightningEnvironment):
    """Tells Lightning that all processes are there, on this machine, and that this is the one of rank `rank`."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """They are started by `Team`."""
        return True

    def local_rank(self) -> int:
        """Rank of this process on this machine."""
        return self._rank

    def node_rank(self) -> int:
        """There is but one machine."""
        return 0


@dataclass(frozen=True)
class Task:
    """What a worker is told, as one line of JSON on its standard input.

    Attributes:
        run: the run folder.
        config: the whole configuration, resolved, as YAML.
        starts: upstream stage -> export folder.
        rank: of the worker, from 1 on.
        size: number of processes.
        port: where the first process listens, on this machine.
        threads: of torch.
    """

    run: str
    config: str
    starts: Mapping[str, str]
    rank: int = 0
    size: int = 1
    port: int = 0
    threads: int = 1

    @classmethod
    def read(cls, line: str) -> Task:
        """From the line that `write` made."""
        return cls(**json.loads(line))

    def write(self) -> str:
        """As a line."""
        return json.dumps(asdict(self)) + "\n"


@contextmanager
def joined(trainer: L.Trainer, task: Task) -> Iterator[None]:
    """Be the process of a task among those that train together."""
    _join(trainer, _meeting(task.port, first=False), task.rank, task.size)
    yield
    _leave()


def _join(trainer: L.Trainer, store: distributed.Store, rank: int, size: int) -> None:
    """Become one of the processes that train together; comes back when all are there."""
    device: torch.device = trainer.strategy.root_device
    gpu = device.type == "cuda"
    distributed.init_process_group(
        "nccl" if gpu else "gloo", store=store, rank=rank, world_size=size, device_id=device if gpu else None
    )


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _meeting(port: int, first: bool) -> distributed.TCPStore:
    """Where the processes find each other; port 0 lets the system choose a free one."""
    return distributed.TCPStore("127.0.0.1", port, None, first, timedelta(seconds=300), wait_for_workers=False)


class Team:
    """The other processes of a stage, within a `with` block; nobody where the trainer has one device.

    They share the threads of this process.

    Args:
        trainer: that of this process; says how many there are.
        task: what they are told; the rest is filled in.

    Raises:
        KitError: one of them failed or died; the others are ended too.
    """

    def __init__(self, trainer: L.Trainer, task: Task) -> None:
        self.trainer, self.task = trainer, task
        self.size, self.threads = trainer.world_size, torch.get_num_threads()
        self.workers: list[subprocess.Popen[str]] = []
        self._over = threading.Event()
        self._kept = _kept_environment()

    def __enter__(self) -> Team:
        if isinstance(self.trainer.strategy, ParallelStrategy):
            self._kept.__enter__()
            try:
                self._begin()
            except BaseException as error:
                self._end(error)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(self.trainer.strategy, ParallelStrategy):
            self._end(error)

    def _begin(self) -> None:
        share = max(1, self.threads // self.size)
        torch.set_num_threads(share)
        os.environ["OMP_NUM_THREADS"] = str(share)  # without it Lightning shares all the cores anew
        meeting = _meeting(0, first=True)
        for rank in range(1, self.size):
            worker = _idle.pop(rank, None) or _start(rank)
            self.workers.append(worker)
            _tell(worker, replace(self.task, rank=rank, size=self.size, port=meeting.port, threads=share))
        for worker in self.workers:
            answer = _answer(worker)
            if answer != READY:
                worker.wait()
                raise KitError(_reason(answer)) if _reason(answer) else self._failure() or KitError(_NOT_STARTED)
        _join(self.trainer, meeting, 0, self.size)
        threading.Thread(target=self._watch, daemon=True).start()

    def _end(self, error: BaseException | None) -> None:
        """Leave the group, and keep the workers for the next stage; end them where something went wrong.

        Raises:
            KitError: what went wrong is that one of them failed.
        """
        failure = None
        try:
            if error is None:
                self._keep()
            elif isinstance(error, Exception) and not isinstance(error, KitError):
                failure = self._failure(patience=_PATIENCE if _LOST.search(str(error)) else 3.0)
        finally:
            self._over.set()
            for worker in self.workers:
                _end(worker)
            _leave()
            torch.set_num_threads(self.threads)
            self._kept.__exit__(None, None, None)
        if failure is not None:
            raise failure from error

    def _keep(self) -> None:
        """Have those who are done wait for another task."""
        if distributed.get_backend() == "nccl":  # its processes leave together; with gloo the first one leaves last
            _leave()
        self._over.set()
        for rank, worker in enumerate(self.workers, 1):
            slow = threading.Timer(_PATIENCE, worker.kill)
            slow.start()
            if _answer(worker) == DONE:
                _idle[rank] = worker
            slow.cancel()
        self.workers = [worker for rank, worker in enumerate(self.workers, 1) if _idle.get(rank) is not worker]

    def _failure(self, patience: float = 0.0) -> KitError | None:
        """What to say of the first worker that failed, if one does within `patience` seconds."""
        end = time.monotonic() + patience
        while True:
            for rank, worker in enumerate(self.workers, 1):
                if worker.poll():
                    said = next(filter(None, map(_reason, worker.stdout or ())), "")
                    return KitError(said or f"{self._how(rank)}; the same command goes on from the last checkpoint")
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)

    def _how(self, rank: int) -> str:
        code = self.workers[rank - 1].returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
        return f"process {rank + 1} of {self.size} of this training {how}"

    def _watch(self) -> None:
        """The death of a worker fails what waits for it; where a device waits for ever, this process ends too."""
        while not self._over.wait(0.5):
            failed = [rank for rank, worker in enumerate(self.workers, 1) if worker.poll()]
            if failed:
                for worker in self.workers:
                    worker.kill()
                if not self._over.wait(_PATIENCE):
                    say(f"kit: {self._how(failed[0])}; the same command goes on from the last checkpoint")
                    os._exit(1)
                return


def dismiss() -> None:
    """End the workers that wait for another task."""
    while _idle:
        _end(_idle.popitem()[1])


def _start(rank: int) -> subprocess.Popen[str]:
    """A worker that can import what this process can, and that no Ctrl-C reaches but through this process."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "kit.worker"],
        env={**os.environ, "PYTHONPATH": path, "LOCAL_RANK": str(rank)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _tell(worker: subprocess.Popen[str], task: Task) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # it is dead already; whoever waits for its answer will see
        worker.stdin.write(task.write())
        worker.stdin.flush()


def _answer(worker: subprocess.Popen[str]) -> str:
    """The next line that a worker says; empty when it is dead."""
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with suppress(OSError):  # what was written to it and never read
            pipe.close()  # type: ignore[union-attr]


def _reason(line: str) -> str:
    """The sentence in a line in which a worker says why it failed; empty in any other."""
    return line.removeprefix(FAILED).strip() if line.startswith(FAILED) else ""


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Leave none of the variables behind by which processes find each other."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
