"""What was said is found though it was misheard, where the audio has it; however it is cut, and whoever is beside."""

import random
from itertools import groupby

import numpy as np
import pytest
import torch
from hearing import head, silence, sounds
from strings import INVENTORY, database_of, made_up

from kit.errors import KitError
from kit.retrieval import embedding
from kit.retrieval.dense import SHORTEST
from kit.retrieval.evidence import Chances
from kit.retrieval.hybrid import _PAUSE, HEARD_SO, Found, Hearing, Progress, compete, search_in, verify
from kit.retrieval.lexicon import Entry, MemoryLexicon
from kit.retrieval.phonetics import costs

MARGIN = 0.3
CARRIERS = [sounds(text) for text in ("导航到", "请播放", "打电话给", "take me to the")]
BEHIND = [sounds(text) for text in ("好吗", "谢谢你", "please")]


NAMES = made_up(240, seed=0, shortest=4)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "EXAMPLES", 2000)
        return database_of(tmp_path_factory.mktemp("names") / "db", NAMES)


@pytest.fixture(scope="module")
def few(big):
    """The same strings in memory."""
    return MemoryLexicon({big.phonemes(key): big.entries(key) for key in range(big.keys)}, "1")


@pytest.fixture(params=["millions", "some"])
def search(request, big, few):
    return search_in(big if request.param == "millions" else few, INVENTORY, MARGIN, chances=big.dense().chances)


def lexicon(*strings):
    return MemoryLexicon({string: [Entry(str(number))] for number, string in enumerate(strings)}, "1")


def heard(search, utterances, size=16):
    """All that is found in some utterances, (T, V) each, which are stepped together as streams are."""
    hearings, found = [Hearing() for _ in utterances], [[] for _ in utterances]
    progress = [Progress()] * len(utterances)
    chunks = [one.split(size) for one in utterances]
    for tick in range(max(map(len, chunks))):
        rows = [row for row, several in enumerate(chunks) if tick < len(several)]
        for row in rows:
            hearings[row].hear(chunks[row][: tick + 1])
        proposed = search.propose([(hearings[row], progress[row]) for row in rows])
        for row, (_, after) in zip(rows, proposed, strict=True):
            progress[row] = after
        for row, several in zip(rows, verify([hearings[r] for r in rows], [one for one, _ in proposed]), strict=True):
            found[row] += several
    return found


def standing(search, found, margin=MARGIN):
    return compete(one for one in found if one.evidence >= margin)


def strings(search, found):
    return [search.lexicon.phonemes(one.key) for one in found]


def sentence(draw, name):
    """Phonemes around a name, and where it begins."""
    before, behind = draw.choice(CARRIERS), draw.choice(BEHIND)
    return before + name + behind, len(before)


def like(symbol, rank=1):
    """What sounds like a phoneme."""
    return int(costs(INVENTORY)[symbol].argsort(kind="stable")[rank])


def misheard(draw, name, left):
    """A sentence in which one phoneme of the name is taken for another, and the right one has some probability left."""
    said, begin = sentence(draw, name)
    place = begin + draw.randrange(len(name))
    other = like(said[place])
    return head(said, {place: {other: 1.0 - left, said[place]: left}})


def long_names(search, count, seed):
    keys = [key for key in range(search.lexicon.keys) if len(search.lexicon.phonemes(key)) >= SHORTEST]
    return [search.lexicon.phonemes(key) for key in random.Random(seed).sample(keys, count)]


# What is found


def test_what_the_likeliest_phonemes_say_needs_no_credit():
    """As long as the audio is fairly sure of it; what only sounds so needs more."""
    name = sounds("南京")
    search = search_in(lexicon(name, *made_up(3000, 5)), INVENTORY, MARGIN, shortest=2, chances=Chances(_usual()))
    (credit,) = {one.credit for one in proposals(search, head(name)) if one.string == name}
    assert credit == HEARD_SO
    for left, expected in ((1.0, True), (0.8, True), (0.55, False)):
        doubts = {1: {sounds("南京")[1]: left, like(name[1]): 1 - left}}
        (found,) = heard(search, [head(name, doubts)])
        assert (name in strings(search, standing(search, found))) is expected
    (found,) = heard(search, [head(name, {1: {like(name[1]): 0.51, name[1]: 0.49}})])
    assert name not in strings(search, standing(search, found))


