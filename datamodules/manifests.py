"""Any folder of recordings: a jsonl of (audio, text, language), or a Lhotse manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from omegaconf import DictConfig

from datamodules.base import SpeechData, detect_language
from kit.errors import KitError, UsageError
from kit.progress import say
from kit.text.normalize import normalize
from kit.text.phonemes import phonemize


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl file with at least `audio` and `text`.

    Raises:
        KitError: names the line that is no JSON or lacks a field.
    """
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["audio"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise KitError(
                f'{path} line {number} is not {{"audio": ..., "text": ...}} ({error}); mend or remove that line'
            ) from error
        yield row


def read_jsonl(path: Path) -> CutSet:
    """A CutSet of whole recordings from a jsonl; `audio` is relative to the jsonl's folder."""
    return CutSet.from_cuts(_cut(path, row) for row in read_rows(path))


def _cut(path: Path, row: dict[str, Any]) -> MonoCut:
    audio = path.parent / row["audio"]
    name = row.get("id", audio.stem)
    try:
        recording = Recording.from_file(audio, recording_id=name)
    except Exception as error:  # the backends raise whatever they like
        raise KitError(
            f"{audio} (named in {path}) cannot be read as audio: {error}; mend or remove that row"
        ) from error
    language = row.get("language") or detect_language(row["text"])
    supervision = SupervisionSegment(
        id=name,
        recording_id=name,
        start=0.0,
        duration=recording.duration,
        text=row["text"],
        language=language,
        speaker=row.get("speaker"),
        custom={"entities": row["entities"]} if "entities" in row else None,
    )
    return MonoCut(
        id=name, start=0.0, duration=recording.duration, channel=0, recording=recording, supervisions=[supervision]
    )


class ManifestData(SpeechData):
    """`data=manifest data.train=FILE [data.dev=FILE data.test=FILE]`; parts not given are held back from the first.

    Files are a jsonl of audio, text and, if known, id, language, speaker and entities (a list of the names in the
    text); or a Lhotse cut manifest (cuts*.jsonl[.gz]). `data.test_share` and `data.dev_share` of the utterances are
    held back, chosen by a hash of their ids, so the order of the file does not matter and every run holds back the same
    ones.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self._parts: dict[str, CutSet] | None = None

    def load_cuts(self, split: str) -> CutSet:
        """The cuts of a split: from its own file, or the held-back share of data.train."""
        own = self.config.data.get(split)
        if own and split != "train":
            return self._read(own, split)
        if split not in ("train", "dev", "test"):
            raise UsageError(f"data=manifest has no part {split!r}; choose train, dev or test")
        return self._shares()[split]

    def test_parts(self) -> list[str]:
        """The one test part."""
        return ["test"]

    def _shares(self) -> dict[str, CutSet]:
        """data.train cut into train, dev and test by a hash of the ids."""
        config = self.config.data
        if not config.train:
            raise UsageError("data=manifest needs data.train=FILE, a jsonl of audio and text or a Lhotse manifest")
        if self._parts is None:
            rows = sorted(self._read(config.train, "train"), key=lambda cut: sha256(cut.id.encode()).digest())
            test = 0 if config.test else round(config.test_share * len(rows))
            dev = test + (0 if config.dev else round(config.dev_share * len(rows)))
            parts = {"test": rows[:test], "dev": rows[test:dev], "train": rows[dev:]}
            self._parts = {name: CutSet.from_cuts(cuts) for name, cuts in parts.items()}
        return self._parts

    def _read(self, name: str, split: str) -> CutSet:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"data file {path} does not exist; give a jsonl of audio and text, or a Lhotse manifest")
        first = path.name.removesuffix(".gz")
        cuts = CutSet.from_file(path) if first.startswith("cuts") else read_jsonl(path)
        kept = [cut for cut in cuts if phonemize(normalize(cut.supervisions[0].text))]
        if len(kept) < len(cuts):
            known = {cut.id for cut in kept}
            self.left_out[split] = [cut.id for cut in cuts if cut.id not in known]
            lost = len(cuts) - len(kept)
            say(f"{path}: left out {lost} of {len(cuts)} utterances, their text has nothing to pronounce")
        return CutSet.from_cuts(kept)
