"""`python -m kit bench ctc_prefix`: ours against the per-frame loop and `F.ctc_loss`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import ctc_prefix
from kernels.benchmark import Call, Case, Provider, Suite
from kernels.ctc_prefix import reference


@dataclass(frozen=True)
class Prefixes:
    """One step of a prefix beam: `psi` of all prefixes, then `extend` of as many survivors."""

    states: tuple[Tensor, ...]
    survivors: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Strings:
    """Whole strings to score against an utterance or a chunk of one."""

    log_probs: Tensor
    lengths: Tensor
    strings: Tensor
    sizes: Tensor
    alphas: Tensor


@dataclass(frozen=True)
class Spots:
    """Strings to look for, each in frames of its own."""

    log_probs: Tensor
    first: Tensor
    count: Tensor
    strings: Tensor
    sizes: Tensor


def _prefixes(sizes: dict[str, int], device: torch.device) -> Prefixes:
    batch, width, symbols, frames = (sizes[name] for name in ("batch", "width", "symbols", "frames"))
    draw = torch.Generator().manual_seed(1)
    log_probs = (4 * torch.randn(batch, frames, symbols, generator=draw)).log_softmax(-1).to(device)
    lengths = torch.full((batch,), frames, device=device)
    r_n, r_b = ctc_prefix.start(log_probs, lengths)
    last = torch.full((batch, 1), -1, device=device)
    parents = torch.zeros(batch, width, dtype=torch.int32, device=device)
    for _ in range(3):
        tokens = torch.randint(1, symbols, (batch, width), generator=draw).to(device)
        r_n, r_b = reference.extend(log_probs, lengths, r_n, r_b, last, parents, tokens)
        last, parents = tokens, torch.arange(width, device=device).expand(batch, -1)
    states = (log_probs, lengths, r_n, r_b, last)
    pick = torch.randint(0, width, (batch, width), generator=draw).to(device)
    return Prefixes(states, (pick, torch.randint(1, symbols, (batch, width), generator=draw).to(device)))


def _strings(sizes: dict[str, int], device: torch.device) -> Strings:
    count, longest, symbols, frames = (sizes[name] for name in ("count", "longest", "symbols", "frames"))
    draw = torch.Generator().manual_seed(1)
    log_probs = (2 * torch.randn(1, frames, symbols, generator=draw)).log_softmax(-1).to(device)
    strings = torch.randint(1, symbols, (1, count, longest), generator=draw).to(device)
    lengths = torch.full((1, count), longest, device=device)
    alphas = ctc_prefix.begin_strings(lengths, longest, log_probs)
    return Strings(log_probs, torch.full((1,), frames, device=device), strings, lengths, alphas)


def _spots(sizes: dict[str, int], device: torch.device) -> Spots:
    count, longest, symbols, frames = (sizes[name] for name in ("spotted", "longest", "symbols", "frames"))
    draw = torch.Generator().manual_seed(1)
    log_probs = (4 * torch.randn(2 * frames, symbols, generator=draw)).log_softmax(-1).to(device)
    first = torch.randint(0, frames + 1, (count,), generator=draw).to(device)
    strings = torch.randint(1, symbols, (count, longest), generator=draw).to(device)
    return Spots(log_probs, first, torch.full_like(first, frames), strings, torch.full_like(first, longest))


def _make(sizes: dict[str, int], device: torch.device) -> Prefixes | Strings | Spots:
    if "spotted" in sizes:
        return _spots(sizes, device)
    return _prefixes(sizes, device) if "width" in sizes else _strings(sizes, device)


def _score(module: Any, inputs: Prefixes | Strings | Spots) -> tuple[Tensor, ...]:
    if isinstance(inputs, Spots):
        return module.spot(inputs.log_probs, inputs.first, inputs.count, inputs.strings, inputs.sizes)[:1]
    if isinstance(inputs, Prefixes):
        return module.psi(*inputs.states), *module.extend(*inputs.states, *inputs.survivors)
    alphas, _, _ = module.forward_chunk(inputs.log_probs, inputs.lengths, inputs.strings, inputs.sizes, inputs.alphas)
    return (ctc_prefix.total(alphas, inputs.sizes),)


def _provider(module: Any, inputs: Prefixes | Strings | Spots, case: Case) -> Call:
    return partial(_score, module, inputs)


def _reference(inputs: Prefixes | Strings | Spots, case: Case) -> tuple[Tensor, ...]:
    """The loop in double."""
    if isinstance(inputs, Spots):
        return _score(reference, replace(inputs, log_probs=inputs.log_probs.double()))
    if isinstance(inputs, Prefixes):
        states = tuple(x.double() if x.is_floating_point() else x for x in inputs.states)
        return _score(reference, Prefixes(states, inputs.survivors))
    log_probs, alphas = inputs.log_probs.double(), inputs.alphas.double()
    return _score(reference, Strings(log_probs, inputs.lengths, inputs.strings, inputs.sizes, alphas))


def _ctc_loss(inputs: Prefixes | Strings | Spots, case: Case) -> Call:
    if not isinstance(inputs, Strings) or case.sizes["frames"] < inputs.strings.shape[2]:
        raise NotImplementedError("scores whole strings over whole utterances only")
    count = inputs.strings.shape[1]
    expanded = inputs.log_probs.transpose(0, 1).expand(-1, count, -1)
    lengths = inputs.lengths.expand(count)

    def call() -> tuple[Tensor]:
        loss = F.ctc_loss(expanded, inputs.strings[0], lengths, inputs.sizes[0], reduction="none")
        return (-loss[None],)

    return call


def _case(name: str, devices: tuple[str, ...] = ("cpu", "cuda"), **sizes: int) -> Case:
    if "width" in sizes:
        batch, width, symbols, frames = (sizes[key] for key in ("batch", "width", "symbols", "frames"))
        moved = 4.0 * batch * (frames * symbols + width * symbols + 6 * width * frames)
        work = 4.0 * batch * width * frames * (symbols + 10)
    else:
        states = sizes.get("count", sizes.get("spotted", 0)) * (2 * sizes["longest"] + 1)
        moved = 4.0 * (sizes["frames"] * sizes["symbols"] + 2 * states)
        work = 10.0 * states * sizes["frames"]
    return Case(name, partial(_make, sizes), sizes, moved, work, devices, tolerance=1e-4)


SUITE = Suite(
    "ctc_prefix",
    cases=[
        _case("step B1 W10 V200 T250", batch=1, width=10, symbols=200, frames=250),
        _case("step B16 W10 V200 T750", batch=16, width=10, symbols=200, frames=750),
        _case("160 strings of 60, T750", count=160, longest=60, symbols=200, frames=750),
        _case("160 strings of 60, 16 frames", count=160, longest=60, symbols=200, frames=16),
        _case("1024 strings of 12, 16 frames", count=1024, longest=12, symbols=200, frames=16),
        _case("32 strings of 10 spotted in 40 frames", spotted=32, longest=10, symbols=240, frames=40),
        _case("1024 strings of 10 spotted in 40 frames", spotted=1024, longest=10, symbols=240, frames=40),
    ],
    providers=[
        Provider("ours", partial(_provider, ctc_prefix)),
        Provider("loop", partial(_provider, reference)),
        Provider("ctc_loss", _ctc_loss, graph=False),
    ],
    reference=_reference,
    baseline="loop",
    peaks={"H100": (3.0e12, 6e13)},  # bytes a second counted read and written, nominal fp32 FLOP/s
)
