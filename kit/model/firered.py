"""Weights of FireRedASR-AED's encoder in ours, name by name.

The layout is that of its public code (FireRedASR, fireredasr/models/module/conformer_encoder.py, Apache-2.0), whose
encoder computes what ours does without chunks: `tests/kit/model/test_firered.py` holds both against each other. Its
features are Kaldi's of 16-bit samples, normalized by a Kaldi file.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.audio.kaldi import read_cmvn
from kit.errors import KitError, UsageError, first_line
from kit.model.attention import position_table
from kit.model.recognizer import Recognizer
from kit.progress import say

LOUDER = math.log(2.0**30)  # what 16-bit samples add to the log energies of samples in [-1, 1]
PART = "encoder"
LEFT_BEHIND = ("decoder.", "ctc.")  # parts of the checkpoint that the kit has no use for
POSITIONS = "encoder.positional_encoding.pe"  # a constant, which is checked
BESIDE = ("cmvn.ark", "cmvn.txt")

# Of the whole encoder, then of a block: their name, ours. A convolution of width 1 is a linear map here.
_OUTER = {"input_preprocessor.conv.0": "subsampling.conv1", "input_preprocessor.conv.2": "subsampling.conv2"}
_OUTER |= {"input_preprocessor.out": "subsampling.out"}
_BLOCK = {
    **{f"ffn{half}.net.{layer}": f"feed_forward{half}.{layer}" for half in (1, 2) for layer in (0, 1, 4)},
    "mhsa.w_qs": "attention.q",
    "mhsa.w_ks": "attention.k",
    "mhsa.w_vs": "attention.v",
    "mhsa.fc": "attention.out",
    "mhsa.linear_pos": "attention.position",
    "mhsa.layer_norm_q": "attention.norm_q",
    "mhsa.layer_norm_k": "attention.norm_k",
    "mhsa.layer_norm_v": "attention.norm_v",
    "mhsa.pos_bias_u": "attention.bias_u",
    "mhsa.pos_bias_v": "attention.bias_v",
    "conv.pre_layer_norm": "convolution.norm",
    "conv.pointwise_conv1": "convolution.expand",
    "conv.depthwise_conv": "convolution.depthwise",
    "conv.batch_norm": "convolution.depthwise_norm",  # a layer norm, whatever its name
    "conv.pointwise_conv2": "convolution.reduce",
    "layer_norm": "norm",
}
_WIDTH_ONE = ("convolution.expand.weight", "convolution.reduce.weight")


def import_encoder(checkpoint: Path, cmvn: Path | None, model: DictConfig) -> Recognizer:
    """A recognizer that is an encoder alone, with the checkpoint's weights.

    Args:
        checkpoint: the model file (`model.pth.tar`), or safetensors of the same names.
        cmvn: Kaldi's statistics of the features; None looks for them beside the checkpoint.
        model: the `model` section.

    Raises:
        KitError: a file cannot be read, or a tensor is missing, surplus or of another shape: all are named.
    """
    stats = _beside(checkpoint) if cmvn is None else cmvn
    mean, deviation = (torch.from_numpy(one).float() for one in read_cmvn(stats, model.features.bins))
    with torch.device("meta"):
        recognizer = Recognizer(model, (PART,))
    theirs = read_checkpoint(checkpoint)
    tensors = translated(theirs, recognizer.state_dict(), checkpoint)
    recognizer.load_state_dict({**tensors, f"{PART}.mean": mean, f"{PART}.scale": torch.ones_like(mean)}, assign=True)
    recognizer.encoder.set_normalization(mean - LOUDER, deviation)
    return recognizer.eval()


def translated(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names, in single precision.

    Args:
        theirs: by their names.
        ours: what the encoder has, for names and shapes; normalization aside, which is no part of the checkpoint.
        source: for messages.

    Raises:
        KitError: names all that is missing, surplus or of another shape.
    """
    wanted = {name: tensor for name, tensor in ours.items() if name not in (f"{PART}.mean", f"{PART}.scale")}
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    surplus: list[str] = []
    for name, tensor in theirs.items():
        if name.startswith(LEFT_BEHIND):
            continue
        if name == POSITIONS:
            _check_positions(tensor, source)
            continue
        own = our_name(name)
        if own is None or own not in wanted:
            surplus.append(f"{name} {_shown(tensor)}")
            continue
        narrow = own.endswith(_WIDTH_ONE) and tensor.ndim == 3 and tensor.shape[2] == 1
        found[own], names[own] = (tensor[..., 0] if narrow else tensor).float().contiguous(), name
    shapes = [
        f"{names[own]} {_shown(found[own])} instead of {_shown(tensor)}"
        for own, tensor in wanted.items()
        if own in found and found[own].shape != tensor.shape
    ]
    missing = [f"{their_name(own)} {_shown(tensor)}" for own, tensor in wanted.items() if own not in found]
    _complain(source, {"missing": missing, "surplus": surplus, "of another shape": shapes})
    return found


