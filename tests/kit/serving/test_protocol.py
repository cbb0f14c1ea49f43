"""What docs/serving.md says of the protocol is what the code does."""

import re
from dataclasses import fields
from pathlib import Path

import kit
from kit.config import compose
from kit.decoding import events
from kit.serving.protocol import CODES, Change, End, Flush, Start, parse

TEXT = (Path(kit.__file__).parents[1] / "docs" / "serving.md").read_text("utf-8")


def rows(title):
    """The cells of the first table under a heading."""
    table = TEXT[TEXT.index(f"# {title}\n") :].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def names(cell):
    return re.findall(r"`(\w+)`", cell)


def documented():
    return {names(row[0])[0]: set(names(row[1])) for row in rows("What the server sends")}


def test_the_errors():
    told = {names(code)[0]: (int(close), int(status), meaning) for code, close, status, meaning in rows("Errors")}
    assert told == {name: (code.close, code.status, code.meaning) for name, code in CODES.items()}


def test_the_messages_of_clients():
    told = {names(row[0])[0]: set(names(row[1])) for row in rows("What a client sends") if names(row[0])}
    known = {"start": Start, "hotwords": Change, "flush": Flush, "end": End}
    assert told == {name: set(kind.model_fields) - {"type"} for name, kind in known.items()}
    for name in known:
        assert parse(f'{{"type": "{name}"}}').type == name


def test_the_events_of_the_recognizer():
    told = documented()
    for kind in (events.Began, events.Partial, events.Hotword, events.Final):
        assert told[kind.__name__.lower()] == {field.name for field in fields(kind)}


def test_the_limits():
    serving = compose([]).serving
    for limit, value, _ in rows("Limits"):
        assert float(value.split()[0]) == serving[limit.strip("`").removeprefix("serving.")], limit
