"""What is found is what stands there, however the utterance is cut; hints are the best of it."""

import random

import pytest

from kit.retrieval.exact import ExactSearch, Match, State, shortest_for
from kit.retrieval.hints import HintSet, outermost
from kit.retrieval.lexicon import Entry, MemoryLexicon
from kit.text.phonemes import PhonemeInventory

INVENTORY = PhonemeInventory.default()


def lexicon(strings, version="1"):
    """A name a string, with the string for its text; several where a dictionary says so."""
    names = strings if isinstance(strings, dict) else {string: [Entry(spelled(string))] for string in strings}
    return MemoryLexicon(names, version)


def spelled(string):
    """Letters for phonemes, so that a text can be normalized."""
    return "".join(chr(ord("a") + symbol % 26) for symbol in string)


def drawn(seed, names=60, symbols=3, longest=9):
    """Few symbols, so that names stand in each other and overlap."""
    draw = random.Random(seed)
    return {bytes(draw.choices(range(1, symbols + 1), k=draw.randint(1, longest))) for _ in range(names)}


def standing(strings, heard, shortest):
    """Every place of every string, by trying all."""
    return {
        (strings[key], start, start + len(strings[key]))
        for key in range(len(strings))
        for start in range(len(heard) - len(strings[key]) + 1)
        if heard[start : start + len(strings[key])] == strings[key] and len(strings[key]) >= shortest
    }


def found(search, matches):
    return [(search.lexicon.phonemes(match.key), match.start, match.end) for match in matches]


def cut(heard, draw):
    """Pieces of random sizes, empty ones among them."""
    while heard:
        size = draw.choice([0, 1, 1, 2, 5, 13])
        yield heard[:size]
        heard = heard[size:]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shortest", [1, 4])
def test_a_search_finds_what_stands_there(seed, shortest):
    names, draw = drawn(seed), random.Random(seed)
    heard = bytes(draw.choices(range(1, 5), k=80))
    search = ExactSearch(lexicon(names), shortest)
    matches, state = search.search(list(heard))
    assert set(found(search, matches)) == standing(sorted(names), heard, shortest)
    assert len(set(matches)) == len(matches)
    assert state.heard == len(heard)


def test_many_names_are_found_like_in_a_set():
    names, draw = drawn(1, names=5000, symbols=240, longest=12), random.Random(2)
    heard = bytes(draw.choices(range(1, 241), k=2000)) + b"".join(draw.choices(sorted(names), k=200))
    pieces = ((heard[at : at + size], at, at + size) for size in range(1, 13) for at in range(len(heard) - size + 1))
    search = ExactSearch(lexicon(names), 1)
    assert set(found(search, search.search(heard)[0])) == {one for one in pieces if one[0] in names}


@pytest.mark.parametrize("seed", range(20))
def test_how_an_utterance_is_cut_changes_nothing(seed):
    draw = random.Random(seed)
    search = ExactSearch(lexicon(drawn(seed)), 2)
    heard = bytes(draw.choices(range(1, 4), k=70))
    whole, _ = search.search(heard)
    pieces, state = [], None
    for piece in cut(heard, draw):
        matches, state = search.search(piece, state)
        assert all(match.end > state.heard - len(piece) for match in matches)
        pieces += matches
    assert pieces == whole
    assert len(state.tail) <= search.lexicon.longest - 1


def test_one_can_go_on_from_an_older_state():
    search = ExactSearch(lexicon(drawn(3)), 2)
    draw = random.Random(3)
    begin, wrong, right = (bytes(draw.choices(range(1, 4), k=20)) for _ in range(3))
    _, state = search.search(begin)
    search.search(wrong, state)
    after, _ = search.search(right, state)
    assert after == [match for match in search.search(begin + right)[0] if match.end > len(begin)]


def test_nothing_is_found_in_an_empty_lexicon_or_an_empty_utterance():
    search = ExactSearch(lexicon([]))
    assert search.search([1, 2, 3], None) == ([], State(3, b""))
    assert ExactSearch(lexicon([b"\1\2\3\4"])).search([], None) == ([], State())


# Hints


