"""Sessions of one engine under numbers: bytes and requests in, JSON objects out, all ready sessions in one step.

It knows no socket and no process. The front's engine processes (`kit.serving.process`) are one way to host it; an actor
of a cluster, or a test, is another: in one thread, make a `Host`, pass on what clients want as it comes (`open`, `put`,
`ask`, `change`, `drop`: none of them computes), and call `turn` while `busy` is true. What a turn says of a stream goes
to its client, in this order; behind what is the `last` its number is free again. A turn tells how many bytes of each
stream it took up: a client that is kept only some seconds ahead of that can be slowed down instead of refused.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from kit.audio.reading import AudioError
from kit.decoding.engine import Engine
from kit.decoding.events import Event, Final, Partial, as_dict
from kit.decoding.hotwords import Hotwords
from kit.decoding.session import Session
from kit.errors import KitError
from kit.retrieval.names import BadName, make_name
from kit.retrieval.sounds import sounds_of
from kit.serving.intake import RATE, Intake, intake

_log = logging.getLogger(__name__)

PIECE = 10240  # samples that a stream gives a turn, at most: a chunk of 640 ms
FLUSH, END = "flush", "end"
_ARRIVALS = 1024  # messages whose arrival is remembered
_MEMORY = 10.0  # seconds that `late` looks back


@dataclass(frozen=True)
class Options:
    """What a client asks of a stream.

    Attributes:
        format, rate: of the audio, see `kit.serving.intake`.
        hotwords: of this stream alone.
        partials: whether texts are told before the end of speech.
        whole: each utterance is recognized when it ended, in one piece: better, and nothing is told before.
    """

    format: str = "pcm16"
    rate: int = RATE
    hotwords: Sequence[str] = ()
    partials: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Said:
    """Something for a stream's client.

    Attributes:
        content: the event.
        latency: seconds from when the audio came that made it happen; None where that has no meaning.
        last: the stream ended with it.
    """

    stream: int
    content: dict[str, Any]
    latency: float | None = None
    last: bool = False


@dataclass(frozen=True)
class Turn:
    """What came of a turn.

    Attributes:
        said: in the order in which it happened.
        taken: bytes of each stream that were taken up.
        seconds: of audio that were.
    """

    said: list[Said]
    taken: dict[int, int]
    seconds: float


@dataclass
class _Stream:
    """One client's session and what it has still to hear."""

    number: int
    session: Session
    engine: Engine
    intake: Intake
    inbox: deque[tuple[bytes | str, float]] = field(default_factory=deque)
    names: set[str] = field(default_factory=set)
    preparing: Future[dict[str, Any]] | None = None  # the hotwords that it begins with
    asked: str | None = None  # a flush or the end under way
    asked_at: float = 0.0
    # seconds of the stream, and when they came
    arrivals: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_ARRIVALS))
    taken: int = 0

    @property
    def busy(self) -> bool:
        if self.preparing is not None:
            return self.preparing.done()
        return bool(self.inbox) or self.asked is not None or self.engine.busy(self.session)

    def feed(self) -> int:
        """Let the session hear a piece; how many samples that was."""
        fed = 0
        while fed < PIECE and self.asked is None and self.preparing is None:
            samples = self.intake.take(PIECE - fed)
            if not len(samples):
                if not self.inbox:
                    break
                self._take_up(*self.inbox.popleft())
                continue
            fed += self._hear(samples)
        return fed

    def _take_up(self, what: bytes | str, at: float) -> None:
        if isinstance(what, bytes):
            self.taken += len(what)
            self.intake.put(what)
            self.arrivals.append((math.inf, at))
            return
        if what == END and len(rest := self.intake.finish()):
            self._hear(rest)
        self.asked, self.asked_at = what, at
        self.session.end()

    def _hear(self, samples: Any) -> int:
        self.session.feed(torch.from_numpy(samples))
        if self.arrivals:
            self.arrivals[-1] = (self.session.heard / RATE, self.arrivals[-1][1])
        return len(samples)

    def latency(self, event: Event) -> float | None:
        """Seconds since the audio came that an event speaks of, or since the end was asked for."""
        if not isinstance(event, Final | Partial):
            return None
        while len(self.arrivals) > 1 and self.arrivals[0][0] < event.time:
            self.arrivals.popleft()
        at = (
            self.asked_at if self.asked and isinstance(event, Final) else self.arrivals[0][1] if self.arrivals else None
        )
        return None if at is None else max(0.0, time.monotonic() - at)


