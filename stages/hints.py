"""Hints for training: which words stand in the prompt of a transcript, said or not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from omegaconf import DictConfig

from datamodules.base import SpeechData
from kit.errors import UsageError
from kit.text.keywords import Keywords, occurs, read_keywords
from kit.text.normalize import normalize, units

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
        names = read_keywords(options.keywords) if options.keywords else data.keywords(["train"])
        return cls(Keywords(names, data.transcripts(["train"]) if options.made else None, options.reach), options)

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


class Inventor:
    """Makes names that nobody knows, out of the characters and words of some normalized texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        found = sorted({unit for text in texts for unit in units(text)})
        self.characters = [unit for unit in found if not unit.isascii()]
        self.words = [unit for unit in found if unit.isascii() and unit.isalpha() and len(unit) > 3]

    def __call__(self, like: str) -> str:
        """A name as long as another one and in its scripts, by Python's generator, which every step seeds."""
        made = []
        for unit in units(like):
            pool = self.words if unit.isascii() else self.characters
            if not pool:
                made.append(unit)
            elif unit.isascii():
                first, second = random.choices(pool, k=2)
                made.append(first[: -(-len(first) // 2)] + second[len(second) // 2 :])
            else:
                made.append(random.choice(pool))
        return normalize(" ".join(made))


def replaced(text: str, name: str, other: str) -> str:
    """A normalized text that says `other` wherever it said `name`."""
    left, right = (r"(?<![a-z'])" if name[0].isascii() else ""), (r"(?![a-z'])" if name[-1].isascii() else "")
    return normalize(re.sub(left + re.escape(name) + right, other, text))
