"""The public functions, as registered operators: vectorized on the CPU, Triton on a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from kernels.ctc_prefix import reference, vectorized

_TYPES = (torch.float32, torch.float64)
_definition: Any = reference

torch.library.define(
    "kit_kernels::ctc_prefix_psi",
    "(Tensor log_probs, Tensor lengths, Tensor r_n, Tensor r_b, Tensor last, int blank) -> Tensor",
)
torch.library.define(
    "kit_kernels::ctc_prefix_extend",
    "(Tensor log_probs, Tensor lengths, Tensor r_n, Tensor r_b, Tensor last, Tensor parents, Tensor tokens, int blank)"
    " -> (Tensor, Tensor)",
)
torch.library.define(
    "kit_kernels::ctc_forward_chunk",
    "(Tensor log_probs, Tensor fresh, Tensor strings, Tensor sizes, Tensor alphas, bool free_start, int blank)"
    " -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "kit_kernels::ctc_spot",
    "(Tensor log_probs, Tensor first, Tensor count, Tensor strings, Tensor sizes, int blank) -> (Tensor, Tensor)",
)


def psi(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int = 0) -> Tensor:
    """Score every one-symbol extension of every prefix.

    Args:
        log_probs: (B, T, V) natural log-probabilities, fp32 or fp64; below -1e4 they are read as -1e4.
        lengths: (B,) frames of each row.
        r_n, r_b: (B, W, T), from `start` or `extend`: after each frame the log-probability of the prefix ending in its
            last symbol, and in blank.
        last: (B, W) last symbol of each prefix; -1 for the empty one.
        blank: index of the blank.

    Returns:
        (B, W, V): log-probability that the utterance's string begins with the prefix and then the symbol; -1e30 for
        the blank.

    Raises:
        ValueError: an argument's shape, type or device does not fit; the message names it.
    """
    _check_prefixes(log_probs, lengths, r_n, r_b, last, blank)
    arguments = _ready(log_probs, lengths, r_n, r_b, last)
    if _plain():
        return _definition.psi(*arguments, blank=blank)
    return torch.ops.kit_kernels.ctc_prefix_psi(*arguments, blank)


def extend(
    log_probs: Tensor,
    lengths: Tensor,
    r_n: Tensor,
    r_b: Tensor,
    last: Tensor,
    parents: Tensor,
    tokens: Tensor,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:
    """The states of the prefixes that survive.

    Args:
        log_probs, lengths, r_n, r_b, last, blank: as in `psi`.
        parents: (B, N) which of the row's W prefixes each survivor extends.
        tokens: (B, N) by which symbol; not the blank.

    Returns:
        Their r_n and r_b, both (B, N, T).

    Raises:
        ValueError: as in `psi`.
    """
    _check_prefixes(log_probs, lengths, r_n, r_b, last, blank)
    batch = log_probs.shape[0]
    survivors = parents.shape[1] if parents.ndim == 2 else 0
    _check_whole("parents", parents, (batch, survivors), log_probs)
    _check_whole("tokens", tokens, (batch, survivors), log_probs)
    arguments = _ready(log_probs, lengths, r_n, r_b, last, parents, tokens)
    if _plain():
        return _definition.extend(*arguments, blank=blank)
    return torch.ops.kit_kernels.ctc_prefix_extend(*arguments, blank)


def forward_chunk(
    log_probs: Tensor,
    fresh: Tensor,
    strings: Tensor,
    sizes: Tensor,
    alphas: Tensor,
    free_start: bool = False,
    blank: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry whole strings over the next frames; a chunk costs its own frames, however long the past.

    Args:
        log_probs: (B, F, V) of the new frames, as in `psi`.
        fresh: (B,) how many of them count in each row.
        strings: (B, N, S) symbols; behind a string's size anything.
        sizes: (B, N) symbols of each string.
        alphas: (B, N, 2 S + 1) from `begin_strings` or the call before.
        free_start: let a string begin at any frame at no cost for what went before, to spot it anywhere.
        blank: index of the blank.

    Returns:
        New alphas; and r_n and r_b, both (B, N, F): after each frame the log-probability of the whole string having
        just ended in its last symbol, and in blank.

    Raises:
        ValueError: as in `psi`.
    """
    _check_log_probs(log_probs, blank)
    if strings.ndim != 3 or strings.shape[0] != log_probs.shape[0]:
        raise ValueError(f"strings must be ({log_probs.shape[0]}, N, S), not {tuple(strings.shape)}")
    batch, count, longest = strings.shape
    _check_whole("strings", strings, (batch, count, longest), log_probs)
    _check_whole("sizes", sizes, (batch, count), log_probs)
    _check_whole("fresh", fresh, (batch,), log_probs)
    _check_state("alphas", alphas, (batch, count, 2 * longest + 1), log_probs)
    arguments = _ready(log_probs, fresh, strings, sizes, alphas)
    if _plain():
        return _definition.forward_chunk(*arguments, free_start=free_start, blank=blank)
    return torch.ops.kit_kernels.ctc_forward_chunk(*arguments, free_start, blank)


