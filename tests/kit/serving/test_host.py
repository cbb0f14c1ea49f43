"""Sessions under numbers: the same as a session alone, fair, and each with its own faults."""

import time

import numpy as np
import pytest
import torch
from streams import engine, listener, noise

from kit.decoding.callbacks import DecodingCallback
from kit.decoding.events import as_dict
from kit.decoding.hotwords import ExactHotwords
from kit.serving.host import END, FLUSH, PIECE, Host, Late, Options

HOTWORDS = "+decoding.callbacks.hotwords._target_=kit.decoding.hotwords.ExactHotwords"


@pytest.fixture(scope="module")
def model():
    return listener()


def host(model, *overrides, **options):
    return Host(
        engine(*overrides, model=model, sessions=4),
        engine("decoding.chunk=0", "decoding.left=-1", model=model),
        **options,
    )


def pcm(samples):
    return (samples.numpy() * 32767).astype("<i2").tobytes()


def run(machine, until=lambda: False):
    """Turns until nothing is left to do: what was said of each stream, and how often a turn took audio of it."""
    said, turns = {}, {}
    deadline = time.monotonic() + 100
    while (machine.busy or machine.expecting) and not until():
        assert time.monotonic() < deadline
        if not machine.busy:
            time.sleep(0.001)
            continue
        turn = machine.turn()
        for one in turn.said:
            said.setdefault(one.stream, []).append(one)
        for number in turn.taken:
            turns[number] = turns.get(number, 0) + 1
    return said, turns


def contents(said):
    return [one.content for one in said]


def alone(model, samples, **options):
    """What one session makes of it."""
    session = engine(model=model).session()
    heard = torch.from_numpy(np.frombuffer(pcm(samples), "<i2").astype(np.float32) / 32768)
    found = []
    for block in heard.split(PIECE):
        found += session.push(block)
    return [as_dict(event) for event in found + session.finish()]


def test_streams_say_what_sessions_say_however_the_audio_comes(model):
    machine = host(model)
    audio = [noise(seconds, seed) for seed, seconds in enumerate([1.0, 3.1, 2.2, 0.4])]
    for number, samples in enumerate(audio):
        machine.open(number, Options())
        message = pcm(samples)
        for at in range(0, len(message), 7001):
            machine.put(number, message[at : at + 7001])
        machine.ask(number, END)
    said, _ = run(machine)
    for number, samples in enumerate(audio):
        first, *middle, last = contents(said[number])
        assert first == {"event": "ready", "added": [], "rejected": []}
        assert last == {"event": "ended", "time": round(len(samples) / 16000, 3), "utterances": 1}
        assert middle == alone(model, samples)
        assert [one.last for one in said[number]] == [False] * (len(middle) + 1) + [True]
        assert all((one.latency is not None) == (one.content["event"] in ("partial", "final")) for one in said[number])
    assert not machine.busy and not machine._streams
    assert len(machine.engine._free) == 4


def test_a_flush_ends_an_utterance_and_the_stream_goes_on(model):
    machine = host(model)
    machine.open(1, Options())
    for _ in range(2):
        machine.put(1, pcm(noise(1.5)))
        machine.ask(1, FLUSH)
    machine.ask(1, FLUSH)  # nothing was said since
    machine.ask(1, END)
    said = contents(run(machine)[0][1])
    finals = [one for one in said if one["event"] == "final"]
    assert [(one["utterance"], one["start"], one["end"]) for one in finals] == [(0, 0.0, 1.5), (1, 1.5, 3.0)]
    kinds = [one["event"] for one in said if one["event"] not in ("began", "partial")]
    assert kinds == ["ready", "final", "flushed", "final", "flushed", "flushed", "ended"]


def test_whoever_brings_much_at_once_waits_for_himself_only(model):
    machine = host(model)
    for number in (1, 2):
        machine.open(number, Options())
    machine.put(1, pcm(noise(20.0)))
    machine.put(2, pcm(noise(1.28, 1)))
    machine.ask(2, END)
    ended = []

    def over():
        ended.append(2 not in machine._streams)
        return ended[-1]

    run(machine, over)
    assert machine._streams[1].session.heard / 16000 < 4


