"""A shard: every eighth utterance of the corpus, made by one fresh synthesizer and checked before it counts.

The audio goes to audio/<split>/<id>.flac; shards/<number>.json, written last, makes the shard a finished one. Both are
bit-identical however often and by however many processes they are made.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cockpit.plan import Plan, Utterance
from datamodules.cockpit.sound import SAMPLE_RATE, Rendering, digest_of, render
from kit.errors import KitError
from kit.files import write_text
from kit.text.espeak import Espeak

SHARDS = 8  # fixed: the synthesizer's state runs through a shard, so another number would be another corpus

Arguments = Mapping[str, Any]


class Stopped(Exception):
    """Another shard failed, so this one was given up."""


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Attributes:
        number: 0 to 7.
        sha256: over (samples, text) of its utterances, in order.
        records: one mapping an utterance: id, split, samples, bytes (of the file), phonemes (phoneme, start,
            duration, and no score: lhotse's alignment items).
    """

    number: int
    sha256: str
    records: list[dict[str, Any]]


def audio_path(folder: Path, split: str, name: str) -> Path:
    """Where the audio of an utterance lies."""
    return folder / "audio" / split / f"{name}.flac"


def utterances_of(plan: Plan, number: int) -> list[Utterance]:
    """The utterances of a shard, in the order in which they are spoken."""
    return [utterance for split in plan.utterances.values() for utterance in split[number::SHARDS]]


def load_shard(folder: Path, number: int, arguments: Arguments) -> Shard | None:
    """A shard that is finished and whole, else None.

    Raises:
        KitError: it was made with other arguments.
    """
    path = _manifest(folder, number)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shard = Shard(number, content["sha256"], content["records"])
        made_with = content["arguments"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"cannot read {path}: {error}; delete that file to make the shard again") from error
    check_arguments(folder, made_with, arguments)
    whole = all(_size(audio_path(folder, record["split"], record["id"])) == record["bytes"] for record in shard.records)
    return shard if whole else None


def check_arguments(folder: Path, made_with: Arguments, arguments: Arguments) -> None:
    """Raises KitError unless the corpus in `folder` is the one that is asked for."""
    for name in sorted({*arguments, *made_with}):
        value = arguments.get(name)
        if made_with.get(name) == value:
            continue
        made = "another version of the kit" if name == "recipe" else f"{name}={made_with.get(name)} and not {value}"
        raise KitError(f"{folder} holds a cockpit corpus made with {made}; choose another folder or delete that one")


def make_shard(
    folder: Path,
    number: int,
    utterances: Sequence[Utterance],
    arguments: Arguments,
    spoke: Callable[[], None],
    stopped: Callable[[], bool],
) -> Shard:
    """Synthesize, write and verify a shard.

    Args:
        spoke: called after each utterance, for the progress bar.
        stopped: asked before each utterance; when true the shard is given up.

    Raises:
        KitError: no synthesizer, no space, no access, or what was written reads back differently.
        Stopped: as told by `stopped`.
    """
    digest = hashlib.sha256()
    records = []
    with Espeak() as espeak:
        for utterance in utterances:
            if stopped():
                raise Stopped
            rendering = render(utterance, espeak)
            path = audio_path(folder, utterance.split, utterance.id)
            size = _write_flac(path, rendering.samples)
            _verify(path, rendering.samples)
            digest.update(digest_of(rendering.samples, utterance.sentence.text))
            records.append(_record(utterance, rendering, size))
            spoke()
    content = {"arguments": arguments, "sha256": digest.hexdigest(), "records": records}
    write_text(_manifest(folder, number), json.dumps(content, ensure_ascii=False))
    return Shard(number, digest.hexdigest(), records)


def _manifest(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number}.json"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _record(utterance: Utterance, rendering: Rendering, size: int) -> dict[str, Any]:
    return {
        "id": utterance.id,
        "split": utterance.split,
        "samples": len(rendering.samples),
        "bytes": size,
        "phonemes": [(*item, None) for item in rendering.phonemes],
    }


def _write_flac(path: Path, samples: np.ndarray) -> int:
    """Size of the file, which appears whole or not at all.

    Not flushed to the disk, for that takes longer than all the rest: should the machine itself go down, the sizes in
    the shard's record tell files that were lost.
    """
    import soundfile

    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=0.25)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.getbuffer())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise KitError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a folder you may write to"
        ) from error
    return len(encoded.getbuffer())


def _verify(path: Path, samples: np.ndarray) -> None:
    import soundfile

    try:
        written, rate = soundfile.read(path, dtype="int16")
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        raise KitError(f"cannot read back {path}: {error}; check the disk and run again") from error
    if rate != SAMPLE_RATE or not np.array_equal(written, samples):
        raise KitError(f"{path} does not hold what was written to it; check the disk and run again")
