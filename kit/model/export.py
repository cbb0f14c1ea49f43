"""Exports: all that inference needs, in one folder, without pickle.

model.safetensors    every tensor, the feature normalization among them
export.json          format, parts, the model section of the configuration, where it came from
phonemes.json        the phoneme inventory
tokenizer.json ...   the LLM's tokenizer, if there is an LLM
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from kit.errors import KitError
from kit.files import write_text
from kit.model.llm import Embeddings, config_of, plain_shape
from kit.model.lora import merged
from kit.model.recognizer import Recognizer
from kit.text.phonemes import PhonemeInventory

FORMAT = 1
_MEND = "it was made with another model size; use the same model=... settings"
_TABLE = "llm.model.embed_tokens.weight"
TENSORS, ABOUT, PHONEMES = "model.safetensors", "export.json", "phonemes.json"


def _tied(recognizer: Recognizer) -> set[str]:
    """Names of tensors that are another one's memory (the output layer of an LLM with tied embeddings)."""
    tied = "llm" in recognizer.parts and recognizer.llm.config.tie_word_embeddings
    return {"llm.lm_head.weight"} if tied else set()


def save_export(recognizer: Recognizer, folder: Path, meta: dict[str, Any]) -> None:
    """Write an export into `folder` (made whole by the caller, see `kit.files.folder_atomic`), LoRA merged.

    Args:
        meta: plain values kept beside the model (stage, run, metrics).
    """
    config = cast(dict[str, Any], OmegaConf.to_container(recognizer.config, resolve=True))
    if "llm" in recognizer.parts:
        config["llm"]["config"] = plain_shape(recognizer.llm.config)
    about = {"format": FORMAT, "parts": list(recognizer.parts), "model": config, "meta": meta}
    tied = _tied(recognizer)
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in merged(recognizer).items() if name not in tied
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / TENSORS)
        recognizer.inventory.save(folder / PHONEMES)
        if recognizer.tokenizer is not None and "llm" in recognizer.parts:
            recognizer.tokenizer.save_pretrained(str(folder))
        write_text(folder / ABOUT, json.dumps(about, indent=1, ensure_ascii=False))
    except SafetensorError as error:  # its way of saying that the disk is full
        raise KitError(f"cannot write {TENSORS}: {error}; free some space and run again") from error


def read_about(folder: Path) -> dict[str, Any]:
    """The description of an export.

    Raises:
        KitError: `folder` is no export, or one of a newer format.
    """
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(
            f"{folder} is no export (no readable {ABOUT} in it); give the export folder of a finished run"
        ) from error
    if about.get("format") != FORMAT:
        raise KitError(f"{folder} has export format {about.get('format')}, this kit reads {FORMAT}; update the kit")
    return about


def load_export(folder: str | Path, parts: tuple[str, ...] | None = None, far_llm: bool = False) -> Recognizer:
    """Rebuild the recognizer of an export, strictly: every tensor must fit, none may be missing or left over.

    Args:
        parts: build only these of its parts; None is all that it has.
        far_llm: of the LLM load only the embeddings of its tokens; another process has it.

    Raises:
        KitError: no export, damaged, or its tensors do not fit its own description.
    """
    folder = Path(folder)
    about = read_about(folder)
    kept = tuple(about["parts"]) if parts is None else parts
    missing = set(kept) - set(about["parts"])
    if missing:
        raise KitError(
            f"{folder} has no {', '.join(sorted(missing))}, only {', '.join(about['parts'])}; choose a later stage"
        )
    tokenizer = None
    if (folder / "tokenizer.json").exists():
        from kit.text.tokens import load_tokenizer

        tokenizer = load_tokenizer(str(folder))
    near = tuple(part for part in kept if part != "llm" or not far_llm)
    recognizer = Recognizer(OmegaConf.create(about["model"]), near, tokenizer, PhonemeInventory.load(folder / PHONEMES))
    load_tensors(recognizer, folder, near)
    if near != kept:
        recognizer.llm, recognizer.parts = _embeddings(folder, about), (*recognizer.parts, "llm")
    return recognizer.eval()


def _embeddings(folder: Path, about: dict[str, Any]) -> Embeddings:
    """The token embeddings of an export's LLM."""
    found = Embeddings(config_of(about["model"]["llm"]["config"]))
    try:
        with safe_open(folder / TENSORS, "pt") as stored:
            found.table.load_state_dict({"weight": stored.get_tensor(_TABLE)})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise KitError(f"{folder / TENSORS} has no {_TABLE} that fits ({error}); export the run again") from error
    return found


def load_tensors(recognizer: Recognizer, folder: Path, parts: Collection[str]) -> None:
    """Copy parts of an export's tensors into a recognizer, strictly.

    Raises:
        KitError: the file is damaged, or a tensor is missing, surplus or of another shape; names it.
    """
    try:
        stored = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise KitError(
            f"{folder / TENSORS} cannot be read ({error}); copy the export again or train it anew"
        ) from error
    tied = _tied(recognizer)
    own = {name: value for name, value in recognizer.state_dict().items() if name not in tied}
    for part in parts:
        _check(part, own, stored, folder)
    wanted = {name: stored[name] for name in own if name.split(".")[0] in parts}
    recognizer.load_state_dict(wanted, strict=False)


def _check(part: str, own: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], folder: Path) -> None:
    mine = {name for name in own if name.startswith(f"{part}.")}
    theirs = {name for name in stored if name.startswith(f"{part}.")}
    if mine != theirs:
        name = sorted(mine ^ theirs)[0]
        how = "is missing in" if name in mine else "is surplus in"
        raise KitError(f"tensor {name} {how} {folder}: {_MEND}")
    for name in sorted(mine):
        if own[name].shape != stored[name].shape:
            raise KitError(
                f"tensor {name} is {tuple(stored[name].shape)} in {folder} but {tuple(own[name].shape)} in this model: "
                f"{_MEND}"
            )


def model_section(folder: Path) -> DictConfig:
    """The `model` configuration of an export."""
    return OmegaConf.create(read_about(folder)["model"])
