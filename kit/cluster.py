"""Ray: started on this machine for as long as a command runs, or joined where a cluster is up."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from kit.errors import KitError, UsageError, first_line


def library(name: str, extra: str) -> Any:
    """The part of Ray of that name, `data` or `serve`, and nobody is told that it is used.

    Args:
        extra: that installs it.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module(f"ray.{name}")
    except ImportError as error:
        reason = first_line(error)
        raise UsageError(f"engine=ray needs the package ray ({reason}); install nim4-kit[{extra}]") from error


@contextmanager
def joined(address: str | None, processors: int) -> Iterator[Any]:
    """The module ray, connected; one that is connected already stays so.

    Args:
        address: of a cluster; None starts one here, whose ports only this machine reaches, without a dashboard.
        processors: that a cluster here may hand out.

    Raises:
        KitError: it cannot be reached or started.
    """
    import ray

    if ray.is_initialized():
        with redirect_stdout(sys.stderr):
            yield ray
        return
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {"address": "local", "num_cpus": processors, "include_dashboard": False}
    with redirect_stdout(sys.stderr):  # where Ray tells of processes that died
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = f"cannot be reached at {address}" if address else "cannot be started"
            mend = "start it with ray start --head, or take engine=local"
            raise KitError(f"Ray {what}: {first_line(error)}; {mend}") from error
        try:
            yield ray
        finally:
            ray.shutdown()
