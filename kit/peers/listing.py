"""What a recognizer that is asked reads and prints: id<TAB>path on standard input, id<TAB>text on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kit.errors import KitError, UsageError


def listed(lines: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """(id, path) of each line.

    Raises:
        UsageError: a line is something else.
    """
    for number, line in enumerate(lines, 1):
        name, tab, path = line.rstrip("\r\n").partition("\t")
        if not tab or not path:
            raise UsageError(f"line {number} of standard input is no id<TAB>path: {line.strip()!r}")
        yield name, Path(path)


def answer_all(make: Callable[[], Callable[[Path], str]]) -> int:
    """Answer every line of standard input as it is done; a file that fails is told, and the others go on.

    Args:
        make: gives what transcribes a file.

    Returns:
        the exit code of the program.
    """
    failed = False
    try:
        transcribe = make()
        for name, path in listed(sys.stdin):
            try:
                print(name, " ".join(transcribe(path).split()), sep="\t", flush=True)
            except KitError as error:
                failed = True
                print(f"{name}: {error}", file=sys.stderr, flush=True)
    except KitError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return int(failed)
