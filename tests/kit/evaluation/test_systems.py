"""Programs as systems: a fake one with every fault, and one without any."""

import json
import shlex
import sys

import pytest
import soundfile
from small import small_config

from kit.errors import KitError, UsageError
from kit.evaluation.comparing import compare_files
from kit.evaluation.scored import NO_ANSWER
from kit.evaluation.systems import ask, evaluate_system, measure_system

READ = "import sys; rows = [line.rstrip().split(chr(9)) for line in sys.stdin]\n"


@pytest.fixture
def program(tmp_path):
    """A command that runs some Python, with the list in `rows`."""

    def make(code, *arguments):
        path = tmp_path / "fake system.py"
        path.write_text(READ + code, "utf-8")
        return shlex.join([sys.executable, str(path), *arguments])

    return make


@pytest.fixture
def listing(tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text("a\t/x/a.wav\nb\t/x/b.wav\nc d\t/x/c.wav\n", "utf-8")
    return path


IDS = ["a", "b", "c d"]
ECHO = "for name, path in rows: print(name, 'text of ' + path[-5:], sep=chr(9), flush=True)\n"


def test_every_id_gets_its_text(program, listing):
    told = ask(program(ECHO), IDS, listing)
    assert told.texts == {"a": "text of a.wav", "b": "text of b.wav", "c d": "text of c.wav"}
    assert (told.again, told.crash) == ([], None) and told.seconds > 0


def test_the_list_is_a_file_too_and_no_shell_is_between(program, listing):
    told = ask(
        program("print('a', sys.argv[1:], open(sys.argv[2]).read().count(chr(10)), sep=chr(9))", "$HOME;", "{}"),
        IDS,
        listing,
    )
    assert told.texts == {"a": f"['$HOME;', {str(listing)!r}]\t3"}


def test_order_empty_texts_and_second_answers(program, listing):
    told = ask(program("print('b\\ttwo'); print('a'); print('b\\tthree')"), IDS, listing)
    assert told.texts == {"b": "two", "a": ""}
    assert told.again == ["b"]


def test_a_crash_keeps_what_was_printed(program, listing):
    told = ask(program("print('a\\tone', flush=True); sys.exit(3)"), IDS, listing)
    assert told.texts == {"a": "one"}
    assert told.crash == "it ended with exit code 3 after 1 of 3 answers"


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print('zz\\ttext'); import time; time.sleep(60)", "the unknown id 'zz' in line 1"),
        ("print('a\\tx'); print('loading model')", "'loading model', which is no id<TAB>text, in line 2"),
        ("print()", "'', which is no id<TAB>text, in line 1"),
    ],
)
def test_what_is_no_answer_is_an_error_at_once(program, listing, code, answer):
    with pytest.raises(KitError, match="printed") as raised:
        ask(program(code.replace("print('zz\\ttext')", "print('zz\\ttext', flush=True)")), IDS, listing)
    assert answer in str(raised.value)


def test_bytes_that_are_no_text_are_kept_as_far_as_they_can_be_read(program, listing):
    told = ask(program(r"sys.stdout.buffer.write(b'a\tx\xff\n')"), IDS, listing)
    assert told.texts == {"a": "x\ufffd"}


@pytest.mark.parametrize(
    ("command", "answer"),
    [("no-such-program-here x", "cannot be run"), ("'open", "close quotes"), ("  ", "system= is empty")],
)
def test_commands_that_cannot_be_run(command, answer, listing):
    with pytest.raises(UsageError, match=answer):
        ask(command, IDS, listing)


@pytest.fixture
def config(tmp_path):
    """Four utterances; the fake system's texts are beside them."""
    rows = [
        {"id": "one", "audio": "one.wav", "text": "Turn on the radio.", "language": "en"},
        {"id": "two", "audio": "two.wav", "text": "打开2个天窗", "language": "zh"},
        {"id": "three", "audio": "three.wav", "text": "take me home", "language": "en"},
        {"id": "four", "audio": "four.wav", "text": "um, seven", "language": "en"},
    ]
    for place, row in enumerate(rows):
        soundfile.write(tmp_path / row["audio"], [0.1 * (place + 1)] * 8000, 8000)
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")

    def make(command, *overrides):
        return small_config(
            "data=manifest", f"data.test={path}", f"system={command}", *overrides, cache=tmp_path / "cache"
        )

    return make


def data(config):
    from datamodules.manifests import ManifestData

    return ManifestData(config)


ANSWERS = """
import soundfile
known = {2000: 'turn on the radio', 4000: '打开两个天窗'}
for name, path in rows:
    samples, rate = soundfile.read(path, dtype='int16')
    assert rate == 16000 and samples.ndim == 1
    level = round(int(abs(samples[4000])) / 3276.7)
    text = {1: 'turn off the radio', 2: '打开两个天窗', 4: '7'}.get(level)
    if text:
        print(name, text, sep=chr(9), flush=True)
sys.exit(CODE)
"""


