"""The file of results: an utterance a line, each exactly once, however often whoever writes it is killed.

OUT.jsonl            a JSON object a line, only ever added to
OUT.problems.jsonl   {"id": ..., "reason": ...} of what was not transcribed: every run tries it again, and begins anew
OUT.about.json       with which export and decoding, so that two do not mix; its presence says that the file is ours
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kit.errors import KitError, UsageError
from kit.files import append, check_writable, held, write_text
from kit.transcription.outcome import Outcome

FORMAT = 1
SUFFIX = ".jsonl"
_BEGIN = b'{"id": '


class Results:
    """Open by `Results.opened`, held against other processes.

    Attributes:
        done: ids of the utterances in the file.
        failed: how many could not be transcribed by this run.
    """

    def __init__(self, path: Path, rows: BinaryIO, problems: BinaryIO, done: set[str]) -> None:
        self.path, self.done, self.failed = path, done, 0
        self._rows, self._problems = rows, problems

    @classmethod
    @contextmanager
    def opened(cls, path: Path, about: Mapping[str, Any]) -> Iterator[Results]:
        """Go on with a file, or begin it.

        Args:
            path: of the file, which ends with .jsonl.
            about: plain values; what a file that is gone on with was begun with must be the same.

        Raises:
            UsageError: the file was not written by this, or with something else.
            KitError: it is damaged in its middle, another process writes it, or nothing can be written there.
        """
        check_writable(path.parent)
        _check_about(path, about)
        with ExitStack() as stack:
            rows = stack.enter_context(path.open("ab", buffering=0))
            if not stack.enter_context(held(path)):
                raise KitError(f"another process writes {path}; wait for it, stop it, or choose another out")
            done, size = _read(path)
            os.truncate(path, size)
            problems = stack.enter_context(problems_of(path).open("wb", buffering=0))
            results = cls(path, rows, problems, done)
            yield results
        if not results.failed:
            problems_of(path).unlink()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Write down what came of some utterances, but for those that are in the file; returns when the disk has it.

        Raises:
            KitError: the disk is full; what it took is cut to whole lines when the file is gone on with.
        """
        rows, problems = b"", b""
        for one in outcomes:
            if one.row is None:
                self.failed += 1
                problems += _line({"id": one.id, "reason": one.reason})
            elif one.id not in self.done:
                self.done.add(one.id)
                rows += _line(one.row)
        if problems:
            append(self._problems, problems_of(self.path), problems)
        if rows:
            append(self._rows, self.path, rows)


def problems_of(path: Path) -> Path:
    """Where what could not be transcribed is listed."""
    return path.with_suffix(".problems.jsonl")


def about_of(path: Path) -> Path:
    """Where is told what the file was written with."""
    return path.with_suffix(".about.json")


def begun_with(path: Path) -> dict[str, Any]:
    """What the file at `path` was begun with; empty if it was not begun."""
    try:
        about: dict[str, Any] = json.loads(about_of(path).read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise KitError(f"{about_of(path)} cannot be read ({error}); remove it together with {path}") from error
    return about


def _check_about(path: Path, about: Mapping[str, Any]) -> None:
    if path.suffix != SUFFIX:
        raise UsageError(f"out={path} must end with {SUFFIX}; it gets a line of JSON an utterance")
    begun = begun_with(path)
    if not begun and path.exists():
        raise UsageError(f"{path} is there already and was not written by transcribe; choose another out")
    if not begun:
        write_text(about_of(path), json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False))
        return
    for key, value in {"format": FORMAT, **about}.items():
        if begun.get(key) != value:
            raise UsageError(
                f"{path} was begun with another {key} ({begun.get(key)}, now {value}); "
                "take the same to go on with it, or choose another out"
            )


def _read(path: Path) -> tuple[set[str], int]:
    """The ids in the file, and how many bytes of it are whole lines: a process that was killed may leave half a one."""
    done, size = set[str](), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                _check_torn(line, number, path)
                break
            done.add(_id_of(line, number, path))
            size += len(line)
    return done, size


def _check_torn(line: bytes, number: int, path: Path) -> None:
    if not (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
        raise _strange(path, number)


def _id_of(line: bytes, number: int, path: Path) -> str:
    try:
        name = json.loads(line)["id"]
        if not isinstance(name, str):
            raise TypeError("the id is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise _strange(path, number) from error
    return name


def _strange(path: Path, number: int) -> KitError:
    return KitError(f"{path} line {number} is no result of transcribe; mend or remove that line, or choose another out")


def _line(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
