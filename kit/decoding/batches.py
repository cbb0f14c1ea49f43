"""Many whole recordings at once: cut at their pauses where they are long, stepped together with others as long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from kit.audio.features import SAMPLE_RATE
from kit.decoding.callbacks import DecodingCallback, Speech
from kit.decoding.endpointing import Endpointing
from kit.decoding.engine import Engine
from kit.decoding.events import Final, Word
from kit.decoding.session import Session


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording: its utterances in their order, in seconds from its beginning."""

    utterances: Sequence[Final]

    @property
    def text(self) -> str:
        """Of all utterances, joined by spaces."""
        return " ".join(final.text for final in self.utterances if final.text)


@dataclass(frozen=True)
class Piece:
    """A part of a recording: which one, its samples (n,), and the sample at which they begin."""

    recording: int
    samples: Tensor
    start: int = 0


class Batches:
    """Transcribes recordings with an engine that serves nobody else.

    Args:
        seconds: of audio, padding included, that are decoded together.
    """

    def __init__(self, engine: Engine, seconds: float = 60.0) -> None:
        self.engine, self.seconds = engine, seconds
        self._sessions: list[Session] = [engine.session()]  # what callbacks need and do not find is told at once
        self._cuts_itself = any(map(_segments, self._sessions[0].callbacks))

    def transcribe(self, recordings: Sequence[Tensor]) -> Iterator[list[tuple[int, Transcript | Exception]]]:
        """Batch by batch the recordings that are ready: number, and what was said or what a callback raised.

        Args:
            recordings: (n,) samples at 16 kHz, of any number.
        """
        pieces = [piece for number, samples in enumerate(recordings) for piece in self._pieces(number, samples)]
        found: list[dict[int, list[Final] | Exception]] = [{} for _ in recordings]
        missing = [0] * len(recordings)
        for piece in pieces:
            missing[piece.recording] += 1
        yield [(number, Transcript([])) for number, count in enumerate(missing) if not count]
        for batch in in_batches(pieces, self.seconds, self.engine.max_batch):
            for piece, finals in zip(batch, self._hear(batch), strict=True):
                found[piece.recording][piece.start] = finals
                missing[piece.recording] -= 1
            ready = dict.fromkeys(piece.recording for piece in batch if not missing[piece.recording])
            yield [(number, _joined(found[number])) for number in ready]

    def close(self) -> None:
        """Give the places in the engine back."""
        for session in self._sessions:
            session.close()

    def _pieces(self, number: int, samples: Tensor) -> list[Piece]:
        """The recording, or if it is too long for one utterance what lies between its pauses."""
        most = int(self.engine.decoding.max_seconds * SAMPLE_RATE)
        if len(samples) <= most or self._cuts_itself:
            return [Piece(number, samples)]
        spoken = (part for part in Endpointing().segment(samples, 0, final=True) if isinstance(part, Speech))
        return [
            Piece(number, part.samples[at : at + most], part.start + at)
            for part in spoken
            for at in range(0, len(part.samples), most)
        ]

    def _hear(self, batch: Sequence[Piece]) -> Iterator[list[Final] | Exception]:
        while len(self._sessions) < len(batch):
            self._sessions.append(self.engine.session())
        for session, piece in zip(self._sessions, batch, strict=False):
            session.feed(piece.samples)
            session.end()
        while self.engine.step():
            pass
        for session, piece in zip(self._sessions, batch, strict=False):
            yield _finals(session, piece.start / SAMPLE_RATE)


def in_batches(pieces: Iterable[Piece], seconds: float, most: int) -> Iterator[list[Piece]]:
    """Pieces by length, the longest first, as many at a time as make so many seconds when padded to the longest."""
    room = seconds * SAMPLE_RATE
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.samples)):
        if batch and ((len(batch) + 1) * len(batch[0].samples) > room or len(batch) == most):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _segments(callback: DecodingCallback) -> bool:
    return type(callback).segment is not DecodingCallback.segment


def _finals(session: Session, later: float) -> list[Final] | Exception:
    """The final events of a session that ended, moved by so many seconds; the session begins anew."""
    try:
        events = session.take()
    except Exception as error:  # whatever somebody's callback does: the other recordings go on
        return error
    finally:
        session.reset()
    return [_moved(event, later) for event in events if isinstance(event, Final)]


def _moved(final: Final, later: float) -> Final:
    words = [Word(word.text, word.start + later, word.end + later) for word in final.words]
    return replace(final, start=final.start + later, end=final.end + later, words=words)


def _joined(found: dict[int, list[Final] | Exception]) -> Transcript | Exception:
    """What was found in the pieces of a recording, by their starts; an exception if any of them has one."""
    finals: list[Final] = []
    for _, part in sorted(found.items()):
        if isinstance(part, Exception):
            return part
        finals += part
    return Transcript(finals)
