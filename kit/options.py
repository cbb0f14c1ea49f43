"""Options of commands that need no configuration: key=value with a default each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from kit.errors import UsageError, nearest

T = TypeVar("T")


def sub_command(name: str, commands: Mapping[str, T], files: Sequence[str]) -> T:
    """What the first word after a command stands for, such as `build` after `hotwords`.

    Raises:
        UsageError: `name` has no such command, or none was given.
    """
    if files and files[0] in commands:
        return commands[files[0]]
    guess = nearest(files[0], commands) if files else None
    known = f"did you mean {guess}?" if guess else f"one of {', '.join(commands)}"
    raise UsageError(f"{name} {files[0]}: there is no such command; {known}" if files else f"{name}: {known}")


def choose(command: str, defaults: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The defaults with the values given on the command line.

    Raises:
        UsageError: `command` has no such option.
    """
    chosen = dict(defaults)
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in chosen:
            guess = nearest(key, chosen)
            known = ", ".join(chosen) or "it has none"
            raise UsageError(f"unknown option {key} of {command}; {f'did you mean {guess}?' if guess else known}")
        chosen[key] = value
    return chosen


def split_off(defaults: Mapping[str, str], overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The defaults with the values given on the command line, and the overrides that have other keys."""
    given = {key: value for key, _, value in (text.partition("=") for text in overrides) if key in defaults}
    return {**defaults, **given}, [text for text in overrides if text.partition("=")[0] not in defaults]


def whole_number(key: str, written: str, least: int = 1) -> int:
    """The number that an option has.

    Raises:
        UsageError: it is none, or below `least`.
    """
    if not written.isdecimal() or int(written) < least:
        raise UsageError(f"{key}={written} must be a whole number from {least} up")
    return int(written)


def share(key: str, written: str) -> float:
    """The share that an option has: above 0 and at most 1.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"0?\.\d+|1(\.0*)?", written) or not float(written):
        raise UsageError(f"{key}={written} must be a number above 0 and up to 1, such as 0.98")
    return float(written)
