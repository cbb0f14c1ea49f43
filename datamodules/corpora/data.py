"""A prepared corpus as a data module: `data=aishell` after `data prepare corpus=aishell root=...`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lhotse import CutSet
from omegaconf import DictConfig

from datamodules.base import SpeechData
from datamodules.corpora.base import Corpus
from datamodules.corpora.prepare import PROBLEMS, unusable
from datamodules.corpora.registry import find
from datamodules.rows import ABOUT, Chained, Rows, as_cuts
from kit.errors import UsageError
from kit.progress import say


def corpus_folder(cache: str | Path, name: str) -> Path:
    """Where a corpus is prepared unless another folder is given."""
    return Path(cache) / "corpora" / name


class CorpusData(SpeechData):
    """Parts that `data prepare` made (`data.folder`, or the cache).

    `data.train`, `data.dev` and `data.test` name parts of the corpus: those of train and dev are taken together, those
    of test are reported one by one, under their own names, as far as they are prepared.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self.corpus: Corpus = find(str(config.data.corpus))
        self.folder = Path(config.data.folder or corpus_folder(config.cache, self.corpus.name))

    def load_cuts(self, split: str) -> CutSet:
        """The cuts of train, dev, or of a part of the corpus by its own name.

        Raises:
            UsageError: there is no such part, or it is not prepared.
        """
        if split == "dev":
            return self._together(part for part in self.config.data.dev if self._prepared(part))
        if split == "train":
            return self._together(self.config.data.train)
        return as_cuts(self._rows(split))

    def test_parts(self) -> list[str]:
        """The parts of `data.test` that are prepared.

        Raises:
            UsageError: none is.
        """
        parts = [str(part) for part in self.config.data.test]
        for part in parts:
            self._check(part)
        found = [part for part in parts if self._prepared(part)]
        if not found:
            self._refuse(", ".join(parts) or "data.test")
        if len(found) < len(parts):
            lost = ", ".join(part for part in parts if part not in found)
            say(f"{self.corpus.title}: not prepared and therefore not reported: {lost}")
        return found

    def _together(self, parts: Iterable[str]) -> CutSet:
        rows = {part: self._rows(part) for part in parts}
        if len(rows) == 1:
            return as_cuts(next(iter(rows.values())))
        return as_cuts(Chained(rows)) if rows else CutSet.from_cuts([])

    def _rows(self, part: str) -> Rows:
        self._check(part)
        if not self._prepared(part):
            self._refuse(part)
        rows = Rows(self.folder / part)
        self.left_out[part] = unusable(self.folder / part)
        if self.left_out[part]:
            usable = f"{len(rows)} of {rows.about['listed']} utterances can be used"
            say(f"{self.corpus.title}, {part}: {usable}; see {self.folder / part / PROBLEMS}")
        return rows

    def _check(self, part: str) -> None:
        if part not in self.corpus.parts:
            known = ", ".join(self.corpus.parts)
            raise UsageError(f"data={self.config.data.name} has no part {part!r}; choose train, dev, {known}")

    def _prepared(self, part: str) -> bool:
        return (self.folder / part / ABOUT).is_file()

    def _refuse(self, part: str) -> None:
        command = f"python -m kit data prepare corpus={self.corpus.name} root=FOLDER"
        raise UsageError(f"{part} of {self.corpus.title} is not prepared in {self.folder}; run {command}")