def spot(
    log_probs: Tensor, first: Tensor, count: Tensor, strings: Tensor, sizes: Tensor, blank: int = 0
) -> tuple[Tensor, Tensor]:
    """Look for many strings, each in frames of its own, wherever in them it begins and ends.

    Args:
        log_probs: (T, V) natural log-probabilities, fp32 or fp64: the frames of all utterances behind one another;
            below -1e4 they are read as -1e4, above 0 as 0.
        first: (N,) frame in the T from which each string is looked for.
        count: (N,) frames in which it is.
        strings: (N, S) symbols; behind a string's size anything.
        sizes: (N,) symbols of each string.
        blank: index of the blank.

    Returns:
        (N,) the log-probability that frames of these, up to the best end, say just the string: summed over where it
        begins and over all alignments; at least -500. And (N,) the frame behind that end; 0 where the score is -500.

    Raises:
        ValueError: an argument's shape, type or device does not fit, or frames are asked for that there are not.
    """
    _check_log_probs(log_probs[None], blank)
    if strings.ndim != 2:
        raise ValueError(f"strings must be (N, S), not {tuple(strings.shape)}")
    _check_whole("strings", strings, tuple(strings.shape), log_probs)
    for name, tensor in {"first": first, "count": count, "sizes": sizes}.items():
        _check_whole(name, tensor, (len(strings),), log_probs)
    # On a GPU looking at the numbers would wait for all work before; the kernel never reads beyond the last frame.
    if log_probs.device.type == "cpu" and bool(((first < 0) | (first + count > len(log_probs))).any()):
        raise ValueError(f"first and count lead out of the {len(log_probs)} frames of log_probs")
    arguments = _ready(log_probs, first, count, strings, sizes)
    if _plain():
        return _definition.spot(*arguments, blank=blank)
    return torch.ops.kit_kernels.ctc_spot(*arguments, blank)


torch.library.impl("kit_kernels::ctc_prefix_psi", "CPU", vectorized.psi)
torch.library.impl("kit_kernels::ctc_prefix_extend", "CPU", vectorized.extend)
torch.library.impl("kit_kernels::ctc_forward_chunk", "CPU", vectorized.forward_chunk)
torch.library.impl("kit_kernels::ctc_spot", "CPU", vectorized.spot)


@torch.library.impl("kit_kernels::ctc_prefix_psi", "CUDA")
def _(*arguments):  # type: ignore[no-untyped-def]
    from kernels.ctc_prefix import triton_kernels

    return triton_kernels.psi(*arguments)


@torch.library.impl("kit_kernels::ctc_prefix_extend", "CUDA")
def _(*arguments):  # type: ignore[no-untyped-def]
    from kernels.ctc_prefix import triton_kernels

    return triton_kernels.extend(*arguments)


