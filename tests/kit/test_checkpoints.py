import io
import os
import zipfile

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from omegaconf import OmegaConf

from kit.checkpoints import AtomicCheckpointIO, save_checkpoint, step_of
from kit.errors import KitError


class Module(L.LightningModule):
    """With hyperparameters, a scheduler and momentum: all that Lightning puts into a checkpoint."""

    def __init__(self, width=4, names=("a", "b"), nested=None):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(20, 4), batch_size=4)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


def trainer(folder, steps):
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:You.re resuming")
def test_a_real_checkpoint_is_read_without_pickle(tmp_path):
    path = tmp_path / "last.ckpt"
    first = trainer(tmp_path, 3)
    first.fit(Module(nested={"x": [1, 2.5, None, "text", True]}))
    first.save_checkpoint(path, weights_only=False)
    assert step_of(path) == 3
    assert torch.load(path, weights_only=True)["optimizer_states"][0]["state"]
    second = trainer(tmp_path, 5)
    module = Module()
    second.fit(module, ckpt_path=str(path), weights_only=True)
    assert second.global_step == 5
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "global_step": 1, "bomb": Bomb()}, tmp_path / "last.ckpt")
    with pytest.raises(KitError, match="holds more than tensors and plain values; delete it"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    assert not (tmp_path / "exploded").exists()


def whole():
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(1000)}, "global_step": 1}, file)
    return file.getvalue()


def other_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text\n", whole()[:100], whole()[: len(whole()) // 2], whole()[:-1], other_zip()],
    ids=["empty", "text", "head", "half", "all but one", "another zip"],
)
@pytest.mark.parametrize("read", [step_of, AtomicCheckpointIO().load_checkpoint])
def test_a_damaged_file_is_named_and_how_to_mend(tmp_path, content, read):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(KitError, match=r"last\.ckpt is damaged.*delete it to start this stage anew$"):
        read(tmp_path / "last.ckpt")


def test_a_missing_file_and_another_torch_file(tmp_path):
    with pytest.raises(KitError, match="is missing"):
        step_of(tmp_path / "none")
    torch.save([1], tmp_path / "list")
    with pytest.raises(KitError, match="is no checkpoint"):
        step_of(tmp_path / "list")


def test_hyperparameters_in_omegaconf_do_not_sneak_in(tmp_path):
    """A module must not save an OmegaConf node: it could never be read again, and that shows in its first test."""
    AtomicCheckpointIO().save_checkpoint(
        {"state_dict": {}, "global_step": 0, "x": OmegaConf.create({})}, tmp_path / "c"
    )
    with pytest.raises(KitError, match="more than tensors"):
        step_of(tmp_path / "c")


def test_remove(tmp_path):
    path = tmp_path / "c"
    path.write_text("")
    AtomicCheckpointIO().remove_checkpoint(path)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


class FolderTrainer:
    """Saves a folder, as DeepSpeed does; fails half-way if asked to."""

    global_step, is_global_zero = 7, True

    def __init__(self, fails=False):
        self.fails, self.strategy = fails, object.__new__(DeepSpeedStrategy)
        self.strategy.barrier = lambda *args: None

    def save_checkpoint(self, path):
        path.mkdir(exist_ok=True)
        (path / "rank0").write_text("a")
        if self.fails:
            raise RuntimeError("as asked")
        (path / "rank1").write_text("b")


@pytest.mark.parametrize("before", ["nothing", "a file", "a folder"])
def test_a_checkpoint_that_is_a_folder_appears_whole_or_not_at_all(tmp_path, before):
    path = tmp_path / "last.ckpt"
    if before == "a file":
        path.write_text("old")
    elif before == "a folder":
        path.mkdir()
        (path / "old").write_text("old")
    with pytest.raises(RuntimeError, match="as asked"):
        save_checkpoint(FolderTrainer(fails=True), path)
    assert path.exists() == (before != "nothing") and not (path / "rank0").exists()
    save_checkpoint(FolderTrainer(), path)
    assert sorted(os.listdir(path)) == ["rank0", "rank1", "step"] and step_of(path) == 7
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_folder_without_its_step_is_damaged(tmp_path):
    with pytest.raises(KitError, match="is damaged; delete it to start this stage anew"):
        step_of(tmp_path)
