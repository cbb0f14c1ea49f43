"""Each message in docs/troubleshooting.md is one that the kit really prints: here they are made to happen."""

import io
import re
import sys

import pytest
import soundfile
import torch
from commands import ROOT
from small import SIZES, small_config, small_recognizer

from kit import runs
from kit.callbacks import _check_finite
from kit.cli import main
from kit.errors import KitError
from kit.model.export import save_export
from kit.tracking import Tracker

TEXT = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
QUOTED = [" ".join(line[1:].split()) for line in TEXT.splitlines() if line.startswith(">")]


@pytest.fixture(scope="module")
def happened(tmp_path_factory):
    """All that is said when everything goes wrong."""
    folder = tmp_path_factory.mktemp("trouble")
    run = folder / "runs/default/sft/1"
    run.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = io.StringIO()
        patch.setattr(sys, "stderr", said)
        lines = [
            "fit trainer.max_step=5",
            "fit stage=stf",
            "fit --stage sft",
            "fit sft",
            "fit trainer.max_steps=many",
            "transcribe a.wav",
            "transcribe a.wav checkpoint=nowhere",
            "fit stage=sft upstream=never",
            "data prepare corpus=aishell",
            "hotwords build names.tsv",
            "hotwords stats names.db",
        ]
        for line in lines:
            assert main(line.split()) in (1, 2)
        assert main(["fit", "data.members={a: 1"]) == 2
        (run / "config.yaml").write_text("model: {}\n")
        assert main(["transcribe", "a.wav", f"checkpoint={run.relative_to(folder)}"]) == 2
        save_export(small_recognizer(), folder / "export", {})
        save_export(small_recognizer(("encoder", "phoneme_head")), folder / "partial", {})
        soundfile.write(folder / "short.wav", torch.zeros(100).numpy(), 16000)
        assert main(["transcribe", "a.wav", "checkpoint=partial"]) == 1
        assert main(["transcribe", "nowhere.wav", "short.wav", "checkpoint=export"]) == 1
        (folder / "rows.jsonl").write_text('{"audio": "a.wav"}\n')
        small = [*SIZES, "stage=pretrain", "tracking=false", "data=manifest", "runs=other"]
        assert main(["fit", *small]) == 2
        assert main(["fit", *small, "data.train=rows.jsonl"]) == 1
        lost = torch.nn.Module()
        lost.encoder = torch.nn.Module()
        lost.encoder.x = torch.nn.Parameter(torch.tensor(float("nan")))
        for trouble in (lambda: _check_finite(lost, 40, 20), lambda: _held_twice(run.relative_to(folder))):
            with pytest.raises(KitError) as caught:
                trouble()
            print(caught.value, file=said)
        (folder / "runs/mlflow.db").write_text("this is no database, and long enough to be looked at" * 50)
        Tracker(small_config())
    return [line.removeprefix("kit: ") for line in said.getvalue().splitlines()]


def _held_twice(path):
    with runs.Run(path).locked(), runs.Run(path).locked():
        pass


def test_there_are_a_dozen_at_least():
    assert len(QUOTED) >= 12 and len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_message_is_what_the_kit_says(quoted, happened):
    pattern = ".*".join(re.escape(piece) for piece in re.split(r"(?<=[( ])\.\.\.(?=\)|$)", quoted))
    assert any(re.fullmatch(pattern, line) for line in happened), "\n".join(happened)
