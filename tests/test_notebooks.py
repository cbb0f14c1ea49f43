"""The notebooks run from beginning to end on a recognizer of test size, and their executed twins are those of today."""

import json
import re
import runpy
import shutil
import sys

import matplotlib
import pytest
import torch
from commands import ROOT
from small import SIZES, small_config, small_recognizer

from kernels.benchmark import run, suite, write
from kit import config as configs
from kit import viewing
from kit.model.export import save_export
from kit.runs import Run
from kit.snapshots import publish

LARGEST = 1_000_000  # bytes of a notebook with its outputs
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))


def make_run(folder, stage, recognizer, curves, **notes):
    """A finished run as `fit` leaves it, without its training."""
    folder.mkdir(parents=True)
    configs.save(small_config(f"stage={stage}"), folder / "config.yaml")
    rows = [f"{step},{name},{value}" for name, points in curves.items() for step, value in points]
    (folder / "metrics.csv").write_text("\n".join(["step,name,value", *rows]) + "\n")
    made = Run(folder)
    made.note(**notes)
    save_export(recognizer, made.export, {})
    return made


@pytest.fixture(scope="module")
def world(corpus, tmp_path_factory):
    """Runs, a cache and the environment that notebooks find themselves in."""
    root = tmp_path_factory.mktemp("notebooks")
    whole = small_recognizer()
    falling = [(step, 3 / step) for step in range(1, 9)]
    head, curves = small_recognizer(viewing.HEAD), {"train/ctc": falling, "cka": [(4, 0.9), (8, 0.99)]}
    pretrain = make_run(root / "runs/default/pretrain/1", "pretrain", head, curves)
    for step in (4, 6):
        publish(pretrain, small_recognizer(viewing.HEAD, seed=step), step, 0.9)
    sft = {"dev/drift": [(4, 0.99), (8, 0.98)]}
    for experiment, stage in (("default", "ia_sft"), ("joint", "align")):
        first = make_run(root / f"runs/{experiment}/{stage}/1", stage, whole, {}, starts={"it": str(pretrain.export)})
        make_run(root / f"runs/{experiment}/sft/1", "sft", whole, sft, starts={stage: str(first.export)})
    shutil.copytree(corpus.cache, root / "cache")
    write(run(suite("chunk_attention"), torch.device("cpu"), 0.01, "T54"), root / "cache/notebooks/chunk_attention.csv")
    small = [*SIZES, "data.hours=0.01", f"cache={root}/cache", f"runs={root}/runs", "threads=1", "tracking=false"]
    return root, " ".join([*small, "stage.batch_seconds=6", "decoding.max_tokens=3", "decoding.beam=1"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, world, monkeypatch):
    root, overrides = world
    monkeypatch.setenv("KIT_NOTEBOOK", overrides)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    matplotlib.use("Agg")
    from matplotlib import pyplot

    try:
        runpy.run_path(str(path), run_name="__notebook__")
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        assert figures, "a story without a picture"
        for figure in figures:
            figure.canvas.draw()
            assert any(axes.has_data() or axes.images for axes in figure.axes)
    finally:
        pyplot.close("all")
        for name in ("my_data", "my_stages", "my_retrieval"):
            sys.modules.pop(name, None)


def test_there_are_seven():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"0{number}" for number in range(1, 8)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_executed_twin_is_of_the_same_code_with_pictures_and_no_machine_in_it(path):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is in the extra notebooks")
    twin = path.with_suffix(".ipynb")
    text = twin.read_text("utf-8")
    now, executed = jupytext.read(path), json.loads(text)
    cells = [(cell.cell_type, cell.source) for cell in now.cells]
    kept = [(cell["cell_type"], "".join(cell["source"])) for cell in executed["cells"]]
    assert kept == cells, f"{path.name} has changed: make notebooks ARGS={path.name[:2]}"
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert len(text.encode()) < LARGEST and not re.search(r"[\"'\s(]/(?:tmp|home|root|work|Users)/", text)
