"""Shar folders and addresses: what is written is read again, bit for bit, by the kit and by Lhotse; without a shell."""

import gzip
import http.server
import json
import sys
import tarfile
import threading
from functools import partial
from itertools import islice
from typing import ClassVar

import numpy as np
import pytest
import torch
from lhotse import CutSet
from small import small_config, small_recognizer
from trees import sound

from datamodules import base, rows, sampling
from datamodules.manifests import ManifestData
from datamodules.shar import LIST, export, is_shar
from datamodules.sources import Shelf, members
from kit.errors import KitError, UsageError
from kit.evaluation.report import measure, measure_streams


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twenty utterances as a jsonl, and exported as OUT/train in archives of four."""
    folder = tmp_path_factory.mktemp("shar")
    lines = []
    for number in range(20):
        sound(folder / f"u{number:02d}.wav", 0.5 + 0.07 * number, 200 + 30 * number)
        about = {"id": f"a/u{number:02d}.x", "audio": f"u{number:02d}.wav", "text": "打开天窗", "speaker": f"S{number}"}
        lines.append(json.dumps({**about, "start": 0.1, "duration": 0.3} if number == 3 else about))
    (folder / "all.jsonl").write_text("\n".join(lines))
    ordered = sorted(data_of(folder, folder / "all.jsonl").cuts("train"), key=lambda cut: cut.id)
    export({"train": CutSet.from_cuts(ordered)}, folder / "out", 4)
    return folder


def data_of(folder, train, *overrides):
    where = ["data=manifest", "data.test_share=0", f"data.train={train}"]
    return ManifestData(
        small_config("stage=pretrain", *where, "stage.batch_seconds=4", *overrides, cache=folder / "cache")
    )


@pytest.fixture
def address(made):
    """The same folder over http."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        asked: ClassVar[list[str]] = []

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.asked.append(self.path)
            super().do_GET()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(made / "out")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/train", Quiet.asked
    server.shutdown()
    Quiet.asked.clear()


def by_id(data):
    return {cut.id: cut for cut in data.cuts("train")}


def take(data, count):
    return list(islice(data.train_dataloader(), count))


def same(one, other):
    assert [cut.id for cut in one.cuts] == [cut.id for cut in other.cuts]
    assert torch.equal(one.features, other.features) and one.texts == other.texts


def test_what_is_written_is_read_again(made):
    before, after = by_id(data_of(made, made / "all.jsonl")), by_id(data_of(made, made / "out" / "train"))
    assert before.keys() == after.keys()
    plain, shar = (data_of(made, name) for name in (made / "all.jsonl", made / "out" / "train"))
    for name, cut in before.items():
        other = after[name].supervisions[0]
        assert after[name].duration == pytest.approx(cut.duration) and after[name].start == 0
        assert (other.text, other.language, other.speaker) == ("打开天窗", "zh", cut.supervisions[0].speaker)
        np.testing.assert_array_equal(plain.audio("train")[name], shar.audio("train")[name])
        assert torch.equal(plain.store("train")[name], shar.store("train")[name])


def test_lhotse_reads_it_too(made):
    ours = by_id(data_of(made, made / "all.jsonl"))
    found = list(CutSet.from_shar(in_dir=made / "out" / "train"))
    assert sorted(cut.id for cut in found) == sorted(ours)
    samples = data_of(made, made / "all.jsonl").audio("train")
    for cut in found:
        np.testing.assert_array_equal(np.round(cut.load_audio()[0] * 32768), samples[cut.id])


def test_one_that_lhotse_wrote_is_read(made, tmp_path):
    cuts = data_of(made, made / "all.jsonl").cuts("train")
    (tmp_path / "theirs").mkdir()
    cuts.to_shar(tmp_path / "theirs", fields={"recording": "flac"}, shard_size=7)
    data = data_of(made, tmp_path / "theirs")
    for name, cut in by_id(data).items():
        assert len(data.audio("train")[name]) == round(cut.duration * 16000)
    assert len(data.cuts("train")) == 20


@pytest.mark.parametrize("limit", [50_000, 3])
def test_over_the_network_it_is_the_same(made, address, tmp_path, monkeypatch, limit):
    for module in (base, rows, sampling):
        monkeypatch.setattr(module, "EAGER", limit)
    name, asked = address
    local, remote = (
        data_of(made, made / "out" / "train", "data.stored=false"),
        data_of(tmp_path, name, "data.stored=false", "data.keep_archives=2"),
    )
    for one, other in zip(take(local, 12), take(remote, 12), strict=True):
        same(one, other)
    kept = [path.name.partition("-")[2] for path in (tmp_path / "cache" / "archives").iterdir()]
    assert len(kept) == 2 and all(path.startswith("recording.") for path in kept)
    assert {f"/train/recording.{number:06d}.tar" for number in range(5)} <= set(asked)


@pytest.mark.parametrize("taken", [2, 11])
def test_a_restored_position_reads_no_audio_before_it(made, address, tmp_path, monkeypatch, taken):
    for module in (base, rows, sampling):
        monkeypatch.setattr(module, "EAGER", 3)
    name, asked = address
    whole = take(data_of(tmp_path / "one", name, "data.stored=false"), taken + 1)
    data = data_of(tmp_path / "two", name, "data.stored=false")
    data.load_state_dict({"position": list(whole[taken - 1].position)})
    asked.clear()
    same(take(data, 1)[0], whole[taken])
    archives = {path for path in asked if path.endswith(".tar")}
    assert len(archives) <= len(whole[taken].cuts), "only those of the batch"


