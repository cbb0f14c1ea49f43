"""`python -m kit evaluate benchmark=NAME|FOLDER`: all sets, whole and in streams, without and with retrieval."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kit.config import CONFIGS, compose, override
from kit.errors import KitError, UsageError, nearest
from kit.evaluation.clips import Clips
from kit.evaluation.digest import markdown
from kit.evaluation.page import page
from kit.evaluation.report import measure, measure_streams, normalization, parts
from kit.evaluation.systems import measure_system
from kit.files import check_writable, write_text
from kit.model.recognizer import Recognizer
from kit.progress import say

WITH = " + retrieval"
_OWN = ("benchmark", "out", "split", "data", "hotwords", "personal")  # overrides that sets have of their own
_KEYS = {"name", "data", "part", "rate", "paper", "comparable", "overrides"}
_MANIFESTS = (".jsonl", ".jsonl.gz")
_FILES = ("report.json", "report.md", "report.html")


@dataclass(frozen=True)
class TestSet:
    """One set of a benchmark.

    Attributes:
        name: in the report.
        data, part: where it is from; no part means all test parts of the data.
        rate: how the field calls its error rate.
        paper: its row in paper.yaml.
        comparable: what a reader must know who compares the two.
        overrides: of the configuration.
    """

    name: str
    data: str
    part: str | None
    rate: str = "MER"
    paper: str | None = None
    comparable: str = "a set of your own"
    overrides: tuple[str, ...] = ()


def known(folders: Sequence[Path] = ()) -> dict[str, Path]:
    """The benchmarks that there are; those of later folders come before the kit's own."""
    return {path.stem: path for folder in (CONFIGS, *folders) for path in sorted((folder / "benchmark").glob("*.yaml"))}


def sets_of(name: str, folders: Sequence[Path] = ()) -> list[TestSet]:
    """The sets of a benchmark, or of a folder in which every manifest is one.

    Raises:
        UsageError: there is no such benchmark or folder, its file says something else, or the folder has no manifest.
    """
    files = known(folders)
    if name in files:
        return [_read_set(one, files[name]) for one in OmegaConf.to_container(OmegaConf.load(files[name]))["sets"]]  # type: ignore[call-overload,index,union-attr]
    folder = Path(name)
    if not folder.is_dir():
        guess = nearest(name, files)
        hint = f"did you mean {guess}? " if guess else ""
        raise UsageError(f"unknown benchmark {name}; {hint}known: {', '.join(sorted(files))}, or a folder of manifests")
    manifests = sorted(path for path in folder.iterdir() if path.name.endswith(_MANIFESTS))
    if not manifests:
        raise UsageError(f"the folder {folder} has no manifest; put a .jsonl of audio and text, or Lhotse cuts, there")
    return [
        TestSet(path.name.split(".jsonl")[0], "manifest", "test", overrides=(override("data.test", str(path)),))
        for path in manifests
    ]


def _read_set(content: Any, path: Path) -> TestSet:
    wrong = sorted(set(content) - _KEYS) or sorted({"name", "data"} - set(content))
    if wrong:
        raise UsageError(f"{path}: {wrong[0]} is missing or no part of a set")
    return TestSet(**{"part": None, **content, "overrides": tuple(content.get("overrides", ()))})


@cache
def paper() -> dict[str, Any]:
    """The paper's figures."""
    found: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).parent / "paper.yaml"))
    return found


