"""`make notebooks`: runs the notebooks and writes them with what came out beside their Python files.

    python notebooks/execute.py [NAME ...]          all, or those whose file names begin so, such as 02

A notebook is a Python file in the percent format (jupytext); the .ipynb is made of it, with outputs. What goes to
standard error (progress) is left out, and so are the names of this machine's folders.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

from kit.files import write_text

HERE = Path(__file__).resolve().parent
LARGEST = 1_000_000  # bytes of a notebook with its outputs
SECONDS = 1200  # that a cell may take


def sources(wanted: list[str]) -> list[Path]:
    """The Python files of the notebooks, in their order."""
    found = sorted(HERE.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not wanted or path.name.startswith(tuple(wanted))]


def execute(path: Path) -> NotebookNode:
    """The notebook with what came out."""
    notebook = jupytext.read(path)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(HERE.parent)}}
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    return notebook


def is_progress(output: Mapping[str, Any]) -> bool:
    """What was said on standard error, or what rich shows of a bar in place of it."""
    shown = "".join(output.get("data", {}).get("text/html", "-"))
    empty = "<audio" not in shown and not re.sub(r"<[^>]*>", "", shown).strip()
    return output.get("name") == "stderr" or "ipywidgets" in shown or empty


def main(wanted: list[str]) -> int:
    """Execute and write; 1 if one grew too large."""
    failed = False
    for path in sources(wanted):
        begun = time.perf_counter()
        text = jupytext.writes(execute(path), fmt="ipynb").replace(f"{HERE.parent}/", "")
        write_text(path.with_suffix(".ipynb"), text + "\n" * (not text.endswith("\n")))
        size = len(text.encode())
        failed |= size > LARGEST
        print(f"{path.stem}\t{time.perf_counter() - begun:.0f} s\t{size / 1e3:.0f} kB", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
