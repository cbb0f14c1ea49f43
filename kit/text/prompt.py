"""The chat prompt around the speech, as token numbers that no hint can tamper with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kit.errors import KitError
from kit.text.normalize import printable
from kit.text.tokens import SPECIALS, encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPEECH, CONTEXT, TRANSCRIPTION = MARKS = ("<speech>", "{context}", "{transcription}")

# NIM4-ASR (arXiv 2604.18105 v2): the hints stand after the speech, so that all before it can be cached once.
TEMPLATE = """<|im_start|>system
You are a Multilingual Speech Recognition Model.<|im_end|>
<|im_start|>user
Transcribe the speech into text <speech>. Contextual hints: {context}.<|im_end|>
<|im_start|>assistant
{transcription}<|im_end|>"""

SEPARATOR = ", "  # of hints; the paper does not give it

_BRACKETS = str.maketrans("<>", "  ")


class Prompt:
    """A template in four parts: before the speech, up to the hints, up to the transcription, and the end.

    The specials of the template, Qwen's and whichever others the tokenizer has, are parsed; those in hints and
    transcriptions never are.
    """

    def __init__(self, template: str = TEMPLATE) -> None:
        """Raises KitError if the template lacks one of its three marks, has one twice or in another order."""
        pattern = "(.*)".join(["", *map(re.escape, MARKS), ""])
        match = re.fullmatch(pattern, template, flags=re.DOTALL)
        if match is None or any(template.count(mark) != 1 for mark in MARKS):
            raise KitError(f"the prompt template must have {', '.join(MARKS)} once each and in this order")
        self.template = template
        self._before, self._to_hints, self._to_transcription, self._end = match.groups()

    def prefix(self) -> str:
        """All before the speech; the same for every utterance."""
        return self._before

    def suffix(self, hints: Sequence[str] = ()) -> str:
        """All between the speech and the transcription; without hints their sentence keeps its place."""
        return self._to_hints + join_hints(hints) + self._to_transcription

    def ending(self) -> str:
        """All after the transcription."""
        return self._end

    def prefix_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Token numbers of `prefix()`."""
        return _parse(tokenizer, self._before)

    def suffix_ids(self, tokenizer: PreTrainedTokenizerBase, hints: Sequence[str] = ()) -> list[int]:
        """Token numbers of `suffix(hints)`: as many specials, in the same order, whatever the hints say."""
        # Hints are joined to the plain text on both sides, so that the words meet as they do in running text.
        left, right = (_cut(tokenizer, text) for text in (self._to_hints, self._to_transcription))
        parts = [*left[:-1], left[-1] + join_hints(hints) + right[0], *right[1:]]
        return _encode(tokenizer, parts)

    def answer_ids(self, tokenizer: PreTrainedTokenizerBase, transcription: str) -> list[int]:
        """Token numbers of a transcription and the end after it: what the language model is trained to write."""
        return encode_plain(tokenizer, transcription) + _parse(tokenizer, self._end)

    def end_id(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """The token by which the language model tells that a transcription ends: the first one after it.

        Raises:
            KitError: the template has nothing there.
        """
        ids = _parse(tokenizer, self._end)
        if not ids:
            raise KitError(f"the prompt template ends with {TRANSCRIPTION}; write the token behind it that ends a text")
        return ids[0]


def join_hints(hints: Sequence[str]) -> str:
    """The hints as one line of plain text; empty ones are left out."""
    return SEPARATOR.join(filter(None, map(clean_hint, hints)))


def clean_hint(hint: str) -> str:
    """A hint without what could speak to the machine: control characters, line breaks, angle brackets.

    No special of any chat format can be written without brackets, so the text is safe for a server that parses
    specials out of strings, too.
    """
    return printable(unicodedata.normalize("NFKC", hint).translate(_BRACKETS))


def _parse(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Text of the template, whose specials count."""
    return _encode(tokenizer, _cut(tokenizer, text))


def _cut(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Plain texts and specials by turns; the first and the last are plain, perhaps empty."""
    known = {*SPECIALS, *map(str, tokenizer.all_special_tokens)}
    longest_first = sorted(filter(None, known), key=lambda special: (-len(special), special))
    return re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)


def _encode(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]) -> list[int]:
    """Plain texts and specials by turns, as `_cut` gives them."""
    ids: list[int] = []
    for index, part in enumerate(parts):
        ids += [_special_id(tokenizer, part)] if index % 2 else encode_plain(tokenizer, part)
    return ids


def _special_id(tokenizer: PreTrainedTokenizerBase, special: str) -> int:
    index = tokenizer.convert_tokens_to_ids(special)
    if not isinstance(index, int) or tokenizer.convert_ids_to_tokens(index) != special:  # the unknown token, perhaps
        raise KitError(
            f"the tokenizer has no token {special}; use one with the chat specials of Qwen, or give "
            "model.prompt.template in those of this LLM"
        )
    return index
