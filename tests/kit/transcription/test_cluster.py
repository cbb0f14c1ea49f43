"""Ray's workers, killed and not: everything is written once, in the words of one process."""

import os
import sys
from pathlib import Path

import pytest
from corpus import BAD, Corpus, rows_of

import kit
from kit.cli import main
from kit.cluster import library
from kit.config import compose
from kit.errors import KitError, UsageError
from kit.transcription import cluster, results
from kit.transcription.results import problems_of

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = [
    pytest.mark.timeout(600),  # processes start by the dozen, perhaps on a busy machine
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def running():
    """Ray on this machine with room for two workers, who can import what stands beside this file."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(Path(kit.__file__).parents[1])]))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_prestart_worker_first_driver", "0")  # each costs two seconds, and actors want new ones anyway
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def light(monkeypatch):
    """Workers without a model."""
    from light_worker import Light

    monkeypatch.setattr(cluster, "Worker", Light)


def listing(folder, *names):
    """A manifest of recordings that nobody opens, and the command that transcribes it by Ray."""
    manifest, export = folder / "m.jsonl", folder / "export"
    manifest.write_text("".join(f'{{"id": "{name}", "audio": "a.wav", "language": "zh"}}\n' for name in names))
    export.mkdir(exist_ok=True)
    (export / "export.json").write_text("{}")
    files = [f"manifest={manifest}", f"out={folder / 'out.jsonl'}", f"checkpoint={export}"]
    return ["transcribe", *files, "engine=ray", "batch.device=cpu"]


def test_workers_write_what_one_process_writes(tmp_path, running, capsys):
    corpus, out = Corpus(tmp_path, 40), tmp_path / "out.jsonl"
    assert main(corpus.arguments(tmp_path / "local.jsonl")) == 1
    assert main(corpus.arguments(out, "engine=ray", "batch.device=cpu")) == 1
    rows = rows_of(out)
    assert sorted(row["id"] for row in rows) == corpus.names
    assert {row["id"]: row for row in rows} == {row["id"]: row for row in rows_of(tmp_path / "local.jsonl")}
    assert {row["id"] for row in rows_of(problems_of(out))} == set(BAD)
    shown = capsys.readouterr()
    assert shown.out == "" and f"{len(corpus.names)} utterances written" in shown.err


def test_nothing_is_lost_or_doubled_whoever_dies(tmp_path, running, light, monkeypatch):
    """The command in its middle, then a worker once, and every worker that has a certain recording."""
    out, add = tmp_path / "out.jsonl", results.Results.add
    names = [f"u{number}" for number in range(40)]
    arguments = listing(tmp_path, *names[:17], "poison", *names[17:])
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(manifest.read_text().replace('"u31", "audio": "a.wav"', '"u31", "audio": "once"'))

    def dies(self, outcomes):
        if len(self.done) >= 5:
            raise KeyboardInterrupt
        add(self, outcomes)

    monkeypatch.setattr(cluster, "_TRIES", 0)
    with monkeypatch.context() as patch:
        patch.setattr(results.Results, "add", dies)
        assert main(arguments) == 130
    before = out.read_bytes()
    assert 5 <= before.count(b"\n") < 40
    (tmp_path / "once").unlink(missing_ok=True)
    assert main(arguments) == 1
    assert (tmp_path / "once").exists(), "no worker was killed once only"
    assert out.read_bytes().startswith(before)
    rows = rows_of(out)
    assert sorted(row["id"] for row in rows) == sorted(names)
    told = {row["text"] for row in rows if row["id"] != "u31"}
    assert told == {f"{tmp_path / 'a.wav'} 0.0 None "} and {row["language"] for row in rows} == {"zh"}
    (problem,) = rows_of(problems_of(out))
    assert problem["id"] == "poison" and "the worker that had it died" in problem["reason"]


def test_what_prevents_every_worker_is_one_sentence(tmp_path):
    config = compose([f"cache={tmp_path}"])
    worker = cluster.Worker(str(tmp_path), cluster.dump(config), os.getcwd())
    table = cluster._table([])
    (told,) = worker(table)["outcome"]
    with pytest.raises(KitError, match="is no export"):
        cluster._read(told)
    worker.transcriber = object()
    (told,) = worker(table)["outcome"]
    with pytest.raises(KitError, match="a worker failed: AttributeError: 'object' object has no"):
        cluster._read(told)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert main(listing(tmp_path, "a")) == 2
    assert "engine=ray needs the package ray" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"install nim4-kit\[ray\]"):
        library("data", "ray")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.1:6379", "Ray cannot be reached at 10.0.0.1:6379: no answer; start it with ray start --head"),
        ("null", "Ray cannot be started: no answer; start it with ray start --head, or take engine=local"),
    ],
)
def test_a_cluster_that_is_not_there_is_told(tmp_path, address, message, capsys, monkeypatch):
    def refused(**options):
        assert options["address"] == ("local" if address == "null" else address)
        raise ConnectionError("no answer\nat all")

    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main([*listing(tmp_path, "a"), f"cluster={address}"]) == 1
    assert message in capsys.readouterr().err
