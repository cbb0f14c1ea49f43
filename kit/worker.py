"""`python -m kit.worker`: one more process to train with, started and ended by the process that a person started.

It reads its tasks from standard input, a line each, and ends when that ends; so it does not outlive the other process,
however that one ends. It answers on standard output. What anybody else prints goes to standard error.
"""

from __future__ import annotations

import os
import sys
import threading
from queue import SimpleQueue

import torch

from kit.distributed import DONE, FAILED, READY, Task
from kit.errors import KitError
from kit.interrupts import Interrupted
from kit.progress import mute


def main() -> int:
    """Take part in one stage after the other; returns the exit code."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: SimpleQueue[Task] = SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    mute()
    from kit.fit import take_part

    def answer(line: str) -> None:
        print(line, file=answers, flush=True)

    while True:
        task = tasks.get()
        torch.set_num_threads(task.threads)
        try:
            take_part(task, lambda: answer(READY))
        except Interrupted:
            return 0
        except KitError as error:
            answer(FAILED + str(error))
            return 1
        answer(DONE)


def _listen(tasks: SimpleQueue[Task]) -> None:
    for line in sys.stdin:
        tasks.put(Task.read(line))
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