def our_name(name: str) -> str | None:
    """Our name of a tensor of the checkpoint; None if it has no place in our encoder."""
    block = re.fullmatch(r"encoder\.layer_stack\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
    if block:
        own = _BLOCK.get(block[2])
        return f"{PART}.blocks.{block[1]}.{own}{block[3] or ''}" if own else None
    outer = re.fullmatch(r"encoder\.(.+)(\.weight|\.bias)", name)
    own = _OUTER.get(outer[1]) if outer else None
    return f"{PART}.{own}{outer[2]}" if outer and own else None


def their_name(own: str) -> str:
    """The checkpoint's name of one of our tensors."""
    block = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", own)
    if block:
        back = {ours: theirs for theirs, ours in _BLOCK.items()}
        return f"encoder.layer_stack.{block[1]}.{back[block[2]]}{block[3] or ''}"
    name, _, kind = own.removeprefix(f"{PART}.").rpartition(".")
    return f"encoder.{ {ours: theirs for theirs, ours in _OUTER.items()}[name] }.{kind}"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a model file by name; nothing that it holds is executed.

    Raises:
        KitError: no such file, or it holds something else than tensors and plain values.
    """
    if not path.is_file():
        raise KitError(f"{path} is no file; give the model file of FireRedASR-AED, such as model.pth.tar")
    content = _loaded(path)
    state = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(one, Tensor) for one in state.values()):
        raise KitError(f"{path} holds no tensors by name (model_state_dict); give the model file of FireRedASR-AED")
    return {str(name): tensor for name, tensor in state.items()}


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # damaged in any way
            raise KitError(f"{path} cannot be read ({first_line(error)}); copy it again") from error
    try:
        # Beside tensors the file has the options of its training, a Namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torn, no such file at all, or one that wants code to be run
        raise KitError(
            f"{path} cannot be read as weights alone ({first_line(error)[:200]}); nothing in it was executed: take the "
            "model file as it was published"
        ) from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _beside(checkpoint: Path) -> Path:
    found = [checkpoint.parent / name for name in BESIDE if (checkpoint.parent / name).is_file()]
    if not found:
        raise UsageError(
            f"there is no {' or '.join(BESIDE)} beside {checkpoint}; give cmvn=FILE, the normalization of its features"
        )
    return found[0]


def _check_positions(table: Tensor, source: Path) -> None:
    """Their table is (1, 2 n - 1, D) from the distance n - 1 down; ours is made anew."""
    size = (table.shape[1] + 1) // 2 if table.ndim == 3 else 0
    own = position_table(size, size, table.shape[-1], torch.zeros(0)) if size else None
    # Far out the angles are large, and single precision rounds them one way there and another here.
    if own is None or own.shape != table.shape[1:] or not torch.allclose(table[0].float(), own, atol=5e-3):
        raise KitError(f"{source}: {POSITIONS} is no table of sinusoids as ours; this is another kind of model")


def _shown(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)).replace(" ", "")


def _complain(source: Path, faults: Mapping[str, list[str]]) -> None:
    if not any(faults.values()):
        return
    for kind, names in faults.items():
        for name in names:
            say(f"{kind}: {name}")
    counted = ", ".join(f"{len(names)} {kind} ({names[0]})" for kind, names in faults.items() if names)
    raise KitError(f"{source} does not fit the model section: tensors {counted}; model=firered_l is the shape of AED-L")
