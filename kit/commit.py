"""The git commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of the kit's repository, "+" where it was changed since; None outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        # An installed copy may lie in another repository.
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        found = _git(folder, "rev-parse", "HEAD")
        return found + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    answer = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=True)
    return answer.stdout.strip()
