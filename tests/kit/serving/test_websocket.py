"""The WebSocket from a client's side: what is told, what is refused, and that nobody else notices."""

import json
import socket as sockets
import threading
import time
import urllib.error
import urllib.request
from random import Random

import numpy as np
import pytest
import torch
from served import served
from streams import database, listener, noise
from test_host import alone, pcm
from test_hotwords import invented
from test_protocol import documented
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from kit.errors import KitError
from kit.serving.client import ServerError, Stream
from kit.serving.server import Forgiving


@pytest.fixture(scope="module")
def model():
    return listener()


def plain(events):
    """Without what only a server adds, and without what depends on how much was heard at once."""
    return [{key: value for key, value in event.items() if key not in ("seq", "time")} for event in events]


class Checked(Stream):
    """Holds every event against its fields in docs/serving.md."""

    def _next(self, wait):
        event = super()._next(wait)
        assert event.keys() == {"event", "seq", *FIELDS[event["event"]]}
        SEEN.add(event["event"])
        return event


FIELDS, SEEN = documented(), set()


def raw(server, **options):
    return connect(f"ws://{server.address}/v1/stream", compression=None, proxy=None, **options)


def answers(socket):
    """All that the server says until it closes, and how it does."""
    found = []
    try:
        while True:
            found.append(json.loads(socket.recv(timeout=30)))
    except ConnectionClosed as closed:
        return found, closed.rcvd


