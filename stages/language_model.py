"""A small LLM from scratch: text, and "echo", the reading of pseudo-speech made from text.

A language model that never copied from its context cannot be reached by an adaptor: trained on text alone, alignment
stays at the LLM's own entropy. So most batches give it pseudo-speech: the phonemes of a sentence as 25 Hz frames with
random durations, gaps and a few errors, through an embedding and an adaptor that are thrown away afterwards. A real
pretrained LLM needs none of this; `model.llm.pretrained` skips the stage.
"""

from __future__ import annotations

import random

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from datamodules.batch import TextBatch
from kit.model.heads import Adaptor
from kit.model.recognizer import Recognizer
from kit.text.invented import Inventor
from kit.text.keywords import occurs
from kit.text.phonemes import PhonemeInventory, phonemize
from stages.base import Stage
from stages.hints import HintDraw, replaced


class PseudoSpeech(nn.Module):
    """Phonemes to speech embeddings, for echo batches.

    Args:
        symbols: number of phonemes, blank included.
        width: of the frame embedding.
        adaptor: `model.adaptor`.
        output: the LLM's hidden size.
        errors: share of phonemes replaced or dropped, half each.
    """

    def __init__(self, symbols: int, width: int, adaptor: DictConfig, output: int, errors: float) -> None:
        super().__init__()
        self.symbols, self.errors = symbols, errors
        self.frames = nn.Embedding(symbols, width)
        self.adaptor = Adaptor(width, adaptor.stack, adaptor.hidden, output)

    def forward(self, phonemes: list[list[int]]) -> tuple[Tensor, Tensor]:
        """B phoneme strings to embeddings (B, S, E) and lengths (B,)."""
        rows = [self.spoken(torch.tensor(row)) for row in phonemes]
        lengths = torch.tensor([len(row) for row in rows], device=self.frames.weight.device)
        return self.adaptor(self.frames(pad_sequence(rows, batch_first=True).to(lengths.device)), lengths)

    def spoken(self, phonemes: Tensor) -> Tensor:
        """One phoneme string (n,) as frames (T,): each lasts 1-2 frames and is followed by 0-2 blank ones."""
        chance = torch.rand(len(phonemes))
        other = torch.randint(1, self.symbols, phonemes.shape)
        said = torch.where(chance < self.errors / 2, other, phonemes)[chance < 1 - self.errors / 2]
        last = torch.tensor([1, 1, 1, 2])[torch.randint(4, said.shape)]
        gap = torch.tensor([0, 0, 1, 2])[torch.randint(4, said.shape)]
        symbols = torch.stack([said, torch.zeros_like(said)], 1).flatten()
        body = symbols.repeat_interleave(torch.stack([last, gap], 1).flatten())
        edges = torch.randint(0, 9, (2,)).tolist()
        return torch.cat([body.new_zeros(edges[0] + 1), body, body.new_zeros(edges[1])])


class LanguageModel(Stage):
    """Next-token loss on sentences in the recognizer's own prompt, with or without pseudo-speech before them."""

    def __init__(self, recognizer: Recognizer, config: DictConfig) -> None:
        super().__init__(recognizer, config)
        echo = config.stage.echo
        symbols = len(PhonemeInventory.default())  # whatever the CTC head is trained on
        self.echo = PseudoSpeech(symbols, echo.width, config.model.adaptor, recognizer.llm_width, echo.errors)
        self.hints: HintDraw | None = None
        self.invent: Inventor | None = None

    def on_fit_start(self) -> None:
        """Lightning has the data module ready."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.config.stage.context.share:
            self.hints, self.invent = HintDraw.of(self.config.stage.context, data), Inventor(data.texts())

    @property
    def skips_parameters(self) -> bool:
        """A step of text alone has no use for the pseudo-speech's."""
        return True

    def loss(self, batch: TextBatch) -> dict[str, Tensor]:
        """Echo on `stage.echo.share` of the steps, text alone on the others."""
        if float(torch.rand(())) < self.config.stage.echo.share:
            texts, phonemes, hints = self.with_hints(batch)
            speech, sizes = self.echo(phonemes)
            loss = self.recognizer.text_loss(speech, sizes, texts, hints)
            return {"loss": loss, "echo": loss}
        size = len(batch.texts)
        silence = torch.zeros(size, 0, self.recognizer.llm_width, device=self.device)
        loss = self.recognizer.text_loss(silence, torch.zeros(size, dtype=torch.long), batch.texts)
        return {"loss": loss, "text": loss}

    def with_hints(self, batch: TextBatch) -> tuple[list[str], list[list[int]], list[list[str]] | None]:
        """Texts, their phonemes and hints; some texts say a name that nobody ever heard, and it is among the hints."""
        if self.hints is None or self.invent is None:
            return batch.texts, batch.phonemes, None
        texts, phonemes, hints = list(batch.texts), list(batch.phonemes), []
        inventory = PhonemeInventory.default()
        for row, text in enumerate(texts):
            given = self.hints(text)
            known = [name for name in given if occurs(name, text)]
            if known and random.random() < self.config.stage.context.invented:
                name = random.choice(known)
                new = self.invent(name)
                texts[row] = replaced(text, name, new)
                phonemes[row] = inventory.encode(phonemize(texts[row]))
                given = [new if one == name else one for one in given]
            hints.append(given)
        return texts, phonemes, hints
