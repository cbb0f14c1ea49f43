"""Two processes that train together, started by `fit` in this one; they are kept from test to test to save time."""

import json
import os
import sys
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file

import kit.config
from kit import distributed, runs
from kit.config import compose
from kit.errors import KitError, UsageError
from kit.fit import fit
from kit.runs import Run

TWO = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
COMMON = ["tracking=false", "trainer.checkpoint_every=5", "trainer.log_every=2", "trainer.progress=false"]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kit.config, "CONFIGS", toys.write_configs(folder / "configs"))
        patch.setattr(distributed, "dismiss", lambda: None)
        patch.chdir(folder)
        for name, module in toys.upper_floors().items():
            patch.setitem(sys.modules, name, module)
        yield folder
    distributed.dismiss()
    assert not distributed._idle


def train(name, *overrides, stage="pretrain"):
    return fit(compose([f"stage={stage}", f"experiment={name}", *COMMON, *overrides]))


def weights(export):
    return torch.cat([value.flatten() for _, value in sorted(load_file(export / "model.safetensors").items())])


def figures(export):
    return json.loads(Run(export.parent).metrics.read_text())["metrics"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_are_one_that_accumulates_their_batches(accumulate):
    """The gradient is the mean of the processes' means, as it is the mean of the means of accumulated batches."""
    together = train(f"two-{accumulate}", *TWO, "model.dropout=0", f"trainer.accumulate={accumulate}")
    alone = train(f"one-{accumulate}", "model.dropout=0", f"trainer.accumulate={2 * accumulate}")
    torch.testing.assert_close(weights(together), weights(alone), atol=1e-6, rtol=1e-5)
    assert figures(together)["dev/loss"] == pytest.approx(figures(alone)["dev/loss"], rel=1e-4)
    assert not torch.equal(weights(alone), weights(train(f"less-{accumulate}", "model.dropout=0")))


def test_both_end_with_the_same_weights_though_each_drops_out_its_own():
    export = train("spread", *TWO, "trainer.validate_every=4")
    assert figures(export)["dev/spread"] == 0.0
    assert json.loads((export / "export.json").read_text())["meta"]["steps"] == 12


def test_a_broken_off_run_goes_on_exactly(monkeypatch):
    whole = train("whole", *TWO)
    save = distributed.Team._end

    def breaking(self, error):
        save(self, error)
        raise RuntimeError("as asked")

    with monkeypatch.context() as patch:
        patch.setattr(distributed.Team, "_end", breaking)
        with pytest.raises(RuntimeError, match="as asked"):
            train("again", *TWO, "trainer.max_steps=12")
    (run,) = runs.runs_in(Path("runs/again/pretrain"))
    checkpoint = torch.load(run.checkpoint, weights_only=True)
    assert checkpoint["global_step"] == 12
    assert torch.equal(weights(train("again", *TWO)), weights(whole)), "nothing was left but to validate"


def test_nothing_of_it_is_left_behind():
    before, threads = dict(os.environ), torch.get_num_threads()
    train("traces", *TWO)
    assert dict(os.environ) == {**before, "PL_GLOBAL_SEED": os.environ["PL_GLOBAL_SEED"]} | {
        name: value for name, value in os.environ.items() if name.startswith("PL_")
    }
    assert torch.get_num_threads() == threads
    assert distributed.place() == (0, 1)


def test_only_one_process_says_and_writes_anything(capfd):
    export = train("quiet", *TWO, "trainer.progress=true")
    shown = capfd.readouterr()
    assert shown.out.splitlines() == [f"export: {export}"]
    lines = [line for line in shown.err.splitlines() if line.startswith("pretrain 1/12")]
    assert len(lines) == 1 and shown.err.count("training in") == 1
    rows = (export.parent / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows if ",train/loss," in row] == ["1", "3", "5", "7", "9", "11"]
    assert len(runs.runs_in(Path("runs/quiet/pretrain"))) == 1


def test_a_full_disk_stops_neither(monkeypatch, capsys):
    def full(path, write):
        raise KitError(f"cannot write {path}: No space left on device; free some space and try again")

    monkeypatch.setattr("kit.checkpoints.write_atomic", full)
    export = train("full", *TWO)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: cannot write" in line]
    assert len(warnings) == 3 and export.is_dir() and figures(export)["dev/spread"] == 0.0


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["trainer.strategy=ddp_spawn"], "ddp_spawn is not supported; choose one of auto, single_device, ddp,"),
        (["trainer.strategy=deepspeed_stage_3"], "deepspeed_stage_3 is not supported; choose"),
        (["trainer.strategy=deepspeed_stage_2"], r"needs the package deepspeed; install nim4-kit\[deepspeed\]"),
    ],
)
def test_strategies_that_cannot_work_are_refused(overrides, answer):
    if "deepspeed_stage_2" in overrides[0] and distributed.importlib.util.find_spec("deepspeed"):
        pytest.skip("deepspeed is installed")
    with pytest.raises(UsageError, match=answer):
        train("refused", *overrides)


def test_deepspeed_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UsageError, match="deepspeed_stage_1 needs a GPU; on CPUs write trainer.strategy=ddp"):
        train("refused", "trainer.strategy=deepspeed_stage_1", "trainer.accelerator=cpu")


def test_sharding_refuses_muon_and_callbacks_that_read_weights(monkeypatch):
    monkeypatch.setattr(kit.config, "CONFIGS", toys.PACKAGE_CONFIGS)
    with pytest.raises(UsageError, match=r"splits the matrices, .* write stage\.optimizer\.muon=null"):
        distributed.check(compose(["stage=pretrain", "trainer.strategy=fsdp"]))
    without = ["stage.optimizer.muon=null", "trainer.strategy=fsdp"]
    with pytest.raises(UsageError, match=r"fsdp splits the weights .* write stage\.callbacks\.watch=null"):
        distributed.check(compose(["stage=pretrain", *without]))
    none = ["stage.callbacks.watch=null", *(f"trainer.callbacks.{name}=null" for name in _callbacks())]
    distributed.check(compose(["stage=pretrain", *none, *without]))


def _callbacks():
    return list(compose([]).trainer.get("callbacks") or {})


def test_processes_of_others_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UsageError, match="fit starts its processes itself; start it once, without torchrun"):
        train("torchrun", *TWO)


def test_a_task_arrives_as_it_was_sent():
    task = distributed.Task("runs/a b", "seed: 1\nname: 打开\n", {"x": "y"}, 1, 2, 999, 4)
    assert distributed.Task.read(task.write()) == task and task.write().count("\n") == 1


def test_turns():
    """The toy stream that these tests compare with takes turns, as the first test needs it to."""
    whole = [batch.x for batch in islice(toys.ToyStream(0, 3), 4)]
    assert all(not torch.equal(one, other) for one, other in pairwise(whole))