def _usual():
    """Chances by which every name is what one says all the time."""
    return np.full((len(INVENTORY), len(INVENTORY)), 0.1, np.float32)


def test_what_was_heard_rightly_is_found(search):
    draw = random.Random(1)
    for name in long_names(search, 40, seed=1):
        said, begin = sentence(draw, name)
        (found,) = heard(search, [head(said)])
        best = standing(search, found)[0]
        assert search.lexicon.phonemes(best.key) == name
        assert (best.start, best.end, best.exact) == (begin, begin + len(name), True)
        (credit,) = {one.credit for one in proposals(search, head(said)) if one.key == best.key}
        assert best.evidence == pytest.approx(credit, abs=1e-3)  # the audio is sure


def proposals(search, log_probs):
    hearing = Hearing()
    hearing.hear([log_probs])
    return search.propose([(hearing, Progress())])[0][0]


def test_what_was_misheard_is_found_where_the_audio_has_it(search):
    draw, names = random.Random(2), long_names(search, 60, seed=2)
    utterances = [misheard(draw, name, left=0.2) for name in names]
    hits = [
        name in strings(search, standing(search, found))
        for name, found in zip(names, heard(search, utterances), strict=True)
    ]
    assert sum(hits) >= 0.95 * len(names)


def test_what_the_audio_does_not_have_is_refused(search):
    """The name is proposed, but nothing is left of the right phoneme: what was said may be no name of the list."""
    draw, names = random.Random(2), long_names(search, 60, seed=2)
    utterances = [misheard(draw, name, left=0.0) for name in names]
    proposed = 0
    for name, found in zip(names, heard(search, utterances), strict=True):
        proposed += name in strings(search, found)
        assert name not in strings(search, standing(search, found))
    assert proposed >= 0.8 * len(names)


def test_speech_without_names_gives_none(search):
    draw = random.Random(3)
    utterances = [head(draw.choice(CARRIERS) + draw.choice(BEHIND)) for _ in range(20)]
    assert not any(standing(search, found) for found in heard(search, utterances))


def test_a_list_in_memory_and_an_index_find_the_same(big, few):
    some, millions = (search_in(one, INVENTORY, MARGIN, chances=big.dense().chances) for one in (few, big))
    draw, names = random.Random(4), long_names(millions, 40, seed=4)
    utterances = [misheard(draw, name, left=0.3) for name in names[:20]]
    utterances += [head(sentence(draw, name)[0]) for name in names[20:]]
    for one, other in zip(heard(some, utterances), heard(millions, utterances), strict=True):
        first, second = standing(some, longer(some, one)), standing(millions, longer(millions, other))
        assert strings(some, first) == strings(millions, second)
        assert [x.evidence for x in first] == pytest.approx([x.evidence for x in second], abs=1e-2)


def longer(search, found):
    """Those that an index has."""
    return [one for one in found if one.exact or len(search.lexicon.phonemes(one.key)) >= SHORTEST]


# However it comes


@pytest.mark.parametrize("size", [1, 5, 16, 37, 10_000])
def test_how_an_utterance_is_cut_changes_little(search, size):
    """Exact matches are the same ones. Where a phoneme was misheard, what is tried depends on the chunks, and of a
    name that ends with a chunk the frames behind it are not heard yet; but the name that stands is the same.
    """
    draw, names = random.Random(5), long_names(search, 12, seed=5)
    utterances = [misheard(draw, name, left=0.4) for name in names[:6]]
    utterances += [head(sentence(draw, name)[0]) for name in names[6:]]
    for one, other in zip(heard(search, utterances, size), heard(search, utterances), strict=True):
        exact, wanted = ({(f.key, f.start, f.end) for f in found if f.exact} for found in (one, other))
        assert exact == wanted
        assert strings(search, standing(search, one)) == strings(search, standing(search, other))


