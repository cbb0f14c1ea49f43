import pytest
from hearing import INVENTORY, head, sounds

from kit.decoding.callbacks import Candidate, Utterance
from kit.decoding.splicing import HintSplice
from kit.text.normalize import places, replaced


def spliced(said, written, hints, gain=4.0, doubts=None):
    utterance = Utterance(0, 0.0, INVENTORY, hints=hints)
    utterance.log_probs = list(head(sounds(said), doubts).split(16))
    offered = [Candidate(written, -0.5), Candidate("else", -1.0)]
    found = HintSplice(gain).hypotheses(utterance, offered)
    assert found[1:] == offered[1:] and found[0].score == -0.5
    return found[0].text


@pytest.mark.parametrize(
    ("said", "written", "hints", "expected"),
    [
        ("导航去山溪海岸", "导航去三七海洋", ["山溪海岸"], "导航去山溪海岸"),
        ("drive to moon harbor cafe", "drive to new harvey", ["moon harbor cafe"], "drive to moon harbor cafe"),
        ("播放takoyaki的新歌", "播放打开一起的新歌", ["takoyaki"], "播放takoyaki的新歌"),
        ("call linda and drive to maple ridge", "call winter and drive to may bridge", ["maple ridge", "linda"],
         "call linda and drive to maple ridge"),
        ("导航去山溪海岸", "导航去三七海洋", ["东方明珠"], "导航去三七海洋"),  # not said
        ("导航去外滩", "导航去外摊", ["外滩"], "导航去外摊"),  # sounds alike: the LLM's choice
        ("导航去外滩", "导航去外滩", ["外滩"], "导航去外滩"),  # is there
    ],
)  # fmt: skip
def test_a_hint_takes_the_place_of_what_was_not_said(said, written, hints, expected):
    assert spliced(said, written, hints) == expected


def test_what_the_audio_leaves_open_stays():
    doubts = {place: {symbol: 0.5, sounds("三七")[at]: 0.5} for at, (place, symbol) in
              enumerate(zip(range(8), sounds("山溪"), strict=False)) if sounds("三七")[at] != symbol}  # fmt: skip
    assert spliced("山溪", "三七", ["山溪"], doubts=doubts) == "三七"
    assert spliced("山溪", "三七", ["山溪"], gain=1e-9, doubts={}) == "山溪"


@pytest.mark.parametrize("hints", [["山" * 90], ["!?"], []])
def test_hints_that_fit_nowhere_change_nothing(hints):
    assert spliced("打开天窗", "打开窗", hints) == "打开窗"


def test_an_empty_text_and_an_utterance_without_sound():
    assert HintSplice().hypotheses(Utterance(0, 0.0, INVENTORY, hints=["外滩"]), [Candidate("", 0.0)])[0].text == ""
    found = HintSplice().hypotheses(Utterance(0, 0.0, INVENTORY, hints=["外滩"]), [Candidate("去那里", 0.0)])
    assert found[0].text == "去那里"


def test_places_are_those_of_the_text_as_it_is_written():
    text = "Navigate to 外滩, Li's!"
    assert [text[start:end] for _, start, end in places(text)] == ["Navigate", "to", "外", "滩", "Li's"]
    assert replaced(text, 9, 11, "von") == "Navigate von 外滩, Li's!"
    assert replaced("ab去cd", 2, 3, "x") == "ab x cd"
    assert replaced("ab去cd", 2, 3, "来") == "ab来cd"
    assert places("İ x") == []  # lower case has another length
