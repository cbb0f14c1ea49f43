"""Build the embedded corpus: audio, Lhotse cuts with phoneme alignments, texts and entity lists.

folder/audio/<split>/<id>.flac     16 kHz, 16 bit, mono
folder/cuts_<split>.jsonl.gz       train, dev, test, unseen; or made alone
folder/texts.txt                   sentences for training on text alone, training's first
folder/entities.json               names: known and unseen
folder/corpus.json                 arguments, counts, hours, SHA-256 of every shard; written last
folder/shards/<number>.json        what a killed build goes on from
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import math
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from datamodules.cockpit.grammar import lists
from datamodules.cockpit.plan import MADE, SPLITS, Plan, Utterance, plan, plan_made, voices
from datamodules.cockpit.shards import (
    SHARDS,
    Arguments,
    Shard,
    Stopped,
    audio_path,
    check_arguments,
    load_shard,
    make_shard,
    utterances_of,
)
from datamodules.cockpit.sound import SAMPLE_RATE
from kit.errors import KitError
from kit.files import write_atomic, write_text
from kit.processors import processors

if TYPE_CHECKING:
    from rich.progress import Progress

RECIPE = 1  # to be raised when the same arguments make other sentences or sounds
MOST_HOURS = 100.0
ENTITY_LISTS = ("poi", "song", "singer", "artist", "contact")


def build(folder: Path, hours: float = 1.5, seed: int = 1, workers: int | None = None, made: bool = False) -> None:
    """Make the corpus in `folder`, or go on where an earlier call was stopped, or do nothing if it is there.

    The same hours and seed give the same samples on every machine, whatever the number of workers. Processes that
    build the same folder at once wait for one another.

    Args:
        folder: made if missing.
        hours: of training audio, approximately; held-out parts come on top and shrink below a quarter of an hour.
        seed: another seed, another corpus.
        workers: shards made at once; as many as processors by default.
        made: not the corpus, but a part that stands apart: training sentences with made-up names.

    Raises:
        KitError: wrong arguments, another corpus in the folder, no synthesizer, no space or no access. Finished
            shards are kept.
    """
    folder = Path(folder).absolute()
    if not (math.isfinite(hours) and 0 < hours <= MOST_HOURS):
        raise KitError(f"hours={hours} of cockpit corpus cannot be made; choose more than 0 and at most {MOST_HOURS:g}")
    if workers is not None and workers < 1:
        raise KitError(f"workers={workers} cannot build the cockpit corpus; choose 1 or more")
    arguments = {"hours": float(hours), "seed": int(seed), "recipe": recipe(), **({MADE: True} if made else {})}
    if _is_finished(folder, arguments):
        return
    with _lock(folder):
        if not _is_finished(folder, arguments):  # another process may have built it meanwhile
            _build(folder, arguments, workers or processors())


def recipe() -> str:
    """Names what makes the corpus: a number for the code, a digest for the lists and templates."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*/*.yaml")):
        digest.update(path.read_bytes())
    return f"{RECIPE}-{digest.hexdigest()[:12]}"


