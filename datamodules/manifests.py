"""Any folder of recordings: a jsonl of (audio, text, language), a Lhotse manifest, or a Shar folder or address."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

from lhotse import CutSet
from lhotse.cut import Cut
from omegaconf import DictConfig

from datamodules.base import SpeechData, detect_language
from datamodules.corpora.prepare import unusable
from datamodules.rows import (
    ROWS,
    Rows,
    as_cuts,
    cut_of_row,
    durations,
    is_lhotse,
    kept_rows,
    numbered_lines,
    subset,
)
from datamodules.shar import is_shar, open_shar
from datamodules.sources import Member, shelf_of
from kit.errors import KitError, UsageError
from kit.progress import count, say
from kit.text.normalize import normalize
from kit.text.phonemes import phonemize

LARGE = 32 << 20  # bytes of a manifest from which on it is read once and kept in the cache


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a jsonl file, gzipped or not, with at least `audio` and `text`.

    Raises:
        KitError: names the line that is no JSON or lacks a field.
    """
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
            if not (isinstance(row["audio"], str) and isinstance(row["text"], str)):
                raise TypeError("'audio' and 'text' must be texts")
        except (ValueError, KeyError, TypeError) as error:
            raise KitError(
                f'{path} line {number} is not {{"audio": ..., "text": ...}} ({error}); mend or remove that line'
            ) from error
        yield row


def read_jsonl(path: Path) -> CutSet:
    """A CutSet of the rows of a jsonl; `audio` is relative to the jsonl's folder."""
    return CutSet.from_cuts(cut_of_row(whole_row(path, row)) for row in read_rows(path))


