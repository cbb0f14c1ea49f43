"""Final texts: of more hypotheses where the greedy one is doubted, and of some without hints where it had any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from kit.decoding.beam import Continuation
from kit.decoding.callbacks import Candidate, DecodingCallback, Utterance, chosen_text, trusted
from kit.decoding.decoder import Work, Writer
from kit.model.recognizer import Recognizer


class Judge(Protocol):
    """Who decides on an utterance's final text: a session, or a row of a batch."""

    @property
    def hinted(self) -> bool:
        """Whether the LLM was given hints."""

    def trusts(self, greedy: Continuation) -> bool | None:
        """Whether the greedy text is good enough; None where nobody can tell."""

    def accepts(self, found: Sequence[Continuation], plain: Sequence[Continuation]) -> bool:
        """Choose among what was found with hints, if there are any, and without; False where nothing is left."""

    def plain_tail(self) -> list[int]:
        """Ids to append behind the speech for a final text without hints."""


class CallbackJudge:
    """Lets callbacks decide on the final text of an utterance.

    Attributes:
        chosen: that text.
    """

    def __init__(self, recognizer: Recognizer, callbacks: Sequence[DecodingCallback], utterance: Utterance) -> None:
        self.recognizer, self.callbacks, self.utterance = recognizer, callbacks, utterance
        self.chosen = ""

    @property
    def hinted(self) -> bool:
        """Whether the LLM was given hints."""
        return bool(self.utterance.hints)

    def plain_tail(self) -> list[int]:
        """Ids to append behind the speech for a final text without hints."""
        return self.recognizer.tail_ids()

    def trusts(self, greedy: Continuation) -> bool | None:
        """Whether the greedy text is good enough, if the callbacks can tell."""
        return trusted(self.callbacks, self.utterance, self._candidate(greedy, self.hinted))

    def accepts(self, found: Sequence[Continuation], plain: Sequence[Continuation]) -> bool:
        """Choose among what was found with hints, if there are any, and without; False where nothing is left."""
        offered = [self._candidate(one, self.hinted) for one in found] + [self._candidate(one, False) for one in plain]
        chosen = chosen_text(self.callbacks, self.utterance, offered)
        self.chosen = chosen or ""
        return chosen is not None

    def _candidate(self, one: Continuation, hinted: bool) -> Candidate:
        return Candidate(text_of(self.recognizer, one.ids), one.score, hinted)


def text_of(recognizer: Recognizer, tokens: Sequence[int]) -> str:
    """What tokens of the LLM say."""
    text: str = recognizer.tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text.strip()


def decide(
    decoder: Writer,
    works: Sequence[Work],
    found: Sequence[list[Continuation]],
    judges: Mapping[int, Judge],
    beam: int,
    unhinted: bool = True,
) -> None:
    """Let judges choose final texts.

    A hint may be a wrong one, and a language model is easily led astray. So where a text that was written with hints is
    doubted, what the model writes without them is judged beside it; also where nothing is left of what was found.

    Args:
        works: what is decoded.
        found: the greedy text of each.
        judges: by the number of the work, of those whose texts are final.
        beam: hypotheses of a search; 1 for none.
        unhinted: False asks for no texts without hints.
    """
    able = [index for index, judge in judges.items() if unhinted and judge.hinted]
    trust = {index: judge.trusts(found[index][0]) for index, judge in judges.items() if beam > 1 or index in able}
    offered = {index: found[index] for index in judges}
    if beam > 1:
        offered |= _searched(decoder, works, [index for index, trusted in trust.items() if not trusted], beam)
    plain = _plain(decoder, works, judges, [index for index in able if trust[index] is False], beam)
    left = [index for index, judge in judges.items() if not judge.accepts(offered[index], plain.get(index, ()))]
    more = _plain(decoder, works, judges, [index for index in able if index in left and index not in plain], beam)
    for index, texts in more.items():
        judges[index].accepts(offered[index], texts)


def _plain(
    decoder: Writer, works: Sequence[Work], judges: Mapping[int, Judge], chosen: Sequence[int], beam: int
) -> dict[int, list[Continuation]]:
    """What the model writes without hints."""
    again = list(works)
    for index in chosen:
        again[index] = replace(works[index], tail=judges[index].plain_tail())
    return _searched(decoder, again, chosen, beam)


def _searched(
    decoder: Writer, works: Sequence[Work], chosen: Sequence[int], beam: int
) -> dict[int, list[Continuation]]:
    """The speech was read before."""
    again = [replace(works[index], speech=works[index].speech[:0], beam=beam) for index in chosen]
    return dict(zip(chosen, decoder.run(again), strict=True))
