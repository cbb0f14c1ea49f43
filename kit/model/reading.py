"""What the layers of an LLM make of embeddings behind a cache, without what transformers does around each module.

For a token of a small LLM most of the time goes into keyword arguments, decorators and interfaces, layer by layer. For
Qwen3 and Llama the same modules are called here one after another; tests hold the result against theirs. Other kinds,
and layers that somebody has hooked into or wrapped (FSDP), are read by transformers itself.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KINDS = {"Qwen3DecoderLayer", "LlamaDecoderLayer"}  # with the same parts, but for the norms of queries and keys


class Cache(Protocol):
    """Holds the keys and values of each layer."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take the new ones (B, H, n, D), give all that are seen."""


def read(llm: Any, inputs: Tensor, place: Tensor, mask: Tensor, cache: Cache) -> Tensor:
    """Hidden states (B, n, E) of embeddings (B, n, E).

    Args:
        place: (B, n) of each in its text.
        mask: (B, 1, n, seen) bool, of what each may look at.
    """
    if not is_plain(llm):
        hidden: Tensor = llm.model(
            inputs_embeds=inputs, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=False
        ).last_hidden_state
        return hidden
    model, hidden = llm.model, inputs
    cosine, sine = (table[:, None] for table in model.rotary_emb(inputs, place))
    for number, layer in enumerate(model.layers):
        normal = _norm(layer.input_layernorm, hidden)
        hidden = hidden + _attended(layer.self_attn, normal, (cosine, sine), mask, cache, number)
        normal, mlp = _norm(layer.post_attention_layernorm, hidden), layer.mlp
        hidden = hidden + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normal)) * mlp.up_proj(normal))
    return _norm(model.norm, hidden)


def is_plain(llm: Any) -> bool:
    """Whether the layers are such as `read` knows, all attention sees everything, and nobody wants to be called."""
    layers = llm.model.layers
    known = all(type(layer).__name__ in _KINDS for layer in layers)
    kinds = getattr(llm.config, "layer_types", None) or ()
    if not known or llm.training or any(kind != "full_attention" for kind in kinds):
        return False
    return not any(_hooked(one) for layer in layers for one in (layer, layer.self_attn, layer.mlp))


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _attended(
    attention: Any, hidden: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor, cache: Cache, number: int
) -> Tensor:
    shape = (*hidden.shape[:2], -1, attention.head_dim)
    queries, keys = attention.q_proj(hidden).view(shape), attention.k_proj(hidden).view(shape)
    if hasattr(attention, "q_norm"):
        queries, keys = _norm(attention.q_norm, queries), _norm(attention.k_norm, keys)
    queries, keys = _turned(queries.transpose(1, 2), *turns), _turned(keys.transpose(1, 2), *turns)
    keys, values = cache.update(keys, attention.v_proj(hidden).view(shape).transpose(1, 2), number)
    found = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, scale=attention.scaling, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    projected: Tensor = attention.o_proj(found.transpose(1, 2).flatten(2))
    return projected


def _turned(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, of halves."""
    first, second = states.chunk(2, -1)
    return states * cosine + torch.cat((-second, first), -1) * sine


def _norm(norm: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, (states.shape[-1],), norm.weight, norm.variance_epsilon)
