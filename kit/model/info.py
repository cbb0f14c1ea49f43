"""How big a model is, part by part, without making it."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import nn

from kit.model.llm import with_shape
from kit.model.recognizer import PARTS, Recognizer


def parameter_counts(config: DictConfig) -> dict[str, int]:
    """Parameters of each part of the `model` section, counted on the meta device; tied tensors count once."""
    with torch.device("meta"):
        recognizer = Recognizer(config, PARTS)
    counts = {}
    for part in PARTS:
        module: nn.Module = getattr(recognizer, part)
        counts[part] = sum(parameter.numel() for parameter in module.parameters())
    return counts


def describe(config: DictConfig) -> str:
    """A table of parts and parameter counts for `python -m kit info`."""
    model = with_shape(config.model, config.cache)
    counts = parameter_counts(model)
    encoder, llm = model.encoder, model.llm
    notes = {
        "encoder": f"Conformer, {encoder.layers} x {encoder.dim}, {encoder.heads} heads, kernel {encoder.kernel}",
        "phoneme_head": "CTC head, 3-layer MLP",
        "adaptor": f"{model.adaptor.stack} frames stacked, 2-layer MLP",
        "llm": f"{llm.pretrained or 'random'}, {llm.config.num_hidden_layers} x {llm.config.hidden_size}",
    }
    lines = [f"model={model.name}"]
    lines += [f"  {part:<14}{_millions(counts[part]):>12}  {notes[part]}" for part in PARTS]
    lines.append(f"  {'total':<14}{_millions(sum(counts.values())):>12}")
    return "\n".join(lines)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"
