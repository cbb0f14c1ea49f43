"""`python -m kit stream`: a file or the microphone, text as it is said."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.audio.reading import read_audio
from kit.decoding.engine import Engine
from kit.decoding.events import Event, Final, Hotword, Partial, to_json
from kit.decoding.remote import load_recognizer
from kit.errors import KitError, UsageError

BLOCK = SAMPLE_RATE // 10  # samples a push
MICROPHONE = "mic"
KINDS = ("text", "json")


def stream(source: str, export: str | Path, config: DictConfig) -> None:
    """Tell the events of a recording, or of the microphone until it is interrupted.

    Raises:
        KitError: the file cannot be read, or there is no microphone.
    """
    if config.events not in KINDS:
        raise UsageError(f"events={config.events} must be {' or '.join(KINDS)}")
    blocks = _microphone() if source == MICROPHONE else _blocks(read_audio(source), config.realtime)
    session = Engine(load_recognizer(export, config.decoding), config.decoding).session()
    with _teller(config.events) as tell:
        try:
            for block in blocks:
                _tell_all(tell, session.push(block))
        except KeyboardInterrupt:
            if source != MICROPHONE:
                raise
        _tell_all(tell, session.finish())


def _tell_all(tell: Callable[[Event], None], events: list[Event]) -> None:
    for event in events:
        tell(event)


def _blocks(samples: Tensor, realtime: bool) -> Iterator[Tensor]:
    """Pieces of 100 ms; in real time each comes when it would have been said."""
    begin = time.monotonic()
    for index, block in enumerate(samples.split(BLOCK), 1):
        if realtime:
            time.sleep(max(0.0, begin + index * BLOCK / SAMPLE_RATE - time.monotonic()))
        yield block


def _microphone() -> Iterator[Tensor]:
    """Pieces of 100 ms for as long as it is on."""
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the package is there, PortAudio is not
        raise KitError("the microphone needs the package sounddevice (and PortAudio); install nim4-kit[mic]") from error
    try:
        microphone = sounddevice.InputStream(SAMPLE_RATE, BLOCK, channels=1, dtype="float32")
    except sounddevice.PortAudioError as error:
        raise KitError(f"no microphone can be opened ({error}); stream a file instead") from error
    with microphone:
        while True:
            block, _ = microphone.read(BLOCK)
            yield torch.from_numpy(block[:, 0].copy())


def _teller(kind: str) -> AbstractContextManager[Callable[[Event], None]]:
    if kind == "json":
        return nullcontext(lambda event: print(to_json(event), flush=True))
    return View() if sys.stdout.isatty() else nullcontext(_plain)


def _plain(event: Event) -> None:
    """Final texts on standard output, texts under way and hotwords on standard error."""
    if isinstance(event, Final):
        print(f"{event.start:.2f}-{event.end:.2f}\t{event.text}", flush=True)
    elif isinstance(event, Partial):
        print(f"  {event.text[: event.stable]}|{event.text[event.stable :]}", file=sys.stderr, flush=True)
    elif isinstance(event, Hotword):
        print(f"  hotword: {event.text}", file=sys.stderr, flush=True)


class View:
    """The terminal: settled text, the provisional rest dim, hotwords below; ended utterances scroll up."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=console or Console(highlight=False), auto_refresh=False, transient=True)
        self._hotwords: list[str] = []

    def __enter__(self) -> Callable[[Event], None]:
        self._live.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Bring the view up to date."""
        from rich.text import Text

        if isinstance(event, Final):
            line = Text.assemble((f"{event.start:7.2f} - {event.end:7.2f}  ", "dim"), (event.text or "(nothing)", ""))
            self._hotwords = []
            self._live.update("", refresh=True)
            self._live.console.print(line)
        elif isinstance(event, Partial):
            self._live.update(under_way(event, self._hotwords), refresh=True)
        elif isinstance(event, Hotword):
            self._hotwords.append(event.text)


def under_way(event: Partial, hotwords: Sequence[str]) -> Any:
    """A partial text as it stands in the terminal, for rich: settled bold, the rest dim, hotwords in a line below."""
    from rich.text import Text

    settled, provisional = event.text[: event.stable], event.text[event.stable :]
    line = Text.assemble((f"{event.time:7.2f} ...      ", "dim"), (settled, "bold"), (provisional, "dim italic"))
    if hotwords:
        line.append("\n" + " " * 19 + "hotwords: ", "dim").append(", ".join(hotwords), "magenta")
    return line
