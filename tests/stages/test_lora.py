"""Stages with LoRA: exactly the adapters move, at the LLM's rate, and a run that broke off goes on exactly."""

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from small import SIZES, small_config, small_recognizer

from kit.config import compose
from kit.errors import KitError, UsageError
from kit.fit import fit
from kit.model.export import load_export, save_export
from kit.model.lora import is_adapter
from stages.ia_sft import IterativeSFT
from stages.sft import SFT


def stage(kind, *overrides):
    name = {IterativeSFT: "ia_sft", SFT: "sft"}.get(kind, "align")
    return kind(small_recognizer(), small_config(f"stage={name}", *overrides))


@pytest.mark.parametrize(
    ("kind", "others"), [(IterativeSFT, {"adaptor"}), (SFT, {"adaptor", "encoder", "phoneme_head"})]
)
def test_of_the_llm_only_the_adapters_move(kind, others):
    plain, adapted = stage(kind), stage(kind, "stage.lora.rank=4")
    assert {name for name in adapted.trained if not name.startswith("llm.")} == {
        name for name in plain.trained if not name.startswith("llm.")
    }
    assert {name.split(".")[0] for name in adapted.trained} == {"llm", *others}
    moving = [name for name in adapted.trained if name.startswith("llm.")]
    assert moving and all(map(is_adapter, moving))
    assert {name.split(".")[-4] for name in moving} == {"q_proj", "v_proj"}


def test_adapters_have_the_rate_of_the_llm_and_are_none_of_muons_business():
    module = stage(SFT, "stage.lora.rank=4", "stage.optimizer.scale.llm=0.25", "stage.optimizer.lr=0.01")
    names = {id(parameter): name for name, parameter in module.recognizer.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    of_llm = [group for group in groups if any(is_adapter(names[id(one)]) for one in group["params"])]
    assert [(group["initial_lr"], "momentum" in group) for group in of_llm] == [(0.0025, False)]
    assert all(is_adapter(names[id(one)]) for group in of_llm for one in group["params"])


def test_lora_where_the_llm_is_frozen_is_refused():
    with pytest.raises(KitError, match=r"stage\.trains leaves the LLM out; add 'llm\\\.\.\*' or drop the rank"):
        stage(IterativeSFT, "stage.lora.rank=4", r"stage.trains=['adaptor\\..*']")


def test_the_options_are_checked_as_all_others_are():
    lora = compose(["stage=ia_sft"]).stage.lora
    assert lora.rank is None and lora.targets == ["q_proj", "v_proj"]
    assert compose(["stage=ia_sft", "stage.lora={rank: 8, alpha: 32}"]).stage.lora == {**lora, "rank": 8, "alpha": 32}
    assert isinstance(compose(["stage=sft", "stage.lora.rank=8"]).stage.lora, DictConfig)
    for override, answer in {
        "stage.lora.rank=0": "stage.lora.rank must be at least 1, got 0",
        "stage.lora.rank=big": "stage.lora.rank wants a whole number, got big",
        "stage.lora.ranks=8": "did you mean stage.lora.rank?",
        "stage.lora={rnk: 8}": "did you mean stage.lora.rank?",
        "stage.lora=8": "stage.lora wants a mapping",
    }.items():
        with pytest.raises(UsageError, match=answer.replace("?", r"\?")):
            compose(["stage=sft", override])


@pytest.fixture
def train(corpus, tmp_path, monkeypatch):
    """Fine-tune with LoRA from one export; returns a function from an experiment's name to the export it left."""
    monkeypatch.chdir(tmp_path)
    save_export(small_recognizer(), tmp_path / "init", {})
    where = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", "tracking=false", "threads=1", "init=init"]
    options = ["stage.lora.rank=2", "stage.lora.dropout=0.1", "stage.batch_seconds=6", "stage.report=false"]
    steps = ["trainer.max_steps=5", "trainer.checkpoint_every=2"]
    return lambda name: fit(compose(["stage=ia_sft", f"experiment={name}", *where, *options, *steps]))


def test_a_run_that_broke_off_goes_on_exactly_and_leaves_a_plain_export(train, monkeypatch):
    whole = load_file(train("whole") / "model.safetensors")
    step = IterativeSFT.training_step

    def breaking(self, batch, index):
        if self.global_step == 3:
            raise RuntimeError("as asked")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(IterativeSFT, "training_step", breaking)
        with pytest.raises(RuntimeError, match="as asked"):
            train("broken")
    export = train("broken")
    resumed = load_file(export / "model.safetensors")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    before = small_recognizer().state_dict()
    moved = {name for name, value in load_export(export).state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"adaptor", "llm"}
    assert {name.split(".")[-2] for name in moved if name.startswith("llm.")} == {"q_proj", "v_proj"}


def test_a_stage_builds_on_an_adapted_one(train, tmp_path, corpus):
    export = train("first")
    config = small_config("stage=sft", cache=corpus.cache)
    recognizer = SFT.build(config, corpus.data(config), {"ia_sft": export})
    assert recognizer.state_dict().keys() == load_export(export).state_dict().keys()
