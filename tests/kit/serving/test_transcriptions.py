"""Uploads in OpenAI's form, by OpenAI's own client where it matters."""

import io
import itertools
import os
import socket

import httpx2 as httpx
import misbehaving
import numpy as np
import openai
import pytest
import soundfile
from served import served
from streams import noise
from test_websocket import settled

from kit.audio.reading import AudioError, read_audio
from kit.serving import unpacking
from kit.serving.subtitles import cues, srt, text_of, verbose, vtt
from kit.serving.transcriptions import hotwords_of


def recording(seconds=2.0, seed=0, rate=16000, kind="WAV", channels=1):
    file = io.BytesIO()
    samples = np.repeat(noise(seconds * rate / 16000, seed).numpy()[:, None], channels, 1)
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def client(server, key="none"):
    return openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=key, max_retries=0, timeout=100)


def post(server, **options):
    return httpx.post(f"http://{server.address}/v1/audio/transcriptions", timeout=100, **options)


def word(text, start, end):
    return {"text": text, "start": start, "end": end}


FINALS = [
    {"text": "导航到the airport", "start": 0.0, "end": 2.0, "words": [
        word("导", 0.1, 0.2), word("航", 0.2, 0.4), word("到", 0.4, 0.5),
        word("the", 0.6, 0.7), word("airport", 0.8, 1.9),
    ]},
    {"text": "", "start": 3.0, "end": 3.5, "words": []},
    {"text": "好的", "start": 3661.25, "end": 3662.0, "words": []},
]  # fmt: skip


def test_texts_are_joined_as_their_scripts_want_it():
    assert text_of(FINALS) == "导航到the airport 好的"
    assert text_of([{"text": "你好"}, {"text": "好的"}, {"text": "go"}, {"text": "on"}]) == "你好好的 go on"


def test_subtitles():
    assert srt(FINALS).splitlines() == [
        "1", "00:00:00,100 --> 00:00:01,900", "导航到the airport", "",
        "2", "01:01:01,250 --> 01:01:02,000", "好的",
    ]  # fmt: skip
    assert vtt([{**FINALS[2], "text": "a<b&c"}]) == "WEBVTT\n\n01:01:01.250 --> 01:01:02.000\na&lt;b&amp;c\n"


def test_long_utterances_are_cut_between_words_and_nothing_is_lost():
    text, words = "", []
    for number in range(100):
        words.append(word(f"w{number}", number * 0.5, number * 0.5 + 0.4))
        text += f" w{number}"
    found = cues([{"text": text.strip(), "start": 0.0, "end": 50.0, "words": words}])
    assert " ".join(cue.text for cue in found) == text.strip()
    assert all(cue.end - cue.start <= 7 and len(cue.text) <= 80 for cue in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))


def test_verbose_has_what_is_known():
    found = verbose(FINALS, 3662.0, ["word", "segment"])
    assert found["language"] == "chinese" and found["duration"] == 3662.0
    assert [one["end"] for one in found["segments"]] == [2.0, 3.5, 3662.0]
    assert found["words"][4] == {"word": "airport", "start": 0.8, "end": 1.9}


def test_a_prompt_becomes_hotwords():
    prompt = "外滩, Alice Smith，天安门。\nThis is a whole sentence of which nobody would think that it is a name. NIO"
    assert hotwords_of(prompt, 10) == ["外滩", "Alice Smith", "天安门", "NIO"]
    assert hotwords_of(prompt, 2) == ["外滩", "Alice Smith"] and hotwords_of("", 10) == []


