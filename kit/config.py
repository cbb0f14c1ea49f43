"""Compose configs/ with what was typed on the command line, check it, save it, and tell configurations apart.

Hydra's compose API does the composing; this module adds what a person needs: every key and value is checked first, and
a wrong one is answered with one sentence that names the nearest right one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from kit.errors import KitError, UsageError, first_line, nearest
from kit.files import write_text
from kit.values import AT_LEAST, AT_MOST, FREE, ONE_OF, OPTIONAL, TYPES

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

_NAME = re.compile(r"\w[\w.\- ]*")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?", re.ASCII)


def compose(overrides: Sequence[str] = (), config_dir: str | Path | Sequence[str | Path] | None = None) -> DictConfig:
    """The configuration that `overrides` ("key=value", "group=option", "+new.key=value") make of configs/.

    Args:
        config_dir: a folder of one's own (or several) with stage/, model/ ... searched after the package's;
            `configs=FOLDER` among the overrides and the environment variable KIT_CONFIGS do the same.

    Raises:
        UsageError: an unknown key or option, a value of the wrong type, a missing value.
    """
    parsed = [_parse(text) for text in overrides]
    folders = _own_folders(parsed, config_dir)
    groups = _groups([CONFIGS, *folders])
    chosen = [item for item in parsed if _is_choice(item, groups)]
    values = [_written_out(item) for item in parsed if not _is_choice(item, groups)]
    for item in chosen:
        _check_option(item, groups)
    config = _chosen(tuple(f"{item.key_or_group}={item.value()}" for item in chosen), tuple(folders))
    for item in values:
        _apply(item, config, groups)
    _place_hotwords(config)
    OmegaConf.update(config, "overrides", [_escape(text) for text in overrides])
    OmegaConf.update(config, "configs", [str(folder) for folder in folders] or None)
    _check_whole(config)
    return config


def override(key: str, value: str) -> str:
    """The override that gives a key a text, whatever the text has in it."""
    return f"{key}={_quote(value)}"


def for_stage(config: DictConfig, stage: str) -> DictConfig:
    """The configuration of another stage of the same pipeline: all overrides but those meant for one stage alone."""
    own = ("stage", "init", "upstream", "configs")
    kept = [text for text in config.overrides if _parse(text).key_or_group.split(".")[0] not in own]
    return compose([*kept, f"stage={stage}"], list(config.configs or []))


def save(config: DictConfig, path: str | Path) -> None:
    """Write `config` with every value resolved, whole or not at all."""
    write_text(path, dump(config))


def dump(config: DictConfig) -> str:
    """`config` as YAML with every value resolved, for `load` and `OmegaConf.create`."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(_resolved(config))))


