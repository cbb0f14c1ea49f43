"""Context SFT: everything goes on training with hints in the prompt, right ones and wrong ones."""

from __future__ import annotations

import random

from omegaconf import DictConfig

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit.errors import UsageError
from kit.model.recognizer import Recognizer
from kit.text.keywords import Keywords, occurs, read_keywords
from stages.base import TranscriptStage

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


class ContextSFT(TranscriptStage):
    """Everything moves, at a smaller rate than in SFT; the phoneme CTC loss stays on.

    The keywords are those of the training transcripts, or of `stage.context.keywords`.
    """

    def __init__(self, recognizer: Recognizer, config: DictConfig) -> None:
        super().__init__(recognizer, config)
        self.draw: HintDraw | None = None

    def on_fit_start(self) -> None:
        """Lightning has the data module ready."""
        self.learn_keywords(self.trainer.datamodule)  # type: ignore[attr-defined]

    def learn_keywords(self, data: SpeechData) -> None:
        """Take the keywords from the training transcripts, or from the file that the configuration names.

        Raises:
            UsageError: the file cannot be used, or there are no keywords.
        """
        options = self.config.stage.context
        names = read_keywords(options.keywords) if options.keywords else data.keywords(["train"])
        texts = data.transcripts(["train"]) if options.made else None
        self.draw = HintDraw(Keywords(names, texts, options.reach), options)

    def hints(self, batch: SpeechBatch) -> list[list[str]] | None:
        """Drawn anew for every utterance of the batch."""
        assert self.draw is not None, "learn_keywords comes first"
        return [self.draw(text) for text in batch.texts]
