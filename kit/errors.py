"""Errors that a user can meet: each message is one sentence that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KitError(Exception):
    """Something failed; the command line prints the message alone and exits with 1."""


class UsageError(KitError):
    """The command was used wrongly; the command line prints the message alone and exits with 2."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, or None when nothing is close enough to be what was meant."""
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return matches[0] if matches else None
