"""A session is exact however its audio is cut, forgets what it should, and survives what it is given."""

import math
from itertools import pairwise

import pytest
import torch
from small import TEXTS, small_config
from streams import engine, finals, noise, partials, pushed, recognizer

from kit.audio.features import LogMel
from kit.audio.reading import AudioError
from kit.decoding.callbacks import DecodingCallback
from kit.decoding.decoder import Decoder
from kit.decoding.engine import Engine
from kit.decoding.offline import recognize
from kit.errors import KitError, UsageError
from kit.model.subsampling import output_length
from kit.text.tokens import train_tokenizer


@pytest.fixture(scope="module")
def model():
    return recognizer()


def offline(model, samples, *overrides):
    features = LogMel()(samples)
    plain = ["decoding.beam=1", "decoding.callbacks.veto=null"]
    config = small_config("decoding=chunked", "decoding.max_tokens=8", *plain, *overrides)
    return recognize(model, features[None], torch.tensor([len(features)]), config.decoding)[0]


# 64 feature frames make a chunk, 160 samples a frame: every remainder of samples, frames and stacks occurs
@pytest.mark.parametrize("size", [401, 1600, 10240, 10719, 10720, 10721, 20000, 30800, 31039, 41360, 53333])
def test_the_final_text_is_that_of_one_pass_under_the_chunk_mask(model, size):
    samples = noise(1, seed=size).repeat(4)[:size]
    session = engine(model=model).session()
    (final,) = finals(pushed(session, samples, seed=size))
    assert final.text == offline(model, samples).text
    assert final.end == pytest.approx(size / 16000)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_beam_search_and_veto_judge_alike_in_a_stream_and_in_one_pass(model, weight):
    veto = f"{{_target_: kit.decoding.verification.PhonemeVeto, limit: 1e9, weight: {weight}, trust: -1e9}}"
    judged = ["decoding.beam=3", f"decoding.callbacks.veto={veto}"]
    texts = set()
    for seed in range(4):
        samples = noise(1.9, seed)
        (final,) = finals(pushed(engine(*judged, model=model).session(), samples, seed))
        assert final.text == offline(model, samples, *judged).text
        texts.add((final.text, offline(model, samples).text))
    assert any(one != greedy for one, greedy in texts)


@pytest.mark.parametrize("seed", range(6))
def test_random_pushes_give_the_same_events(model, seed):
    samples = noise(3.7, seed)
    session = engine(model=model).session()
    whole = session.push(samples) + session.finish()
    pieces = pushed(session, samples, seed)
    assert [event.text for event in finals(pieces)] == [event.text for event in finals(whole)]
    assert [(e.text, e.stable) for e in partials(pieces)] == [(e.text, e.stable) for e in partials(whole)]


