"""Building a hotword database from names.tsv, with all cores; pronunciations of the version before are used again."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.errors import KitError, UsageError
from kit.files import check_writable, folder_atomic, held, remove_leftovers, write_atomic, write_text
from kit.progress import say
from kit.retrieval import manifest as manifests
from kit.retrieval.database import ARRAYS, AUTOMATON, KINDS, PHONEMES, Database
from kit.retrieval.lexicon import build_automaton
from kit.retrieval.manifest import Manifest, describe
from kit.retrieval.names import BadLines, Name, check_inventory, check_readable, merged, read_names, unpronounceable
from kit.retrieval.sounds import Sounds, all_sounds, rules
from kit.text.phonemes import PhonemeInventory

_BUILD = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


def build(
    names: str | Path, out: str | Path, inventory: PhonemeInventory, workers: int = 1, dense: bool = True
) -> Database:
    """Build a database, or build it anew; until all is done the one before stays as it is.

    Args:
        names: the list.
        out: folder of the database.
        inventory: of the models that will search in it.
        workers: processes that pronounce names.
        dense: whether to make the index for search by similar sound, too.

    Raises:
        UsageError: the list cannot be read or has no name that can be used; `out` is something else.
        KitError: the inventory has no phonemes, FAISS is wanted but not installed, another process builds there, or the
            disk takes no more.
    """
    check_inventory(inventory)
    if dense and find_spec("faiss") is None:  # said before the work of minutes
        raise KitError("the index for names that sound alike needs FAISS; pip install faiss-cpu, or give dense=false")
    out, bad = Path(out), BadLines(names)
    check_readable(names)
    check_writable(out)
    with held(out) as mine:
        if not mine:
            raise KitError(f"another process is building {out}; wait for it or stop it")
        remove_leftovers(out)
        version = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        with folder_atomic(out / version) as data:
            manifest = _write_names(names, out, data, version, inventory, workers, bad)
            if dense:
                manifest = _write_dense(data, manifest)
        manifest.write(out)
        _remove_older(out, manifest)
    bad.tell()
    return Database.open(out)


def _write_names(
    names: str | Path, out: Path, data: Path, version: str, inventory: PhonemeInventory, workers: int, bad: BadLines
) -> Manifest:
    """All files but the dense index; the manifest for them. What it needs on the way is forgotten at its end."""
    found = merged(read_names(names, inventory, bad))
    sounds = _sounds(found, out, inventory, workers, bad)
    if not sounds:
        raise UsageError(f"{names} has no name that can be used; write one a line, in Han or Latin letters")
    keys = sorted({sound for several in sounds.values() for sound in several})
    say(f"writing {len(sounds)} names under {len(keys)} phoneme strings")
    _write(data, [found[text] for text in sounds], list(sounds.values()), keys, inventory)
    manifest = Manifest(
        build=version,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        inventory=describe(inventory),
        rules=rules(),
        names=len(sounds),
        keys=len(keys),
        pronunciations=sum(map(len, sounds.values())),
        refused=dict(bad.counts),
    )
    return manifest.sealed(data, _files(data))


def _write_dense(data: Path, manifest: Manifest) -> Manifest:
    from kit.retrieval.dense import DenseIndex  # it brings torch

    DenseIndex.build(Database(data, manifest), say)
    return manifest.sealed(data, _files(data))


def _sounds(
    names: Mapping[str, Name], out: Path, inventory: PhonemeInventory, workers: int, bad: BadLines
) -> dict[str, Sounds]:
    """text -> pronunciations, from the list, the version before, or by the rules; in the order of the texts."""
    known = _known(out, inventory)
    own = {text: list(name.pronunciations) for text, name in names.items() if name.pronunciations}
    missing = sorted(text for text in names if text not in own and text not in known)
    found = dict(zip(missing, all_sounds(missing, inventory, workers), strict=True))
    for text in missing:
        if not found[text]:
            bad.add(names[text].line, unpronounceable(names[text]))
    every = {text: own.get(text) or known.get(text) or found[text] for text in sorted(names)}
    return {text: sounds for text, sounds in every.items() if sounds}


def _known(out: Path, inventory: PhonemeInventory) -> dict[str, Sounds]:
    """text -> pronunciations by the same rules in the version before; empty if there is none that can be used.

    Raises:
        UsageError: `out` has a manifest of something else.
    """
    if not (out / manifests.FILE).exists():
        return {}
    try:
        before = Database.open(out, inventory)
    except UsageError:
        raise
    except KitError as error:
        say(f"{error}; its pronunciations are not used")
        return {}
    if before.manifest.rules != rules():
        return {}
    own = before.own.tolist()
    return {text: sounds for (text, sounds), is_own in zip(before.sounds(), own, strict=True) if not is_own}


def _files(data: Path) -> list[str]:
    return [path.name for path in data.iterdir()]


def _write(
    data: Path, names: Sequence[Name], sounds: Sequence[Sounds], keys: list[bytes], inventory: PhonemeInventory
) -> None:
    """Names and keys are sorted."""
    inventory.save(data / PHONEMES)
    kinds = sorted({name.kind for name in names})
    write_text(data / KINDS, "\n".join(kinds))
    for name, array in _arrays(names, sounds, keys, kinds).items():
        write_atomic(data / f"{name}.npy", partial(np.save, arr=array, allow_pickle=False))
    automaton = build_automaton(keys).serialize()
    write_atomic(data / AUTOMATON, lambda file: file.write(automaton))


def _arrays(
    names: Sequence[Name], sounds: Sequence[Sounds], keys: Sequence[bytes], kinds: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """ARRAYS, by name."""
    texts = [name.text.encode() for name in names]
    kind_places = {kind: place for place, kind in enumerate(kinds)}
    weights = np.array([name.weight for name in names])
    members, member_starts = _members(sounds, keys, weights)
    found: dict[str, NDArray[Any]] = {
        "strings": np.frombuffer(b"".join(keys), np.uint8),
        "starts": _starts(keys),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "text_starts": _starts(texts),
        "weights": weights,
        "kinds": np.array([kind_places[name.kind] for name in names]),
        "own": np.array([bool(name.pronunciations) for name in names]),
        "members": members,
        "member_starts": member_starts,
    }
    return {name: found[name].astype(kind) for name, kind in ARRAYS.items()}


def _members(
    sounds: Sequence[Sounds], keys: Sequence[bytes], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The names under each key by falling weight, and where each key's begin."""
    places = {key: place for place, key in enumerate(keys)}
    of_key = np.array([places[sound] for several in sounds for sound in several])
    of_name = np.repeat(np.arange(len(sounds)), [len(several) for several in sounds])
    order = np.lexsort((of_name, -weights[of_name], of_key))
    starts = np.concatenate([[0], np.cumsum(np.bincount(of_key, minlength=len(keys)))])
    return of_name[order], starts


def _starts(pieces: Sequence[bytes]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])


def _remove_older(out: Path, manifest: Manifest) -> None:
    for path in out.iterdir():
        if _BUILD.fullmatch(path.name) and path.name != manifest.build:
            shutil.rmtree(path, ignore_errors=True)
