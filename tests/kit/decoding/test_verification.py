import pytest
import torch

from kit.decoding.alignment import spell
from kit.decoding.callbacks import Candidate, Utterance
from kit.decoding.events import Final, Hotword, Partial, Word, to_json
from kit.decoding.timing import Timing
from kit.decoding.verification import PhonemeGate, PhonemeTrim, PhonemeVeto
from kit.text.phonemes import PhonemeInventory

INVENTORY = PhonemeInventory.default()


def said(text):
    """An utterance in which a text was clearly said, two frames a phoneme and one of blank after each."""
    utterance = Utterance(0, 1.0, INVENTORY)
    _, ids, _ = spell(text, INVENTORY)
    log_probs = torch.full((3 * len(ids), len(INVENTORY)), -12.0)
    for index, phoneme in enumerate(ids):
        log_probs[3 * index : 3 * index + 2, phoneme] = 0.0
        log_probs[3 * index + 2, 0] = 0.0
    utterance.log_probs, utterance.phonemes = list(log_probs.split(16)), ids
    return utterance


def test_the_gate_waits_for_phonemes():
    utterance = said("打开天窗")
    assert PhonemeGate(3).expects_text(utterance)
    utterance.phonemes = utterance.phonemes[:2]
    assert not PhonemeGate(3).expects_text(utterance)


def test_the_veto_drops_what_was_not_said_and_prefers_what_was():
    utterance = said("打开天窗")
    veto = PhonemeVeto(limit=5.0, weight=0.3)
    offered = [Candidate("关闭天窗", -0.1), Candidate("打开天窗", -0.4), Candidate("turn on the radio", -0.2)]
    kept = veto.hypotheses(utterance, offered)
    assert kept[0].text == "打开天窗"
    assert "turn on the radio" not in [one.text for one in kept]
    assert veto.hypotheses(utterance, offered[2:]) == []
    assert veto.trusts(utterance, offered[1])
    assert not veto.trusts(utterance, offered[0])


def test_the_trim_tells_what_was_heard():
    utterance = said("打开天")
    assert PhonemeTrim().partial(utterance, "打开天窗和空调") == "打开天"


def test_timing_places_words_in_the_stream():
    utterance = said("打开天窗")
    event = Timing().final(utterance, Final(0, 3.0, "打开天窗", 1.0, 3.0))
    assert [word.text for word in event.words] == list("打开天窗")
    assert event.words[0].start == pytest.approx(1.0)
    assert event.words[1].start == pytest.approx(1.0 + 6 * 0.04)
    assert Timing().final(utterance, Final(0, 3.0, "", 1.0, 3.0)).words == []


def test_events_as_json():
    final = Final(2, 3.14159, "去外滩", 1.0, 3.0, [Word("去", 1.23456, 2.0)])
    assert to_json(final) == (
        '{"event": "final", "utterance": 2, "time": 3.142, "text": "去外滩", "start": 1.0, "end": 3.0, '
        '"words": [{"text": "去", "start": 1.235, "end": 2.0}]}'
    )
    assert to_json(Partial(0, 1.0, "a", 0)).startswith('{"event": "partial"')
    assert to_json(Hotword(0, 1.0, "a")).startswith('{"event": "hotword"')