def load(path: str | Path) -> DictConfig:
    """Read what `save` wrote.

    Raises:
        KitError: the file is missing or damaged.
    """
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # the YAML reader has many errors of its own
        raise KitError(f"cannot read the configuration {path}: {first_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise KitError(f"cannot read the configuration {path}: it holds no keys")
    return config


def fingerprint(config: DictConfig, sections: Iterable[str]) -> str:
    """SHA-256 (hex) over the resolved values of `sections` (dotted keys); equal values give equal fingerprints."""
    values = {key: _resolved(OmegaConf.select(config, key)) for key in sorted(sections)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def differences(one: DictConfig, other: DictConfig, section: str) -> list[str]:
    """The dotted keys of `section` whose resolved values differ between two configurations, sorted."""
    first, second = (flatten(OmegaConf.select(config, section), f"{section}.") for config in (one, other))
    return sorted(key for key in first.keys() | second.keys() if first.get(key, ...) != second.get(key, ...))


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and resolved values of all leaves; a list is a leaf."""
    return dict(_leaves(_resolved(node) or {}, prefix))


# --- reading overrides ------------------------------------------------------------------------------------------------


def _parse(text: str) -> Override:
    if not text.startswith("~") and "=" not in text:
        raise UsageError(f"{text!r} is no key=value; write for example trainer.max_steps=50")
    if text.startswith("="):
        raise UsageError(f"{text!r} names no key; write for example trainer.max_steps=50")
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except HydraException:
        return _parse_quoted(text, parser)


def _parse_quoted(text: str, parser: OverridesParser) -> Override:
    """Read the value as plain text: Hydra's grammar knows no Han characters, brackets or "=" outside quotes."""
    key, _, value = text.partition("=")
    if value[:1] in ("[", "{", "'", '"'):
        raise UsageError(f"cannot read the value of {text!r}; put lists in [a,b], mappings in {{a: 1}}, close quotes")
    try:
        return parser.parse_override(f"{key}={_quote(value)}")
    except HydraException as error:
        raise UsageError(f"cannot read {text!r}; write key=value, for example trainer.max_steps=50") from error


def _quote(value: str) -> str:
    # A backslash counts in Hydra's quotes only before a quote or at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _written_out(item: Override) -> Override:
    """`model.llm=NAME` names a pretrained LLM, which brings its own shape; all else stays as it is."""
    value = item.value()
    if item.key_or_group != "model.llm" or not isinstance(value, str):
        return item
    return _parse(f"model.llm={{pretrained: {_quote(value)}, config: null}}")


def _own_folders(parsed: Sequence[Override], config_dir: Any) -> list[Path]:
    """Folders of the user's own, checked: from the argument, `configs=` (the last one counts), and KIT_CONFIGS."""
    named: list[Any] = [config_dir] if isinstance(config_dir, (str, Path)) else list(config_dir or [])
    given = [item.value() for item in parsed if item.key_or_group == "configs"]
    if given and given[-1] is not None:
        named += given[-1] if isinstance(given[-1], list) else [given[-1]]
    named += [name for name in os.environ.get("KIT_CONFIGS", "").split(os.pathsep) if name]
    folders = list(dict.fromkeys(Path(str(name)).expanduser().resolve() for name in named))
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"the folder of configurations {folder} does not exist")
    return folders


def _groups(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Group name -> its options, sorted: the folders and the YAML files in them."""
    groups: dict[str, set[str]] = {}
    for file in (file for folder in folders for file in folder.glob("*/*.yaml")):
        if file.parent.name not in ("study", "benchmark"):  # no part of a configuration: they make many
            groups.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(options) for name, options in groups.items()}


def _is_choice(item: Override, groups: Mapping[str, object]) -> bool:
    return item.key_or_group in groups and not isinstance(item.value(), dict) and item.type != OverrideType.DEL


def _check_option(item: Override, groups: Mapping[str, list[str]]) -> None:
    group, options = item.key_or_group, groups[item.key_or_group]
    name = item.get_value_string()
    if str(item.value()) in options:
        return
    guess = nearest(name, options)
    hint = f"did you mean {guess}? known: " if guess else "known: "
    raise UsageError(f"unknown {group} {name}; {hint}{', '.join(options)}")


def _chosen(choices: tuple[str, ...], folders: tuple[Path, ...]) -> DictConfig:
    """The files of configs/ put together; read anew when one of them has changed."""
    files = sorted(path for folder in (CONFIGS, *folders) for path in folder.glob("**/*.yaml"))
    return copy.deepcopy(_hydra(choices, folders, tuple((path, path.stat().st_mtime_ns) for path in files)))


@lru_cache(maxsize=64)  # a tenth of a second each, and a study composes many
def _hydra(overrides: tuple[str, ...], folders: tuple[Path, ...], _: Hashable) -> DictConfig:
    paths = ",".join(_quote(f"file://{folder}") for folder in folders)
    search = [f"hydra.searchpath=[{paths}]"] if folders else []
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra_compose("config", overrides=[*overrides, *search])
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(f"cannot compose the configuration: {first_line(error)}") from error


# --- checking overrides -----------------------------------------------------------------------------------------------


def _apply(item: Override, config: DictConfig, groups: Mapping[str, object]) -> None:
    """Put an override into `config`, after its key and the type of its value were found right."""
    key = item.key_or_group
    if item.type not in (OverrideType.ADD, OverrideType.FORCE_ADD):
        _check_key(key, config, groups)
    if item.type == OverrideType.DEL:
        parent, _, name = key.rpartition(".")
        with open_dict(config):
            (OmegaConf.select(config, parent) if parent else config).pop(name)
        return
    OmegaConf.update(config, key, _value(item, config, groups), force_add=True)


def _place_hotwords(config: DictConfig) -> None:
    """Let retrieval take part in decoding, as one more callback, where there is something to search in."""
    given = {"database": config.get("hotwords"), "personal": config.get("personal")}
    options = {key: value for key, value in (config.get("retrieval") or {}).items() if key != "name"}
    if options and any(given.values()):
        OmegaConf.update(config, "decoding.callbacks.hotwords", {**options, **given}, force_add=True)


def _check_key(key: str, base: DictConfig, groups: Mapping[str, object]) -> None:
    known = list(_paths(base))
    if key in known:
        return
    ending = [name for name in known if name.endswith(f".{key}")]
    guess = ending[0] if len(ending) == 1 else nearest(key, [*known, *groups])
    hint = f"did you mean {guess}?" if guess else "see configs/ for those there are"
    raise UsageError(f"unknown key {key}; {hint} (+{key}=... adds a new one)")


def _value(item: Override, config: DictConfig, groups: Mapping[str, object]) -> Any:
    """The value of an override, of the type that its default has."""
    key, text = item.key_or_group, item.get_value_string()
    value = item.value()
    wanted = _wanted_type(key, config)
    if wanted is str and not isinstance(value, (list, dict, type(None))) and text[:1] not in ("'", '"'):
        return text  # as it was typed: commas, backslashes and digits mean nothing else here
    if item.is_sweep_override():
        told = f"{item.input_line} gives several values where one is wanted"
        raise UsageError(f'{told}; write a list as [a,b], a text with a comma as "{override(key, text)}"')
    return _typed(key, value, wanted, config, groups)


def _typed(key: str, value: Any, wanted: type | None, config: DictConfig, groups: Mapping[str, object]) -> Any:
    if wanted is None or (isinstance(value, str) and "${" in value):
        return value
    if wanted is dict and isinstance(value, dict):
        for name in value:
            _check_key(f"{key}.{name}", config, groups)
        inner = {name: f"{key}.{name}" for name in value}
        return {
            name: _typed(inner[name], value[name], _wanted_type(inner[name], config), config, groups) for name in value
        }
    if value is None and (wanted not in (int, bool) or key in OPTIONAL):
        return None
    return _converted(key, value, wanted)


def _converted(key: str, value: Any, wanted: type) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and (wanted is float or (wanted is int and float(value).is_integer())):
        return wanted(value)
    if wanted is str and not isinstance(value, (list, dict)):
        return str(value)
    if type(value) is wanted:
        return value
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    raise UsageError(f"{key} wants {TYPES[wanted]}, got {shown}")


def _wanted_type(key: str, base: DictConfig) -> type | None:
    """The type of a default (None when anything goes)."""
    if key in FREE:
        return None
    if key in OPTIONAL:
        return OPTIONAL[key]
    try:
        default = _resolved(OmegaConf.select(base, key))
    except KitError:  # an interpolation whose target comes with another override
        return None
    return type(default) if type(default) in TYPES else None


def _check_whole(config: DictConfig) -> None:
    missing = [key for key, value in _leaves(OmegaConf.to_container(config, resolve=False), "") if value == "???"]
    if missing:
        raise UsageError(f"{missing[0]} has no value yet; give {missing[0]}=...")
    _resolved(config)
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and value < least:
            raise UsageError(f"{key} must be at least {least}, got {value}")
    for key, most in AT_MOST.items():
        value = OmegaConf.select(config, key)
        if value is not None and value > most:
            raise UsageError(f"{key} must be at most {most}, got {value}")
    for key, options in ONE_OF.items():
        value = OmegaConf.select(config, key)
        if value is not None and value not in options:
            raise UsageError(f"{key} must be one of {', '.join(options)}, or null; got {value}")
    _check_retrieval(_resolved(config.get("retrieval")) or {})
    if config.batch.device is not None:
        _check_device("batch.device", config.batch.device)
    if not _NAME.fullmatch(str(config.experiment)):
        raise UsageError(f"experiment is the name of a folder; {str(config.experiment)!r} cannot be one")


def _check_retrieval(section: Mapping[str, Any]) -> None:
    """What only some ways of searching have, where it is there."""
    found = {"margin": 0.0, "verify": True, "device": "cpu", **section}
    margin = found["margin"]
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not math.isfinite(margin):
        raise UsageError(f"retrieval.margin must be a finite number, got {margin}")
    if not isinstance(found["verify"], bool):
        raise UsageError(f"retrieval.verify must be true or false, got {found['verify']}")
    _check_device("retrieval.device", found["device"])


def _check_device(key: str, value: Any) -> None:
    if not _DEVICE.fullmatch(str(value)):
        raise UsageError(f"{key} must be cpu, cuda or cuda:NUMBER, got {value}")


# --- small things -----------------------------------------------------------------------------------------------------


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all nodes, leaves and branches."""
    if not isinstance(node, (dict, DictConfig)):
        return
    plain: Any = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else node
    for key, value in plain.items():
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _resolved(node: Any) -> Any:
    """Plain values of a node, interpolations resolved."""
    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"cannot resolve the configuration: {first_line(error)}") from error


def _escape(value: Any) -> Any:
    """Keep texts that look like interpolations from being resolved."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", value)
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return value
