"""How many processors this process may use."""

from __future__ import annotations

import os


def processors() -> int:
    """Their number; at least 1."""
    if hasattr(os, "sched_getaffinity"):  # not on every system, but it knows what a container may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
