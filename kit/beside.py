"""A stage that trains in a process of its own, beside the stages that take its snapshots as they come.

`python -m kit.beside RUN_FOLDER` trains the run that stands there. Other processes of the same `fit` command start it,
pass on what it says, and end it when they end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import torch

from kit.errors import KitError
from kit.progress import say
from kit.runs import Run

PARENT = "KIT_MLFLOW_PARENT"  # the MLflow run that a process beside nests its own in
_PATIENCE = 120.0  # seconds that a process gets to save itself

_living: list[Beside] = []


class Beside:
    """A training process beside this one.

    Args:
        run: what it trains; created, and not held by anybody.
        threads: of torch, for the process.
        parent: MLflow run to nest in; None without MLflow.
    """

    def __init__(self, run: Run, threads: int, parent: str | None) -> None:
        self.run = run
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **({PARENT: parent} if parent else {})}
        command = [sys.executable, "-m", "kit.beside", str(run.path)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, self._threads - threads))
        _living.append(self)

    def check(self) -> None:
        """Take its share of the cores when it has ended.

        Raises:
            KitError: it ended without an export.
        """
        code = self.process.poll()
        if code is None or self not in _living:
            return
        self._end()
        if not self.run.finished:
            raise KitError(
                f"stage {self.run.stage}, in a process beside this one, ended with exit code {code}; see above"
            )

    def join(self) -> None:
        """Wait for its end; raises what `check` raises."""
        self.process.wait()
        self.check()

    def stop(self) -> None:
        """Let it save itself and end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_PATIENCE)
            self.process.kill()
        if self in _living:
            self._end()

    def _end(self) -> None:
        _living.remove(self)
        self._relay.join()
        torch.set_num_threads(self._threads)

    def _pass_on(self) -> None:
        for line in self.process.stderr or ():
            say(line.rstrip("\n"))


def check() -> None:
    """`Beside.check` for all processes beside this one."""
    for one in list(_living):
        one.check()


def main() -> int:
    """Train the run of the command line."""
    from kit.fit import fit

    config = Run(Path(sys.argv[1])).config()
    config.threads = None  # OMP_NUM_THREADS says how many
    try:
        fit(config, parent=os.environ.get(PARENT), report=False)
    except KitError as error:
        say(f"kit: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
