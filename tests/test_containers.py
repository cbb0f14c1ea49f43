"""Dockerfile and compose.yaml, as far as they can be checked without an engine that builds them."""

import json
import re
import shlex

import commands
import yaml
from commands import ROOT

from kit.config import compose

LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()
STEPS = [line.strip().split(" ", 1) for line in LINES if line.strip() and not line.startswith("#")]
SERVICE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["kit"]


def steps(name):
    return [rest for step, rest in STEPS if step == name]


def test_what_is_copied_exists_and_is_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words for words in map(shlex.split, steps("COPY")) if not words[0].startswith("--from")]
    sources = {source for *found, _ in copied for source in found}
    assert sources == allowed and all((ROOT / source).exists() for source in sources)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= sources


def test_it_serves_as_configured_and_as_nobody_special():
    (entry,) = map(json.loads, steps("ENTRYPOINT"))
    commands.check(shlex.join(entry))
    given = dict(word.split("=", 1) for word in entry[4:])
    assert int(given["serving.port"]) == int(steps("EXPOSE")[0]) == compose([]).serving.port
    assert steps("USER") == ["kit"] and STEPS.index(["USER", "kit"]) < STEPS.index(["EXPOSE", "8000"])
    assert "8000/health" in steps("HEALTHCHECK")[0]
    assert not [rest for step, rest in STEPS if step == "ADD" or "sudo" in rest or ":latest" in rest]
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", image) for image in steps("FROM"))
    assert "TOKEN=" not in " ".join(steps("ENV") + steps("ARG"))


def test_compose_agrees_with_the_image():
    assert SERVICE["ports"] == ["127.0.0.1:8000:8000"] and SERVICE["read_only"] and SERVICE["cap_drop"] == ["ALL"]
    assert set(SERVICE["build"]["args"]) == {rest.partition("=")[0] for rest in steps("ARG")}
    assert SERVICE["volumes"][0].endswith(":/export:ro") and "KIT_TOKEN" in SERVICE["environment"]
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > compose([]).serving.grace_seconds + 5