def test_a_system_is_scored_like_ourselves(config, program, tmp_path, capsys):
    chosen = config(program(ANSWERS.replace("CODE", "0")), f"out={tmp_path / 'system.json'}")
    assert evaluate_system(chosen, data(chosen)) == 0
    report = json.loads((tmp_path / "system.json").read_text("utf-8"))
    scores = report["parts"]["test"]["system"]
    assert scores["all"]["MER edits"] == [1, 3, 0, 4 + 6 + 3 + 1]  # one word taken for another; "three" is not answered
    assert "PER" not in scores["all"]
    assert report["faults"]["test"]["system"] == {NO_ANSWER: {"count": 1, "ids": ["three"]}}
    assert scores["all"]["utterances"] == 4
    printed = capsys.readouterr().out
    assert "test: no answer (1): three" in printed and "normalization light" in " ".join(printed.split())


def test_a_crash_is_told_and_what_there_is_scored(config, program, capsys):
    chosen = config(program(ANSWERS.replace("CODE", "5")))
    assert evaluate_system(chosen, data(chosen)) == 1
    assert "it ended with exit code 5 after 3 of 4 answers; what it printed before is scored" in capsys.readouterr().err


def test_normalizations_decide_what_is_an_error(config, program):
    wrong = {}
    for name in ("light", "basic", "none"):
        chosen = config(program(ANSWERS.replace("CODE", "0")), f"normalization={name}")
        report = measure_system(chosen, data(chosen))
        assert report["normalization"]["name"] == name
        wrong[name] = sum(report["parts"]["test"]["system"]["all"]["MER edits"][:3])
    assert wrong == {"light": 4, "basic": 6, "none": 9}


def test_an_id_that_cannot_stand_in_a_list(config, program):
    chosen = config(program(ECHO))
    module = data(chosen)
    module._cuts["test"] = module.cuts("test").modify_ids(lambda name: f"{name}\t")
    with pytest.raises(KitError, match="cannot stand in a list"):
        measure_system(chosen, module)


# --- compare ----------------------------------------------------------------------------------------------------------


def report(path, texts, way="system", part="test"):
    rows = [
        {
            "id": name, "language": "en", "domain": "-", "seconds": 1.0, "reference": "", "hypothesis": "",
            "phonemes": None, "reference_phonemes": [], "written": said, "told": heard,
        }
        for name, (said, heard) in texts.items()
    ]  # fmt: skip
    path.write_text(json.dumps({"utterances": {part: {way: rows}}}), "utf-8")
    return str(path)


def test_two_reports_on_the_same_utterances(tmp_path, capsys):
    said = {str(number): "red green blue" for number in range(40)}
    good = report(tmp_path / "a.json", {name: (text, "red green blue") for name, text in said.items()})
    bad = report(tmp_path / "b.json", {name: (text, "Red green um black") for name, text in said.items()}, way="other")
    assert compare_files([good, bad], []) == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    assert row[:2] == ["test, system against other", "all"] and row[2:5] == ["40", "0.00", "33.33"]
    assert row[6:9] == ["0", "40", "0"] and row[-1] == "the first is better"
    compare_files([bad, good], [])
    assert capsys.readouterr().out.splitlines()[1].endswith("the second is better")
    compare_files([good, bad], ["normalization=none"])
    assert "\t100.00\t" in capsys.readouterr().out  # case and fillers count now


def test_utterances_of_one_report_only_are_named(tmp_path, capsys):
    first = report(tmp_path / "a.json", {"x": ("one", "one"), "y": ("two", "two"), "z": ("three", "three")})
    second = report(tmp_path / "b.json", {"y": ("two", "too"), "z": ("other", "three"), "w": ("one", "one")})
    compare_files([first, second], [])
    shown = capsys.readouterr()
    assert "2 utterances are in one report only and are left out: w, x" in shown.err
    assert "1 utterances have another reference in each and are left out: z" in shown.err
    assert shown.out.splitlines()[1].split("\t")[2] == "1"


def test_reports_that_cannot_be_compared(tmp_path):
    good = report(tmp_path / "a.json", {"x": ("one", "one")})
    other = report(tmp_path / "b.json", {"y": ("one", "one")})
    elsewhere = report(tmp_path / "c.json", {"x": ("one", "one")}, part="dev")
    (tmp_path / "d.json").write_text("{}")
    (tmp_path / "e.json").write_text('{"utterances": {"test": {"system": [{"id": "x"}]}}}')
    (tmp_path / "f.json").write_text(json.dumps({"utterances": {"test": {"one": [], "two": []}}}))
    for files, answer in [
        ([good], "compare needs two reports, got 1"),
        ([good, str(tmp_path / "no.json")], "cannot read the report"),
        ([good, other], "have no utterance in common"),
        ([good, elsewhere], "have no set in common; the first has test, the second dev"),
        ([good, str(tmp_path / "d.json")], "is no report with utterances"),
        ([good, str(tmp_path / "e.json")], "holds an utterance that is none"),
        ([good, str(tmp_path / "f.json")], "choose with way=... and against=...; the first report has system"),
    ]:
        with pytest.raises(KitError) as raised:
            compare_files(files, [])
        assert answer in str(raised.value)
    with pytest.raises(UsageError, match="choose with way="):
        compare_files([good, good], ["way=whole"])
