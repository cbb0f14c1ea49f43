"""Hints for training: which words stand in the prompt of a transcript, said or not."""

from __future__ import annotations

import random
import re

from omegaconf import DictConfig

from datamodules.base import SpeechData
from kit.errors import UsageError
from kit.text.keywords import Keywords, occurs, read_keywords
from kit.text.normalize import normalize

NEAREST = 4  # of those that sound like a keyword, so many may be its distractor


class HintDraw:
    """Draws the hints of training transcripts, by Python's generator, which every step seeds.

    Args:
        keywords: the set that all hints come from.
        options: the section `stage.context`.

    Raises:
        UsageError: there are no keywords.
    """

    def __init__(self, keywords: Keywords, options: DictConfig) -> None:
        if not len(keywords):
            what = "the training transcripts have no keywords, neither annotated nor rare"
            raise UsageError(f"{what}; give stage.context.keywords=FILE")
        self.keywords, self.options = keywords, options

    @classmethod
    def of(cls, options: DictConfig, data: SpeechData) -> HintDraw:
        """With the keywords of the training transcripts, or of the file that the section names.

        Raises:
            UsageError: the file cannot be used, or there are no keywords.
        """
        part = data.training_part()
        names = read_keywords(options.keywords) if options.keywords else data.keywords([part])
        return cls(Keywords(names, data.transcripts([part]) if options.made else None, options.reach), options)

    def __call__(self, text: str) -> list[str]:
        """The hints of one normalized transcript, in random order; none at all for a share of them.

        Its own keywords, for each of them perhaps one that sounds like it, and some unrelated ones; a share of the
        transcripts are not given their own, and so see wrong hints only.
        """
        if random.random() >= self.options.share:
            return []
        said = self.keywords.mentioned(text)
        hints = [] if random.random() < self.options.absent else list(said)
        hints += [found for name in said if (found := self._distractor(name, text))]
        others = random.choices(self.keywords.names, k=random.randint(0, self.options.others))
        hints += [name for name in others if name not in said]
        hints = list(dict.fromkeys(hints))
        random.shuffle(hints)
        return hints

    def _distractor(self, name: str, text: str) -> str | None:
        """With a probability, one of the nearest that the transcript does not mention."""
        if random.random() >= self.options.distractors:
            return None
        alike = [other for other in self.keywords.alike(name) if not occurs(other, text)][:NEAREST]
        return random.choice(alike) if alike else None


def replaced(text: str, name: str, other: str) -> str:
    """A normalized text that says `other` wherever it said `name`."""
    left, right = (r"(?<![a-z'])" if name[0].isascii() else ""), (r"(?![a-z'])" if name[-1].isascii() else "")
    return normalize(re.sub(left + re.escape(name) + right, other, text))
