"""What the documents tell people to type, follow or write is so: commands, sessions, code and links."""

import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path

import commands
import pytest
import soundfile
import torch
import yaml
from commands import ROOT, blocks
from small import SIZES, small_recognizer

import kit.config
from kit.cli import main
from kit.decoding.callbacks import Utterance, build_callbacks
from kit.errors import UsageError
from kit.model.export import save_export
from kit.text.phonemes import PhonemeInventory, phonemize

MADE_UP = {"max_step=5", "configs=my_configs", "my_kernel.py", "voxpopuli.get_asr_data"}  # wrong, or made by others
README = (ROOT / "README.md").read_text("utf-8")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
_CHANGING = re.compile(r"\d{8}-\d{6}-[0-9a-f]+|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")  # of a build: its name and its time


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", commands.documents(), ids=named)
def test_every_command_line_of_a_document_is_accepted(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for line in commands.in_markdown(path.read_text("utf-8")):
        if not any(made in line for made in MADE_UP):
            commands.check(line)


def test_command_lines_are_found_and_wrong_ones_refused():
    text = (
        "Say `python -m kit info\nmodel=nim4` or `python -m kit fit stage=NAME`, `make ui`.\n```\n$ python -m kit \\\n"
    )
    text += (
        "fit seed=1  # a comment\nits answer\nX=1 python -m kit study name=cr_ctc\n```\n`python -m kit bench a|b x=1`\n"
    )
    assert commands.in_markdown(text) == [
        "$ python -m kit  fit seed=1  # a comment",
        "X=1 python -m kit study name=cr_ctc",
        "python -m kit info model=nim4",
        "make ui",
        "python -m kit bench a x=1",
        "python -m kit bench b x=1",
    ]
    wrong = [
        "python -m kit fti",
        "python -m kit fit stge=sft",
        "python -m kit info model=nim5",
        "python -m kit bench x=1",
    ]
    wrong += ["python -m kit hotwords stats names.db out=x", "python -m kit hotwords calibrate a.db decoding.chnk=8"]
    for line in wrong:
        with pytest.raises((UsageError, AssertionError)):
            commands.check(line)
    with pytest.raises(AssertionError):
        commands.check("make nothing")
    assert sum(len(commands.in_markdown(path.read_text("utf-8"))) for path in commands.documents()) > 90


def anchors(text: str) -> set[str]:
    """The names that headings have in links, as code hosts and site generators make them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", commands.documents(), ids=named)
def test_links_lead_somewhere(path):
    for found in _LINK.findall(path.read_text("utf-8")):
        target, _, anchor = "".join(found).partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file = path.parent / target if target else path
        assert file.exists(), f"{named(path)} leads to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text("utf-8")), f"{named(path)} leads to {target}#{anchor}"


def test_the_sessions_with_hotwords_are_as_shown(tmp_path, monkeypatch, capsys):
    """Each command of docs/hotwords.md that needs no recognizer answers what stands below it."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/hotwords.md").read_text("utf-8")
    names = next(block for block in blocks(text) if "\tpoi" in block)
    (tmp_path / "names.tsv").write_text(names, "utf-8")
    played = 0
    for block in blocks(text):
        for command, *wanted in (part.splitlines() for part in re.split(r"^\$ ", block, flags=re.M)[1:]):
            words = shlex.split(command)
            if words[:1] == ["cat"]:
                assert (tmp_path / words[1]).read_text("utf-8").splitlines() == wanted
            elif words[4] != "calibrate":
                assert main(words[3:]) == 0
                shown = capsys.readouterr()
                compare(wanted, (shown.err + shown.out).splitlines())
                played += 1
    assert played >= 6


def compare(wanted: list[str], shown: list[str]) -> None:
    """All lines, or those before and behind one of dots."""
    wanted, shown = ([_CHANGING.sub("*", line.rstrip()) for line in lines] for lines in (wanted, shown))
    if "..." in wanted:
        place = wanted.index("...")
        assert shown[:place] == wanted[:place] and shown[len(shown) - len(wanted) + place + 1 :] == wanted[place + 1 :]
    else:
        assert shown == wanted


@pytest.fixture
def export(tmp_path):
    save_export(small_recognizer(), tmp_path / "export", {})
    return tmp_path / "export"


