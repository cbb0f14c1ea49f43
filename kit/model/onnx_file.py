"""Encoder and phoneme head as ONNX: one streaming step with its caches as inputs and outputs (docs/export.md).

encoder.onnx        the step in single precision (beside it encoder.onnx.data, where the weights are large)
encoder.int8.onnx   the same with matrices of 8 bits, quantized dynamically, if wanted
phonemes.json       the phonemes of log_probs
onnx.json           what goes in and what comes out
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from kit.audio.features import FLOOR, HIGH, SAMPLE_RATE, SHIFT, WINDOW
from kit.errors import KitError
from kit.files import write_text
from kit.model.encoder import Chunk
from kit.model.export import PHONEMES
from kit.model.recognizer import Recognizer
from kit.model.stepping import StreamStep
from kit.model.subsampling import STRIDE

FORMAT = 1
ABOUT, WHOLE, SMALL = "onnx.json", "encoder.onnx", "encoder.int8.onnx"
OPSET = 18
LARGE = 1_800_000_000  # bytes of weights that a single ONNX file can just not hold (2 GB)
TOLERANCE = 1e-4  # of a number to the kit's, relative to the largest, which counts as 1 at least
CACHES = ("cached", "keys", "values", "past")
INPUTS = ("features", "length", *CACHES)
OUTPUTS = ("log_probs", "frames", "fresh", *(f"next_{name}" for name in CACHES))
_AXES = (0, 0, 0, 1, 1, 1)  # of the streams, in each input
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(recognizer: Recognizer, chunk: Chunk, folder: Path, quantize: bool, meta: dict[str, Any]) -> float:
    """Write the files of an export into `folder` (made whole by the caller, see `kit.files.folder_atomic`).

    Args:
        recognizer: with encoder and phoneme head, in eval mode.
        chunk: its frames and visible left chunks, both finite.
        quantize: write the one with matrices of 8 bits, too.
        meta: plain values kept in onnx.json.

    Returns:
        The largest difference to the kit's own stream that was found, relative as TOLERANCE is.

    Raises:
        KitError: a package is missing, or the file computes something else than the kit.
    """
    check_packages()
    step = StreamStep(recognizer, chunk).eval()
    with _silenced(), torch.no_grad():
        program = _exported(step)
    program.save(str(folder / WHOLE), external_data=_bytes(step) > LARGE)
    recognizer.inventory.save(folder / PHONEMES)
    if quantize:
        _quantize(folder)
    write_text(folder / ABOUT, json.dumps(_about(recognizer, step, quantize, meta), indent=1, ensure_ascii=False))
    difference = compare(recognizer, OnnxStep(folder), chunk)
    if not difference <= TOLERANCE:
        raise KitError(
            f"the exported step differs from the kit's stream by {difference:.2g} (limit {TOLERANCE:g}); nothing was "
            "written: take another version of onnxruntime or onnxscript, and tell us"
        )
    return difference


def check_packages() -> None:
    """Raises KitError if something that writes or runs ONNX is not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(f"export onnx needs {' and '.join(missing)}; install nim4-kit[onnx]")