@pytest.mark.parametrize(("kind", "rate", "channels"), [("WAV", 16000, 1), ("FLAC", 44100, 2), ("OGG", 48000, 1)])
def test_recordings_are_unpacked_as_they_are_read(tmp_path, kind, rate, channels):
    content = recording(1.0, rate=rate, kind=kind, channels=channels)
    (tmp_path / "a").write_bytes(content)
    wanted = read_audio(tmp_path / "a").numpy()
    found = np.frombuffer(unpacking.unpack(content, 10.0), "<i2") / 32767
    assert len(found) == len(wanted) and np.abs(found - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the upload"),
        (b"no audio", "cannot be read as audio"),
        (recording()[:30], "cannot be read as audio"),
        (recording(3.0), "longer than the limit of 2 s"),
        (os.urandom(10_000), "cannot be read as audio"),
    ],
)
def test_what_is_no_recording_is_named(content, says):
    with pytest.raises(AudioError, match=says) as error:
        unpacking.unpack(content, 2.0)
    assert "the upload" in str(error.value)


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (misbehaving.greedy, "more memory or time"),
        (misbehaving.endless, "too long to decode"),
        (misbehaving.writing, "may write nothing"),
    ],
)
def test_decoding_is_bounded_in_memory_time_and_files(monkeypatch, tmp_path, work, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unpacking, "_work", work)
    monkeypatch.setattr(unpacking, "_SECONDS", 3.0 if work is misbehaving.endless else 60.0)
    with pytest.raises(AudioError, match=says):
        unpacking.unpack(b"", 1.0)


def test_the_official_client(server):
    with client(server) as official:
        asked = {"model": "whisper-1", "file": ("a.wav", recording())}
        plain = official.audio.transcriptions.create(**asked, prompt="外滩, 天安门", temperature=0, language="zh")
        text = official.audio.transcriptions.create(**asked, response_format="text")
        assert text == plain.text + "\n"
        full = official.audio.transcriptions.create(
            **asked, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        assert full.text == plain.text and full.duration == 2.0 and full.segments[0].end == 2.0
        assert official.audio.transcriptions.create(**asked, response_format="vtt").startswith("WEBVTT")
        assert " --> " in official.audio.transcriptions.create(**asked, response_format="srt") or not plain.text
        events = list(official.audio.transcriptions.create(**asked, stream=True))
        assert events[-1].type == "transcript.text.done" and events[-1].text == plain.text
        assert "".join(one.delta for one in events[:-1]) == plain.text
        assert [model.id.endswith("/serving0") for model in official.models.list()] == [True]
        with pytest.raises(openai.BadRequestError, match="cannot be read as audio"):
            official.audio.transcriptions.create(model="any", file=("/etc/passwd", b"nothing"))
    settled(server)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"content": b"x"}, 400, "multipart/form-data"),
        ({"data": {"model": "x"}, "files": {"other": b"1"}}, 400, "no file"),
        ({"data": {"file": "/etc/passwd"}, "files": {"other": b"1"}}, 400, "no file"),
        ({"data": {"response_format": "xml"}, "files": {"file": b"1"}}, 400, "response_format is 'xml'"),
        ({"data": {"timestamp_granularities[]": "letter"}, "files": {"file": b"1"}}, 400, "known: word, segment"),
        ({"data": {"prompt": "x" * 70_000}, "files": {"file": b"1"}}, 400, "form cannot be read"),
        ({"files": [("file", b"1"), ("file", b"2")]}, 400, "form cannot be read"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, ""),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "form cannot be read"),
    ],
)
def test_wrong_requests_are_answered_in_openais_form(server, options, status, says):
    answer = post(server, **options)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert says in error["message"] and error["type"] == "invalid_request_error" and error["code"]
    settled(server)


def test_limits_of_uploads_and_the_token(export):
    limits = ["serving.upload_bytes=100000", "serving.upload_seconds=3", "serving.streams=1", "serving.token=hush"]
    with served(export, *limits, "serving.idle_seconds=0.5") as server:
        with pytest.raises(openai.AuthenticationError):
            client(server).models.list()
        assert post(server, files={"file": recording()}).status_code == 401
        allowed = {"headers": {"Authorization": "Bearer hush"}}
        assert post(server, files={"file": recording()}, **allowed).status_code == 200
        answer = post(server, files={"file": bytes(3_000_000)}, **allowed)
        assert answer.status_code == 413 and "100000 bytes" in answer.json()["error"]["message"]
        answer = post(server, files={"file": recording(4.0, kind="OGG")}, **allowed)
        assert answer.status_code == 400 and "longer than the limit of 3 s" in answer.json()["error"]["message"]
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer hush\r\n"
            slow.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n\r\n".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        held = server.pool.open()
        full = post(server, files={"file": recording()}, **allowed)
        assert full.status_code == 503 and full.headers["retry-after"] == "1"
        assert full.json()["error"]["type"] == "server_error"
        held.drop()
