"""`python -m kit hotwords`: build, search and describe databases of names; edit personal lists."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from kit.errors import UsageError
from kit.options import choose, share, sub_command, whole_number
from kit.processors import processors
from kit.progress import say
from kit.retrieval.build import build
from kit.retrieval.database import Database
from kit.retrieval.personal import add_to_file, remove_from_file
from kit.text.normalize import normalize
from kit.text.phonemes import PhonemeInventory
from kit.text.similar import distance
from kit.text.variants import pronunciations

DEFAULTS: dict[str, dict[str, str]] = {
    "build": {"out": "", "threads": "", "dense": "true"},
    "search": {"nearest": "10", "shortest": "4"},
    "stats": {},
    "calibrate": {"precision": "0.98"},
    "add": {"kind": "", "weight": "", "phonemes": ""},
    "remove": {},
}
LARGEST = 10  # groups of homophones that are shown
_SHOWN = 8  # names of such a group
_PERCENTILES = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "most": 100}
FARTHEST = 0.5  # distance at which a name still sounds somehow like what is looked for
_SPARE = 4  # times as many candidates as wanted are compared: the dense index only comes near to the true order


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Carry out what the first word says; returns the exit code.

    Raises:
        KitError: no such command or option, or it failed.
    """
    return sub_command("hotwords", COMMANDS, files)(files[1:], overrides)


def options(command: str, overrides: Sequence[str]) -> dict[str, str]:
    """The options of a command.

    Raises:
        UsageError: it has no such option.
    """
    return choose(f"hotwords {command}", DEFAULTS[command], overrides)


def _build(files: Sequence[str], overrides: Sequence[str]) -> int:
    chosen = options("build", overrides)
    (names,) = _wanted("build", files, "NAMES out=DB")
    if not chosen["out"]:
        raise UsageError("hotwords build needs a folder for the database: out=DB")
    if chosen["dense"] not in ("true", "false"):
        raise UsageError(f"dense={chosen['dense']} must be true or false")
    workers = whole_number("threads", chosen["threads"]) if chosen["threads"] else processors()
    inventory = PhonemeInventory.default()
    database = build(names, chosen["out"], inventory, workers, dense=chosen["dense"] == "true")
    about = database.manifest
    print(f"{chosen['out']}\t{about.names} names\t{about.keys} phoneme strings\t{sum(about.refused.values())} left out")
    return 0


def _search(files: Sequence[str], overrides: Sequence[str]) -> int:
    chosen = options("search", overrides)
    folder, query = _wanted("search", files, 'DB "text or phonemes"')
    count, shortest = whole_number("nearest", chosen["nearest"], 0), whole_number("shortest", chosen["shortest"])
    database = Database.open(folder)
    strings = readings(query, database.inventory)
    for string in strings:
        say(f"looking for {_spoken(database, string)}")
    exact = inside(database, strings, shortest)
    for key in exact:
        _show("exact", 0.0, database, key)
    if count and not any(name.startswith("dense.") for name in database.manifest.files):
        say(f"{folder} was built with dense=false, so names that sound alike are not looked for")
    elif count:
        for far, key in alike(database, strings, count, without=exact):
            _show("near", far, database, key)
    return 0


def readings(query: str, inventory: PhonemeInventory) -> list[bytes]:
    """The phoneme strings that are meant: two or more symbols of the inventory, or a text.

    Raises:
        UsageError: it is neither.
    """
    symbols = query.split()
    if len(symbols) > 1 and set(symbols) <= set(inventory.symbols):
        return [bytes(inventory.encode(symbols))]
    found = [bytes(inventory.encode(phonemes)) for phonemes in pronunciations(normalize(query))]
    if not found:
        raise UsageError(f"nobody can tell how {query!r} is pronounced; write Han or Latin letters, or phonemes")
    return found


def inside(database: Database, strings: Sequence[bytes], shortest: int) -> list[int]:
    """The keys whose strings stand in one of `strings`, the longest first."""
    found = (match for string in strings for match in database.automaton.find_overlapping(string))
    lengths = {key: end - start for start, end, key in found if end - start >= shortest}
    return sorted(lengths, key=lambda key: (-lengths[key], key))


def alike(database: Database, strings: Sequence[bytes], count: int, without: Sequence[int]) -> list[tuple[float, int]]:
    """(distance, key) of what sounds most like one of `strings`, the nearest first, none beyond FARTHEST."""
    from kit.retrieval.dense import DenseIndex

    inventory = database.inventory
    found = DenseIndex.open(database).search(strings, _SPARE * count + len(without))
    keys = {key for candidates in found for key, _ in candidates} - set(without)
    wanted = [inventory.decode(string) for string in strings]
    symbols = {key: inventory.decode(database.phonemes(key)) for key in keys}
    ranked = sorted((min(distance(said, symbols[key]) for said in wanted), key) for key in keys)
    return [(far, key) for far, key in ranked if far <= FARTHEST][:count]


