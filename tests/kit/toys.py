"""A tiny stage and data module that walk through `fit` in a second, and a command line that uses them.

`python toys.py CONFIGS COMMAND ...` is `python -m kit COMMAND ...` on them. KIT_TOY="stage:step:deed" makes a stage do
a deed when that many steps are done: "raise", "refuse" (raise a KitError), "nan", "kill" (as kill -9 does), or
"wait:FILE" (write FILE, wait until it is gone). Of several processes the one of rank KIT_TOY_RANK (default 0) does it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import types
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import lightning as L
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

import kit.model.export
from kit.distributed import place
from kit.errors import KitError

PACKAGE_CONFIGS = Path(__file__).resolve().parents[2] / "configs"

STAGE = """
_target_: toys.ToyStage
name: {name}
requires: {requires}
starts_from: {starts_from}
parts: {parts}
steps: 12
gradient_clip: 1.0
report: {report}
"""
WHOLE = "[encoder, phoneme_head, adaptor, llm]"


def write_configs(folder: Path) -> Path:
    """configs/ with the real config.yaml and the groups that need nothing of a stage, and toys in the others."""
    for group in ("trainer", "augmentation", "retrieval", "normalization", "serving"):
        shutil.copytree(PACKAGE_CONFIGS / group, folder / group)
    shutil.copy(PACKAGE_CONFIGS / "config.yaml", folder)
    stages = {
        "language_model": dict(requires="[]", starts_from="{}", parts="[llm]"),
        "pretrain": dict(requires="[]", starts_from="{}", parts="[encoder, phoneme_head]"),
        "align": dict(
            requires="[language_model, pretrain]",
            starts_from="{llm: language_model, encoder: pretrain, phoneme_head: pretrain}",
            parts=WHOLE,
        ),
        "sft": dict(requires="[align]", starts_from='{"*": align}', parts=WHOLE, report="true"),
        "lonely": dict(requires="[lonely]", starts_from="{}", parts="[llm]"),
    }
    files = {
        f"stage/{name}": STAGE.format(**{"name": name, "report": "false", **values}) for name, values in stages.items()
    }
    files["model/tiny"] = "name: tiny\nwidth: 6\ndropout: 0.3\nllm: {pretrained: null}\n"
    files["data/cockpit"] = "_target_: toys.ToyData\nname: toy\n"
    files["decoding/offline"] = "name: offline\n"
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@dataclass
class ToyBatch:
    x: torch.Tensor
    y: torch.Tensor
    position: int

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device):
        return ToyBatch(self.x.to(device), self.y.to(device), self.position)


class ToyStream(torch.utils.data.IterableDataset):
    """Batch n is a function of n alone; several processes take turns."""

    def __init__(self, start: int, width: int) -> None:
        self.start, self.width = start, width
        self.rank, self.size = place()

    def __iter__(self):
        position = self.start
        while True:
            position += 1
            number = (position - 1) * self.size + self.rank + 1
            x = torch.randn(8, self.width, generator=torch.Generator().manual_seed(number))
            yield ToyBatch(x, x.cumsum(1), position)


class ToyData(L.LightningDataModule):
    built = 0

    def __init__(self, config) -> None:
        super().__init__()
        self.config, self.position, self.prepared = config, 0, 0
        ToyData.built += 1

    def prepare_data(self) -> None:
        self.prepared += 1

    def begin(self, config) -> None:
        self.config, self.position = config, 0

    def train_dataloader(self):
        assert self.prepared
        return DataLoader(ToyStream(self.position, self.config.model.width), batch_size=None)

    def val_dataloader(self):
        stream = ToyStream(1000, self.config.model.width)
        rank, size, stream.rank, stream.size = stream.rank, stream.size, 0, 1
        return DataLoader(list(islice(stream, 4))[rank::size], batch_size=None)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state) -> None:
        self.position = state["position"]


class ToyRecognizer(nn.Module):
    def __init__(self, width: int, parts, dropout: float) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.layer = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout), nn.Linear(width, width))


class ToyStage(L.LightningModule):
    def __init__(self, recognizer: nn.Module, config) -> None:
        super().__init__()
        self.recognizer, self.config = recognizer, config
        self.spread = 0.0  # how far apart the weights of several processes are
        self.deed = os.environ.get("KIT_TOY", "").split(":", 2)

    @classmethod
    def build(cls, config, data, starts) -> ToyRecognizer:
        recognizer = ToyRecognizer(config.model.width, config.stage.parts, config.model.dropout)
        for folder in starts.values():
            recognizer.load_state_dict(load_file(folder / "model.safetensors"))
        return recognizer

    def training_step(self, batch, index):
        if self.deed[0] == self.config.stage.name and int(self.deed[1]) == self.global_step:
            self.misbehave(self.deed[2])
        loss = (self.recognizer.layer(batch.x) - batch.y).square().mean()
        self.log("train/loss", loss)
        return loss

    def misbehave(self, deed: str) -> None:
        if place()[0] != int(os.environ.get("KIT_TOY_RANK", "0")):
            return
        if deed == "raise":
            raise RuntimeError("as asked")
        if deed == "refuse":
            raise KitError("this went wrong; mend it")
        if deed == "nan":
            self.recognizer.layer[0].weight.data.fill_(float("nan"))
        elif deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            sign = Path(deed.partition(":")[2])
            sign.write_text("")
            while sign.exists():
                time.sleep(0.01)

    def validation_step(self, batch, index):
        loss = (self.recognizer.layer(batch.x) - batch.y).square().mean()
        self.log("dev/loss", loss, batch_size=len(batch), sync_dist=True)

    def on_train_end(self):
        weights = torch.cat([parameter.detach().flatten() for parameter in self.parameters()])
        self.spread = float((self.all_gather(weights) - weights).abs().max())

    def on_validation_epoch_end(self):
        self.log("dev/spread", self.spread)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def save_export(recognizer, folder, meta) -> None:
    save_file(recognizer.state_dict(), folder / "model.safetensors")
    (folder / "export.json").write_text(json.dumps({"parts": list(recognizer.parts), "meta": meta}))


def evaluate(config, export, data):
    if os.environ.get("KIT_TOY") == "report":
        raise RuntimeError("no report, as asked")
    print("the table")
    return {"test": {"error_rate": 0.5, "utterances": 3}, "notes": ["x"]}


def transcribe_files(paths, export, config):
    for path in paths:
        yield path, KitError(f"{path} is no audio") if "bad" in str(path) else f"text of {Path(path).stem}"


def module(name: str, **members) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(members)
    return made


def upper_floors() -> dict[str, types.ModuleType]:
    """Stand-ins for the modules that the command line reaches by name."""
    return {
        "kit.model.export": module("kit.model.export", **{**vars(kit.model.export), "save_export": save_export}),
        "kit.evaluation.report": module("kit.evaluation.report", evaluate=evaluate),
        "kit.decoding.offline": module("kit.decoding.offline", transcribe_files=transcribe_files),
        "kit.model.info": module("kit.model.info", describe=lambda config: f"model {config.model.name}"),
    }


if __name__ == "__main__":
    import kit.config
    from kit.cli import main

    sys.modules["toys"] = sys.modules["__main__"]
    sys.modules.update(upper_floors())
    kit.config.CONFIGS = Path(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