class Benchmark:
    """Runs the sets of a benchmark and writes the report anew after each.

    Args:
        config: of the command; `system`, or else `recognizer`, is what is measured.
        folder: for the report.
    """

    def __init__(self, config: DictConfig, export: str | None, recognizer: Recognizer | None, folder: Path) -> None:
        self.config, self.recognizer, self.folder = config, recognizer, folder
        self.clips = Clips()
        spelled = normalization(config)
        self.report: dict[str, Any] = {
            "benchmark": config.benchmark,
            "made": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
            "export": export,
            "system": config.system,
            "overrides": list(config.overrides),
            "normalization": {"name": spelled.name, "about": spelled.about},
            "noise_at": config.noise_at,
            "paper": paper(),
            "sets": [],
        }
        self.report |= {key: {} for key in ("parts", "faults", "latency", "crash", "utterances")}

    def run(self, sets: Sequence[TestSet]) -> dict[str, Any]:
        """Measure all sets.

        Raises:
            KitError: none could be run.
        """
        for place, one in enumerate(sets, 1):
            say(f"{one.name} ({place} of {len(sets)})")
            try:
                self._set(one)
            except KitError as error:
                say(f"{one.name}: not run: {error}")
                self._note(one, one.name, not_run=str(error))
            self.write()
        if not self.report["parts"]:
            reasons = "; ".join(f"{one['name']}: {one['not_run']}" for one in self.report["sets"][:3])
            raise KitError(f"no set of benchmark={self.config.benchmark} could be run: {reasons}")
        return self.report

    def write(self) -> None:
        """Write the report in its three forms, each whole or not at all."""
        numbers, text, web = (self.folder / name for name in _FILES)
        write_text(numbers, json.dumps(self.report, indent=1, ensure_ascii=False))
        write_text(text, markdown(self.report))
        write_text(web, page(self.report, self.clips))

    def _set(self, one: TestSet) -> None:
        from kit.fit import data_module

        config = self._composed(one)
        data = data_module(config)
        if self.recognizer is None:
            self._add(one, measure_system(config, data), "", data, config)
            return
        self._add(one, self._measured(config, data), "", data, config)
        try:
            about = self._with_names(one, config, data)
        except KitError as error:  # what was measured without them stands
            say(f"{one.name}: not run with retrieval: {error}")
            about = f"not run: {error}"
        for named in self._parts_of(one, parts(config, data)).values():
            self._about(named)["retrieval"] = about

    def _with_names(self, one: TestSet, config: DictConfig, data: Any) -> str:
        """Measure a set with retrieval; returns what was searched in, or why nothing was."""
        with self._listed(one, config, data) as (with_names, about):
            if with_names is not None:
                self._add(one, self._measured(with_names, data), WITH, data, config)
        return about

    def _measured(self, config: DictConfig, data: Any) -> dict[str, Any]:
        assert self.recognizer is not None
        if config.decoding.stream:
            return measure_streams(config, self.recognizer, data, silence=False)
        return measure(config, self.recognizer, data)

    def _composed(self, one: TestSet, *more: str) -> DictConfig:
        kept = [text for text in self.config.overrides if text.lstrip("+~").split("=")[0] not in _OWN]
        chosen = [] if any(text.startswith("decoding=") for text in kept) else ["decoding=streaming"]
        part = [f"split={one.part}"] if one.part else []
        return compose(
            [f"data={one.data}", *chosen, *kept, *one.overrides, *part, *more], list(self.config.configs or [])
        )

    @contextmanager
    def _listed(self, one: TestSet, config: DictConfig, data: Any) -> Iterator[tuple[DictConfig | None, str]]:
        """The configuration with retrieval, and what is searched in: what was given, or the names of the set itself."""
        given = [override(key, self.config[key]) for key in ("hotwords", "personal") if self.config[key]]
        names = [] if given else data.keywords(parts(config, data))
        if config.retrieval.name == "none":
            yield None, "not run: retrieval=none"
        elif given:
            yield self._composed(one, *given), ", ".join(given)
        elif not names:
            yield None, "not run: the set names nothing"
        else:
            with TemporaryDirectory(prefix="kit-names-") as folder:
                path = Path(folder) / "names.tsv"
                write_text(path, "".join(f"{name}\n" for name in names))
                yield self._composed(one, override("personal", str(path))), f"{len(names)} names of the set itself"

    def _add(self, one: TestSet, found: Mapping[str, Any], suffix: str, data: Any, config: DictConfig) -> None:
        named = self._parts_of(one, list(found["parts"]))
        for part, name in named.items():
            if not suffix:
                self._note(one, name, part=part, names=found["names"])
            for key in ("parts", "faults", "utterances"):
                ways = {f"{way}{suffix}": value for way, value in found[key].get(part, {}).items()}
                self.report[key].setdefault(name, {}).update(ways)
            last = list(found["parts"][part])[-1] + suffix
            if part in found.get("latency", {}):
                self.report["latency"].setdefault(name, {})[last] = found["latency"][part]
            if found.get("system", {}).get("crash", {}).get(part):
                self.report["crash"][name] = found["system"]["crash"][part]
            self.clips.keep(name, self.report["utterances"][name], data, part, config.noise_at)

    @staticmethod
    def _parts_of(one: TestSet, found: Sequence[str]) -> dict[str, str]:
        """Part -> name of the set in the report."""
        return {part: one.name if one.part else f"{one.name} {part}" for part in found}

    def _note(self, one: TestSet, name: str, **more: Any) -> None:
        content = {"name": name, "data": one.data, "rate": one.rate, "paper": one.paper, "comparable": one.comparable}
        self.report["sets"].append({**content, "not_run": None, **more})

    def _about(self, name: str) -> dict[str, Any]:
        return next(one for one in self.report["sets"] if one["name"] == name)


def report_folder(config: DictConfig) -> Path:
    """Where the report goes: `out`, or a folder beside the runs; made if need be.

    Raises:
        KitError: nothing can be written there, or something else is there.
    """
    name = Path(str(config.benchmark)).resolve().name if Path(str(config.benchmark)).is_dir() else config.benchmark
    folder = Path(config.out) if config.out else Path(config.runs) / "benchmarks" / str(name)
    if folder.is_file():
        raise UsageError(f"out={folder} is a file; a benchmark writes a folder with {', '.join(_FILES)}")
    check_writable(folder)
    return folder


def run_benchmark(config: DictConfig, export: Path | None) -> int:
    """Run `config.benchmark` with an export, or with the program of `config.system`; print and write the report.

    Returns:
        1 where a program ended badly, else 0.

    Raises:
        KitError: no set could be run, or the export has no language model.
    """
    from kit.model.export import load_export

    sets = sets_of(str(config.benchmark), [Path(folder) for folder in config.configs or []])
    folder = report_folder(config)
    recognizer = load_export(export) if export is not None else None
    if recognizer is not None and "llm" not in recognizer.parts:
        raise KitError(
            f"{export} has no language model, so it writes no texts to score; give the export of sft or later"
        )
    report = Benchmark(config, None if export is None else str(export), recognizer, folder).run(sets)
    print(markdown(report, short=True))
    say(f"written to {folder}: {', '.join(_FILES)}")
    return int(bool(report["crash"]))
