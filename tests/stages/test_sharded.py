"""Two processes that share out the parameters among them: what comes out is what two with whole models come to."""

import signal

import pytest
import torch
from safetensors.torch import load_file
from small import SIZES, small_recognizer

from kit import distributed
from kit.callbacks import Checkpoint
from kit.config import compose
from kit.fit import fit
from kit.model.export import load_export, save_export

FREE = ["stage.optimizer.muon=null", "stage.callbacks.swap=null"]
SMALL = ["stage.batch_seconds=6", "stage.report=false", "trainer.max_steps=4", "trainer.checkpoint_every=2"]


@pytest.fixture(scope="module")
def train(corpus, tmp_path_factory):
    """Fine-tune from one export; returns a function from a name and overrides to the tensors of the export it left."""
    folder = tmp_path_factory.mktemp("sharded")
    save_export(small_recognizer(), folder / "init", {})
    where = [f"runs={folder / 'runs'}", f"cache={corpus.cache}", f"init={folder / 'init'}", "tracking=false"]
    none = [f"trainer.callbacks.{name}=null" for name in compose([]).trainer.get("callbacks") or {}]
    common = ["stage=ia_sft", "trainer.progress=false", "data.hours=0.01", *SIZES, *where, *FREE, *SMALL, *none]

    def run(name, *overrides):
        export = fit(compose([*common, f"experiment={name}", *overrides]))
        assert set(load_export(export).parts) == {"encoder", "phoneme_head", "adaptor", "llm"}
        return load_file(export / "model.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "dismiss", lambda: None)  # the other process is kept from test to test
        yield run
    distributed.dismiss()


def two(strategy):
    return ["trainer.devices=2", "trainer.accelerator=cpu", f"trainer.strategy={strategy}"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("extra", [(), ("stage.lora.rank=2", "trainer.accumulate=2")])
def test_shared_out_parameters_come_to_the_same(train, extra):
    shared, whole, alone = (
        train(f"{name}-{len(extra)}", *words, *extra)
        for name, words in {"fsdp": two("fsdp"), "ddp": two("ddp"), "one": ["trainer.accelerator=cpu"]}.items()
    )
    assert shared.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(shared[name], value, atol=2e-5, rtol=1e-4)
    assert any((alone[name] - value).abs().max() > 1e-4 for name, value in whole.items()), "of other batches"


@pytest.mark.timeout(300)
def test_an_interrupted_run_goes_on_exactly(train, monkeypatch):
    """Stopped after the third step of four, which is no step at which a checkpoint is due."""
    whole = train("whole", *two("fsdp"))
    save = Checkpoint.save

    def saving(self, trainer, module):
        save(self, trainer, module)
        self.interrupts.pending = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", saving)
        with pytest.raises(SystemExit) as stopped:
            train("broken", *two("fsdp"))
    assert stopped.value.code == 143
    resumed = train("broken", *two("fsdp"))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_on_one_gpu(train, strategy):
    tensors = train(f"gpu-{strategy}", f"trainer.strategy={strategy}", "trainer.precision=bf16-mixed")
    assert all(torch.isfinite(value).all() for value in tensors.values())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
@pytest.mark.parametrize("strategy", ["fsdp", "ddp", "deepspeed_stage_1", "deepspeed_stage_2"])
def test_on_two_gpus(train, strategy):
    if strategy.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    tensors = train(f"gpus-{strategy}", f"trainer.strategy={strategy}", "trainer.devices=2")
    assert all(torch.isfinite(value).all() for value in tensors.values())
