"""Ctrl-C and SIGTERM: at once where nothing can be lost, after the running step where a checkpoint can be saved."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The user or the system asked this process to stop.

    Not a KeyboardInterrupt, at which Lightning would end the process itself.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupts:
    """Catches the signals within a `with` block of the main thread.

    A signal raises `Interrupted` at once. While `patient` is set, the first one only sets `pending`, and the loop that
    asked for patience stops at its next good moment; a second one does not wait.
    """

    def __init__(self) -> None:
        self.patient = False
        self.pending: int | None = None
        self._owner = os.getpid()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def listen(self) -> None:
        """Be the only one to hear the signals again, after somebody else began to."""
        for signum in self._before:
            signal.signal(signum, self._handle)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked loader process: Ctrl-C is its parent's business, SIGTERM its own
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        if self.patient and self.pending is None:
            self.pending = signum
            return
        raise Interrupted(signum)
