"""The embedded corpus as a data module."""

from __future__ import annotations

from pathlib import Path

from lhotse import CutSet

from datamodules.base import SpeechData
from datamodules.cockpit import build, recipe
from datamodules.cockpit.plan import MADE
from kit.errors import UsageError


class CockpitData(SpeechData):
    """In-car commands, generated and spoken at first use (`data.hours`, `data.seed`)."""

    MADE = MADE

    @property
    def folder(self) -> Path:
        """Where this corpus lies in the cache; one made by an earlier recipe stays beside it."""
        return self._folder("cockpit", self.config.data.hours)

    def prepare_data(self) -> None:
        """Make the corpus unless it is there."""
        build(self.folder, self.config.data.hours, self.config.data.seed)

    def load_cuts(self, split: str) -> CutSet:
        """The cuts of train, dev, test, unseen or made; the last is spoken when it is first asked for.

        Raises:
            UsageError: there is no such part.
        """
        known = ("train", "dev", *self.test_parts(), MADE)
        if split not in known:
            raise UsageError(f"data=cockpit has no part {split!r}; choose one of {', '.join(known)} or {self.SILENCE}")
        folder = self.folder
        if split == MADE:
            hours = self.config.data.hours * self.config.data.made
            folder = self._folder("cockpit-made", hours)
            build(folder, hours, self.config.data.seed, made=True)
        return CutSet.from_file(folder / f"cuts_{split}.jsonl.gz")

    def _folder(self, name: str, hours: float) -> Path:
        return Path(self.config.cache) / f"{name}-{hours:g}h-seed{self.config.data.seed}-{recipe()}"

    def test_parts(self) -> list[str]:
        """Held-out sentences with known entities, and with entities that occur nowhere in training."""
        return ["test", "unseen"]

    def texts(self) -> list[str]:
        """Some thirty thousand sentences of the same grammar, none of them held out."""
        return (self.folder / "texts.txt").read_text("utf-8").splitlines()