class OnnxStep:
    """The streaming step as onnxruntime computes it; what it must be told is in the folder.

    Args:
        folder: that `write_onnx` filled.
        file: WHOLE or SMALL.
        threads: of onnxruntime; None for its own choice.

    Raises:
        KitError: onnxruntime is missing, or the folder is no whole export.
    """

    def __init__(self, folder: Path, file: str = WHOLE, threads: int | None = None) -> None:
        check_packages()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text("utf-8"))
            self._session = onnxruntime.InferenceSession(
                str(folder / file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a dozen kinds, none of them public
            raise KitError(f"{folder / file} cannot be read as an ONNX export; export it again") from error
        self.features, self.shift = int(self.about["features"]), int(self.about["shift"])

    def start(self, streams: int) -> list[np.ndarray]:
        """The caches of streams that have heard nothing."""
        shapes = [self.about["inputs"][name] for name in CACHES]
        sizes = [[streams if size == "streams" else size for size in one["shape"]] for one in shapes]
        return [np.zeros(size, one["type"]) for size, one in zip(sizes, shapes, strict=True)]

    def __call__(self, features: np.ndarray, length: np.ndarray, caches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs in their order; those of the caches are the last four."""
        feed = dict(zip(INPUTS, (features, length, *caches), strict=True))
        return self._session.run(list(OUTPUTS), feed)

    def stream(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whole utterances, chunk by chunk.

        Args:
            features: (B, T, F) log-mel, not normalized; lengths: (B,).

        Returns:
            Log-probabilities (B, T', V), frames (B, T', D) and their lengths (B,).
        """
        caches, found = self.start(len(features)), []
        for begin in range(0, max(1, features.shape[1]), self.shift):
            piece = np.zeros((len(features), self.features, features.shape[2]), np.float32)
            heard = features[:, begin : begin + self.features].numpy()
            piece[:, : heard.shape[1]] = heard
            log_probs, frames, fresh, *caches = self(piece, (lengths - begin).clamp(0, self.features).numpy(), caches)
            found.append((log_probs, frames, fresh))
        parts = (np.concatenate([one[place] for one in found], 1) for place in (0, 1))
        scores, encoded = (torch.from_numpy(part) for part in parts)
        return scores, encoded, torch.from_numpy(np.sum([fresh for _, _, fresh in found], 0))


@torch.inference_mode()
def compare(recognizer: Recognizer, step: OnnxStep, chunk: Chunk, frames: int = 403) -> float:
    """The largest difference between an exported step and the kit's stream of the same features, relative to the
    largest number of each output (at least 1); over six and more chunks, the last one short.
    """
    encoder = recognizer.encoder
    frames = max(frames, 6 * step.shift + 7)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, frames, encoder.bins, generator=draw) / encoder.scale + encoder.mean
    wanted, _ = encoder.stream(features, encoder.start(chunk, 2), final=True)
    scores = recognizer.phoneme_head(wanted).log_softmax(-1)
    found_scores, found, lengths = step.stream(features, torch.tensor([frames, frames]))
    size = wanted.shape[1]
    if lengths.tolist() != [size, size]:
        return float("inf")
    pairs = ((found[:, :size], wanted), (found_scores[:, :size], scores))
    return max(float((one - other).abs().max() / other.abs().max().clamp_min(1)) for one, other in pairs)


def _exported(step: StreamStep) -> Any:
    streams = torch.export.Dim("streams")
    args = (
        torch.zeros(2, step.features, step.encoder.bins),
        torch.full((2,), step.features),
        *step.start(2),
    )
    return torch.onnx.export(
        step,
        args,
        dynamo=True,
        dynamic_shapes=tuple({axis: streams} for axis in _AXES),
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        opset_version=OPSET,
        verbose=False,
    )


def _quantize(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _silenced():
        quantize_dynamic(
            str(folder / WHOLE),
            str(folder / SMALL),
            op_types_to_quantize=["MatMul", "Gemm"],  # the convolutions are a few percent, and slower in 8 bits
            per_channel=True,
            reduce_range=True,  # 7 bits: processors without VNNI add pairs of products in 16
            weight_type=QuantType.QInt8,
            use_external_data_format=(folder / f"{WHOLE}.data").is_file(),
        )


def _about(recognizer: Recognizer, step: StreamStep, quantized: bool, meta: dict[str, Any]) -> dict[str, Any]:
    features = cast(dict[str, Any], OmegaConf.to_container(recognizer.config.features, resolve=True))
    names = dict(zip(INPUTS, _AXES, strict=True))
    args = (torch.zeros(1, step.features, step.encoder.bins), torch.ones(1, dtype=torch.long), *step.start(1))
    inputs = {
        name: {
            "type": str(one.dtype).removeprefix("torch."),
            "shape": ["streams" if axis == names[name] else size for axis, size in enumerate(one.shape)],
        }
        for name, one in zip(INPUTS, args, strict=True)
    }
    return {
        "format": FORMAT,
        "files": [WHOLE, *([SMALL] if quantized else [])],
        "audio": {"rate": SAMPLE_RATE, "window": WINDOW, "shift": SHIFT, "high": HIGH, "floor": FLOOR, **features},
        "chunk": step.chunk,
        "left": step.span // step.chunk,
        "features": step.features,
        "shift": STRIDE * step.chunk,
        "inputs": inputs,
        "outputs": list(OUTPUTS),
        "meta": meta,
    }


def _bytes(step: StreamStep) -> int:
    return sum(one.numel() * one.element_size() for one in step.state_dict().values())


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what the exporter says of packages that are not there and of its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
