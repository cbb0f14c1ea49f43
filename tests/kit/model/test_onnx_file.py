"""The exported step in onnxruntime, against the kit's stream; and the command around it."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from small import small_config, small_recognizer

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import kit
import kit.fit
from kit.cli import main
from kit.errors import KitError
from kit.files import folder_atomic
from kit.model import onnx_file
from kit.model.encoder import Chunk
from kit.model.export import load_export, save_export
from kit.model.onnx_file import SMALL, TOLERANCE, WHOLE, OnnxStep, compare, write_onnx

CHUNK = Chunk(16, 4)
programs: list = []  # exported once: it takes torch some twenty seconds
PARTS = ("encoder", "phoneme_head")
DOCUMENT = Path(kit.__file__).parents[1] / "docs" / "export.md"


@pytest.fixture(scope="module")
def recognizer():
    made = small_recognizer()
    draw = torch.Generator().manual_seed(0)
    made.encoder.set_normalization(torch.randn(80, generator=draw) - 8, 1 + torch.rand(80, generator=draw))
    torch.nn.init.normal_(made.phoneme_head.out.weight, std=2.0, generator=draw)
    return made


@pytest.fixture(scope="module")
def run(recognizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_export(recognizer, folder / "export", {})
    return folder


@pytest.fixture(scope="module")
def exported(run, corpus, tmp_path_factory):
    """What the command wrote and printed; its data is the small corpus."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    export = onnx_file._exported
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "_exported", lambda step: programs.append(export(step)) or programs[0])
        patch.setattr(kit.fit, "data_module", lambda config: corpus.data(small_config(cache=corpus.cache)))
        with redirect_stdout(io.StringIO()) as printed:
            code = main(["export", "onnx", f"checkpoint={run}", f"out={out}", "quantize=int8", "check=4"])
    return code, out, printed.getvalue()


def heard(frames, streams=1, seed=3):
    return 2 * torch.randn(streams, frames, 80, generator=torch.Generator().manual_seed(seed)) - 8


def test_the_command_exports_checks_and_measures(exported, run):
    code, out, printed = exported
    assert code == 0
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.startswith("encoder.")}
    assert set(rows) == {WHOLE, SMALL} and float(rows[WHOLE][1]) > float(rows[SMALL][1])
    (kits,) = re.findall(r"^the kit +(\S+)$", printed, re.MULTILINE)
    assert rows[WHOLE][2] == kits, "the same numbers have the same errors"
    assert abs(float(rows[SMALL][2]) - float(kits)) < 60
    assert printed.splitlines()[-1] == f"export: {out}"
    about = json.loads((out / "onnx.json").read_text())
    assert about["files"] == [WHOLE, SMALL] and (about["features"], about["shift"]) == (67, 64)
    assert about["meta"] == {"source": str(run / "export")}


@pytest.mark.parametrize("frames", [1, 67, 300])
def test_it_streams_as_the_kit_does(exported, recognizer, frames):
    features = heard(frames, streams=3)
    step = OnnxStep(exported[1])
    with torch.inference_mode():
        wanted, _ = recognizer.encoder.stream(features, recognizer.encoder.start(CHUNK, 3), final=True)
        scores = recognizer.phoneme_head(wanted).log_softmax(-1)
    found, encoded, sizes = step.stream(features, torch.tensor([frames] * 3))
    assert sizes.tolist() == [wanted.shape[1]] * 3
    torch.testing.assert_close(encoded[:, : wanted.shape[1]], wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, : wanted.shape[1]], scores, atol=1e-4, rtol=1e-4)


def test_eight_bits_hear_nearly_the_same(exported):
    features, lengths = heard(200), torch.tensor([200])
    one, other = (OnnxStep(exported[1], file).stream(features, lengths)[1] for file in (WHOLE, SMALL))
    assert (one - other).abs().max() > 0 and torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.98


def test_the_program_of_the_document_runs_as_it_stands(exported, recognizer):
    """With nothing but numpy and onnxruntime it hears what the kit hears."""
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "onnxruntime" in block
    )
    names: dict = {}
    exec(compile(code.replace("exports/onnx", str(exported[1])), "export.md", "exec"), names)
    features = heard(333)
    with torch.inference_mode():
        frames, _ = recognizer.encoder.stream(features, recognizer.encoder.start(CHUNK, 1), final=True)
        best = torch.unique_consecutive(recognizer.phoneme_head(frames)[0].argmax(-1)).tolist()
    wanted = recognizer.inventory.decode([symbol for symbol in best if symbol])
    assert names["phonemes"](features[0].numpy()) == wanted and len(wanted) > 5


def test_a_step_that_computes_something_else_is_not_kept(exported, recognizer, run, tmp_path, monkeypatch, capsys):
    other = load_export(run / "export", PARTS)
    with torch.no_grad():
        other.encoder.blocks[1].attention.bias_u += 0.5
    assert compare(recognizer, OnnxStep(exported[1]), CHUNK) <= TOLERANCE < compare(other, OnnxStep(exported[1]), CHUNK)
    monkeypatch.setattr(onnx_file, "compare", lambda *_: 0.3)

    class Written:
        def save(self, path, external_data):
            Path(path).write_bytes((exported[1] / WHOLE).read_bytes())

    monkeypatch.setattr(onnx_file, "_exported", lambda step: Written())
    assert main(["export", "onnx", f"checkpoint={run}", f"out={tmp_path / 'out'}"]) == 1
    assert "differs from the kit's stream by 0.3" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_large_weights_lie_beside_the_file(exported, recognizer, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "LARGE", 0)
    monkeypatch.setattr(onnx_file, "_exported", lambda step: programs[0])
    with folder_atomic(tmp_path / "out") as folder:
        assert write_onnx(recognizer, CHUNK, folder, True, {}) <= TOLERANCE
    assert (tmp_path / "out" / f"{WHOLE}.data").stat().st_size > (tmp_path / "out" / WHOLE).stat().st_size
    features, lengths = heard(50), torch.tensor([50])
    one, other = (OnnxStep(tmp_path / "out", file).stream(features, lengths)[1] for file in (WHOLE, SMALL))
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.98


def test_without_the_packages(run, tmp_path, monkeypatch, capsys):
    there = onnx_file.importlib.util.find_spec
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None if "onnx" in name else there(name))
    assert main(["export", "onnx", f"checkpoint={run}", f"out={tmp_path / 'out'}"]) == 1
    assert "export onnx needs onnx and onnxscript and onnxruntime; install nim4-kit[onnx]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "export: one of onnx"),
        (["onx", "out=x"], "did you mean onnx?"),
        (["onnx"], "export onnx needs a folder"),
        (["onnx", "a", "out=x"], "takes no files, got a"),
        (["onnx", "out=x", "quantize=int4"], "quantize=int4 must be int8"),
        (["onnx", "out=x", "check=some"], "check=some must be a whole number"),
        (["onnx", "out=x", "decoding.left=-1"], "decoding.left=-1 0 or more"),
        (["onnx", "out=x", "decoding=offline"], "decoding.chunk=0 must be 1 or more"),
    ],
)
def test_wrong_use(words, told, run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words, *([f"checkpoint={run}"] if words else [])]) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export(tmp_path):
    with pytest.raises(KitError, match="cannot be read as an ONNX export"):
        OnnxStep(tmp_path)