def hinted(names, heard, pieces, most=100, homophones=3, shortest=2):
    """The hints of an utterance that comes in pieces, as names -> phoneme string are found in it."""
    words = lexicon(names)
    search, hints, state = ExactSearch(words, shortest), HintSet(most, homophones), None
    for piece in pieces:
        matches, state = search.search(piece, state)
        hints.add(words, matches)
    return hints


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_match_wins_however_late_it_is_complete(seed):
    draw = random.Random(seed)
    names = drawn(seed, names=25, symbols=4, longest=7)
    heard = bytes(draw.choices(range(1, 5), k=60))
    places = standing(sorted(names), heard, 2)
    inside = {
        one for one in places for other in places if other[1] <= one[1] and one[2] <= other[2] and one[1:] != other[1:]
    }
    wanted = {spelled(string) for string, *_ in places - inside}
    hints = hinted(names, heard, cut(heard, draw))
    assert set(hints.names()) == wanted
    assert hints.names() == hinted(names, heard, [heard]).names()


def test_outermost_spans_by_trying_all():
    draw = random.Random(0)
    for _ in range(200):
        spans = {(start, start + draw.randint(1, 6)) for start in draw.choices(range(15), k=draw.randint(0, 12))}
        wanted = {
            one
            for one in spans
            if not any(other != one and other[0] <= one[0] and one[1] <= other[1] for other in spans)
        }
        assert set(outermost(spans)) == wanted


def test_the_longest_and_likeliest_and_newest_come_first():
    one, two, three, four = b"\1\1\1\1", b"\2\2\2\2", b"\3\3\3\3", b"\4\4\4\4\4"
    names = {one: [Entry("one", weight=2.0)], two: [Entry("two")], three: [Entry("three")], four: [Entry("four")]}
    heard = two + one + three + four
    assert list(hinted(names, heard, [heard]).names()) == ["four", "one", "three", "two"]
    assert list(hinted(names, heard, [heard], most=2).names()) == ["four", "one"]


def test_of_those_that_sound_alike_the_likeliest_are_taken_and_no_hint_twice():
    names = {b"\1\1\1\1": [Entry("Rose", weight=3.0), Entry("rose"), Entry("Rows"), Entry("Roes")]}
    assert hinted(names, b"", [b"\1\1\1\1"], homophones=2).names() == {"rose": "Rose", "roes": "Roes"}
    assert len(hinted(names, b"", [b"\1" * 9], homophones=1).names()) == 1


def test_own_names_come_first_and_what_is_hidden_never_was():
    big = lexicon(
        {b"\1\1\1": [Entry("Big", weight=9.0)], b"\1\1\1\2": [Entry("Bigger")], b"\3\3\3": [Entry("Other", weight=9.0)]}
    )
    own = lexicon({b"\3\3\3": [Entry("Mine")], b"\2\3": [Entry("My")]})
    heard = b"\1\1\1\2\3\3\3"
    hints = HintSet(most=10, homophones=2)
    for words, mine in ((big, False), (own, True)):
        hints.add(words, ExactSearch(words, 2).search(heard)[0], own=mine)
    assert list(hints.names()) == ["mine", "other", "my", "bigger"]
    hints = HintSet(most=10, homophones=1)
    hints.add(big, ExactSearch(big, 2).search(heard)[0], hidden={"bigger"})
    assert list(hints.names()) == ["other", "big"]  # the hidden one does not cover what lies in it


def test_names_that_nobody_can_write_are_no_hints():
    hints = HintSet()
    hints.add(lexicon({b"\1\1\1\1": [Entry("♪")]}), [Match(0, 0, 4)])
    assert hints.names() == {}


def test_the_more_names_the_longer_they_must_be():
    keys = (0, 1, 100, 101, 10_000, 100_000, 1_000_000, 10_000_000)
    assert [shortest_for(count) for count in keys] == [3, 3, 3, 4, 4, 5, 6, 7]
    assert ExactSearch(lexicon([b"\1\2\3\4"])).shortest == 3
    assert ExactSearch(lexicon([b"\1\2\3\4"]), 2).shortest == 2


@pytest.mark.parametrize(
    ("symbols", "size"),
    [
        ("uai4 t an1", 4),  # 外滩
        ("ie2 ie5", 4),  # 爷爷
        ("ai4 q i2 i4", 6),  # 爱奇艺
        ("l i3", 2),
        ("l i3 n a4", 4),
        ("EY M IY", 3),
        ("N uo4", 3),
        ("uo4", 2),
    ],
)
def test_a_final_without_an_initial_counts_for_two(symbols, size):
    string = bytes(INVENTORY.encode(symbols.split()))
    heard = bytes(INVENTORY.encode(["zh"])) + string * 2
    for shortest in range(1, 8):
        found, _ = ExactSearch(lexicon([string]), shortest, INVENTORY).search(heard)
        assert [match.end - match.start for match in found] == [len(string)] * 2 * (size >= shortest)
        plain, _ = ExactSearch(lexicon([string]), shortest).search(heard)
        assert len(plain) == 2 * (len(string) >= shortest)
