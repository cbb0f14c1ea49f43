"""One stream of audio: samples in as they come, events out; one utterance after another, and nothing leaks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.audio.features import SAMPLE_RATE, LogMelStream, frame_count
from kit.audio.reading import AudioError
from kit.decoding.beam import Continuation
from kit.decoding.callbacks import (
    END,
    DecodingCallback,
    End,
    Speech,
    Utterance,
    build_callbacks,
    hints_of,
)
from kit.decoding.engine import Engine, Job
from kit.decoding.events import Began, Event, Final, Partial
from kit.decoding.finals import CallbackJudge, text_of
from kit.errors import KitError
from kit.model.encoder import chunk_features
from kit.model.subsampling import STRIDE, output_length

_LOUDEST = 8.0  # of full scale 1.0; beyond it samples were never scaled to [-1, 1]


@dataclass
class Progress:
    """Where the utterance under way stands; the next one gets a new one, so that nothing can leak.

    Attributes:
        utterance: what callbacks see of it.
        waiting: (r, F) normalized features not yet encoded.
        frames: (s, D) encoder frames not yet stacked.
        begun: its first sample; None before there is any.
        taken: samples so far.
        ending: no more will come.
        last_symbol: of the greedy phoneme path, blanks included.
        tokens: of the text so far.
        settled: the first of them, with which the next partial text begins.
        said: the text and its settled length, as last told.
        judge: of its final text.
    """

    utterance: Utterance
    judge: CallbackJudge
    waiting: Tensor
    frames: Tensor
    begun: int | None = None
    taken: int = 0
    ending: bool = False
    last_symbol: int = 0
    tokens: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    said: tuple[str, int] = ("", 0)


def _guarded(otherwise: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For what the engine calls: a callback that fails must not take along the sessions that are stepped together.

    Its session does nothing more until `take` tells the fault, and then begins anew.
    """

    def guard(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def guarded(self: Session, *arguments: Any) -> Any:
            if self._fault is not None:
                return otherwise
            try:
                return method(self, *arguments)
            except Exception as error:  # whatever somebody's callback does
                self._fault = error
                return otherwise

        return guarded

    return guard


class Session:
    """Made by `Engine.session()`. `push` and `finish` compute at once; `feed`, `end`, `take` leave it to the engine.

    Attributes:
        slot: its place in the engine.
        callbacks: who else takes part.
        partials: whether it tells texts before the end of speech; at first as `decoding.partials` has it.
        heard: samples of the stream so far.
        count: utterances of the stream that ended.
    """

    def __init__(self, engine: Engine, slot: int) -> None:
        self.engine, self.slot = engine, slot
        self.partials = bool(engine.decoding.partials)
        self.callbacks = build_callbacks(engine.decoding, engine.recognizer.inventory)
        self._features = LogMelStream(engine.features)
        self._inbox: deque[Speech | End] = deque()
        self._events: list[Event] = []
        self.heard = 0  # samples of the stream
        self.count = 0  # utterances that ended
        self._fault: Exception | None = None
        self._closed = False
        self._now = self._begin()

    # What the user calls

    def push(self, samples: Tensor) -> list[Event]:
        """Hear (n,) more samples at 16 kHz, floating, in [-1, 1]; gives what they made happen.

        Raises:
            AudioError: the samples are none of this. Nothing was heard then, and the session goes on.
        """
        self.feed(samples)
        self.engine.run(self)
        return self.take()

    def finish(self) -> list[Event]:
        """The stream ends here: gives what is left, the last final event included. The next push begins a new one."""
        self.end()
        self.engine.run(self)
        events = self.take()
        self._restart()
        return events

    def reset(self) -> None:
        """Forget everything heard, and begin anew."""
        self._check_open()
        self._restart()

    def close(self) -> None:
        """Give the place in the engine back; nothing more can be pushed."""
        if not self._closed:
            self._restart()
            self._closed = True
            self.engine.release(self)

    def feed(self, samples: Tensor) -> None:
        """`push` without computing: an engine that serves many sessions steps them together."""
        self._check_open()
        samples = _checked(samples)
        start, self.heard = self.heard, self.heard + len(samples)
        self._segment(samples, start, final=False)
        self.engine.notice(self)

    def end(self) -> None:
        """`finish` without computing."""
        self._check_open()
        self._segment(torch.zeros(0), self.heard, final=True)
        self._inbox.append(END)
        self.engine.notice(self)

    def take(self) -> list[Event]:
        """Events since the last call.

        Raises:
            Exception: what a callback raised. The utterance is lost, the stream goes on; events before it come next.
        """
        if self._fault is not None:
            fault, self._fault = self._fault, None
            self._inbox.clear()
            self._now = self._begin()
            raise fault
        events, self._events = self._events, []
        return events

    # What the engine calls

    @_guarded(None)
    def next_job(self) -> Job | None:
        """The next chunk if it is ready; takes what came in as far as is needed for it."""
        whole = self.engine.chunk.frames == 0
        size = chunk_features(self.engine.chunk.frames or 1)
        while not self._now.ending and (whole or len(self._now.waiting) < size):
            if not self._inbox:
                return None
            self._take_in(self._inbox.popleft())
        if whole:
            return self._job(len(self._now.waiting), output_length(len(self._now.waiting)), last=True)
        step = self.engine.chunk.frames * STRIDE
        if len(self._now.waiting) >= size:
            return self._job(step, self.engine.chunk.frames, last=False)
        fresh = output_length(len(self._now.waiting))
        last = fresh <= self.engine.chunk.frames
        return self._job(step, min(fresh, self.engine.chunk.frames), last)

    @_guarded(False)
    def hear(self, frames: Tensor, log_probs: Tensor) -> bool:
        """Frames (n, D) and log-probabilities (n, V) of the job that was handed out; whether there were any."""
        utterance = self._now.utterance
        utterance.seconds = self.heard / SAMPLE_RATE
        self._now.frames = torch.cat([self._now.frames, frames])
        if len(log_probs):
            utterance.chunks += 1
            utterance.frames += len(log_probs)
            utterance.log_probs.append(log_probs)
            best = log_probs.argmax(-1).tolist()
            before = [self._now.last_symbol, *best[:-1]]
            utterance.phonemes += [x for x, y in zip(best, before, strict=True) if x != y and x]
            self._now.last_symbol = best[-1]
        return bool(len(log_probs))

    @property
    def party(self) -> tuple[list[DecodingCallback], Utterance]:
        """Who takes part in the utterance under way, and what is known of it."""
        return self.callbacks, self._now.utterance

    @_guarded(None)
    def fail(self, error: Exception) -> None:
        """A callback failed while it worked for several sessions together."""
        raise error

    @_guarded(None)
    def heed(self) -> None:
        """Let the callbacks see the chunk that was heard."""
        for callback in self.callbacks:
            self._events += callback.chunk(self._now.utterance)

    def stackable(self, stack: int, last: bool) -> Tensor:
        """The frames that make whole stacks, or all at the end; the others wait."""
        ready = len(self._now.frames) if last else len(self._now.frames) // stack * stack
        frames, self._now.frames = self._now.frames[:ready], self._now.frames[ready:]
        return frames

    @_guarded(None)
    def tail(self, last: bool) -> list[int] | None:
        """Token ids to append behind the speech: the prompt's end and, unless it is final, the settled text."""
        utterance = self._now.utterance
        if not utterance.frames:
            return None
        if not last and (self._now.ending or not self.partials):
            return None  # nobody would read it
        if not all(callback.expects_text(utterance) for callback in self.callbacks):
            return None
        ids = self.engine.recognizer.tail_ids(hints_of(self.callbacks, utterance, self.engine.decoding.hints or ()))
        return ids if last else ids + self._now.settled

    def plain_tail(self) -> list[int]:
        """`tail` of a final text without hints."""
        return self._now.judge.plain_tail()

    @property
    def hinted(self) -> bool:
        """Whether the LLM was given hints."""
        return self._now.judge.hinted

    def draft(self, last: bool) -> list[int]:
        """The text so far, behind what `tail` holds of it: most of it will be written again."""
        return self._now.tokens if last else self._now.tokens[len(self._now.settled) :]

    @_guarded(True)
    def trusts(self, greedy: Continuation) -> bool | None:
        """Whether the greedy final text is good enough, if the callbacks can tell."""
        return self._now.judge.trusts(greedy)

    @_guarded(True)
    def accepts(self, found: Sequence[Continuation], plain: Sequence[Continuation]) -> bool:
        """Choose the final text among what was found with hints, if there are any, and without."""
        return self._now.judge.accepts(found, plain)

    @_guarded(None)
    def write(self, found: list[Continuation], last: bool) -> None:
        """What the LLM wrote behind the tail, nothing where none was asked for; of a final text, what was chosen."""
        if last:
            self._write_final()
        elif found:
            self._write_partial(found[0].ids)

    # Inside

    def _check_open(self) -> None:
        """Its place may be another session's by now."""
        if self._closed:
            raise KitError("this session is closed; ask the engine for a new one with session()")

    def _restart(self) -> None:
        self._inbox.clear()
        self._events, self._fault = [], None
        self.heard = self.count = 0
        for callback in self.callbacks:
            callback.reset()
        self._now = self._begin()

    def _begin(self) -> Progress:
        """Be as before the first utterance."""
        recognizer = self.engine.recognizer
        self._features.reset()
        self.engine.forget(self.slot)
        utterance = Utterance(self.count, 0.0, recognizer.inventory)
        return Progress(
            utterance,
            CallbackJudge(recognizer, self.callbacks, utterance),
            waiting=self.engine.nothing(recognizer.encoder.bins),
            frames=self.engine.nothing(recognizer.encoder.dim),
        )

    def _segment(self, samples: Tensor, start: int, final: bool) -> None:
        for callback in self.callbacks:
            parts = callback.segment(samples, start, final)
            if parts is not None:
                self._inbox.extend(parts)
                return
        if len(samples):
            self._inbox.append(Speech(samples, start))

    def _open(self, start: int) -> None:
        if self._now.begun is None:
            self._now.begun = start
            self._now.utterance.start = start / SAMPLE_RATE
            self._events.append(Began(self.count, self.heard / SAMPLE_RATE, self._now.utterance.start))
            for callback in self.callbacks:
                callback.start(self._now.utterance)

    def _take_in(self, item: Speech | End) -> None:
        if isinstance(item, End):
            self._now.ending = self._now.begun is not None
            return
        self._open(item.start)
        room = int(self.engine.decoding.max_seconds * SAMPLE_RATE) - self._now.taken
        if len(item.samples) > room:  # too long for one utterance: the rest is the next
            self._inbox.appendleft(Speech(item.samples[room:], item.start + room))
            self._inbox.appendleft(END)
            item = Speech(item.samples[:room], item.start)
        self._now.taken += len(item.samples)
        fresh = self._features.push(item.samples)
        if len(fresh):
            self._wait(fresh)

    def _wait(self, features: Tensor) -> None:
        recognizer = self.engine.recognizer
        normalized = recognizer.encoder.normalize(features.to(recognizer.device))
        self._now.waiting = torch.cat([self._now.waiting, normalized])

    def _job(self, step: int, fresh: int, last: bool) -> Job:
        """The next `fresh` encoder frames, of which the following begin `step` feature frames later."""
        size = chunk_features(fresh) if fresh else 0
        features = self._now.waiting[:size]
        if self.engine.chunk.frames:  # zeros are the mean; the whole pass pads by itself
            features = F.pad(features, (0, 0, 0, chunk_features(self.engine.chunk.frames) - len(features)))
        self._now.waiting = self._now.waiting[step:]
        return Job(self, features, fresh, last)

    def _write_partial(self, ids: list[int]) -> None:
        tokens, decoding = self._now.settled + ids, self.engine.decoding
        text, self._now.tokens = self._text(tokens), tokens
        for callback in self.callbacks:
            text = callback.partial(self._now.utterance, text)
        if self._now.utterance.chunks > decoding.unstable:
            self._now.settled = self._cut(tokens, text, decoding.rollback)
        stable = len(self._text(self._now.settled))
        self._now.utterance.text = text
        if (text, stable) != self._now.said:
            self._now.said = (text, stable)
            self._events.append(Partial(self.count, self._now.utterance.seconds, text, stable))

    def _cut(self, tokens: list[int], text: str, rollback: int) -> list[int]:
        """The tokens of a text but the last `rollback`, and no less than whole characters."""
        size = len(tokens)
        while size > 0 and not text.startswith(self._text(tokens[:size])):
            size -= 1
        size = max(0, size - rollback)
        while size > 0 and not text.startswith(self._text(tokens[:size])):
            size -= 1
        return tokens[:size]

    def _write_final(self) -> None:
        utterance = self._now.utterance
        utterance.text = self._now.judge.chosen
        end = ((self._now.begun or 0) + self._now.taken) / SAMPLE_RATE
        event = Final(self.count, self.heard / SAMPLE_RATE, utterance.text, utterance.start, end)
        for callback in self.callbacks:
            event = callback.final(utterance, event)
        self._events.append(event)
        stack = self.engine.recognizer.adaptor.stack
        frames = output_length(frame_count(self._now.taken))
        self.engine.count(frames, -(-frames // stack))
        self.count += 1
        self._now = self._begin()

    def _text(self, tokens: Sequence[int]) -> str:
        return text_of(self.engine.recognizer, tokens)


def _checked(samples: Tensor) -> Tensor:
    """Samples as they must be, on the CPU."""
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        kind = samples.dtype if hasattr(samples, "dtype") else type(samples).__name__
        raise AudioError(f"pushed samples must be a floating tensor in [-1, 1], not {kind}; divide int16 by 32768")
    if samples.ndim != 1:
        raise AudioError(f"pushed samples must be (n,), one channel, not {tuple(samples.shape)}; average the channels")
    if not len(samples):
        raise AudioError("no samples were pushed; push at least one, and call finish() at the end")
    samples = samples.detach().to("cpu", torch.float32)
    peak = float(samples.abs().max())  # NaN if any sample is
    if not peak <= _LOUDEST:
        fault = "NaN or infinite values" if not peak < float("inf") else f"values as large as {peak:.0f}"
        raise AudioError(f"pushed samples have {fault}; scale them to [-1, 1]")
    return samples.clamp(-1.0, 1.0)