@torch.library.impl("kit_kernels::ctc_forward_chunk", "CUDA")
def _(*arguments):  # type: ignore[no-untyped-def]
    from kernels.ctc_prefix import triton_kernels

    return triton_kernels.forward_chunk(*arguments)


@torch.library.impl("kit_kernels::ctc_spot", "CUDA")
def _(*arguments):  # type: ignore[no-untyped-def]
    from kernels.ctc_prefix import triton_kernels

    return triton_kernels.spot(*arguments)


@torch.library.register_fake("kit_kernels::ctc_prefix_psi")
def _(log_probs, lengths, r_n, r_b, last, blank):  # type: ignore[no-untyped-def]
    return r_n.new_empty((*r_n.shape[:2], log_probs.shape[2]))


@torch.library.register_fake("kit_kernels::ctc_prefix_extend")
def _(log_probs, lengths, r_n, r_b, last, parents, tokens, blank):  # type: ignore[no-untyped-def]
    shape = (*parents.shape, r_n.shape[2])
    return r_n.new_empty(shape), r_n.new_empty(shape)


@torch.library.register_fake("kit_kernels::ctc_forward_chunk")
def _(log_probs, fresh, strings, sizes, alphas, free_start, blank):  # type: ignore[no-untyped-def]
    shape = (*sizes.shape, log_probs.shape[1])
    return alphas.new_empty(alphas.shape), alphas.new_empty(shape), alphas.new_empty(shape)


@torch.library.register_fake("kit_kernels::ctc_spot")
def _(log_probs, first, count, strings, sizes, blank):  # type: ignore[no-untyped-def]
    return log_probs.new_empty(sizes.shape), sizes.new_empty(sizes.shape)


def _plain() -> bool:
    return os.environ.get("KIT_KERNELS") == "reference"


def _ready(log_probs: Tensor, *others: Tensor) -> list[Any]:
    """Indices as 32-bit integers, everything contiguous but the frames, which may be strided."""
    packed = [x.contiguous() if x.is_floating_point() else x.to(torch.int32).contiguous() for x in others]
    return [log_probs if log_probs.stride(-1) == 1 else log_probs.contiguous(), *packed]


def _check_prefixes(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int) -> None:
    _check_log_probs(log_probs, blank)
    batch, frames, _ = log_probs.shape
    width = r_n.shape[1] if r_n.ndim == 3 else 0
    _check_state("r_n", r_n, (batch, width, frames), log_probs)
    _check_state("r_b", r_b, (batch, width, frames), log_probs)
    _check_whole("last", last, (batch, width), log_probs)
    _check_whole("lengths", lengths, (batch,), log_probs)


def _check_log_probs(log_probs: Tensor, blank: int) -> None:
    if log_probs.ndim != 3 or log_probs.dtype not in _TYPES:
        raise ValueError(
            f"log_probs must be (B, T, V) of float32 or float64, not {tuple(log_probs.shape)} of {log_probs.dtype}"
        )
    if not 0 <= blank < log_probs.shape[2]:
        raise ValueError(f"blank={blank} is none of the {log_probs.shape[2]} symbols of log_probs")


def _check_state(name: str, tensor: Tensor, shape: tuple[int, ...], log_probs: Tensor) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != log_probs.dtype:
        raise ValueError(
            f"{name} must be {shape} of {log_probs.dtype}, as log_probs, not {tuple(tensor.shape)} of {tensor.dtype}"
        )
    _check_device(name, tensor, log_probs)


def _check_whole(name: str, tensor: Tensor, shape: tuple[int, ...], log_probs: Tensor) -> None:
    if tuple(tensor.shape) != shape or tensor.is_floating_point():
        raise ValueError(f"{name} must be {shape} of whole numbers, not {tuple(tensor.shape)} of {tensor.dtype}")
    _check_device(name, tensor, log_probs)


def _check_device(name: str, tensor: Tensor, log_probs: Tensor) -> None:
    if tensor.device != log_probs.device:
        raise ValueError(f"{name} is on {tensor.device}, but log_probs is on {log_probs.device}")
