"""A recognizer as an MLflow model: `mlflow.pyfunc.load_model(...).predict(table)` gives a text a row.

The model is a folder with the export, a few lines of code that MLflow runs ("models from code") and a signature;
nothing is pickled. The export's files are linked to, not copied, where both lie on one disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from kit import config as configs
from kit.audio.features import SAMPLE_RATE
from kit.audio.reading import read_audio, resample
from kit.decoding.batches import Batches
from kit.decoding.engine import Engine
from kit.decoding.offline import transcribe
from kit.errors import KitError
from kit.files import link, write_text
from kit.model.export import ABOUT, load_export

CODE = "from mlflow.models import set_model\n\nfrom kit.pyfunc import Transcriber\n\nset_model(Transcriber())\n"
DECODING = "decoding.yaml"
IN_A_SERVER = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # what MLflow's server sets for itself
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "path", required=False),
            ColSpec(Array(DataType.double), "samples", required=False),
            ColSpec(DataType.long, "rate", required=False),
        ]
    ),
    outputs=Schema([ColSpec(DataType.string, "text"), ColSpec(DataType.string, "error")]),
)


class Transcriber(PythonModel):
    """Recordings to texts, with the decoding that the run was made with.

    Input: a table with a column `path` (of an audio file) or `samples` (floats in [-1, 1], and their `rate` in Hz,
    16000 if there is no such column). Output: a row each with `text` and `error`, of which one is empty. A server
    (`mlflow models serve`) takes samples only: who asks it must not have its files read.
    """

    def load_context(self, context: Any) -> None:
        """Load the export that lies in the model."""
        folder = Path(context.artifacts["export"])
        decoding = configs.load(Path(context.artifacts["decoding"])).decoding
        self.batches = Batches(Engine(load_export(folder), decoding))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A text a row; what is wrong with a row stands in its `error`, and the others go on."""
        rows = [self._answer(row) for row in model_input.to_dict("records")]
        return pd.DataFrame(rows, columns=["text", "error"], index=model_input.index, dtype="object")

    def _answer(self, row: Mapping[str, Any]) -> tuple[str, str]:
        try:
            return transcribe(self.batches, _samples(row)), ""
        except KitError as error:
            return "", str(error)


def _samples(row: Mapping[str, Any]) -> torch.Tensor:
    """The (n,) samples of a row at 16 kHz.

    Raises:
        KitError: there are none, or they cannot be used.
    """
    path, given = row.get("path"), row.get("samples")
    if isinstance(path, str) and path:
        if os.environ.get(IN_A_SERVER) == "true":
            raise KitError("this server reads no files; send the column samples instead of path")
        return read_audio(path)
    if given is None or np.ndim(given) != 1 or not len(given):
        raise KitError("a row needs a path, or samples, which are a list of numbers; this one has neither")
    rate = row.get("rate")
    samples = np.ascontiguousarray(given, dtype=np.float32)
    return resample(samples, SAMPLE_RATE if rate is None or pd.isna(rate) else int(rate))


def save_model(export: Path, decoding: Any, path: Path, about: Model | None = None) -> None:
    """Write an export with all its parts as an MLflow model into the folder `path`, which is not there yet.

    Args:
        decoding: that section of the configuration.
        about: MLflow's description to add to.
    """
    with tempfile.TemporaryDirectory() as scratch:
        code, sketch, settings = Path(scratch, "model.py"), Path(scratch, "export"), Path(scratch, DECODING)
        code.write_text(CODE, "utf-8")
        sketch.mkdir()
        shutil.copy(export / ABOUT, sketch)
        write_text(settings, configs.dump(decoding))
        mlflow.pyfunc.save_model(
            path=str(path),
            python_model=str(code),
            artifacts={"export": str(sketch), "decoding": str(settings)},
            signature=SIGNATURE,
            pip_requirements=["nim4-kit"],
            mlflow_model=about,
        )
    for file in sorted(export.iterdir()):
        if file.name != ABOUT:
            link(file, path / "artifacts" / "export" / file.name)