@pytest.mark.parametrize("chunk", [6, 16])
def test_nothing_is_computed_twice(model, chunk):
    machine = engine(f"decoding.chunk={chunk}", model=model)
    samples = noise(5.3)
    pushed(machine.session(), samples, seed=1)
    frames = output_length(len(LogMel()(samples)))
    assert machine.encoded == frames
    assert machine.decoder.speech_read == -(-frames // 4)


def test_the_whole_pass_is_a_session_with_one_chunk(model):
    samples = noise(2.9)
    session = engine("decoding.chunk=0", "decoding.left=-1", model=model).session()
    events = pushed(session, samples, seed=2)
    assert not partials(events)
    assert finals(events)[0].text == offline(model, samples, "decoding.chunk=0", "decoding.left=-1").text


def test_all_left_chunks_can_stay_visible(model):
    samples = noise(8)
    session = engine("decoding.chunk=8", "decoding.left=-1", model=model).session()
    (final,) = finals(pushed(session, samples, seed=2))
    assert final.text == offline(model, samples, "decoding.chunk=8", "decoding.left=-1").text


def test_partial_texts_begin_with_what_was_settled(model):
    samples = noise(9, seed=3)
    events = partials(pushed(engine(model=model).session(), samples, seed=3))
    assert len(events) > 5
    assert any(event.stable for event in events)
    for one, other in pairwise(events):
        assert other.text[: one.stable] == one.text[: one.stable]
        assert other.stable >= one.stable
    assert all(event.stable == 0 for event in events if event.time <= 2 * 0.64)


def test_drafts_change_nothing(model):
    class Undrafted(Decoder):
        def run(self, works):
            for work in works:
                work.draft = ()
            return super().run(works)

    samples = noise(7, seed=5)
    one, other = engine(model=model), engine(model=model)
    other.decoder = Undrafted(model, 1, 8)
    with_drafts, without = (pushed(machine.session(), samples, seed=1) for machine in (one, other))
    assert with_drafts == without
    assert partials(with_drafts)


def test_utterances_do_not_meet(model):
    """The same audio gives the same text after anything else, after a reset, and in another session."""
    samples, others = noise(2.2, seed=1), noise(3.1, seed=2)
    machine = engine(model=model)
    session = machine.session()
    (alone,) = finals(pushed(session, samples, seed=1))
    pushed(session, others, seed=2)
    assert finals(pushed(session, samples, seed=3))[0].text == alone.text
    session.push(others)
    session.reset()
    assert session.take() == []
    assert finals(pushed(session, samples, seed=4))[0].text == alone.text
    session.push(others)
    session.close()
    assert finals(pushed(machine.session(), samples, seed=5))[0].text == alone.text


def test_silence_after_speech_does_not_bring_the_speech_back(model):
    samples = noise(2.5, seed=1)
    machine = engine(model=model)
    silent = finals(pushed(machine.session(), torch.zeros(32000), seed=1))[0].text
    session = machine.session()
    (spoken,) = finals(pushed(session, samples, seed=1))
    assert spoken.text != silent
    assert finals(pushed(session, torch.zeros(32000), seed=1))[0].text == silent


def test_nothing_said_gives_nothing(model):
    session = engine(model=model).session()
    assert session.finish() == []
    (final,) = finals(session.push(noise(0.02)) + session.finish())  # less than one window
    assert final.text == ""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([0.1, math.nan]), "NaN or infinite"),
        (torch.tensor([0.1, math.inf]), "NaN or infinite"),
        (torch.tensor([100, 200], dtype=torch.int16), "not torch.int16; divide int16 by 32768"),
        (torch.tensor([3000.0]), "as large as 3000; scale them"),
        (torch.zeros(2, 100), r"one channel, not \(2, 100\)"),
        (torch.zeros(0), "no samples were pushed"),
        ([0.1, 0.2], "not list"),
    ],
)
def test_a_bad_push_is_named_and_the_session_goes_on(model, bad, message):
    samples = noise(2.5, seed=1)
    machine = engine(model=model)
    expected = finals(pushed(machine.session(), samples, seed=1))
    session = machine.session()
    session.push(samples[:12345])
    with pytest.raises(AudioError, match=message):
        session.push(bad)
    assert finals(session.push(samples[12345:]) + session.finish()) == expected


@pytest.mark.parametrize("count", [3, 7])
def test_many_streams_get_what_each_gets_alone(model, count):
    streams = [noise(1 + 0.7 * index, seed=index) for index in range(count)]
    alone = [pushed(engine(model=model).session(), samples, seed=1) for samples in streams]
    machine = engine(model=model, sessions=2)  # it grows
    sessions = [machine.session() for _ in streams]
    found = [[] for _ in streams]
    at, draw = [0] * count, torch.Generator().manual_seed(count)
    while any(place < len(samples) for place, samples in zip(at, streams, strict=True)):
        for index, (session, samples) in enumerate(zip(sessions, streams, strict=True)):
            size = int(torch.randint(0, 16000, (), generator=draw))
            if size and at[index] < len(samples):
                session.feed(samples[at[index] : at[index] + size])
                at[index] += size
                if at[index] >= len(samples):
                    session.end()
        while machine.step():
            pass
        for index, session in enumerate(sessions):
            found[index] += session.take()
    for events, expected in zip(found, alone, strict=True):
        assert [event.text for event in finals(events)] == [event.text for event in finals(expected)]


@pytest.mark.parametrize("hook", ["start", "chunk", "hints", "partial", "final"])
def test_a_callback_that_fails_takes_no_other_stream_along(model, hook):
    class Failing(DecodingCallback):
        calls = 0

    def fail(self, utterance, *rest):
        Failing.calls += 1
        if Failing.calls == 1:
            raise RuntimeError("my mistake")
        return getattr(DecodingCallback, hook)(self, utterance, *rest)

    setattr(Failing, hook, fail)
    streams = [noise(3, seed=1), noise(3, seed=2)]
    alone = [finals(pushed(engine(model=model).session(), samples, seed=1))[0].text for samples in streams]
    machine = engine(model=model, sessions=2)
    sessions = [machine.session() for _ in streams]
    sessions[0].callbacks.append(Failing())
    for session, samples in zip(sessions, streams, strict=True):
        session.feed(samples)
        session.end()
    while machine.step():
        pass
    assert finals(sessions[1].take())[0].text == alone[1]
    with pytest.raises(RuntimeError, match="my mistake"):
        sessions[0].take()
    assert finals(sessions[0].take()) == []
    sessions[0].reset()
    assert finals(pushed(sessions[0], streams[0], seed=2))[0].text == alone[0]