class Late:
    """How long a turn takes, over the last seconds: that long, on average, whatever is ready has to wait."""

    def __init__(self) -> None:
        self._value, self._at = 0.0, time.monotonic()

    def add(self, begin: float, end: float) -> None:
        """A turn began and ended at these seconds of the monotonic clock."""
        self._value *= math.exp(-max(0.0, begin - self._at) / _MEMORY)
        share = math.exp(-(end - begin) / _MEMORY)
        self._value, self._at = share * self._value + (1 - share) * (end - begin), end

    def seconds(self) -> float:
        """The mean over time, in which no turn counts as one of no length."""
        return self._value * math.exp(-max(0.0, time.monotonic() - self._at) / _MEMORY)


class Host:
    """See the module.

    Args:
        engine: steps the streams; makes its own session for each.
        whole: for streams that are recognized utterance by utterance; None refuses them.
        most_hotwords: of a stream's own.
    """

    def __init__(self, engine: Engine, whole: Engine | None = None, most_hotwords: int = 1000) -> None:
        self.engine, self.whole, self.most_hotwords = engine, whole, most_hotwords
        self.late = Late()
        self._streams: dict[int, _Stream] = {}
        self._changes: deque[tuple[int, Future[dict[str, Any]]]] = deque()
        self._said: list[Said] = []
        # Words outside the dictionary are pronounced by a program of its own: nobody else waits for it.
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="hotwords")

    def close(self) -> None:
        """Let go of all streams."""
        for number in list(self._streams):
            self.drop(number)
        self._aside.shutdown(wait=False, cancel_futures=True)

    # What clients want

    def open(self, number: int, options: Options) -> None:
        """A stream begins; its first event is `ready`, or an error."""
        engine = self.whole if options.whole else self.engine
        try:
            if engine is None:
                raise KitError("this engine takes no uploads")
            decoder = intake(options.format, options.rate)
            session = engine.session()
        except KitError as error:
            self._fail(number, "unsupported", str(error))
            return
        session.partials = session.partials and options.partials
        stream = self._streams[number] = _Stream(number, session, engine, decoder)
        stream.preparing = self._aside.submit(self._add, stream, list(options.hotwords))

    def put(self, number: int, message: bytes, at: float | None = None) -> None:
        """Audio came, at this second of the monotonic clock (now)."""
        self._later(number, message, at)

    def ask(self, number: int, what: str, at: float | None = None) -> None:
        """FLUSH: end the utterance here; END: and the stream. Behind all audio that was put before."""
        self._later(number, what, at)

    def change(self, number: int, add: Sequence[str], remove: Sequence[str]) -> None:
        """Hotwords come and go, from the next chunk on."""
        if number in self._streams:
            stream = self._streams[number]
            self._changes.append((number, self._aside.submit(self._add, stream, list(add), list(remove))))

    def drop(self, number: int) -> None:
        """Forget a stream whose client is gone."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            stream.session.close()

    # What the engine does

    @property
    def busy(self) -> bool:
        """Whether a turn would do anything."""
        changed = any(future.done() for _, future in self._changes)
        return changed or bool(self._said) or any(stream.busy for stream in self._streams.values())

    @property
    def expecting(self) -> bool:
        """Whether hotwords are being pronounced aside, so that `busy` may become true by itself."""
        return bool(self._changes) or any(stream.preparing for stream in self._streams.values())

    def turn(self) -> Turn:
        """A piece of each stream's audio, a step of the engine, and what came of it."""
        begin, fed, taken = time.monotonic(), 0, {}
        self._tell_changes()
        for stream in list(self._streams.values()):
            with self._guarded(stream.number):
                fed += stream.feed()
            if stream.taken:
                taken[stream.number], stream.taken = stream.taken, 0
        stepped = self.engine.step() + (self.whole.step() if self.whole is not None else 0)
        for stream in list(self._streams.values()):
            self._collect(stream)
        if fed or stepped:
            self.late.add(begin, time.monotonic())
        said, self._said = self._said, []
        return Turn(said, taken, fed / RATE)

    # Inside

    def _later(self, number: int, what: bytes | str, at: float | None) -> None:
        if number in self._streams:  # it may have failed while this was on its way
            self._streams[number].inbox.append((what, time.monotonic() if at is None else at))

    def _add(self, stream: _Stream, add: Sequence[str], remove: Sequence[str] = ()) -> dict[str, Any]:
        """Change a stream's hotwords; the event that tells which were taken. Runs aside."""
        callback = next((one for one in stream.session.callbacks if isinstance(one, Hotwords)), None)
        if callback is None:
            if add or remove:
                raise KitError("this server looks for no hotwords (retrieval=none)")
            return _answer([], [])
        callback.remove(remove)
        stream.names -= set(remove)
        good, rejected = [], []
        for text in dict.fromkeys(add):
            try:
                if len(stream.names) >= self.most_hotwords and text not in stream.names:
                    raise BadName("many", f"a stream may have {self.most_hotwords} hotwords")
                name = make_name(stream.session.engine.recognizer.inventory, text)
                if not sounds_of([name.text], stream.session.engine.recognizer.inventory)[0]:
                    raise BadName("sound", f"nobody can tell how {name.text!r} is pronounced")
                good.append(name)
                stream.names.add(text)
            except BadName as error:
                rejected.append((text, str(error)))
        if good:
            callback.add(good)
        return _answer([name.text for name in good], rejected)

    def _tell_changes(self) -> None:
        for stream in list(self._streams.values()):
            if stream.preparing is not None and stream.preparing.done():
                future, stream.preparing = stream.preparing, None
                with self._guarded(stream.number):
                    self._say(stream.number, {**future.result(), "event": "ready"})
        while self._changes and self._changes[0][1].done():
            number, future = self._changes.popleft()
            if number in self._streams:
                with self._guarded(number):
                    self._say(number, future.result())

    def _collect(self, stream: _Stream) -> None:
        session = stream.session
        try:
            events: Iterable[Event] = session.take()
        except Exception as error:  # whatever somebody's callback does: the utterance is lost, the stream goes on
            self._say(stream.number, problem("utterance_lost", _sentence(error)))
            events = session.take()
        for event in events:
            self._say(stream.number, as_dict(event), stream.latency(event))
        if stream.asked is None or stream.engine.busy(session):
            return
        what, stream.asked = stream.asked, None
        if what == FLUSH:
            self._say(stream.number, {"event": "flushed", "time": round(session.heard / RATE, 3)})
            return
        ended = {"event": "ended", "time": round(session.heard / RATE, 3), "utterances": session.count}
        self._said.append(Said(stream.number, ended, last=True))
        self.drop(stream.number)

    def _say(self, number: int, content: dict[str, Any], latency: float | None = None) -> None:
        self._said.append(Said(number, content, latency))

    @contextmanager
    def _guarded(self, number: int) -> Iterator[None]:
        """A fault within it ends its stream, and nobody else's."""
        try:
            yield
        except AudioError as error:
            self._fail(number, "bad_audio", str(error))
        except KitError as error:
            self._fail(number, "unsupported", str(error))
        except Exception as error:
            self._fail(number, "internal", _sentence(error))

    def _fail(self, number: int, code: str, message: str) -> None:
        self._said.append(Said(number, problem(code, message), last=True))
        self.drop(number)


def problem(code: str, message: str) -> dict[str, Any]:
    """The event that tells a client of an error."""
    return {"event": "error", "code": code, "message": message}


def _answer(added: Sequence[str], rejected: Iterable[tuple[str, str]]) -> dict[str, Any]:
    return {
        "event": "hotwords",
        "added": list(added),
        "rejected": [{"text": text, "reason": reason} for text, reason in rejected],
    }


def _sentence(error: Exception) -> str:
    """What a client may know of an error: sentences that were written for people, and only the kind of others."""
    if isinstance(error, KitError):
        return str(error)
    _log.error("a stream failed", exc_info=error)
    return f"an error in the recognizer ({type(error).__name__})"
