import math
import os

import pytest
import torch
from hearing import head, silence, sounds
from small import small_config, small_recognizer
from strings import INVENTORY

from kit import viewing
from kit.decoding.engine import Engine
from kit.decoding.hotwords import ExactHotwords
from kit.errors import KitError
from kit.runs import Run


def log_probs(path, sure=1.0):
    """(T, 5) of a greedy path, each frame so sure."""
    rows = torch.full((len(path), 5), (1 - sure) / 4)
    rows[torch.arange(len(path)), torch.tensor(path)] = sure
    return rows.clamp_min(1e-9).log()


def test_spikes():
    found = viewing.spikes(log_probs([0, 1, 1, 0, 2, 2, 2, 3, 0, 3]))
    assert found.blank == pytest.approx(0.3) and found.sure == 1.0
    assert found.width == 7 / 4, "1 1, 2 2 2, 3, and 3 again behind a blank"
    assert viewing.spikes(log_probs([0, 0], 0.5)) == viewing.Spikes(1.0, 0.0, 0.0)
    assert viewing.spikes(log_probs([1, 2], 0.8)).sure == 0.0


def test_the_busiest_symbols_come_in_the_order_of_their_peaks():
    scores = log_probs([3, 3, 0, 1, 2, 2, 2])
    assert viewing.busiest(scores, 3) == [3, 1, 2]
    assert viewing.busiest(scores, 2) == [3, 2]
    assert len(viewing.busiest(scores, 99)) == 4


def test_curves_and_runs_are_found(tmp_path):
    config = small_config(f"runs={tmp_path}", "experiment=mine")
    with pytest.raises(KitError, match="no finished run of stage sft; train one"):
        viewing.finished(config, "sft")
    for number, name in enumerate(("mine/sft/1", "other/sft/2", "mine/pretrain/3", "mine/sft/4")):
        (tmp_path / name / "export").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("model: {}\n")
        os.utime(tmp_path / name / "export", (number, number))
    (tmp_path / "mine/sft/5").mkdir()
    (tmp_path / "mine/sft/5/config.yaml").write_text("model: {}\n")
    assert [run.path.name for run in viewing.finished(config, "sft")] == ["2", "1", "4"]
    assert viewing.newest(config, "rl", "sft", "pretrain").path.name == "4"
    (tmp_path / "mine/sft/4/metrics.csv").write_text("step,name,value\n1,a,0.5\n1,b,3\n2,a,0.25\n")
    assert viewing.curve(Run(tmp_path / "mine/sft/4"), "a") == ([1, 2], [0.5, 0.25])
    assert viewing.curve(Run(tmp_path / "mine/sft/4"), "c") == ([], [])


def test_runs_are_told_by_their_pretraining_and_by_what_they_began_with(tmp_path):
    config = small_config(f"runs={tmp_path}", "experiment=mine")
    starts = {
        "ia_sft/1": "pretrain/1",
        "sft/1": "ia_sft/1",
        "sft/2": "pretrain/1",
        "sft/3": "pretrain/2",
        "sft/4": None,
    }
    for name in ("pretrain/1", "pretrain/2", *starts):
        (tmp_path / "mine" / name / "export").mkdir(parents=True)
        (tmp_path / "mine" / name / "config.yaml").write_text(
            f"model: {{size: {int(name == 'sft/5')}}}\ntrainer: {{max_steps: 1}}\n"
        )
        if "pretrain" in name:
            (tmp_path / "mine" / name / "snapshots").mkdir()
    for name, begun in starts.items():
        if begun:
            Run(tmp_path / "mine" / name).note(starts={"it": str(tmp_path / "mine" / begun / "export")})
    first = Run(tmp_path / "mine/pretrain/1")
    found = [(began, run.path.name) for began, run in viewing.tuned(config, "sft", first)]
    assert sorted(found) == [("ia_sft", "1"), ("pretrain", "2")]
    assert viewing.tuned(config, "context_sft", first) == []


def test_what_the_environment_says_comes_last_but_not_about_other_data(monkeypatch):
    monkeypatch.setenv("KIT_NOTEBOOK", "seed=5 data.hours=0.25")
    config = viewing.configuration("seed=4", "stage=rl")
    assert (config.seed, config.data.hours, config.stage.name) == (5, 0.25, "rl")
    assert viewing.configuration("data=manifest").seed == 5


def test_a_stream_is_looked_at_after_every_chunk():
    config = small_config("decoding=streaming", "decoding.max_tokens=2", "decoding.callbacks.endpoint=null")
    engine = Engine(small_recognizer(), config.decoding)
    samples = torch.randn(40000, generator=torch.Generator().manual_seed(0)).mul(0.1)
    steps = viewing.chunk_by_chunk(engine, samples)
    assert [step.second for step in steps] == pytest.approx([0.64, 1.28, 1.92, 2.5, 2.5])
    assert [step.final is None for step in steps] == [True] * 4 + [False]
    assert steps[0].encoder == steps[2].encoder > 0, "a ring does not grow"
    assert steps[0].llm < steps[1].llm < steps[2].llm, "a token for each 160 ms"
    assert sum(steps[1].seconds.values()) > 0 and "encoder" in steps[1].seconds
    assert viewing.chunk_by_chunk(engine, samples)[2].llm == steps[2].llm, "the place was given back"


def test_hints_come_when_a_name_was_heard(tmp_path):
    (tmp_path / "mine.tsv").write_text("静安寺公园\n", "utf-8")
    before, name = sounds("导航到"), sounds("静安寺公园")
    heard = torch.cat([head(before), head(name), silence(16)])
    hints, phonemes = viewing.hints_by_chunk(ExactHotwords(personal=tmp_path / "mine.tsv"), heard, INVENTORY, chunk=8)
    assert bytes(phonemes) == before + name
    ends = math.ceil((2 * len(before + name) - 1) / 8)
    assert hints[: ends - 1] == [[]] * (ends - 1) and hints[-1] == ["静安寺公园"]


def test_tables_and_players_take_text_for_text():
    shown = viewing.table(["a<b"], [["<script>"], [0.123456]])
    assert "a&lt;b" in shown and "<script>" not in shown and "0.123" in shown and "0.1235" not in shown
    player = viewing.player(torch.zeros(1600), "<said>")
    assert "&lt;said&gt;" in player and 'src="data:audio/flac;base64,' in player


def test_the_roof_is_that_of_a_machine():
    bandwidth, arithmetic = viewing.measured_roof(128)
    assert 1e6 < bandwidth < 1e14 and 1e6 < arithmetic < 1e16
