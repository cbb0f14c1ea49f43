"""Recordings in batches say what each says alone, whatever its neighbors."""

import pytest
import torch
from small import small_config
from streams import noise, recognizer

from kit.decoding.batches import Batches, Piece, Transcript, in_batches
from kit.decoding.callbacks import DecodingCallback
from kit.decoding.engine import Engine


@pytest.fixture(scope="module")
def model():
    return recognizer()


def batches(model, seconds, *overrides):
    plain = ["decoding.max_tokens=6", "decoding.beam=1", "decoding.callbacks.veto=null"]
    config = small_config(*overrides, *plain).decoding
    return Batches(Engine(model, config), seconds)


def recordings(*seconds):
    return [noise(length, seed) for seed, length in enumerate(seconds)]


def all_of(machine, samples):
    return dict(one for ready in machine.transcribe(samples) for one in ready)


@pytest.mark.parametrize("decoding", ["offline", "chunked"])
def test_batches_change_no_text(model, decoding):
    samples = recordings(1.2, 0.4, 2.9, 0.7, 1.1, 2.2)
    machine = batches(model, 6, f"decoding={decoding}")
    together, again = all_of(machine, samples), all_of(machine, samples)
    alone = [all_of(batches(model, 1, f"decoding={decoding}"), [one])[0] for one in samples]
    assert [together[number].text for number in range(6)] == [one.text for one in alone]
    assert {number: one.text for number, one in again.items()} == {n: one.text for n, one in together.items()}
    assert len({one.text for one in alone}) > 1


def test_long_recordings_are_cut_and_timed_from_their_beginning(model, monkeypatch):
    from kit.decoding import batches as module
    from kit.decoding.callbacks import END, Speech

    long, short = recordings(9, 1)

    class Pauses:
        def segment(self, samples, start, final):
            assert start == 0 and final
            return [Speech(samples[16000:32000], 16000), END, Speech(samples[40000:], 40000), END]

    monkeypatch.setattr(module, "Endpointing", Pauses)
    machine = batches(
        model, 4, "decoding.max_seconds=5", "+decoding.callbacks.timing._target_=kit.decoding.timing.Timing"
    )
    found = all_of(machine, [long, short, torch.zeros(800)])
    spans = [(one.start, one.end) for one in found[0].utterances]
    assert spans == [(1.0, 2.0), (2.5, 7.5), (7.5, 9.0)]
    assert any(one.words for one in found[0].utterances)
    for one in found[0].utterances:
        assert all(one.start <= word.start <= word.end <= one.end + 0.1 for word in one.words)
    assert [(one.start, one.end) for one in found[1].utterances] == [(0.0, 1.0)]
    pieces = all_of(batches(model, 4), [long[16000:32000], long[40000:120000], long[120000:]])
    assert found[0].text == " ".join(pieces[number].text for number in range(3) if pieces[number].text)


def test_a_long_silence_is_no_text(model):
    found = all_of(batches(model, 4, "decoding.max_seconds=2"), [torch.zeros(80000), *recordings(1)])
    assert found[0] == Transcript([]) and found[0].text == ""
    assert found[1].utterances


def test_a_callback_that_fails_costs_its_own_recording(model):
    class Allergic(DecodingCallback):
        def chunk(self, utterance):
            if utterance.frames < 20:
                raise ZeroDivisionError("too short for me")
            return ()

    samples = recordings(1.2, 0.4, 1.4)
    expected = all_of(batches(model, 9), samples)
    machine = batches(model, 9)
    machine.engine.session().close()
    opened = machine.engine.session
    machine._sessions[0].callbacks.append(Allergic())

    def session():
        made = opened()
        made.callbacks.append(Allergic())
        return made

    machine.engine.session = session
    for _ in range(2):
        found = all_of(machine, samples)
        assert isinstance(found[1], ZeroDivisionError)
        assert [found[number].text for number in (0, 2)] == [expected[number].text for number in (0, 2)]


def test_batches_have_so_many_seconds_with_padding():
    torch.manual_seed(0)
    sizes = torch.randint(1, 16000 * 9, (200,)).tolist()
    pieces = [Piece(number, torch.zeros(size)) for number, size in enumerate(sizes)]
    made = list(in_batches(pieces, 20, 12))
    assert sorted(piece.recording for batch in made for piece in batch) == list(range(200))
    assert all(len(batch) * max(len(piece.samples) for piece in batch) <= 20 * 16000 for batch in made)
    assert all(len(batch) <= 12 for batch in made) and any(len(batch) == 12 for batch in made)
    assert [len(one) for one in in_batches([Piece(0, torch.zeros(99999)), Piece(1, torch.zeros(9))], 1, 9)] == [1, 1]
    assert list(in_batches([], 20, 12)) == []
