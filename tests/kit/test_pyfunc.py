import os

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from small import small_config, small_recognizer

from kit import pyfunc
from kit.audio.reading import read_audio, resample
from kit.decoding.batches import Batches
from kit.decoding.engine import Engine
from kit.decoding.offline import transcribe
from kit.model.export import load_export, save_export


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pyfunc")
    save_export(small_recognizer(), folder / "export", {})
    config = small_config("decoding.max_tokens=4", "decoding.beam=1", "decoding.callbacks.veto=null")
    pyfunc.save_model(folder / "export", config, folder / "model")
    noise = np.random.default_rng(0).normal(0, 0.1, 48000).clip(-1, 1)
    soundfile.write(folder / "a.wav", noise, 48000)
    return folder, config


def predict(folder, **columns):
    return mlflow.pyfunc.load_model(str(folder / "model")).predict(pd.DataFrame(columns))


def test_it_says_what_the_command_line_says(model):
    folder, config = model
    path = str(folder / "a.wav")
    batches = Batches(Engine(load_export(folder / "export"), config.decoding))
    assert predict(folder, path=[path]).text.tolist() == [transcribe(batches, read_audio(path))]


def test_paths_and_samples_are_heard_alike_and_a_bad_row_stops_no_other(model, monkeypatch):
    """What is heard is told by a recognizer that hears everything: random weights have nothing to say."""
    folder, _ = model
    monkeypatch.setattr(pyfunc, "transcribe", lambda batches, samples: f"{len(samples)} {float(samples.sum()):.2f}")
    path = str(folder / "a.wav")
    found = predict(folder, path=[path, "nowhere.wav"])
    wanted = found.text[0]
    assert wanted.startswith("16000 ") and found.text[1] == found.error[0] == ""
    assert "nowhere.wav does not exist" in found.error[1]
    samples, rate = soundfile.read(path)
    found = predict(folder, samples=[samples.tolist(), []], rate=[rate] * 2)
    assert found.text.tolist() == [wanted, ""] and "has neither" in found.error[1]
    assert predict(folder, samples=[[0.5] * 160]).text[0] == "160 80.00"
    assert "rate of 0 Hz" in predict(folder, samples=[[0.0]], rate=[0]).error[0]
    with pytest.raises(MlflowException, match="path"):
        predict(folder, path=[3.5])


def test_a_server_reads_no_files(model, monkeypatch):
    assert _MLFLOW_IS_IN_SERVING_ENVIRONMENT.name == pyfunc.IN_A_SERVER
    monkeypatch.setenv(pyfunc.IN_A_SERVER, "true")
    (answer,) = predict(model[0], path=[str(model[0] / "a.wav")]).to_dict("records")
    assert answer["text"] == "" and "reads no files" in answer["error"]


def test_nothing_is_pickled_and_the_weights_lie_on_the_disk_once(model):
    folder, _ = model
    files = {file.relative_to(folder / "model").as_posix() for file in (folder / "model").rglob("*") if file.is_file()}
    assert {"MLmodel", "model.py", "artifacts/export/model.safetensors", "artifacts/decoding.yaml"} <= files
    assert not [file for file in files if file.endswith((".pkl", ".pickle", ".pt", ".ckpt"))]
    one, other = folder / "export/model.safetensors", folder / "model/artifacts/export/model.safetensors"
    assert os.path.samefile(one, other)


def test_resampled_samples_are_those_of_a_file(model):
    path = model[0] / "a.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    torch.testing.assert_close(resample(samples, rate).clamp(-1, 1), read_audio(path))
