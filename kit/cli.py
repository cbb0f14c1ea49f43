"""`python -m kit COMMAND [file ...] [key=value ...]`.

Standard output carries results only; progress and messages go to standard error. Heavy packages are imported by the
command that needs them, so that `--help` is quick.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from kit.errors import KitError, UsageError, nearest
from kit.manual import MANUAL

_OVERRIDE = re.compile(r"(\+{0,2}|~)[A-Za-z_][\w.@*-]*=", re.ASCII)
_DELETION = re.compile(r"~[A-Za-z_][\w.]*", re.ASCII)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except KitError as error:
        print(f"kit: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("kit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (| head); what is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        known = [name for name in arguments[1:2] if name in COMMANDS]
        print(_help(known[0]) if known else _overview())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        guess = nearest(name, COMMANDS)
        hint = f"did you mean {guess}?" if guess else "python -m kit --help lists them"
        raise UsageError(f"unknown command {name}; {hint}")
    before = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in before or "--help" in before:
        print(_help(name))
        return 0
    return COMMANDS[name](*split(rest))


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and key=value overrides; everything after "--" is a file."""
    files: list[str] = []
    overrides: list[str] = []
    for place, argument in enumerate(arguments):
        if argument == "--":
            return files + list(arguments[place + 1 :]), overrides
        if _OVERRIDE.match(argument) or (_DELETION.fullmatch(argument) and not os.path.exists(argument)):
            overrides.append(argument)
        elif argument.startswith("-") and argument != "-":
            raise UsageError(f"unknown option {argument}; values are written key=value, a file of this name after --")
        else:
            files.append(argument)
    return files, overrides


def _no_files(command: str, files: Sequence[str]) -> None:
    if files:
        raise UsageError(f"{command} takes no files, got {files[0]}; values are written key=value")


def _fit(files: list[str], overrides: list[str]) -> int:
    _no_files("fit", files)
    from kit.config import compose

    config = compose(overrides)
    from kit.fit import fit

    fit(config)
    return 0


def _transcribe(files: list[str], overrides: list[str]) -> int:
    from kit.config import compose

    config = compose(overrides)
    if bool(files) == bool(config.manifest):
        raise UsageError("transcribe needs audio files or a manifest: python -m kit transcribe FILE... | manifest=FILE")
    if config.manifest:
        from kit.transcription.command import transcribe_manifest

        return transcribe_manifest(config, lambda: export_for(config))
    export = export_for(config)
    from kit.decoding.offline import transcribe_files

    failed = False
    for path, text in transcribe_files(files, export, config):
        if isinstance(text, KitError):
            failed = True
            print(f"kit: {text}", file=sys.stderr, flush=True)
        else:
            print(f"{path}\t{text}", flush=True)
    return int(failed)


def _stream(files: list[str], overrides: list[str]) -> int:
    if len(files) != 1:
        raise UsageError("stream needs one audio file, or mic: python -m kit stream FILE")
    config, export = with_export(as_stream(overrides))
    from kit.live import stream

    stream(files[0], export, config)
    return 0


def as_stream(overrides: list[str]) -> list[str]:
    """The overrides of `stream`, whose decoding is streaming unless they choose another."""
    chosen = any(re.match(r"\+{0,2}decoding=", override) for override in overrides)
    return overrides if chosen else ["decoding=streaming", *overrides]


def _serve(files: list[str], overrides: list[str]) -> int:
    _no_files("serve", files)
    config, export = with_export(as_served(overrides))
    if config.engine == "ray":
        from kit.serving.cluster import serve_on_cluster as serve
    else:
        from kit.serving.server import serve

    serve(config, str(export))
    return 0


def as_served(overrides: list[str]) -> list[str]:
    """The overrides of `serve`: those of `stream`, where `port=` and `host=` stand for the section's."""
    return as_stream([re.sub(r"^(?=(port|host)=)", "serving.", override) for override in overrides])


