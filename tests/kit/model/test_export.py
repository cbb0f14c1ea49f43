import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import TEXTS, small_recognizer

from kit.errors import KitError
from kit.model.export import ABOUT, TENSORS, load_export, load_tensors, save_export


@pytest.fixture
def export(tmp_path: Path) -> Path:
    save_export(small_recognizer(seed=1), tmp_path / "export", {"stage": "sft"})
    return tmp_path / "export"


def test_round_trip_is_exact(export):
    before, after = small_recognizer(seed=1), load_export(export)
    assert set(before.state_dict()) == set(after.state_dict())
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name
    assert after.inventory.digest == before.inventory.digest
    assert after.text_ids(TEXTS[3]) == before.text_ids(TEXTS[3])
    assert not after.training
    tied = after.llm.lm_head.weight.data_ptr() == after.llm.get_input_embeddings().weight.data_ptr()
    assert tied


def test_some_of_the_parts(export):
    assert not hasattr(load_export(export, ("encoder", "phoneme_head")), "llm")


def test_no_pickle_in_an_export(export):
    assert {path.suffix for path in export.iterdir()} <= {".safetensors", ".json", ".jinja"}


def tamper(export: Path, change) -> None:
    tensors = load_file(export / TENSORS)
    change(tensors)
    save_file(tensors, export / TENSORS)


def test_a_missing_tensor_is_named(export):
    tamper(export, lambda tensors: tensors.pop("encoder.blocks.0.norm.bias"))
    with pytest.raises(KitError, match=r"encoder.blocks.0.norm.bias is missing"):
        load_export(export)


def test_a_surplus_tensor_is_named(export):
    tamper(export, lambda tensors: tensors.update({"adaptor.extra": torch.zeros(1)}))
    with pytest.raises(KitError, match=r"adaptor.extra is surplus"):
        load_export(export)


def test_another_size_is_named(export):
    recognizer = small_recognizer()
    tamper(export, lambda tensors: tensors.update({"encoder.mean": torch.zeros(3)}))
    with pytest.raises(KitError, match=r"encoder.mean is \(3,\) in .* but \(80,\) in this model"):
        load_tensors(recognizer, export, ["encoder"])


def test_a_part_that_is_not_there(tmp_path):
    save_export(small_recognizer(("encoder", "phoneme_head")), tmp_path / "e", {})
    with pytest.raises(KitError, match="has no llm, only encoder, phoneme_head"):
        load_export(tmp_path / "e", ("encoder", "llm"))


def test_damaged_files_are_named(export, tmp_path):
    whole = (export / TENSORS).read_bytes()
    (export / TENSORS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KitError, match="cannot be read"):
        load_export(export)
    (export / ABOUT).write_text("{")
    with pytest.raises(KitError, match="is no export"):
        load_export(export)
    with pytest.raises(KitError, match="is no export"):
        load_export(tmp_path)


def test_a_newer_format_is_refused(export):
    about = json.loads((export / ABOUT).read_text())
    (export / ABOUT).write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(KitError, match="format 99"):
        load_export(export)