def _show(how: str, far: float, database: Database, key: int) -> None:
    said = _spoken(database, database.phonemes(key))
    for entry in database.entries(key):
        print(how, f"{far:.3f}", entry.text, entry.kind, f"{entry.weight:g}", said, sep="\t")


def _spoken(database: Database, string: bytes) -> str:
    return " ".join(database.inventory.decode(string))


def _stats(files: Sequence[str], overrides: Sequence[str]) -> int:
    options("stats", overrides)
    (folder,) = _wanted("stats", files, "DB")
    for row in described(Database.open(folder)):
        print("\t".join(map(str, row)))
    return 0


def described(database: Database) -> Iterator[tuple[object, ...]]:
    """What is to be said of a database, a row each: topic, item, value."""
    about = database.manifest
    yield "database", "build", about.build
    yield "database", "created", f"{about.created} UTC"
    yield "database", "inventory", f"{about.inventory['symbols']} {about.inventory['kind']}"
    yield "database", "names", about.names
    yield "database", "phoneme strings", about.keys
    yield "database", "pronunciations", about.pronunciations
    yield from (("left out", reason, count) for reason, count in sorted(about.refused.items()))
    yield from _kinds(database)
    lengths = np.percentile(np.diff(database.starts), list(_PERCENTILES.values()))
    yield from (("phonemes", part, int(length)) for part, length in zip(_PERCENTILES, lengths, strict=True))
    yield from _homophones(database)
    yield from (("bytes", name, file["size"]) for name, file in about.files.items())
    yield "bytes", "all", sum(file["size"] for file in about.files.values())


def _kinds(database: Database) -> Iterator[tuple[object, ...]]:
    counts = np.bincount(database.kinds, minlength=len(database.kind_names))
    for place in np.argsort(-counts, kind="stable"):
        yield "kind", database.kind_names[place] or "none", int(counts[place])


def _homophones(database: Database) -> Iterator[tuple[object, ...]]:
    """How many names share their sound, and the largest groups."""
    sizes = np.diff(database.member_starts)
    yield "homophones", "strings of several names", int((sizes > 1).sum())
    yield "homophones", "names under them", len(np.unique(database.members[np.repeat(sizes > 1, sizes)]))
    for key in np.argsort(-sizes, kind="stable")[:LARGEST].tolist():
        if sizes[key] > 1:
            names = [database.text(name) for name in database.members[database.member_starts[key] :][: sizes[key]]]
            more = ", ..." * (len(names) > _SHOWN)
            shown = ", ".join(names[:_SHOWN]) + more
            yield "homophones", _spoken(database, database.phonemes(key)), f"{len(names)}: {shown}"


def _add(files: Sequence[str], overrides: Sequence[str]) -> int:
    chosen = options("add", overrides)
    path, text = _wanted("add", files, 'LIST "name"')
    inventory = PhonemeInventory.default()
    sounds = add_to_file(path, inventory, text, chosen["kind"], chosen["weight"], chosen["phonemes"])
    said = " | ".join(" ".join(inventory.decode(sound)) for sound in sounds)
    say(f"{path}: {text} will be found by {said}")
    return 0


def _remove(files: Sequence[str], overrides: Sequence[str]) -> int:
    options("remove", overrides)
    path, text = _wanted("remove", files, 'LIST "name"')
    remove_from_file(path, text)
    say(f"{path}: {text} will be no hint")
    return 0


def _calibrate(files: Sequence[str], overrides: Sequence[str]) -> int:
    (folder,) = _wanted("calibrate", files, "DB")
    own = [override for override in overrides if override.startswith("precision=")]
    precision = share("precision", options("calibrate", own)["precision"])
    database = Database.open(folder)
    database.dense()  # what is wrong with it is told before anything that takes long
    from kit.cli import as_stream, with_export
    from kit.fit import data_module, quiet

    others = [override for override in overrides if override not in own]
    config, export = with_export(as_stream(["split=dev", *others]))
    with quiet():
        from kit.evaluation.calibrate import calibrate

        calibrate(config, export, data_module(config), database, precision)
    return 0


def _wanted(command: str, files: Sequence[str], usage: str) -> Sequence[str]:
    """The words of a command.

    Raises:
        UsageError: there are more or fewer of them than its usage says.
    """
    count = len([word for word in shlex.split(usage) if "=" not in word])
    if len(files) != count:
        raise UsageError(f"hotwords {command} is written: python -m kit hotwords {command} {usage}")
    return files


COMMANDS: dict[str, Callable[[Sequence[str], Sequence[str]], int]] = {
    "build": _build,
    "search": _search,
    "stats": _stats,
    "calibrate": _calibrate,
    "add": _add,
    "remove": _remove,
}