def test_a_program_may_fetch_and_sees_no_shell(made, tmp_path):
    script = tmp_path / "fetch.py"
    script.write_text(
        "import sys, shutil\n"
        f"open({str(tmp_path / 'log')!r}, 'a').write(sys.argv[1] + chr(10))\n"
        f"shutil.copyfileobj(open({str(made)!r} + '/out/' + sys.argv[1].split('://')[1], 'rb'), sys.stdout.buffer)\n"
    )
    fetch = f"data.fetch=[{sys.executable},{script},'{{url}}']"
    data = data_of(tmp_path, "s3://train", fetch)
    assert len(data.store("train").index) == 20
    assert "s3://train/recording.000004.tar" in (tmp_path / "log").read_text()
    evil = "s3://$(touch oops);touch oops"
    with pytest.raises(KitError, match="cannot fetch"):
        data_of(tmp_path, evil, fetch).cuts("train")
    assert not (tmp_path / "oops").exists() and evil in (tmp_path / "log").read_text(), "one argument, as it is"


@pytest.mark.parametrize("name", ["../../x.tar", "/etc/x.tar", "http://h/x.tar", ".x"])
def test_a_list_cannot_lead_elsewhere(made, tmp_path, name):
    def fetch(self, url, file):
        assert url.endswith(LIST), "nothing else is asked for"
        file.write(json.dumps({"shards": [{"cuts": "cuts.000000.jsonl.gz", "recording": name}]}).encode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shelf, "_fetch", fetch)
        with pytest.raises(KitError, match="is not what `data export` writes .*no plain file names"):
            data_of(tmp_path, "https://example.org/train").cuts("train")


@pytest.mark.parametrize("name", ["ftp://h/x", "pipe:cat x", "file:///etc"])
def test_other_addresses_are_refused(tmp_path, name):
    with pytest.raises(KitError, match="only http and https are fetched|does not exist"):
        data_of(tmp_path, name).cuts("train")
    assert is_shar("s3://bucket/x") and not is_shar("C://x"[:2]) and not is_shar(str(tmp_path))


def test_what_is_missing_or_damaged_is_named(made, tmp_path):
    import shutil

    def copied():
        shutil.rmtree(tmp_path / "t", ignore_errors=True)
        return shutil.copytree(made / "out" / "train", tmp_path / "t")

    (copied() / "recording.000002.tar").unlink()
    with pytest.raises(KitError, match="the Shar folder .*t has no recording.000002.tar"):
        data_of(tmp_path, tmp_path / "t").cuts("train")
    (copied() / "cuts.000001.jsonl.gz").write_bytes(b"x")
    with pytest.raises(KitError, match="cuts.000001.jsonl.gz is no list of Lhotse cuts"):
        data_of(tmp_path, tmp_path / "t").cuts("train")
    (copied() / "recording.000000.tar").write_bytes(b"x" * 600)
    with pytest.raises(KitError, match="the archive .*recording.000000.tar cannot be read"):
        data_of(tmp_path, tmp_path / "t").store("train")
    (copied() / "cuts.000001.jsonl.gz").write_bytes((made / "out/train/cuts.000000.jsonl.gz").read_bytes())
    with pytest.raises(KitError, match="4 ids come twice, such as a/u00.x"):
        data_of(tmp_path, tmp_path / "t").cuts("train")
    archive = copied() / "recording.000001.tar"
    archive.write_bytes((made / "out/train/recording.000000.tar").read_bytes())
    with pytest.raises(KitError, match="the archive .*recording.000001.tar has no recording a/u0[4-7].x"):
        data_of(tmp_path, tmp_path / "t").store("train")


def test_an_interrupted_export_leaves_nothing(made, tmp_path, monkeypatch):
    cuts = data_of(made, made / "all.jsonl").cuts("train")
    monkeypatch.setattr("datamodules.shar._write_shard", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export({"train": cuts}, tmp_path / "out", 4)
    assert not list(tmp_path.iterdir())


def test_nothing_to_export(tmp_path):
    with pytest.raises(UsageError, match="there is nothing to export"):
        export({"dev": CutSet.from_cuts([])}, tmp_path / "out", 4)


def test_members_of_an_archive(made):
    path = made / "out" / "train" / "recording.000000.tar"
    with tarfile.open(path) as archive:
        names = [member.name for member in archive]
    assert names[:2] == ["a/u00.x.flac", "a/u00.x.json"]
    assert list(members(path)) == [f"a/u{number:02d}.x" for number in range(4)]
    with gzip.open(made / "out" / "train" / "cuts.000000.jsonl.gz") as file:
        assert len(file.readlines()) == 4


def test_a_broken_connection_leaves_no_copy(tmp_path):
    class Short(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(KitError, match="cannot fetch http://.*the connection broke after 10 of 100 bytes"):
        Shelf(str(tmp_path / "s")).get(f"http://127.0.0.1:{server.server_port}/a.tar")
    server.shutdown()
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize(
    ("decoding", "noise"), [("chunked", []), ("streaming", []), ("streaming", ["noise_at=5"])], ids=str
)
def test_an_evaluation_hears_archives_as_it_hears_files(made, decoding, noise):
    """Features, streams and the signal-to-noise ratio."""
    found = []
    for test in (made / "all.jsonl", made / "out" / "train"):
        fast = ["decoding.max_tokens=2", "decoding.beam=1", *noise]
        config = small_config("data=manifest", f"data.test={test}", f"decoding={decoding}", *fast, cache=made / "cache")
        data, recognizer = ManifestData(config), small_recognizer()
        data.use_model(recognizer)
        streams = decoding == "streaming"
        report = (
            measure_streams(config, recognizer, data, silence=False) if streams else measure(config, recognizer, data)
        )
        rows = [row for part in report["utterances"].values() for way in part.values() for row in way]
        found.append([(row["id"], row["told"], row["phonemes"], row["snr"]) for row in rows])
    assert sorted(found[0]) == sorted(found[1])
    assert len({row[0] for row in found[0]}) == 20