def test_partials_can_be_left_out(model):
    machine = host(model)
    machine.open(1, Options(partials=False))
    machine.put(1, pcm(noise(3.0)))
    machine.ask(1, END)
    said = contents(run(machine)[0][1])
    assert [one["event"] for one in said] == ["ready", "began", "final", "ended"]
    assert said[2] == alone(model, noise(3.0))[-1]


def test_whole_utterances_are_recognized_as_offline(model):
    machine = host(model)
    machine.open(1, Options(whole=True))
    machine.put(1, pcm(noise(3.0)))
    machine.ask(1, END)
    said = contents(run(machine)[0][1])
    session = engine("decoding.chunk=0", "decoding.left=-1", model=model).session()
    session.feed(torch.from_numpy(np.frombuffer(pcm(noise(3.0)), "<i2").astype(np.float32) / 32768))
    assert [one["text"] for one in said if one["event"] == "final"] == [session.finish()[-1].text]


def test_hotwords_come_go_and_are_bounded(model):
    machine = host(model, HOTWORDS, most_hotwords=2)
    machine.open(1, Options(hotwords=["外滩", "β"]))
    said = contents(run(machine)[0][1])
    assert said[0]["added"] == ["外滩"] and said[0]["rejected"][0]["text"] == "β"
    own = next(one for one in machine._streams[1].session.callbacks if isinstance(one, ExactHotwords)).own
    machine.change(1, ["天安门", "上海", "外滩"], [])
    (answer,) = contents(run(machine)[0][1])
    assert answer["event"] == "hotwords" and answer["added"] == ["天安门", "外滩"]
    assert answer["rejected"] == [{"text": "上海", "reason": "a stream may have 2 hotwords"}]
    machine.change(1, ["上海"], ["天安门"])
    assert contents(run(machine)[0][1])[0]["added"] == ["上海"]
    assert {entry.text for entry, _ in own._names.values()} == {"外滩", "上海"}
    machine.change(1, ["x" * 101, "", "\0"], [])
    assert len(contents(run(machine)[0][1])[0]["rejected"]) == 3


def test_without_retrieval_hotwords_are_refused_with_a_reason(model):
    machine = host(model)
    machine.open(1, Options(hotwords=["外滩"]))
    (answer,) = run(machine)[0][1]
    assert answer.last and answer.content["code"] == "unsupported" and "retrieval" in answer.content["message"]


class Failing(DecodingCallback):
    def chunk(self, utterance):
        raise RuntimeError("secret")


class Torn(DecodingCallback):
    def segment(self, samples, start, final):
        raise RuntimeError("secret")


def test_faults_stay_with_their_stream(model):
    machine = host(model)
    for number in (1, 2, 3, 4):
        machine.open(number, Options(format="ogg" if number == 3 else "pcm16"))
    machine._streams[1].session.callbacks.append(Failing())
    machine._streams[2].session.callbacks.append(Torn())
    machine.put(3, b"no ogg at all")
    for number in (1, 2, 4):
        machine.put(number, pcm(noise(1.0)))
    for number in (1, 2, 3, 4):
        machine.ask(number, END)
    said, _ = run(machine)
    assert "utterance_lost" in [one.content.get("code") for one in said[1]]
    assert said[1][-1].content["event"] == "ended"
    assert said[2][-1].content["code"] == "internal" and said[2][-1].last
    assert said[3][-1].content["code"] == "bad_audio" and said[3][-1].last
    assert contents(said[4])[1:-1] == alone(model, noise(1.0))
    assert "secret" not in str(said)
    assert not machine._streams and len(machine.engine._free) == 4


def test_what_comes_for_a_stream_that_is_no_more_is_left_out(model):
    machine = host(model)
    machine.open(1, Options())
    machine.put(1, pcm(noise(1.0)))
    machine.drop(1)
    machine.put(1, pcm(noise(1.0)))
    machine.ask(1, END)
    machine.change(1, ["外滩"], [])
    machine.drop(1)
    assert run(machine)[0] == {}
    machine.close()


def test_late_is_a_mean_over_time():
    late = Late()
    now = late._at
    for _ in range(100):  # half of the time in turns of 0.2 s
        late.add(now, now + 0.2)
        now += 0.4
    assert late._value == pytest.approx(0.1, rel=0.05)