def whole_row(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row with all that `cut_of_row` wants: what it does not say is looked up in the recording.

    Raises:
        KitError: the recording cannot be read, or a value is no such thing (the row is named).
    """
    audio = path.parent / row["audio"]
    name = str(row.get("id", audio.stem))
    known = {"rate": row.get("rate"), "samples": row.get("samples")}
    if not all(isinstance(value, int) and value > 0 for value in known.values()):
        known = _header(audio, path)
    full = {**row, **known, "id": name, "audio": str(audio)}
    full["language"] = row.get("language") or detect_language(row["text"])
    _check_times(full, path)
    return full


def _header(audio: Path, path: Path) -> dict[str, Any]:
    import soundfile

    try:
        about = soundfile.info(str(audio))
    except (OSError, soundfile.LibsndfileError) as error:
        raise KitError(
            f"{audio} (named in {path}) cannot be read as audio: {error}; mend or remove that row"
        ) from error
    return {"rate": about.samplerate, "samples": about.frames}


def _check_times(row: dict[str, Any], path: Path) -> None:
    """Start and duration have to be numbers inside the recording; a duration that is missing goes to its end."""
    whole = row["samples"] / row["rate"]
    start, duration = row.get("start", 0.0), row.get("duration")
    numbers = [value for value in (start, duration) if value is not None]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
        raise KitError(f"{path}: start and duration of {row['id']} are no numbers; write seconds")
    length = whole - start if duration is None else duration
    if start < 0 or length <= 0 or start + length > whole + 0.1:
        times = f"from second {start:g} to {start + length:g} of a recording of {whole:.2f} s"
        raise KitError(f"{path}: {row['id']} is said to be {times}; mend its start and duration")
    row.update({"start": float(start), "duration": min(float(length), whole - start)} if start or duration else {})


class ManifestData(SpeechData):
    """`data=manifest data.train=FILE [data.dev=FILE data.test=FILE]`; parts not given are held back from the first.

    Files are a jsonl of audio, text and, if known, id, language, speaker, start and duration (of the utterance, in
    seconds) and entities (a list of the names in the text); a Lhotse cut manifest (cuts*.jsonl[.gz]); a Shar folder or
    the address of one; or a part that `data prepare` made. `data.test_share` and `data.dev_share` of the utterances are
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

    def texts(self) -> list[str]:
        """The transcripts of training and the lines of `data.texts`, for training a language model."""
        more = self.config.data.get("texts")
        return [*super().texts(), *(read_texts(Path(str(more))) if more else [])]

    def _shares(self) -> dict[str, CutSet]:
        """data.train cut into train, dev and test by a hash of the ids."""
        config = self.config.data
        if not config.train:
            raise UsageError("data=manifest needs data.train=FILE, a jsonl of audio and text or a Lhotse manifest")
        if self._parts is None:
            cuts = self._read(config.train, "train")
            test = 0 if config.test else round(config.test_share * len(cuts))
            dev = test + (0 if config.dev else round(config.dev_share * len(cuts)))
            self._parts = held_back(cuts, test, dev, config.train_hours)
        return self._parts

    def _read(self, name: str, split: str) -> CutSet:
        cuts, self.left_out[split] = open_cuts(str(name), self.config)
        return cuts


def read_texts(path: Path) -> list[str]:
    """The sentences of a file with one a line, gzipped or not, normalized; lines without anything to pronounce are not.

    Raises:
        KitError: it is no text in UTF-8, or there is nothing in it.
    """
    texts = (normalize(line) for _, line in numbered_lines(path, "a text with one sentence a line"))
    found = [text for text in texts if phonemize(text)]
    if not found:
        raise KitError(f"{path} has no sentence in it; write one a line")
    return found


def held_back(cuts: CutSet, test: int, dev: int, hours: float | None = None) -> dict[str, CutSet]:
    """A corpus cut into parts by a hash of the ids: `test` utterances, then up to `dev`, then train.

    Of train so many hours are taken, the same utterances and more of them the more hours it is. What lies in archives,
    or stays on disk, keeps its order there: neighbors are read together.
    """
    places = sorted(range(len(cuts)), key=[sha256(cut.id.encode()).digest() for cut in cuts].__getitem__)
    last = len(cuts)
    if hours is not None:
        last = dev + int((durations(cuts)[places[dev:]].cumsum(0) <= hours * 3600).sum())
    ends = {"test": (0, test), "dev": (test, dev), "train": (dev, last)}
    near = cuts.is_lazy or (len(cuts) and isinstance(cuts[0].recording.sources[0], Member))
    order: Callable[[list[int]], list[int]] = sorted if near else list
    return {name: subset(cuts, order(places[start:end])) for name, (start, end) in ends.items()}


def open_cuts(name: str, config: DictConfig) -> tuple[CutSet, list[str]]:
    """The utterances of a manifest of any kind that have something to pronounce, and the ids of those that have not.

    Args:
        name: a jsonl, a Lhotse manifest, a Shar folder or address, or a folder that `data prepare` made.

    Raises:
        KitError: it is none of these, or damaged.
    """
    path, cache = Path(name), Path(config.cache)
    if is_shar(name):
        return as_cuts(open_shar(name, cache, shelf_of(config))), []
    if (path / ROWS).is_file():
        return as_cuts(Rows(path)), unusable(path)
    if not path.is_file():
        raise UsageError(
            f"data file {path} does not exist; give a jsonl of audio and text, a Lhotse manifest or a Shar folder"
        )
    if path.stat().st_size >= LARGE:
        return _kept(path, cache)
    cuts = CutSet.from_file(path) if is_lhotse(path) else read_jsonl(path)
    sayable = [bool(phonemize(normalize(cut.supervisions[0].text))) for cut in cuts]
    kept = list(compress(cuts, sayable))
    lost = [cut.id for cut, good in zip(cuts, sayable, strict=True) if not good]
    _tell(path, len(lost), len(sayable))
    check_ids(path, kept)
    return CutSet.from_cuts(kept), lost


def _kept(path: Path, cache: Path) -> tuple[CutSet, list[str]]:
    """The utterances of a manifest that is too large to be read every time; its copy goes by its name, size and age."""
    stat = path.stat()
    state = sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    about: dict[str, Any] = {"source": str(path), "left_out": []}
    rows = kept_rows(cache / "manifests" / f"{path.name.split('.')[0]}-{state}", _sayable(path, about), about=about)
    lost: list[str] = rows.about["left_out"]
    _tell(path, len(lost), len(lost) + len(rows))
    return as_cuts(rows), lost


def _sayable(path: Path, about: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float, None]]:
    """The rows whose text has something to pronounce, with their seconds, under a progress bar."""
    cuts = CutSet.from_jsonl_lazy(path) if is_lhotse(path) else None
    rows = (cut.to_dict() for cut in cuts) if cuts is not None else (whole_row(path, row) for row in read_rows(path))
    for row in count(rows, f"reading {path.name}"):
        if phonemize(normalize(row["supervisions"][0]["text"] if "supervisions" in row else row["text"])):
            yield row, row.get("duration", row.get("samples", 0) / row.get("rate", 1)), None
        else:
            about["left_out"].append(str(row["id"]))


def _tell(path: Path, lost: int, of: int) -> None:
    if lost:
        say(f"{path}: left out {lost} of {of} utterances, their text has nothing to pronounce")


def check_ids(path: Path, cuts: list[Cut]) -> None:
    """Every utterance must have an id of its own: by it features are found again.

    Raises:
        KitError: two have the same.
    """
    counts = Counter(cut.id for cut in cuts)
    again = [name for name, times in counts.items() if times > 1]
    if again:
        many = f"{len(again)} ids come" if len(again) > 1 else "an id comes"
        raise KitError(f"{path}: {many} twice, such as {again[0]}; give each utterance an id of its own")