def test_streams_are_served_in_turn(model):
    """With room for two at a time, nobody is served twice before everybody was served once."""
    machine = engine("decoding.partials=false", model=model, sessions=5, max_batch=2)
    sessions = [machine.session() for _ in range(5)]
    for session in sessions:
        session.feed(noise(4))
    order = []
    serve = machine._serve

    def watched(jobs):
        order.extend(sessions.index(job.session) for job in jobs)
        serve(jobs)

    machine._serve = watched
    while machine.step():
        pass
    for first in range(0, len(order), 5):
        assert len(set(order[first : first + 5])) == len(order[first : first + 5])


def test_long_speech_becomes_several_utterances(model):
    samples = noise(5)
    session = engine("decoding.max_seconds=2", model=model).session()
    events = finals(pushed(session, samples, seed=1))
    assert [(event.start, event.end) for event in events] == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    assert events[1].text == offline(model, samples[32000:64000]).text
    assert [event.utterance for event in events] == [0, 1, 2]


def test_memory_does_not_grow_with_the_stream(model):
    """Six minutes in utterances of at most four seconds, by the sizes of all that is kept."""
    machine = engine("decoding.max_seconds=4", "decoding.partials=false", model=model)
    session = machine.session()

    def kept():
        now = session._now
        held = [now.waiting, now.frames, session._features._waiting, *now.utterance.log_probs]
        held += machine._cache.past + [m.keys for m in machine._cache.memory] + machine.decoder.cache.keys
        return sum(x.numel() for x in held) + len(session._inbox) + len(session._events)

    sizes = []
    for push in range(60):
        session.push(noise(6, seed=push % 3))  # the sizes repeat after two utterances
        sizes.append(kept())
    assert max(sizes[30:]) <= max(sizes[:30])


def test_a_rollback_never_cuts_a_character():
    model = recognizer()
    tokenizer = model.tokenizer = train_tokenizer(["a"] * 3, 262)  # every Han character is three tokens
    session = engine(model=model).session()
    text = "打开天窗"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 12
    for rollback in range(13):
        kept = tokenizer.decode(session._cut(ids, text, rollback))
        assert text.startswith(kept)
        assert len(kept) == (12 - rollback) // 3


def test_hints_of_configuration_and_callbacks_stand_in_the_prompt(model):
    class Told(DecodingCallback):
        def hints(self, utterance):
            return ["外滩", TEXTS[0]]

    machine = engine(f"decoding.hints=['{TEXTS[0]}']", model=model)
    session = machine.session()
    session.callbacks.append(Told())
    seen = []
    run = machine.decoder.run

    def watched(works):
        seen.extend(work.tail for work in works if work.tail)
        return run(works)

    machine.decoder.run = watched
    pushed(session, noise(1), seed=1)
    assert seen[-1] == model.prompt.suffix_ids(model.tokenizer, [TEXTS[0], "外滩"])


def test_half_precision_streams_too():
    machine = engine(model=recognizer().to(torch.bfloat16))
    events = pushed(machine.session(), noise(3.1), seed=1)
    assert finals(events)[0].text
    assert machine._cache.memory[0].keys.dtype == machine.decoder.cache.keys[0].dtype == torch.bfloat16


def test_a_closed_session_is_closed(model):
    machine = engine(model=model, sessions=2)
    first = machine.session()
    first.close()
    first.close()  # its place must not be given away twice
    assert len({machine.session().slot for _ in range(4)}) == 4
    for use in (lambda: first.push(noise(1)), first.finish, first.reset):
        with pytest.raises(KitError, match="this session is closed"):
            use()


def test_wrong_callbacks_are_named(model):
    with pytest.raises(UsageError, match=r"decoding.callbacks.gate cannot be made: .*unexpected.*'phonems'"):
        engine("decoding.callbacks.gate={_target_: kit.decoding.verification.PhonemeGate, phonems: 3}").session()
    with pytest.raises(UsageError, match="decoding.callbacks.endpoint cannot be made: endpoints need"):
        engine("decoding.callbacks.endpoint={_target_: kit.decoding.endpointing.Endpointing, end: 0.9}").session()
    with pytest.raises(UsageError, match="decoding.max_seconds must be at least 1, got 0"):
        engine("decoding.max_seconds=0")
    with pytest.raises(UsageError, match=r"decoding.callbacks.gate._target_=.*has no Gates; did you mean"):
        engine("decoding.callbacks.gate={_target_: kit.decoding.verification.Gates}", model=model).session()
    with pytest.raises(KitError, match="the export has no adaptor and no llm"):
        from small import small_recognizer

        Engine(small_recognizer(("encoder", "phoneme_head")), small_config().decoding)
