"""Stages and data modules by name: the only way in which the lower floors are reached from configs/."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from kit.errors import UsageError, nearest

T = TypeVar("T")


def import_class(dotted: str, base: type[T], key: str) -> type[T]:
    """The class that `key: dotted` in a configuration names; modules of the working folder count too.

    Args:
        base: what it must be a subclass of.

    Raises:
        UsageError: there is no such module or class, or it is something else.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    module_name, _, name = str(dotted).rpartition(".")
    module = _module(module_name, f"{key}={dotted}")
    found = getattr(module, name, None)
    if found is None:
        guess = nearest(name, [known for known, value in vars(module).items() if inspect.isclass(value)])
        hint = f"; did you mean {guess}?" if guess else ""
        raise UsageError(f"{key}={dotted}: {module_name} has no {name}{hint}")
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UsageError(f"{key}={dotted}: {name} is no {base.__name__}")
    return found


def build_named(section: Mapping[str, Any] | None, base: type[T], key: str) -> list[T]:
    """The objects that a section `{name: {_target_: CLASS, argument: value ...}}` describes, in its order.

    Args:
        section: a null in place of a description takes one out.
        base: what all must be subclasses of.
        key: of the section, for messages.

    Raises:
        UsageError: there is no such class, or it does not take its arguments.
    """
    found = []
    for name, description in (section or {}).items():
        if description is None:
            continue
        arguments = {str(argument): value for argument, value in description.items()}
        kind = import_class(arguments.pop("_target_", ""), base, f"{key}.{name}._target_")
        try:
            found.append(kind(**arguments))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{key}.{name} cannot be made: {error}") from error
    return found


def _module(name: str, where: str) -> Any:
    if not name:
        raise UsageError(f"{where}: write the whole path of the class, such as stages.sft.SFT")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise UsageError(f"{where}: there is no module {error.name}; it must be installed or in this folder") from error
