"""The command lines that documents and the help show: found in Markdown, and held against what the kit accepts."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import kit.bench
import kit.config
import kit.data
import kit.exporting
import kit.hotwords
import kit.importing
import kit.study
from kit import cli
from kit.errors import UsageError
from kit.options import split_off

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_CALL = re.compile(r"(?:\$ )?(?:\w+=\S+ )*(?:python -m |make )")
_PATTERN = re.compile(r"\.\.\.|(?:^|[\s=])[A-Z]+(?:$|\s)")  # FILE... or stage=NAME: a way of writing, no command


def documents() -> list[Path]:
    """Every Markdown file of the project."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("k*/**/README.md")])


def blocks(text: str, language: str = "") -> list[str]:
    """The contents of the fenced blocks of a language."""
    return [content for named, content in _FENCE.findall(text) if named == language]


def in_markdown(text: str) -> list[str]:
    """The command lines in a document: in fenced blocks, and between single backticks where they can be typed so."""
    blocks = [line for _, block in _FENCE.findall(text) for line in _lines(block)]
    prose = [" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text))]
    prose = [choice for code in prose for choice in _choices(code) if not _PATTERN.search(choice)]
    return [line for line in [*blocks, *prose] if _CALL.match(line)]


def _lines(block: str) -> list[str]:
    """The lines of a block; one that ends with a backslash, or within quotes, goes on."""
    found: list[str] = []
    for line in block.splitlines():
        if found and (found[-1].endswith("\\") or _open(found[-1])):
            found[-1] = found[-1].removesuffix("\\") + " " + line.strip()
        else:
            found.append(line.strip())
    return found


def _open(line: str) -> bool:
    if not _CALL.match(line):
        return False
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def _choices(line: str) -> list[str]:
    """`a=x|y` is two lines."""
    found = re.search(r"(\S+[= ])([\w.]+(?:\|[\w.]+)+)", line)
    if not found:
        return [line]
    return [line.replace(found[2], choice) for choice in found[2].split("|")]


def check(line: str) -> None:
    """Raise an error where the kit would refuse a command line before it reads any file."""
    words = shlex.split(line, comments=True)
    words = words[words.index("make" if "make" in words else "python") :]
    if words[0] == "make":
        assert set(words[1:2]) <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)), line
    elif words[2] != "kit":
        assert importlib.util.find_spec(words[2]), f"{line}: there is no module {words[2]}"
    elif words[3:]:  # the bare name of the program has nothing to check
        _check_kit(words[3], *cli.split(words[4:]))


def _check_kit(command: str, files: list[str], overrides: list[str]) -> None:
    if command not in cli.COMMANDS:
        raise UsageError(f"there is no command {command}")
    if command == "bench":
        alone = [importlib.import_module(kit.bench.ALONE[name]) for name in files if name in kit.bench.ALONE]
        (alone[0] if alone else kit.bench).options(overrides)
    elif command == "hotwords":
        _, others = split_off(kit.hotwords.DEFAULTS[files[0]], overrides)
        kit.hotwords.options(files[0], [text for text in overrides if text not in others])
        assert files[0] == "calibrate" or not others, others
        kit.config.compose(others)
    elif command == "data":
        kit.config.compose(kit.data.options(files[0], overrides)[1])
    elif command == "export":
        kit.config.compose(kit.exporting.options(overrides)[1])
    elif command == "import":
        kit.config.compose(kit.importing.options(overrides)[1])
    elif command == "study":
        own, rest = kit.study.options(overrides)
        brought = kit.study.load(own["name"]).overrides if own.get("name") in kit.study.names([]) else []
        kit.config.compose([*brought, *rest])  # keys that the study brings may be set
    else:
        kit.config.compose({"stream": cli.as_stream, "serve": cli.as_served}.get(command, list)(overrides))
