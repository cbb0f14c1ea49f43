"""The embedded corpus as a data module."""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from datamodules.base import SpeechData
from datamodules.cockpit import build, recipe


class CockpitData(SpeechData):
    """In-car commands, generated and spoken at first use (`data.hours`, `data.seed`)."""

    @property
    def folder(self) -> Path:
        """Where this corpus lies in the cache; one made by an earlier recipe stays beside it."""
        data = self.config.data
        return Path(self.config.cache) / f"cockpit-{data.hours:g}h-seed{data.seed}-{recipe()}"

    def prepare_data(self) -> None:
        """Make the corpus unless it is there."""
        build(self.folder, self.config.data.hours, self.config.data.seed)

    def load_cuts(self, split: str) -> CutSet:
        """The cuts of train, dev, test or unseen."""
        return CutSet.from_file(self.folder / f"cuts_{split}.jsonl.gz")

    def test_parts(self) -> list[str]:
        """Held-out sentences with known entities, and with entities that occur nowhere in training."""
        return ["test", "unseen"]

    def texts(self) -> list[str]:
        """Some thirty thousand sentences of the same grammar, none of them held out."""
        return (self.folder / "texts.txt").read_text("utf-8").splitlines()