def test_streams_that_are_stepped_together_find_what_each_finds_alone(search):
    draw, names = random.Random(6), long_names(search, 12, seed=6)
    utterances = [misheard(draw, name, left=0.3) for name in names] + [head(CARRIERS[0]), torch.zeros(0, 241)]
    together = heard(search, utterances)
    for one, found in zip(utterances, together, strict=True):
        alone = heard(search, [one])[0]
        assert [(x.key, x.start, x.end, x.exact) for x in found] == [(x.key, x.start, x.end, x.exact) for x in alone]
        assert [x.evidence for x in found] == pytest.approx([x.evidence for x in alone], abs=1e-3)


def test_a_search_can_go_on_from_where_it_was(search):
    """Nothing is counted twice if the same phonemes are searched again, as after a fault of another stream."""
    hearing, progress = Hearing(), Progress()
    hearing.hear(list(misheard(random.Random(7), long_names(search, 1, seed=7)[0], left=0.4).split(16)))
    assert search.propose([(hearing, progress)])[0][0] == search.propose([(hearing, progress)])[0][0] != []
    _, after = search.propose([(hearing, progress)])[0]
    assert search.propose([(hearing, after)])[0][0] == []


def test_one_chunk_of_thousands_of_phonemes(search):
    draw, names = random.Random(8), long_names(search, 30, seed=8)
    said = b""
    for name in names:
        said += bytes(draw.choices(range(1, len(INVENTORY)), k=120)) + name
    said, doubts = said + CARRIERS[0], {}
    for name in names[::2]:
        place = said.index(name) + 1
        doubts[place] = {like(said[place]): 0.6, said[place]: 0.4}
    (found,) = heard(search, [head(said, doubts)], size=10**6)
    kept = strings(search, standing(search, found))
    assert len(said) > 3800
    assert set(names[1::2]) <= set(kept)
    assert len(set(names[::2]) & set(kept)) >= 14
    assert len(kept) <= 33


def test_silence_behind_a_name_changes_nothing(search):
    name = long_names(search, 1, seed=9)[0]
    said = CARRIERS[0] + name
    doubt = {len(CARRIERS[0]) + 2: {like(name[2]): 0.7, name[2]: 0.3}}
    plain = heard(search, [head(said, doubt)], size=10**6)[0]
    pause = torch.cat([silence(3000), head(said, doubt), silence(3000)])
    paused = heard(search, [pause], size=10**6)[0]
    assert [(x.key, x.start, x.end) for x in paused] == [(x.key, x.start, x.end) for x in plain]
    kept, wanted = standing(search, paused), standing(search, plain)
    assert strings(search, kept) == strings(search, wanted) == [name]
    assert kept[0].evidence == pytest.approx(wanted[0].evidence, abs=1e-3)
    assert not heard(search, [silence(500)])[0]


# Lists


def test_nothing_is_found_in_an_empty_list():
    search = search_in(lexicon(), INVENTORY, MARGIN)
    assert heard(search, [head(CARRIERS[0])], size=4) == [[]]


def test_names_that_are_too_short_are_not_looked_for():
    short, name = sounds("东方明珠")[2:5], sounds("人民广场")
    for shortest, wanted in ((3, {short, name}), (4, {name}), (9, set())):
        search = search_in(lexicon(short, name), INVENTORY, -50.0, shortest)
        (found,) = heard(search, [head(BEHIND[0] + short + CARRIERS[0] + name)])
        assert set(strings(search, found)) == wanted


def test_a_name_that_was_said_twice_is_found_twice(search):
    name = long_names(search, 1, seed=10)[0]
    said = CARRIERS[0] + name + CARRIERS[1] + name
    for size in (16, 10**6):
        (found,) = heard(search, [head(said, {len(CARRIERS[0]) + 1: {like(name[1]): 0.6, name[1]: 0.4}})], size)
        assert strings(search, standing(search, found)).count(name) == 2


