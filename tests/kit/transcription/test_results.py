"""The file of results, cut at every byte, in other hands, and on a disk that is full."""

import json
import resource
from itertools import pairwise

import pytest

from kit.errors import KitError, UsageError
from kit.transcription.outcome import Outcome
from kit.transcription.results import Results, about_of, problems_of

ABOUT = {"manifest": "m.jsonl", "export": "e", "decoding": "d", "times": False}


def done(name, text="打开天窗"):
    return Outcome(name, {"id": name, "text": text, "language": "zh", "duration": 1.5})


def failed(name, reason="it is empty"):
    return Outcome(name, reason=reason)


def written(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "texts" / "all.jsonl"


def test_each_is_written_once_and_gone_on_with(out):
    with Results.opened(out, ABOUT) as results:
        results.add([done("a"), done("b", '"quoted"\n')])
        results.add([done("a", "again")])
        assert results.done == {"a", "b"}
    with Results.opened(out, ABOUT) as results:
        assert results.done == {"a", "b"}
        results.add([done("c"), done("b", "again")])
    assert [(row["id"], row["text"]) for row in written(out)] == [
        ("a", "打开天窗"),
        ("b", '"quoted"\n'),
        ("c", "打开天窗"),
    ]
    assert not problems_of(out).exists()


def test_what_failed_is_listed_anew_by_every_run(out):
    with Results.opened(out, ABOUT) as results:
        results.add([failed("x"), done("a"), failed("y", "no such file")])
        assert results.failed == 2
    assert written(problems_of(out)) == [{"id": "x", "reason": "it is empty"}, {"id": "y", "reason": "no such file"}]
    with Results.opened(out, ABOUT) as results:
        results.add([failed("y"), done("x")])
    assert written(problems_of(out)) == [{"id": "y", "reason": "it is empty"}]
    assert [row["id"] for row in written(out)] == ["a", "x"]


def test_a_file_cut_at_any_byte_keeps_its_whole_lines(out):
    names = ["a", "b\u2028", "\ud800"]
    with Results.opened(out, ABOUT) as results:
        results.add([done(name) for name in names])
    whole = out.read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    for size in range(len(whole) + 1):
        out.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends) - 1
        with Results.opened(out, ABOUT) as results:
            assert results.done == set(names[:kept])
            assert out.read_bytes() == whole[: ends[kept]]
            results.add([done(name) for name in names])
        assert out.read_bytes() == whole


@pytest.mark.parametrize("other", [{"export": "f"}, {"manifest": "n.jsonl"}, {"decoding": "c"}, {"times": True}])
def test_two_ways_of_transcribing_do_not_mix(out, other):
    with Results.opened(out, ABOUT) as results:
        results.add([done("a")])
    (key,) = other
    with (
        pytest.raises(UsageError, match=rf"was begun with another {key} \(.*take the same"),
        Results.opened(out, {**ABOUT, **other}),
    ):
        pass
    assert len(written(out)) == 1


def test_a_file_of_somebody_else_stays_as_it_is(tmp_path):
    for name, content, message in [
        ("mine.jsonl", "{}", "was not written by transcribe; choose another out"),
        ("mine.txt", "notes", r"must end with \.jsonl"),
    ]:
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(UsageError, match=message), Results.opened(path, ABOUT):
            pass
        assert path.read_text() == content
        assert [file.name for file in tmp_path.iterdir()] == [name]
        path.unlink()


@pytest.mark.parametrize(("line", "number"), [("my notes\n", 2), ('{"text": "no id"}\n', 2), ("torn notes", 2)])
def test_a_file_that_was_changed_is_told_by_its_line(out, line, number):
    with Results.opened(out, ABOUT) as results:
        results.add([done("a")])
    with out.open("a") as file:
        file.write(line)
    before = out.read_bytes()
    message = rf"all\.jsonl line {number} is no result of transcribe"
    with pytest.raises(KitError, match=message), Results.opened(out, ABOUT):
        pass
    assert out.read_bytes() == before


def test_what_the_file_was_begun_with_must_be_readable(out):
    with Results.opened(out, ABOUT):
        pass
    about_of(out).write_text("{")
    with pytest.raises(KitError, match=r"all\.about\.json cannot be read .*; remove it"), Results.opened(out, ABOUT):
        pass


def test_two_processes_do_not_write_one_file(out):
    with Results.opened(out, ABOUT) as results:
        results.add([done("a")])
        with pytest.raises(KitError, match="another process writes"), Results.opened(out, ABOUT):
            pass
        results.add([done("b")])
    assert len(written(out)) == 2


def test_a_full_disk_is_told_and_what_it_took_is_gone_on_with(out):
    with Results.opened(out, ABOUT) as results:
        results.add([done("a")])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = out.stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(KitError, match=r"cannot write .*all\.jsonl: File too large"):
            with Results.opened(out, ABOUT) as results:
                results.add([done("b"), done("c")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.stat().st_size == size + 20
    with Results.opened(out, ABOUT) as results:
        assert results.done == {"a"}
        results.add([done("b"), done("c")])
    assert [row["id"] for row in written(out)] == ["a", "b", "c"]
    assert all(one < other for one, other in pairwise(row["id"] for row in written(out)))
