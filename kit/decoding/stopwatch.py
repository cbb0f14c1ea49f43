"""Where the time goes: seconds by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds spent in named parts; with `exact` it waits for a GPU at the end of each."""

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact and torch.cuda.is_available()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time what is done inside."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            if self.exact:
                torch.cuda.synchronize()
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin
