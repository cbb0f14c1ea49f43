"""Progress on standard error, so that standard output carries results only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


_muted = False


def mute() -> None:
    """Say nothing from here on: of several processes that do the same, one tells."""
    global _muted
    _muted = True


def say(message: str) -> None:
    """One line of what is going on."""
    if not _muted:
        print(message, file=sys.stderr, flush=True)


def bar() -> Progress:
    """A progress display on standard error that vanishes when done; silent where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=_muted or not console.is_terminal)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate under a progress bar, saying once what is done."""
    if total is None:
        items = items if isinstance(items, Sized) else list(items)
        total = len(items)  # type: ignore[arg-type]  # mypy forgets that it is iterable, too
    say(f"{label}: {total}")
    with bar() as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def count(items: Iterable[T], label: str) -> Iterator[T]:
    """Iterate under a progress bar where nobody knows how many there are."""
    with bar() as progress:
        task = progress.add_task(label, total=None)
        for item in items:
            yield item
            progress.advance(task)
