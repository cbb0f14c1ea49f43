import json
import multiprocessing
import os
import shutil
import time

import pytest
from omegaconf import OmegaConf

from kit import runs
from kit.config import compose
from kit.errors import KitError, UsageError
from kit.runs import Run


def config(root, **changes):
    base = {
        "experiment": "default",
        "seed": 1,
        "runs": str(root),
        "threads": None,
        "stage": {"name": "sft", "parts": ["llm"]},
        "model": {"width": 4, "rate": 1e-05},
        "trainer": {"max_steps": 5, "progress": True},
    }
    made = OmegaConf.create(base)
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


def finish(run, parts=runs.ALL_PARTS, at=None):
    run.export.mkdir()
    (run.export / "export.json").write_text(json.dumps({"parts": list(parts)}))
    if at is not None:
        os.utime(run.export, (at, at))
    return run


def test_create_never_takes_a_folder_twice(tmp_path):
    made = [runs.create(config(tmp_path)) for _ in range(4)]
    assert len({run.path for run in made}) == 4
    assert all(run.path.parent == tmp_path / "default" / "sft" for run in made)
    assert runs.runs_in(tmp_path / "default" / "sft") == made, "sorted by name is sorted by age"
    assert made[0].config().model.width == 4 and made[0].stage == "sft" and not made[0].finished


def test_newest_finished(tmp_path):
    wide = config(tmp_path).model
    assert runs.newest_finished(tmp_path, "default", "sft", wide) is None
    old, new, narrow, unfinished = (runs.create(config(tmp_path, model__width=width)) for width in (4, 4, 3, 4))
    finish(old, at=2000), finish(new, at=3000), finish(narrow, at=4000)
    assert runs.newest_finished(tmp_path, "default", "sft", wide) == new
    os.utime(old.export, (5000, 5000))
    assert runs.newest_finished(tmp_path, "default", "sft", wide) == old, "the one finished last, not begun last"
    assert runs.newest_finished(tmp_path, "other", "sft", wide) is None
    (old.path / "config.yaml").write_text("]: damaged")
    assert runs.newest_finished(tmp_path, "default", "sft", wide) == new
    assert not unfinished.finished


def test_a_stage_without_an_llm_is_the_same_under_all_llms(tmp_path):
    def made(parts, llm, layers=6):
        model = {"encoder": {"layers": layers}, "adaptor": {"hidden": 4}, "llm": llm, "prompt": {}}
        return config(tmp_path, model=model, stage={"name": "sft", "parts": parts})

    for parts, same in (
        (["encoder", "phoneme_head"], True),
        (["encoder", "adaptor"], True),
        (["encoder", "llm"], False),
    ):
        run = finish(runs.create(made(parts, "tiny")))
        other = made(parts, "smollm2")
        assert runs.newest_finished(tmp_path, "default", "sft", other.model) == (run if same else None)
        assert (runs.material(other) == runs.material(run.config())) is same
        assert runs.newest_finished(tmp_path, "default", "sft", made(parts, "tiny", 5).model) is None
        assert runs.newest_finished(tmp_path, "default", "sft", made(parts, "tiny").model) == run
        shutil.rmtree(run.path)


def test_newest_export_prefers_whole_recognizers(tmp_path):
    assert runs.newest_export(tmp_path) is None
    part = finish(runs.create(config(tmp_path)), parts=["llm"], at=9000)
    assert runs.newest_export(tmp_path) == part.export
    whole = finish(runs.create(config(tmp_path, experiment="other")), at=1000)
    assert runs.newest_export(tmp_path) == whole.export
    assert runs.newest_export(tmp_path, ["llm"]) == part.export
    other = config(tmp_path, model__width=5).model
    assert runs.newest_export(tmp_path, model=other) is None


def test_export_of(tmp_path):
    run = runs.create(config(tmp_path))
    with pytest.raises(UsageError, match="is not finished and has no export yet; repeat its fit command"):
        runs.export_of(run.path)
    finish(run)
    assert runs.export_of(run.path) == runs.export_of(run.export) == run.export
    with pytest.raises(UsageError, match="is no export and no run"):
        runs.export_of(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        runs.export_of(tmp_path / "none")


def test_find_resumable_wants_the_same_configuration(tmp_path):
    run = runs.create(config(tmp_path))
    same = [{}, {"trainer__progress": False}, {"threads": 3}]
    assert [runs.find_resumable(config(tmp_path, **changes)) for changes in same] == [run] * 3
    others = [{"seed": 2}, {"model__width": 5}, {"trainer__max_steps": 6}, {"experiment": "x"}, {"stage__name": "y"}]
    assert [runs.find_resumable(config(tmp_path, **changes)) for changes in others] == [None] * 5
    newer = runs.create(config(tmp_path))
    assert runs.find_resumable(config(tmp_path)) == newer
    finish(newer)
    assert runs.find_resumable(config(tmp_path)) == run
    newer.note(report_pending=True)
    assert runs.find_resumable(config(tmp_path)) == newer


def hold(path, ready):
    with Run(path).locked():
        ready.set()
        time.sleep(60)


def test_the_lock_lives_as_long_as_its_process(tmp_path):
    run = runs.create(config(tmp_path))
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(run.path, ready))
    holder.start()
    assert ready.wait(20)
    assert run.busy() and runs.find_resumable(config(tmp_path)) is None
    with pytest.raises(KitError, match="another process is training"), run.locked():
        pass
    holder.kill()  # SIGKILL: nothing is cleaned up
    holder.join()
    assert not run.busy() and runs.find_resumable(config(tmp_path)) == run
    (run.path / ".last.ckpt.x.part").write_text("half")
    with run.locked():
        assert run.busy()
        assert not list(run.path.glob(".*.part"))


def test_notes(tmp_path):
    run = runs.create(config(tmp_path))
    assert run.notes() == {}
    run.note(a=1)
    run.note(b="中")
    assert run.notes() == {"a": 1, "b": "中"}
    (run.path / "run.json").write_text("{half")
    assert run.notes() == {}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"cannot make the run folder .*choose another runs=") as caught:
        runs.create(config(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_a_part_of_the_data_counts_for_the_stages_that_take_it():
    def material(*overrides):
        return runs.material(compose(overrides))

    assert material("stage=sft") == material("stage=sft", "data.made=0.1")
    assert material("stage=context_sft") != material("stage=context_sft", "data.made=0.1")
    assert material("stage=sft") != material("stage=sft", "data.hours=0.1")
