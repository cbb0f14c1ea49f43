"""Where utterances begin and end: silence never reaches the recognizer, and a pause ends an utterance."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.audio.vad import WINDOW, VoiceActivity
from kit.decoding.callbacks import END, DecodingCallback, End, Speech


class Endpointing(DecodingCallback):
    """Cuts a stream at its pauses, window by window of 32 ms, however it was cut into pushes.

    Args:
        begin: probability of speech from which an utterance may begin.
        end: probability below which a window counts as silence.
        speech: seconds of speech that make an utterance.
        pause: seconds of silence that end it.
        before: seconds of audio before the first speech that belong to it.
    """

    def __init__(
        self, begin: float = 0.5, end: float = 0.35, speech: float = 0.1, pause: float = 0.6, before: float = 0.3
    ) -> None:
        if not 0 < end <= begin < 1:
            raise ValueError(f"endpoints need 0 < end <= begin < 1, not end={end} begin={begin}")
        self.begin, self.end = begin, end
        self.speech, self.pause, self.before = (
            max(1, round(seconds * SAMPLE_RATE / WINDOW)) for seconds in (speech, pause, before)
        )
        self.activity = VoiceActivity()
        self.reset()

    def reset(self) -> None:
        """The stream begins anew."""
        self.activity.reset()
        self._rest = torch.zeros(0)
        self._held: deque[Tensor] = deque(maxlen=self.before + self.speech)  # windows that may turn out to be speech
        self._inside = False
        self._run = 0  # windows of speech (outside) or of silence (inside) in a row

    def segment(self, samples: Tensor, start: int, final: bool) -> list[Speech | End]:
        """Pieces of utterances and their ends; a window is passed on as soon as it is known to belong to one."""
        found: list[Speech | End] = []
        at = start - len(self._rest)
        waiting = torch.cat([self._rest, samples])
        whole = len(waiting) // WINDOW * WINDOW
        for window in waiting[:whole].split(WINDOW) if whole else ():
            found += self._window(window, at)
            at += WINDOW
        self._rest = waiting[whole:]
        if final:
            if self._inside:
                found += [Speech(self._rest, at), END]
            self.reset()
        return _joined(found)

    def _window(self, window: Tensor, at: int) -> list[Speech | End]:
        probability = self.activity(window)
        if self._inside:
            self._run = self._run + 1 if probability < self.end else 0
            if self._run < self.pause:
                return [Speech(window, at)]
            self._inside, self._run = False, 0
            return [Speech(window, at), END]
        self._run = self._run + 1 if probability >= self.begin else 0
        self._held.append(window)
        if self._run < self.speech:
            return []
        held = torch.cat(list(self._held))
        self._held.clear()
        self._inside, self._run = True, 0
        return [Speech(held, at + WINDOW - len(held))]


def _joined(pieces: list[Speech | End]) -> list[Speech | End]:
    """Neighboring pieces of one utterance as one."""
    result: list[Speech | End] = []
    group: list[Speech] = []
    for piece in [*pieces, None]:
        if isinstance(piece, Speech):
            group.append(piece)
            continue
        if group:
            result.append(Speech(torch.cat([one.samples for one in group]), group[0].start))
            group = []
        if piece is not None:
            result.append(piece)
    return result
