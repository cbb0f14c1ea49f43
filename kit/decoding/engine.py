"""The machine behind sessions: one model, many streams, whatever is ready stepped in one batch.

A step takes one chunk of each of some sessions through encoder, phoneme head and adaptor, appends the speech to the
LLM's cache of that session, and decodes behind it. What goes into the encoder and the speech that the LLM reads is
computed once; only the prompt's end and the text that is not yet settled are read again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kit.audio.features import LogMel
from kit.decoding.callbacks import gather
from kit.decoding.decoder import TextCache, Work
from kit.decoding.finals import decide
from kit.decoding.remote import writer_for
from kit.decoding.stopwatch import Stopwatch
from kit.errors import KitError
from kit.model.encoder import WHOLE, Chunk
from kit.model.recognizer import PARTS, Recognizer

if TYPE_CHECKING:
    from kit.decoding.session import Session


@dataclass
class Job:
    """A session's next chunk.

    Attributes:
        features: (t, F) normalized and padded for the encoder.
        fresh: encoder frames in it; may be 0 at the end.
        last: the utterance ends with it.
    """

    session: Session
    features: Tensor
    fresh: int
    last: bool


class Engine:
    """Serves sessions, first come first served.

    Args:
        recognizer: with all its parts, in eval mode.
        decoding: the `decoding` section of the configuration.
        sessions: streams to make room for at first; it grows.
        max_batch: sessions stepped together.
        exact: wait for the GPU after each part, so that `watch` tells where the time goes.
    """

    def __init__(
        self, recognizer: Recognizer, decoding: DictConfig, sessions: int = 1, max_batch: int = 64, exact: bool = False
    ) -> None:
        missing = set(PARTS) - set(recognizer.parts)
        if missing:
            raise KitError(f"the export has no {' and no '.join(sorted(missing))}; export a run of stage sft or later")
        self.recognizer, self.decoding, self.max_batch = recognizer, decoding, max_batch
        self.chunk = Chunk(decoding.chunk, decoding.left)
        self.watch = Stopwatch(exact)
        self.features = LogMel(**recognizer.config.features)
        self.encoded = 0  # encoder frames computed, and the least that could do: frames and speech embeddings
        self.heard = [0, 0]
        self._free: list[int] = []
        self._queue: deque[Session] = deque()
        self._room = 0
        self.decoder = writer_for(recognizer, max(1, sessions), decoding, self.watch)
        self._cache: Any = None
        self._enlarge(max(1, sessions))

    def session(self) -> Session:
        """A new stream, with callbacks as in the configuration."""
        from kit.decoding.session import Session

        if not self._free:
            self._enlarge(2 * self._room)
        return Session(self, self._free.pop())

    def release(self, session: Session) -> None:
        """Give a session's place to another; called by the session."""
        if session in self._queue:
            self._queue.remove(session)
        self.forget(session.slot)
        self._free.append(session.slot)

    @torch.inference_mode()
    def forget(self, slot: int) -> None:
        """Let nothing of an utterance reach the next one."""
        if self._cache is not None:
            self._cache.reset([slot])
        self.decoder.reset(slot)

    def cached(self, session: Session) -> tuple[int, int]:
        """Bytes that are kept of a session: in the encoder's cache, which never grows, and in that of the LLM.

        An LLM that is asked elsewhere has none here.
        """
        kept, texts = 0, getattr(self.decoder, "cache", None)
        if self._cache is not None:
            rings = [ring for memory in self._cache.memory for ring in (memory.keys, memory.values)]
            kept = sum(rows[session.slot].nbytes for rows in [*rings, *self._cache.past])
        return kept, texts.used(session.slot) if isinstance(texts, TextCache) else 0

    def count(self, frames: int, speech: int) -> None:
        """An utterance of so many encoder frames and speech embeddings ended; called by the session."""
        self.heard[0] += frames
        self.heard[1] += speech

    def notice(self, session: Session) -> None:
        """Something came in: the session takes its place in the queue; called by the session."""
        if session not in self._queue:
            self._queue.append(session)

    def busy(self, session: Session) -> bool:
        """Whether there may be something in a session that was not yet worked on."""
        return session in self._queue

    def run(self, session: Session) -> None:
        """Step until this session has nothing ready; others that are ready go along."""
        while session in self._queue:
            if not self.step():
                return

    @torch.inference_mode()
    def step(self) -> int:
        """One chunk of each of the sessions that have waited longest; gives their number."""
        jobs: list[Job] = []
        for _ in range(len(self._queue)):
            if len(jobs) == self.max_batch:
                break
            session = self._queue.popleft()
            with self.watch("features"):
                job = session.next_job()
            if job is not None:
                jobs.append(job)
                self._queue.append(session)  # behind all who wait
        if jobs:
            self._serve(jobs)
        return len(jobs)

    def _serve(self, jobs: list[Job]) -> None:
        with self.watch("encoder"):
            frames = self._encode(jobs)
        with self.watch("head"):
            log_probs = self._listen(frames)
        heard = zip([job.session for job in jobs], frames, log_probs, strict=True)
        listening = [session for session, new, scores in heard if session.hear(new, scores)]
        with self.watch("callbacks"):
            gather([session.party for session in listening], lambda index, error: listening[index].fail(error))
            for session in listening:
                session.heed()
        with self.watch("adaptor"):
            speech = self._speak(jobs)
        works = [
            Work(job.session.slot, embedded, job.session.tail(job.last), draft=job.session.draft(job.last))
            for job, embedded in zip(jobs, speech, strict=True)
        ]
        found = self.decoder.run(works)
        judges = {index: job.session for index, job in enumerate(jobs) if job.last and found[index]}
        decide(self.decoder, works, found, judges, self.decoding.beam, self.decoding.unhinted)
        for job, continuations in zip(jobs, found, strict=True):
            with self.watch("final" if job.last else "partial"):
                job.session.write(continuations, job.last)

    def _encode(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The new frames (n, D) of each job."""
        encoder, device = self.recognizer.encoder, self.recognizer.device
        busy = [job for job in jobs if job.fresh]
        if not busy:
            return [self.nothing(encoder.dim) for _ in jobs]
        features = pad_sequence([job.features for job in busy], batch_first=True).to(device)
        self.encoded += sum(job.fresh for job in busy)
        if self.chunk.frames:
            counts = [[job.fresh for job in busy], [job.session.slot for job in busy]]
            fresh, slots = (torch.tensor(x, dtype=torch.int32, device=device) for x in counts)
            found = encoder.step(features, self._cache, fresh, slots)
        else:
            lengths = torch.tensor([len(job.features) for job in busy], device=device)
            found, _, _ = encoder(features, lengths, WHOLE, normalized=True)
        rows = iter(found)
        return [next(rows)[: job.fresh] if job.fresh else self.nothing(encoder.dim) for job in jobs]

    def _listen(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """Log-probabilities (n, V) of the phonemes, on the CPU."""
        scores = self.recognizer.phoneme_head(torch.cat(list(frames))[None])[0].float().log_softmax(-1).cpu()
        return list(scores.split([len(x) for x in frames]))

    def _speak(self, jobs: Sequence[Job]) -> list[Tensor]:
        """New speech embeddings (s, E): of whole stacks, at the end of a shorter one, too."""
        adaptor = self.recognizer.adaptor
        ready = [job.session.stackable(adaptor.stack, job.last) for job in jobs]
        if not any(map(len, ready)):
            return [self.nothing(self.recognizer.llm_width) for _ in jobs]
        sizes = torch.tensor([len(x) for x in ready], device=self.recognizer.device)
        embedded, lengths = adaptor(pad_sequence(ready, batch_first=True), sizes)
        return [row[:size] for row, size in zip(embedded, lengths.tolist(), strict=True)]

    def nothing(self, width: int) -> Tensor:
        """(0, width), of the model's type and device."""
        return next(self.recognizer.parameters()).new_zeros(0, width)

    @torch.inference_mode()
    def _enlarge(self, room: int) -> None:
        old, self._room = self._room, room
        self._free += range(room - 1, old - 1, -1)
        self.decoder.enlarge(room)
        if self.chunk.frames:
            if self._cache is None:
                self._cache = self.recognizer.encoder.start(self.chunk, room)
            else:
                self.recognizer.encoder.enlarge(self._cache, room)
