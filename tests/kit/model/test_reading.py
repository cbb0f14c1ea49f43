"""The LLM's layers read one by one give what transformers gives, and are left to it where they are not plain."""

import pytest
import torch
from small import LLAMA, small_recognizer

from kit.decoding.decoder import TextCache
from kit.model import reading


def llm_of(kind):
    overrides = {"qwen3": (), "llama": (LLAMA,), "groups": ("model.llm.config.num_attention_heads=4",)}[kind]
    return small_recognizer(("llm",), 3, *overrides).llm


def by_transformers(llm, inputs, place, mask, cache):
    return llm.model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=False
    ).last_hidden_state


def hidden_states(llm, monkeypatch, read):
    """Of two texts that grow by different pieces, one of them beside an idle row."""
    monkeypatch.setattr("kit.decoding.decoder.read", read)
    cache, found = TextCache(llm, 3), []
    inputs = torch.randn(2, 9, llm.config.hidden_size, generator=torch.Generator().manual_seed(1)).to(llm.dtype)
    with torch.inference_mode():
        for begin, end, counts in ((0, 5, [5, 3]), (5, 6, [1, 1]), (6, 9, [2, 3])):
            found.append(cache.append(llm, [0, 2], inputs[:, begin:end], counts))
    return [state[row, :count] for state, counts in zip(found, ([5, 3], [1, 1], [2, 3]), strict=True)
            for row, count in enumerate(counts)]  # fmt: skip


@pytest.mark.parametrize("kind", ["qwen3", "llama", "groups"])
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_layers_give_what_transformers_gives(kind, precision, tolerance, monkeypatch):
    llm = llm_of(kind).to(precision).eval()
    assert reading.is_plain(llm)
    for norm in (module for module in llm.modules() if "RMSNorm" in type(module).__name__):
        torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    expected = hidden_states(llm, monkeypatch, by_transformers)
    for one, other in zip(hidden_states(llm, monkeypatch, reading.read), expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_who_hooks_into_a_layer_is_called(monkeypatch):
    llm, called = llm_of("qwen3").eval(), []
    expected = hidden_states(llm, monkeypatch, reading.read)
    llm.model.layers[1].register_forward_hook(lambda *_: called.append(1))
    assert not reading.is_plain(llm)
    found = hidden_states(llm, monkeypatch, reading.read)
    assert len(called) == 3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_known_is_left_to_transformers():
    llm = llm_of("qwen3")
    assert not reading.is_plain(llm.train())
    llm.eval().config.layer_types = ["full_attention", "sliding_attention"]
    assert not reading.is_plain(llm)
    llm = llm_of("qwen3").eval()
    llm.model.layers[0].__class__ = type("FSDPQwen3DecoderLayer", (type(llm.model.layers[0]),), {})
    assert not reading.is_plain(llm)