def _evaluate(files: list[str], overrides: list[str]) -> int:
    if files[:1] == ["compare"]:
        from kit.evaluation.comparing import compare_files

        return compare_files(files[1:], overrides)
    _no_files("evaluate", files)
    from kit.config import compose
    from kit.fit import data_module, quiet

    config = compose(overrides)
    export = None if config.system else with_export(overrides)[1]
    with quiet():
        if config.benchmark:
            from kit.evaluation.benchmark import run_benchmark

            return run_benchmark(config, export)
        if export is None:
            from kit.evaluation.systems import evaluate_system

            return evaluate_system(config, data_module(config))
        from kit.evaluation.report import evaluate

        evaluate(config, export, data_module(config))
    return 0


def _study(files: list[str], overrides: list[str]) -> int:
    _no_files("study", files)
    from kit.study import main

    return main(overrides)


def _info(files: list[str], overrides: list[str]) -> int:
    _no_files("info", files)
    from kit.config import compose

    config = compose(overrides)
    from kit.model.info import describe

    print(describe(config))
    return 0


def _bench(files: list[str], overrides: list[str]) -> int:
    from kit.bench import bench

    return bench(files, overrides)


def _data(files: list[str], overrides: list[str]) -> int:
    from kit.data import main

    return main(files, overrides)


def _hotwords(files: list[str], overrides: list[str]) -> int:
    from kit.hotwords import main

    return main(files, overrides)


def _export(files: list[str], overrides: list[str]) -> int:
    from kit.exporting import main

    return main(files, overrides)


def _import(files: list[str], overrides: list[str]) -> int:
    from kit.importing import main

    return main(files, overrides)


def _doctor(files: list[str], overrides: list[str]) -> int:
    from kit.doctor import main

    return main(files, overrides)


def with_export(overrides: list[str]):  # type: ignore[no-untyped-def]  # naming the types would import them here
    """The configuration, and the export that `checkpoint` names or the newest one."""
    from kit.config import compose

    config = compose(overrides)
    return config, export_for(config)


def export_for(config):  # type: ignore[no-untyped-def]  # as above
    """The export that `checkpoint` names or the newest one."""
    from pathlib import Path

    from kit.runs import export_of, newest_export

    export = export_of(config.checkpoint) if config.checkpoint is not None else newest_export(Path(config.runs))
    if export is None:
        raise UsageError(f"no finished run in {config.runs}; train one with python -m kit fit, or give checkpoint=PATH")
    _check_model(config, export)
    if config.checkpoint is None:
        print(f"using {export}", file=sys.stderr)
    return export


def _check_model(config, export) -> None:  # type: ignore[no-untyped-def]  # as above
    """Refuse what the command line says of the model where the export is of another one, which is what runs."""
    from omegaconf import DictConfig, OmegaConf

    from kit.model.export import read_about

    texts = [text for text in config.overrides if re.match(r"[+~]*model[.=]", text)]
    told = OmegaConf.create({"model": read_about(export)["model"]} if texts else {})
    for text in texts:
        key = re.sub(r"^model$", "model.name", text.lstrip("+~").partition("=")[0])
        asked, has = OmegaConf.select(config, key), OmegaConf.select(told, key)
        if asked != has and not isinstance(asked, DictConfig):
            what = f"{export} has {key}={has}, not {asked}"
            raise UsageError(f"{what}; leave {text} out, or give checkpoint=PATH of a run that has it")


COMMANDS: dict[str, Callable[[list[str], list[str]], int]] = {
    "fit": _fit,
    "transcribe": _transcribe,
    "stream": _stream,
    "serve": _serve,
    "evaluate": _evaluate,
    "study": _study,
    "info": _info,
    "bench": _bench,
    "hotwords": _hotwords,
    "data": _data,
    "export": _export,
    "import": _import,
    "doctor": _doctor,
}


def _overview() -> str:
    width = max(map(len, MANUAL))
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in MANUAL.items()]
    return "\n".join(
        [
            "usage: python -m kit COMMAND [file ...] [key=value ...]",
            "",
            *lines,
            "",
            "python -m kit COMMAND --help tells more, with examples.",
            "First thing to try: python -m kit fit stage=sft",
        ]
    )


def _help(name: str) -> str:
    entry = MANUAL[name]
    return f"usage: python -m kit {entry.usage}\n\n{entry.summary}\n\n{entry.help}"
