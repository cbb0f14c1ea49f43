"""The documentation as a site: strict links, every page in the menu, and nothing fetched while it is read."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from commands import ROOT

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
_FETCHED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\" >]+)")


def in_menu(entries):
    for entry in entries:
        (target,) = entry.values()
        yield from in_menu(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_menu_and_the_menu_has_nothing_else():
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(in_menu(CONFIG["nav"])) == pages


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built from a copy: the checkout stays as it is."""
    pytest.importorskip("zensical", reason="zensical is in the extra docs")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    for package in ("kit", "stages", "datamodules", "kernels"):
        (folder / package).symlink_to(ROOT / package)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_links_are_strict_and_docstrings_are_there(site):
    page = (site / "api/model.html").read_text("utf-8")
    assert "kit.model.recognizer.Recognizer" in page and "(B, T, F)" in page
    assert (site / "hotwords.html").exists() and (site / "pipeline.svg").exists()


def test_reading_fetches_nothing_from_the_network(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    fetched = {(page.name, found) for page in pages for found in _FETCHED.findall(page.read_text("utf-8"))}
    assert not {one for one in fetched if "canonical" not in one[1]}, fetched
    assert _FETCHED.findall('<script async src="https://a.org/b.js"></script><img src=//c.org/d.png>') != []
