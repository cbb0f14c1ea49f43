"""The small LLM reads pseudo-speech with hints in the prompt; names that nobody ever heard are spelled as hinted."""

import random

import pytest
import torch
from small import make_stage

from kit.text.invented import Inventor
from kit.text.keywords import Keywords, occurs
from kit.text.normalize import normalize, units
from kit.text.phonemes import PhonemeInventory, phonemize
from stages.hints import HintDraw, replaced


@pytest.fixture
def stage(corpus):
    """With the beginning of every text of the first batch as a keyword: the corpus of tests has hardly any names."""
    stage, data = make_stage("language_model", corpus, None, "stage.context.share=1.0", "stage.context.invented=1.0")
    batch = next(iter(data.train_dataloader()))
    names = [" ".join(units(text)[:2]) for text in batch.texts]
    stage.hints, stage.invent = HintDraw(Keywords(names), stage.config.stage.context), Inventor(data.texts())
    return stage, batch


def test_an_invented_name_is_said_and_hinted(stage):
    module, batch = stage
    random.seed(0)
    texts, phonemes, hints = module.with_hints(batch)
    changed = [row for row, text in enumerate(texts) if text != batch.texts[row]]
    assert len(changed) > len(texts) / 2
    for row in changed:
        (new,) = [hint for hint in hints[row] if occurs(hint, texts[row]) and not occurs(hint, batch.texts[row])]
        assert new not in module.hints.keywords.names
    for text, ids in zip(texts, phonemes, strict=True):
        assert ids == PhonemeInventory.default().encode(phonemize(text))
        assert text == normalize(text)
    # The batch is kept by the data module for another epoch: it stays as it is.
    assert all(
        ids == PhonemeInventory.default().encode(phonemize(text))
        for text, ids in zip(batch.texts, batch.phonemes, strict=True)
    )


def test_hints_reach_the_prompt(stage, monkeypatch):
    module, batch = stage
    seen = []
    monkeypatch.setattr(
        module.recognizer, "text_loss", lambda *args: seen.append(args) or torch.zeros((), requires_grad=True)
    )
    random.seed(0)
    torch.manual_seed(0)
    module.loss(batch)
    assert any(hint for hint in seen[0][3])


def test_without_hints_nothing_changes(corpus):
    module, data = make_stage("language_model", corpus, None, "stage.context.share=0.0")
    batch = next(iter(data.train_dataloader()))
    assert module.with_hints(batch) == (batch.texts, batch.phonemes, None)


def test_invented_names_have_the_shape_of_others():
    invent = Inventor(["打开天窗", "导航到外滩", "turn on the radio", "navigate there"])
    random.seed(0)
    for _ in range(50):
        name = invent("外滩radio")
        assert [unit.isascii() for unit in units(name)] == [False, False, True]
        assert phonemize(name)
    assert len({invent("外滩") for _ in range(50)}) > 20
    assert Inventor([])("外滩") == "外滩"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("播放rihanna的歌", "rihanna", "播放xox的歌"),
        ("the radio on the radios", "radio", "the xox on the radios"),
        ("去外滩吧", "外滩", "去xox吧"),
        ("play shape of you now", "shape of you", "play xox now"),
    ],
)
def test_a_name_is_replaced_on_the_borders_of_units(text, name, expected):
    assert replaced(text, name, "xox") == expected
