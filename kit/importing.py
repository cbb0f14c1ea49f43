"""`python -m kit import`: weights that others published, as an export of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from kit.errors import UsageError
from kit.options import split_off, sub_command
from kit.progress import say

DEFAULTS = {"cmvn": "", "out": ""}


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Carry out what the first word says; returns the exit code.

    Raises:
        KitError: no such kind of weights, or they do not fit.
    """
    return sub_command("import", COMMANDS, files)(files[1:], overrides)


def options(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options of the command, and the overrides of the configuration, with FireRed's model unless one is given."""
    chosen, others = split_off(DEFAULTS, overrides)
    named = any(re.match(r"\+{0,2}model=", text) for text in others)
    return chosen, others if named else ["model=firered_l", *others]


def _firered_aed(files: Sequence[str], overrides: Sequence[str]) -> int:
    chosen, others = options(overrides)
    if len(files) != 1 or not chosen["out"]:
        raise UsageError("give one model file and where to: python -m kit import firered-aed model.pth.tar out=FOLDER")
    out = Path(chosen["out"])
    if out.exists():
        raise UsageError(f"{out} exists already; remove it or choose another out=FOLDER")
    from kit.config import compose
    from kit.files import folder_atomic
    from kit.model.export import save_export
    from kit.model.firered import import_encoder

    model = compose(others).model
    checkpoint = Path(files[0]).expanduser()
    recognizer = import_encoder(checkpoint, Path(chosen["cmvn"]).expanduser() if chosen["cmvn"] else None, model)
    with folder_atomic(out) as folder:
        save_export(recognizer, folder, {"stage": "import", "source": str(checkpoint)})
    count = sum(parameter.numel() for parameter in recognizer.encoder.parameters())
    say(f"{count / 1e6:,.1f} M parameters of the encoder")
    print(f"export: {out}")
    say(f"next: python -m kit fit stage=pretrain model={model.name} init={out} data=manifest data.train=my/list.jsonl")
    return 0


COMMANDS: dict[str, Callable[[Sequence[str], Sequence[str]], int]] = {"firered-aed": _firered_aed}