def _is_finished(folder: Path, arguments: Arguments) -> bool:
    try:
        content = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        check_arguments(folder, content["arguments"], arguments)
    except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours: made anew from the shards
        return False
    splits = (MADE,) if MADE in arguments else SPLITS
    products = [*(f"cuts_{split}.jsonl.gz" for split in splits), "texts.txt", "entities.json"]
    return (
        content["folder"] == str(folder)  # the cuts name their audio by absolute paths
        and all((folder / name).is_file() for name in products)
        and all(load_shard(folder, number, arguments) for number in range(SHARDS))
    )


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One builder at a time; the lock ends with the process that holds it, however that ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise KitError(
            f"cannot write the corpus to {folder}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that builds {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, arguments: Arguments, workers: int) -> None:
    for leftover in [*folder.glob(".*.part"), *folder.glob("shards/.*.part"), *folder.glob("audio/*/.*.part")]:
        leftover.unlink(missing_ok=True)  # of a killed build; the lock says that nobody else is writing
    planned = (plan_made if MADE in arguments else plan)(arguments["hours"], arguments["seed"])
    shards: list[Shard | None] = [load_shard(folder, number, arguments) for number in range(SHARDS)]
    with _progress() as progress:
        made = _make_missing(folder, planned, shards, arguments, workers, progress)
    (folder / "corpus.json").unlink(missing_ok=True)  # it stands for the whole; the parts change now
    summary = _write_cuts(folder, planned, made)
    write_text(folder / "texts.txt", "".join(f"{text}\n" for text in planned.texts))
    write_text(folder / "entities.json", json.dumps(_entities(), ensure_ascii=False, indent=1) + "\n")
    corpus = {
        "arguments": dict(arguments),
        "folder": str(folder),
        "sample_rate": SAMPLE_RATE,
        "splits": summary,
        "texts": len(planned.texts),
        "sha256": {f"shard-{shard.number}": shard.sha256 for shard in made},
    }
    write_text(folder / "corpus.json", json.dumps(corpus, ensure_ascii=False, indent=1) + "\n")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _make_missing(
    folder: Path,
    planned: Plan,
    shards: Sequence[Shard | None],
    arguments: Arguments,
    workers: int,
    progress: Progress,
) -> list[Shard]:
    """All shards, those that were None made by threads: the work is in the synthesizers and in code without the GIL."""
    stop = threading.Event()
    total = sum(map(len, planned.utterances.values()))
    kept = sum(len(shard.records) for shard in shards if shard)
    task = progress.add_task("speaking the cockpit corpus", total=total, completed=kept)
    result = {shard.number: shard for shard in shards if shard}
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(
                make_shard,
                folder,
                number,
                utterances_of(planned, number),
                arguments,
                lambda: progress.advance(task),
                stop.is_set,
            )
            for number in range(SHARDS)
            if number not in result
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()  # nothing is left to stop, or one failed, or the user wants out
    failures = [error for future in futures if (error := future.exception()) and not isinstance(error, Stopped)]
    if failures:
        raise failures[0]
    result.update((future.result().number, future.result()) for future in futures)
    return [result[number] for number in range(SHARDS)]


def _write_cuts(folder: Path, planned: Plan, shards: Sequence[Shard]) -> dict[str, dict[str, Any]]:
    """Write the manifests; what they hold, by split."""
    records = {record["id"]: record for shard in shards for record in shard.records}
    summary: dict[str, dict[str, Any]] = {}
    for split, utterances in planned.utterances.items():
        _write_lines(
            folder / f"cuts_{split}.jsonl.gz",
            [_cut(folder, utterance, records[utterance.id]) for utterance in utterances],
        )
        samples = sum(records[utterance.id]["samples"] for utterance in utterances)
        summary[split] = {
            "utterances": len(utterances),
            "hours": round(samples / SAMPLE_RATE / 3600, 4),
            "languages": dict(sorted(Counter(utterance.sentence.language for utterance in utterances).items())),
            "domains": dict(sorted(Counter(utterance.sentence.domain for utterance in utterances).items())),
            "voices": list(voices(split)),
        }
    return summary


def _cut(folder: Path, utterance: Utterance, record: dict[str, Any]) -> dict[str, Any]:
    """A lhotse MonoCut as lhotse writes it: made by hand because lhotse's import takes longer than all cuts."""
    samples, sentence = record["samples"], utterance.sentence
    common = {"id": utterance.id, "start": 0.0, "duration": samples / SAMPLE_RATE, "channel": 0}
    source = str(audio_path(folder, utterance.split, utterance.id))
    supervision = {
        **common,
        "recording_id": utterance.id,
        "text": sentence.text,
        "language": sentence.language,
        "speaker": utterance.variant,
        "custom": {
            "domain": sentence.domain,
            "voice": utterance.voice,
            "entities": [name for _, kind, name in sentence.names if kind in ENTITY_LISTS],
        },
        "alignment": {"phoneme": record["phonemes"]},
    }
    recording = {
        "id": utterance.id,
        "sources": [{"type": "file", "channels": [0], "source": source}],
        "sampling_rate": SAMPLE_RATE,
        "num_samples": samples,
        "duration": samples / SAMPLE_RATE,
        "channel_ids": [0],
    }
    return {**common, "supervisions": [supervision], "recording": recording, "type": "MonoCut"}


def _write_lines(path: Path, items: Sequence[dict[str, Any]]) -> None:
    content = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()

    def write(file: BinaryIO) -> None:
        with gzip.GzipFile(
            filename="", mode="wb", fileobj=file, mtime=0
        ) as compressed:  # no date: same bytes each time
            compressed.write(content)

    write_atomic(path, write)


def _entities() -> dict[str, dict[str, dict[str, list[str]]]]:
    return {
        part: {
            language: {kind: list(getattr(kinds[kind], part)) for kind in ENTITY_LISTS if kind in kinds}
            for language, kinds in lists().items()
        }
        for part in ("known", "unseen")
    }