def test_streaming_from_python_as_the_readme_writes_it(export, capsys):
    (code,) = (block for block in blocks(README, "python") if "engine.session" in block)
    (path,) = re.findall(r'load_export\("(.*?)"\)', code)
    microphone = torch.randn(3, 8000).mul(0.1).unbind()
    exec(compile(code.replace(path, str(export)), "README.md", "exec"), {"microphone": microphone})
    assert capsys.readouterr().out.splitlines()[-1].startswith("[")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own, from which a document's files are typed off and Python takes modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def type_off(text):
        for block in [*blocks(text, "python"), *blocks(text, "yaml")]:
            first = block.partition("\n")[0]
            if first.startswith("# my_"):
                path = tmp_path / first.removeprefix("# ")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block, "utf-8")

    yield type_off
    for path in tmp_path.glob("my_*.py"):
        sys.modules.pop(path.stem, None)


def typed(text, part):
    """The words behind `kit` of the one command line of a document that has `part` in it."""
    (line,) = (line for line in commands.in_markdown(text) if part in line and "python -m kit" in line)
    return shlex.split(line)[shlex.split(line).index("kit") + 1 :]


@pytest.mark.parametrize("name", ["README.md", "docs/extend.md"])
def test_a_stage_of_ones_own(name, own, export, corpus, tmp_path):
    text = (ROOT / name).read_text("utf-8")
    own(text)
    small = [*SIZES, "data.hours=0.01", f"cache={corpus.cache}", "trainer.max_steps=2", f"init={export}", "threads=1"]
    small += ["tracking=false", "stage.report=false", "stage.batch_seconds=6", "trainer.log_every=1"]
    assert main([*typed(text, "stage=louder"), *small]) == 0
    (made,) = tmp_path.glob("runs/default/louder/*/export")
    assert (made / "model.safetensors").is_file()
    assert ("train/level" in (made.parent / "metrics.csv").read_text()) == (name == "docs/extend.md")


def test_a_data_module_of_ones_own(own, tmp_path):
    text = (ROOT / "docs/extend.md").read_text("utf-8")
    own(text)
    noise = torch.randn(3, 24000, generator=torch.Generator().manual_seed(0)).mul(0.1)
    for part, samples, said in zip(
        ("train", "dev", "test"), noise, ("open the window", "打开天窗", "hello"), strict=True
    ):
        folder = tmp_path / "my/recordings" / part
        folder.mkdir(parents=True)
        soundfile.write(folder / "a.wav", samples.numpy(), 16000)
        (folder / "a.txt").write_text(said + "\n", "utf-8")
    words = [word for word in typed(text, "data=folder")[1:] if not word.startswith("init=")]
    small = [
        *SIZES,
        "trainer.max_steps=1",
        "stage.batch_seconds=6",
        "tracking=false",
        "stage.report=false",
        "threads=1",
    ]
    assert main(["fit", *words, *small, "stage.callbacks.watch=null"]) == 0
    assert list(tmp_path.glob("runs/default/pretrain/*/export"))


def test_a_retriever_of_ones_own(own, tmp_path):
    text = (ROOT / "docs/extend.md").read_text("utf-8")
    own(text)
    overrides = [word for word in typed(text, "transcribe a.wav")[2:] if not word.startswith("hotwords=")]
    (tmp_path / "mine.tsv").write_text("静安寺公园\n", "utf-8")
    config = kit.config.compose([*overrides, "personal=mine.tsv"])
    inventory = PhonemeInventory.default()
    (retriever,) = (
        one for one in build_callbacks(config.decoding, inventory) if type(one).__module__ == "my_retrieval"
    )
    spoken = inventory.encode(phonemize("去静安寺公园"))
    for wrong, wanted in ((0, ["静安寺公园"]), (1, ["静安寺公园"]), (2, [])):
        utterance = Utterance(0, 0.0, inventory)
        retriever.start(utterance)
        heard = list(spoken)
        for place in range(5, 5 + wrong):
            heard[place] = 1 + heard[place] % 200
        utterance.phonemes += heard
        retriever.chunk(utterance)
        assert list(retriever.hints(utterance)) == wanted


def test_a_kernel_of_ones_own(own):
    own((ROOT / "docs/extend.md").read_text("utf-8"))
    rows = importlib.import_module("my_kernel").table(seconds=0.01)
    mine = [row for row in rows if row["provider"] == "mine"]
    assert len(mine) == 1 and mine[0]["correct"] and mine[0]["ms_50"] > 0


def test_the_forms_for_issues_and_the_citation_can_be_read():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(path.read_text("utf-8"))
        assert {"name", "description", "body"} <= set(form)
        assert len({field["id"] for field in form["body"]}) == len(form["body"])
