"""LoRA on the LLM (Hu et al. 2021, arXiv 2106.09685): peft puts the adapters in, an export has them merged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from kit.errors import KitError

_ADAPTER = "default"  # the name that peft gives to the only one there is


def adapt(llm: nn.Module, options: Any) -> list[str]:
    """Put a pair of small matrices beside each linear layer that `options` names; the LLM computes as before.

    Args:
        llm: a causal language model of transformers, changed in place; its class and its parts stay what they are.
        options: `stage.lora` with rank, alpha, dropout and targets.

    Returns:
        Names of the LLM's own parameters, in its new naming: those that LoRA leaves alone.

    Raises:
        KitError: a target is no linear layer or cannot be merged, dropout is no share, or peft is not installed.
    """
    _check(llm, options)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise KitError("stage.lora needs the package peft; install nim4-kit[lora]") from error
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
    )
    inject_adapter_in_model(config, llm, _ADAPTER)
    return [name for name, _ in llm.named_parameters() if not is_adapter(name)]


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


@contextmanager
def without_adapters(llm: nn.Module) -> Iterator[None]:
    """Within the block the LLM computes what it did before it was adapted; no gradient may be taken there."""
    adapted: list[Any] = [module for module in llm.modules() if hasattr(module, "lora_A")]
    for module in adapted:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(True)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that `model` would have without LoRA, with what the adapters add in its weights.

    Without adapters it is the plain state dict.
    """
    tensors: dict[str, Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            down, up = (tensors.pop(f"{name}.{side}.{_ADAPTER}.weight") for side in ("lora_A", "lora_B"))
            weight = tensors[f"{name}.base_layer.weight"]
            added = module.scaling[_ADAPTER] * (up.float() @ down.float())  # type: ignore[index, operator]
            tensors[f"{name}.base_layer.weight"] = (weight.float() + added).to(weight.dtype)
    return {name.replace(".base_layer.", "."): value for name, value in tensors.items()}


def _check(llm: Any, options: Any) -> None:
    linear = {name.rsplit(".")[-1] for name, module in llm.named_modules() if isinstance(module, nn.Linear)}
    if llm.config.tie_word_embeddings:
        linear -= {"lm_head"}  # its weight is that of the embeddings: there is nothing of its own to merge into
    wrong = [name for name in options.targets if name not in linear]
    if wrong or not options.targets:
        what = f"names {', '.join(wrong)}, which cannot be adapted" if wrong else "is empty"
        raise KitError(f"stage.lora.targets {what}; the linear layers of this LLM are {', '.join(sorted(linear))}")
    if not 0 <= options.dropout < 1:
        raise KitError(f"stage.lora.dropout must be at least 0 and below 1, got {options.dropout}")
