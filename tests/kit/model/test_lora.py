"""LoRA: nothing changes before training, exactly the adapters move, and a merged export computes the same."""

import sys

import pytest
import torch
from omegaconf import OmegaConf
from peft.tuners.lora import LoraLayer
from small import small_recognizer

from kit.decoding.decoder import Decoder, Work
from kit.errors import KitError
from kit.model.export import load_export, save_export
from kit.model.lora import adapt, is_adapter, merged

IDS = torch.arange(2, 26).reshape(2, 12)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def options(**changed):
    return OmegaConf.create({"rank": 4, "alpha": 6, "dropout": 0.0, "targets": ["q_proj", "v_proj"], **changed})


def trained(targets=ALL):
    """A recognizer whose adapters are no longer at their beginning."""
    recognizer = small_recognizer()
    adapt(recognizer.llm, options(targets=targets))
    torch.manual_seed(1)
    for name, parameter in recognizer.llm.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.3)
    return recognizer.eval()


def logits(recognizer):
    with torch.inference_mode():
        return recognizer.llm(IDS).logits


@pytest.mark.parametrize("targets", [["q_proj"], ALL])
def test_before_training_nothing_changes(targets):
    recognizer = small_recognizer()
    kind, before, own = type(recognizer.llm), logits(recognizer), dict(recognizer.llm.named_parameters())
    kept = adapt(recognizer.llm, options(targets=targets))
    assert type(recognizer.llm) is kind and torch.equal(logits(recognizer), before)
    assert {name.replace(".base_layer.", ".") for name in kept} == own.keys()
    sizes = [value.numel() for name, value in recognizer.llm.named_parameters() if is_adapter(name)]
    wanted = [4 * sum(value.shape) for name, value in own.items() if name.split(".")[-2] in targets]
    assert sum(sizes) == sum(wanted) > 0


@pytest.mark.parametrize("targets", [["q_proj"], ALL])
def test_a_merged_export_computes_what_the_adapters_do(targets, tmp_path):
    recognizer, plain = trained(targets), small_recognizer()
    save_export(recognizer, tmp_path / "export", {})
    loaded = load_export(tmp_path / "export")
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    assert not any(isinstance(module, LoraLayer) for module in loaded.modules())
    torch.testing.assert_close(logits(loaded), logits(recognizer), atol=1e-5, rtol=1e-4)
    assert (logits(loaded) - logits(plain)).abs().max() > 0.01, "the adapters did something"
    assert any(isinstance(module, LoraLayer) for module in recognizer.modules()), "training can go on"


def test_merging_is_what_peft_does():
    recognizer = trained()
    mine = merged(recognizer)
    for module in recognizer.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    theirs = {name.replace(".base_layer.", "."): value for name, value in recognizer.state_dict().items()}
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)


def test_the_decoder_takes_an_adapted_llm_as_it_is(tmp_path):
    recognizer = trained()
    save_export(recognizer, tmp_path / "export", {})
    speech = [torch.randn(size, recognizer.llm_width) for size in (3, 9)]
    texts = []
    for one in (recognizer, load_export(tmp_path / "export")):
        decoder = Decoder(one, len(speech), 12)
        decoder.end = -1
        found = decoder.run([Work(row, heard, one.tail_ids()) for row, heard in enumerate(speech)])
        texts.append([text.ids for (text,) in found])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        (
            {"targets": ["q_proj", "w_proj"]},
            "targets names w_proj, which cannot be adapted; the linear layers of this ",
        ),
        ({"targets": ["lm_head"]}, "LLM are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj$"),
        ({"targets": ["embed_tokens"]}, "names embed_tokens"),
        ({"targets": []}, "targets is empty; the linear layers"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, got 1\.0"),
    ],
)
def test_what_cannot_be_adapted_is_refused(changed, answer):
    with pytest.raises(KitError, match=answer):
        adapt(small_recognizer(("llm",)).llm, options(**changed))


def test_without_peft_one_sentence_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(KitError, match=r"^stage\.lora needs the package peft; install nim4-kit\[lora\]$"):
        adapt(small_recognizer(("llm",)).llm, options())