def test_more_names_than_the_head_heard_are_found_in_a_long_chunk():
    """What is chosen among the names of a list is chosen for some phonemes, not for a whole utterance at once."""
    names = made_up(20, seed=11)
    search = search_in(lexicon(*names), INVENTORY, MARGIN)
    said, doubts = b"", {}
    for name in names:
        doubts[len(said) + 1] = {like(name[1]): 0.6, name[1]: 0.4}
        said += name + BEHIND[0]
    (found,) = heard(search, [head(said, doubts)], size=10**6)
    assert len(set(strings(search, standing(search, found)))) >= 0.9 * len(set(names))


def test_a_database_without_an_index_is_refused(tmp_path):
    plain = database_of(tmp_path / "db", NAMES[:3], dense=False)
    with pytest.raises(KitError, match="no index for names that sound alike"):
        search_in(plain, INVENTORY, MARGIN)


def test_without_a_database_phonemes_are_as_surprising_as_usual():
    name = sounds("东方明珠")
    search = search_in(lexicon(name), INVENTORY, MARGIN)
    (found,) = heard(search, [head(name)])
    joined, starts = np.frombuffer(name, np.uint8), np.array([0, len(name)])
    (credit,) = Chances.typical(INVENTORY).credit(joined, starts)
    assert found[0].exact and found[0].evidence == pytest.approx(credit, abs=1e-3) and credit > MARGIN


# Hearing


@pytest.mark.parametrize("seed", range(5))
def test_hearing_is_the_greedy_path(seed):
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    log_probs = torch.randn(60, 4, generator=generator)
    best = log_probs.argmax(-1).tolist()
    runs = [(symbol, [place for place, _ in run]) for symbol, run in groupby(enumerate(best), key=lambda one: one[1])]
    hearing, chunks = Hearing(), []
    while sum(map(len, chunks)) < 60:
        at = sum(map(len, chunks))
        chunks.append(log_probs[at : at + draw.choice([0, 1, 2, 7])])
        if draw.random() < 0.6:
            hearing.hear(chunks)  # sometimes several at once
    hearing.hear(chunks)
    hearing.hear(chunks)  # nothing is new
    assert hearing.phonemes == [symbol for symbol, _ in runs if symbol]
    assert hearing.onsets == [places[0] for symbol, places in runs if symbol]
    assert hearing.frames == 60


def test_a_stretch_has_the_frames_of_its_phonemes_and_some_around():
    draw = random.Random(0)
    for _ in range(20):
        hearing = Hearing()
        pauses = [silence(draw.choice([0, 1, 5, 200])) for _ in range(9)]
        pieces = [torch.cat([head(bytes([draw.randint(1, 9)])), pause]) for pause in pauses]
        hearing.hear(torch.cat(pieces).split(16))
        for start in range(len(hearing.phonemes)):
            for end in range(start + 1, len(hearing.phonemes) + 1):
                first, last = hearing.stretch(start, end)
                assert 0 <= first <= hearing.onsets[start] and hearing.onsets[end - 1] < last <= hearing.frames
                assert hearing.onsets[start] - first <= _PAUSE and last - hearing.onsets[end - 1] <= _PAUSE


# Of several


@pytest.mark.parametrize("seed", range(20))
def test_of_rivals_the_one_with_most_evidence_stands(seed):
    draw, found = random.Random(seed), []
    for key in range(25):
        start = draw.randrange(30)
        found.append(
            Found(key, start, start + draw.randint(1, 8), draw.choice([1.0, draw.random()]), draw.random() < 0.4)
        )

    def rivals(one, other):
        shared = len(set(range(one.start, one.end)) & set(range(other.start, other.end)))
        return shared > 1 and not (one.exact and other.exact)

    kept = compete(found)
    assert not any(rivals(one, other) for one in kept for other in kept if one is not other)
    for one in set(found) - set(kept):
        assert any(rivals(one, other) and other.evidence >= one.evidence for other in kept)
    assert [one.evidence for one in kept] == sorted((one.evidence for one in kept), reverse=True)
    draw.shuffle(found)
    assert compete(found) == compete(kept) == kept
    for margin in (0.3, 0.6):  # what has less evidence excludes nothing
        assert compete(one for one in found if one.evidence >= margin) == [x for x in kept if x.evidence >= margin]