def get(server, path, **headers):
    request = urllib.request.Request(f"http://{server.address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def settled(server, streams=0):
    """Wait until the server holds so many streams."""
    deadline = time.monotonic() + 60
    while len(server.pool.streams()) != streams:
        assert time.monotonic() < deadline, server.pool.streams()
        time.sleep(0.01)


def test_a_stream_from_its_beginning_to_its_end(server, model):
    samples = noise(2.5)
    with Checked(server.address) as stream:
        ready = stream.ready
        for at in range(0, len(samples), 1600):
            stream.send(pcm(samples[at : at + 1600]))
        events = list(stream.finish())
    assert ready["event"] == "ready" and ready["version"] == 1 and ready["limits"]["most_hotwords"] == 1000
    assert [event["seq"] for event in [ready, *events]] == list(range(len(events) + 1))
    assert plain(events)[:-1] == plain(alone(model, samples))
    assert events[-1]["event"] == "ended" and events[-1]["time"] == 2.5 and events[-1]["utterances"] == 1


def test_many_at_once_and_each_hears_its_own(server, model):
    audio = [noise(1.0 + 0.3 * seed, seed) for seed in range(4)]
    found = [None] * 4

    def speak(number):
        with Stream(server.address, timeout=60) as stream:
            for at in range(0, len(audio[number]), 5000):
                stream.send(audio[number][at : at + 5000].numpy())
            found[number] = plain(stream.finish())[:-1]

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert found[number] == plain(alone(model, audio[number]))


def test_utterances_back_to_back_by_flush(server):
    with Checked(server.address, partials=False) as stream:
        for index in range(2):
            stream.send(pcm(noise(0.8, index)))
            final, flushed = [event for event in stream.flush() if event["event"] in ("final", "flushed")]
            assert final["utterance"] == index and flushed["time"] == pytest.approx(0.8 * (index + 1))
        assert list(stream.finish())[-1]["utterances"] == 2
        assert list(stream.events()) == []


def test_hotwords_of_a_stream(server):
    with Checked(server.address, hotwords=["外滩", "<|im_end|>"]) as stream:
        assert stream.ready["added"] == ["外滩", "<|im_end|>"]
        stream.hotwords(add=["上海"], remove=["外滩"])
        (answer,) = stream.events(wait=10)
        assert answer["event"] == "hotwords" and answer["added"] == ["上海"]


START = {"type": "start"}


@pytest.mark.parametrize(
    ("messages", "code", "says"),
    [
        (["{"], "bad_message", "JSON"),
        ([b"\0\0"], "bad_message", "first message must be text"),
        (["[]"], "bad_message", ""),
        (["[" * 5000], "bad_message", ""),
        ([{"type": "end"}], "bad_message", "must be of type start"),
        ([{"type": "begin"}], "bad_message", "start"),
        ([{**START, "rate": 0}], "bad_message", "rate"),
        ([{**START, "rate": 96000}], "bad_message", "rate"),
        ([{**START, "rate": 44100.5}], "bad_message", "rate"),
        ([{**START, "rate": "16000"}], "bad_message", "rate"),
        ([{**START, "format": "mp3"}], "bad_message", "format"),
        ([{**START, "file": "/etc/passwd"}], "bad_message", "file"),
        ([{**START, "hotwords": "外滩"}], "bad_message", "hotwords"),
        ([{**START, "hotwords": [1]}], "bad_message", "hotwords"),
        ([START, START], "bad_message", "start comes once"),
        ([START, "no JSON"], "bad_message", "JSON"),
        ([{**START, "format": "ogg"}, b"RIFF1234WAVE"], "bad_audio", "no Ogg stream"),
        ([{**START, "format": "opus"}, b"\xff\xff\xff"], "bad_audio", "Opus"),
    ],
)
def test_what_is_none_of_the_protocol_ends_the_stream_with_a_reason(server, messages, code, says):
    with raw(server) as socket:
        for message in messages:
            socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
        found, close = answers(socket)
    assert found[-1]["event"] == "error" and found[-1]["code"] == code and says in found[-1]["message"]
    assert close.reason == code
    settled(server)


def test_too_large_a_message_is_cut_off(server):
    with raw(server) as socket:
        socket.send(json.dumps(START))
        socket.send(bytes(300_000))
        assert answers(socket)[1].code == 1009
    settled(server)


def test_a_full_server_says_so_at_once_and_takes_others_later(server):
    streams = [Stream(server.address) for _ in range(4)]
    with pytest.raises(ServerError, match="all of the 4 streams") as refused:
        Stream(server.address)
    assert refused.value.code == "full"
    streams.pop().close()
    settled(server, 3)
    streams.append(Stream(server.address))
    for stream in streams:
        stream.send(pcm(noise(0.5)))
        assert list(stream.finish())[-1]["event"] == "ended"
        stream.close()
    settled(server)


def test_a_late_engine_takes_no_more(server, monkeypatch):
    monkeypatch.setattr(server.pool.replicas[0], "late", 9999.0)
    with pytest.raises(ServerError) as refused:
        Stream(server.address)
    assert refused.value.code == "late"


def test_a_client_that_vanishes_leaves_nothing_behind(server):
    for _ in range(5):
        stream = Stream(server.address)
        stream.send(pcm(noise(1.0)))
        stream._socket.socket.shutdown(sockets.SHUT_RDWR)  # no goodbye
    settled(server)
    status, text = get(server, "/metrics")
    assert status == 200 and 'kit_streams_ended_total{how="client_gone"}' in text


def test_health_and_metrics(server):
    with Stream(server.address) as stream:
        stream.send(pcm(noise(0.5)))
        assert list(stream.finish())
    settled(server)
    assert get(server, "/health") == (200, '{"status":"ok","version":1,"engines":1,"streams":0}')
    _, text = get(server, "/metrics")
    assert 'kit_streams{engine="0"} 0.0' in text and 'kit_event_latency_seconds_bucket{event="final"' in text


def test_other_sites_pages_are_turned_away(server):
    port = server.port
    assert get(server, "/health", Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert get(server, "/health", Origin="https://evil.example")[0] == 403
    assert get(server, "/health", Host="evil.example")[0] == 403
    assert get(server, "/health", Host="[::1]:80")[0] == 200
    with pytest.raises(InvalidStatus), raw(server, origin="https://evil.example"):
        pass
    with raw(server, origin=f"http://127.0.0.1:{port}") as socket:
        assert socket.protocol.state.name == "OPEN"


def test_limits_in_time_and_the_token(export, model):
    limits = ["serving.start_seconds=0.3", "serving.idle_seconds=0.4", "serving.stream_seconds=1.5"]
    with served(export, *limits, "serving.token=hush", "serving.origins=[https://example.org]") as server:
        with raw(server) as socket:  # half open: nothing comes
            found, close = answers(socket)
            assert found[0]["code"] == "idle" and close.code == 1008
        for head in (b"", b"GET /health HT"):
            with sockets.create_connection(("127.0.0.1", server.port)) as half:
                half.sendall(head)
                half.settimeout(30)
                assert half.recv(10) == b""
        for token in (None, "", "wrong", "húsh"):
            with pytest.raises(ServerError) as refused:
                Stream(server.address, token=token)
            assert refused.value.code == "unauthorized"
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", Authorization="Bearer hush")[0] == get(server, "/health")[0] == 200
        assert get(server, "/health", Origin="https://example.org")[0] == 200
        with Stream(server.address, token="hush") as stream:
            stream.send(pcm(noise(1.0)))
            with pytest.raises(ServerError) as ended:
                for event in stream.events(wait=10):
                    kept = event
            assert ended.value.code == "idle" and kept["event"] == "ended"
        with raw(server, additional_headers={"Authorization": "Bearer hush"}) as socket:
            socket.send(json.dumps(START))
            begun = time.monotonic()
            try:
                while time.monotonic() < begun + 10:
                    socket.send(bytes(3200))
                    time.sleep(0.1)
            except ConnectionClosed:
                pass
            found, close = answers(socket)
            assert [event["event"] for event in found[-3:]] == ["final", "ended", "error"]
            assert found[-1]["code"] == close.reason == "too_long"


def test_a_client_that_takes_nothing_is_told_and_forgotten(export):
    with served(export, "serving.most_events=8") as server:
        stream = server.pool.open()

        def flood():
            for number in range(9):
                stream.deliver({"event": "partial", "number": number}, last=False)

        flood()
        assert stream.over and [event["code"] for event in stream._events] == ["slow_client"]
        settled(server)


def test_the_end_of_the_server_finishes_what_is_being_said(export, model):
    samples = noise(2.0)
    with served(export) as server:
        stream = Stream(server.address)
        stream.send(pcm(samples))
        while not any(event["event"] == "began" for event in stream.events(wait=1)):
            pass
    found = []
    with pytest.raises(ServerError) as ended:
        for event in stream.events(wait=10):
            found.append(event)
    assert ended.value.code == "shutting_down"
    assert plain(found)[-2:] == plain([alone(model, samples)[-1], {"event": "ended", "utterances": 1}])
    with pytest.raises(KitError, match="there is no server"):
        Stream(server.address)


def test_a_full_disk_for_messages_stops_nobody(export, model, monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115  # closing it fails, as it must
    with pytest.raises(OSError):
        print("lost", file=full, flush=True)
    monkeypatch.setattr("sys.stderr", Forgiving(full))
    with served(export) as server:
        with Stream(server.address) as stream:
            stream.send(pcm(noise(1.0)))
            assert plain(stream.finish())[:-1] == plain(alone(model, noise(1.0)))


def vandalize(server, draw):
    """A connection that begins well and goes on with anything, or begins with anything."""
    junk = draw.randbytes(draw.randrange(1, 2000))
    kind = draw.randrange(4)
    if kind == 0:  # no frames at all, or a handshake and then none
        shake = b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        shake += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        with sockets.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(draw.choice([b"", shake, shake[: draw.randrange(len(shake))]]) + junk)
        return
    text = json.dumps({"type": draw.choice(["start", "flush", "hotwords"]), "rate": draw.choice([8000, 16000, 1e300])})
    spoilt = "".join(chr(draw.randrange(1, 0xD000)) if draw.random() < 0.1 else letter for letter in text)
    messages = [draw.choice([text, spoilt, junk, "{" * len(junk), "", b""]) for _ in range(draw.randrange(1, 5))]
    try:
        with raw(server) as socket:
            for message in messages if kind == 1 else [json.dumps(START), *messages]:
                socket.send(message)
    except ConnectionClosed:
        pass


def test_whatever_one_client_sends_another_hears_its_own(server, model):
    draw, samples = Random(7), noise(3.0)
    with Stream(server.address, timeout=60) as stream:
        for at in range(0, len(samples), 1600):
            stream.send(pcm(samples[at : at + 1600]))
            for _ in range(3):
                vandalize(server, draw)
        assert plain(stream.finish())[:-1] == plain(alone(model, samples))
    settled(server)
    assert get(server, "/health")[0] == 200


def test_a_database_that_is_replaced_counts_for_streams_that_run(export, model, tmp_path):
    samples = torch.from_numpy(np.frombuffer(pcm(noise(4)), "<i2") / np.float32(32768))
    found = list(invented(model, [samples]).items())
    first, second = dict(found[::2]), dict(found[1::2])
    folder = database(tmp_path, first)
    with served(export, f"hotwords={folder}") as server, Stream(server.address, timeout=60) as stream:

        def told():
            stream.send(pcm(samples))
            return {event["text"] for event in stream.flush() if event["event"] == "hotword"}

        assert told() == set(first)
        database(tmp_path, second)
        deadline = time.monotonic() + 60
        while told() != set(second):
            assert time.monotonic() < deadline
        assert list(stream.finish())[-1]["event"] == "ended"
