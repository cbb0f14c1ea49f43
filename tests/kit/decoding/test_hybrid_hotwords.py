"""Names that were misheard become hints: chunk by chunk, for many streams at once, and fall where others are better."""

import random

import pytest
import torch
from hearing import head, sounds
from small import small_config
from streams import PLAIN, database, engine, finals, heard_by, listener, noise, pushed
from strings import INVENTORY, wait_for

from kit.audio.features import LogMel
from kit.decoding.callbacks import Utterance, build_callbacks
from kit.decoding.events import Hotword
from kit.decoding.hybrid_hotwords import HybridHotwords
from kit.decoding.offline import recognize, transcribe_files
from kit.errors import KitError
from kit.model.export import save_export
from kit.retrieval.names import make_name
from kit.retrieval.phonetics import costs

NAMES = ["静安寺公园", "虹桥机场", "Rihanna", "Shape of You", "东方明珠", "李娜", "李纳"]
HYBRID = "retrieval=hybrid"


@pytest.fixture(scope="module")
def model():
    return listener()


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return database(tmp_path_factory.mktemp("names"), NAMES, dense=True)


def callback(database=None, **options):
    made = HybridHotwords(database, **options)
    made.prepare(INVENTORY)
    return made


def like(symbol):
    return int(costs(INVENTORY)[symbol].argsort(kind="stable")[1])


def utter(text, *wrong, left=0.3):
    """(T, V) of a text, some places of which are taken for something alike."""
    said = sounds(text)
    return head(said, {place: {like(said[place]): 1 - left, said[place]: left} for place in wrong})


def tick(heard):
    """Let some callbacks hear the next (T, V) frames of their utterances, as the engine does; what each tells."""
    for _, utterance, log_probs in heard:
        utterance.log_probs.append(log_probs)
        utterance.chunks += 1
    HybridHotwords.together([(made, utterance) for made, utterance, _ in heard])
    return [[event.text for event in made.chunk(utterance)] for made, utterance, _ in heard]


def say(made, log_probs, size=16, utterance=None):
    """Let one callback hear an utterance, or go on with it; gives it, and the names told."""
    if utterance is None:
        utterance = Utterance(0, 0.0, INVENTORY)
        made.start(utterance)
    return utterance, [name for chunk in log_probs.split(size) for name in tick([(made, utterance, chunk)])[0]]


@pytest.mark.parametrize("size", [3, 16, 1000])
def test_what_was_misheard_becomes_a_hint(names, size):
    made = callback(names)
    utterance, told = say(made, utter("导航到静安寺公园然后播放rihanna", 9, 22), size)
    assert set(made.hints(utterance)) == {"静安寺公园", "rihanna"}
    assert sorted(told) == ["Rihanna", "静安寺公园"]
    for text in ("今天天气怎么样", "请打开天窗谢谢"):
        utterance, told = say(made, utter(text), size)
        assert not made.hints(utterance) and not told


def test_without_verification_what_stands_there_counts(names):
    """A name heard exactly, of which the audio is anything but sure."""
    said = sounds("虹桥机场")
    anything = dict.fromkeys(range(len(INVENTORY)), 0.004)
    doubtful = head(said, {place: {**anything, symbol: 0.02} for place, symbol in enumerate(said)})
    for verify, wanted in ((True, []), (False, ["虹桥机场"])):
        made = callback(names, verify=verify, margin=5.0)
        assert list(made.hints(say(made, doubtful)[0])) == wanted


def test_the_margin_is_what_a_hint_needs(names):
    log_probs = utter("去虹桥机场", 4, left=0.05)
    (found,) = [one for one in evidence(names, log_probs) if one > 0.3]
    for margin, wanted in ((found - 0.01, 1), (found + 0.01, 0)):
        made = callback(names, margin=margin)
        assert len(made.hints(say(made, log_probs)[0])) == wanted


def evidence(names, log_probs):
    made = callback(names, margin=-99.0)
    say(made, log_probs)
    return [one.evidence for course in made._courses.values() for one in course.found]


def test_a_hint_falls_when_another_has_more_evidence_for_the_same_phonemes(tmp_path):
    """First it was nearly what was heard, then what followed made it a part of something else."""
    first, rest = sounds("东方明珠"), sounds("塔公园门口")
    heard = first[:-1] + bytes([like(first[-1])])
    symbols = INVENTORY.decode
    own = {"早": symbols(first), "晚": symbols(heard[2:] + rest)}
    made = callback(database(tmp_path, own, dense=True))
    log_probs = head(heard + rest, {len(first) - 1: {heard[-1]: 0.7, first[-1]: 0.3}})
    at = 2 * len(heard) + 2
    utterance, told = say(made, log_probs[:at], size=at)
    assert told == ["早"] and list(made.hints(utterance)) == ["早"]
    _, told = say(made, log_probs[at:], utterance=utterance)
    assert told == ["晚"] and list(made.hints(utterance)) == ["晚"]


def test_homophones_share_a_sound(names):
    for count, wanted in ((1, ["李娜"]), (2, ["李娜", "李纳"])):
        made = callback(names, homophones=count)
        assert list(made.hints(say(made, utter("打电话给李娜"))[0])) == wanted


# Own names


def test_own_names_come_and_go_while_an_utterance_is_heard(names):
    made = callback(names)
    utterance, told = say(made, utter("打电话给欧阳小明去虹桥机场", 10, 20))
    assert told == ["虹桥机场"]
    made.add(["欧阳小明"])
    _, told = say(made, utter("吧"), utterance=utterance)
    assert told == ["欧阳小明"]
    assert list(made.hints(utterance)) == ["欧阳小明", "虹桥机场"]
    made.remove(["欧阳小明", "虹桥机场"])
    say(made, utter("吧"), utterance=utterance)
    assert list(made.hints(utterance)) == []
    assert say(made, utter("去虹桥机场吧"))[1] == []


def test_an_own_list_needs_no_database(tmp_path):
    (tmp_path / "own.tsv").write_text("欧阳小明\tcontact\t3\n-\t外滩\n", "utf-8")
    made = callback(personal=tmp_path / "own.tsv")
    assert say(made, utter("打电话给欧阳小明", 10))[1] == ["欧阳小明"]
    assert say(made, utter("打电话给东方明珠"))[1] == []


@pytest.mark.parametrize("with_database", [False, True])
def test_short_names_of_ones_own_are_found(names, with_database):
    """Of two syllables or three phonemes, also without a database to tell how surprising they are."""
    made = callback(names if with_database else None)
    made.add(["外滩", "爷爷", "蔚来", make_name(INVENTORY, "NIO", sounds="N IY OW")])
    for text, wanted in (("导航到外滩", ["外滩"]), ("打电话给爷爷", ["爷爷"]), ("我的nio", ["nio"])):
        assert list(made.hints(say(made, utter(text))[0])) == wanted
    for text in ("今天天气怎么样", "把空调打开", "请播放下一首歌", "take me to the station"):
        assert not made.hints(say(made, utter(text))[0])


# Many streams


def test_a_tick_of_many_streams_is_one_search_and_finds_what_each_finds_alone(names, tmp_path, monkeypatch):
    (tmp_path / "own.tsv").write_text("欧阳小明\n", "utf-8")
    texts = ["去静安寺公园", "播放rihanna的歌", "打电话给欧阳小明", "今天天气怎么样", "播放shape of you"]
    draw, speech = random.Random(0), []
    for text in texts:
        speech.append(utter(text, draw.randrange(3, len(sounds(text)) - 1)).split(16))
    options = {"database": names, "personal": tmp_path / "own.tsv"}
    alone = [say(callback(**options), torch.cat(chunks))[1] for chunks in speech]
    assert sum(map(len, alone)) == 4
    # Others beside them, with another margin and another list.
    made = [*[callback(**options) for _ in texts], callback(names, margin=9.9), callback(personal=tmp_path / "own.tsv")]
    speech += [speech[0], speech[2]]
    alone += [say(callback(names, margin=9.9), torch.cat(speech[0]))[1], alone[2]]
    utterances = [Utterance(number, 0.0, INVENTORY) for number in range(len(made))]
    for one, utterance in zip(made, utterances, strict=True):
        one.start(utterance)
    asked, told = count_searches(monkeypatch), [[] for _ in made]
    for number in range(max(map(len, speech))):
        rows = [row for row, chunks in enumerate(speech) if number < len(chunks)]
        found = tick([(made[row], utterances[row], speech[row][number]) for row in rows])
        for row, texts in zip(rows, found, strict=True):
            told[row] += texts
    assert told == alone
    assert asked == {"verify": max(map(len, speech))}


def count_searches(monkeypatch):
    from kit.decoding import hybrid_hotwords

    counts, verify = {"verify": 0}, hybrid_hotwords.verify

    def counted(heard, proposals):
        counts["verify"] += bool(heard)
        return verify(heard, proposals)

    monkeypatch.setattr(hybrid_hotwords, "verify", counted)
    return counts


def test_what_fails_together_is_found_alone_as_if_nothing_had_been(names, monkeypatch):
    """`together` is called again for each stream when it has failed for all."""
    from kit.decoding import hybrid_hotwords

    made, utterance = callback(names), Utterance(0, 0.0, INVENTORY)
    made.start(utterance)
    verify, chunks = hybrid_hotwords.verify, utter("去静安寺公园吧", 5).split(8)

    def failing(*arguments):
        raise RuntimeError("memory")

    for chunk in chunks:
        utterance.log_probs.append(chunk)
        monkeypatch.setattr(hybrid_hotwords, "verify", failing)
        with pytest.raises(RuntimeError, match="memory"):
            HybridHotwords.together([(made, utterance)])
        monkeypatch.setattr(hybrid_hotwords, "verify", verify)
        HybridHotwords.together([(made, utterance)])
        HybridHotwords.together([(made, utterance)])
        made.chunk(utterance)
    other = callback(names)
    wanted, _ = say(other, torch.cat(chunks), size=8)
    assert made.hints(utterance) == other.hints(wanted) == ["静安寺公园"]
    assert [len(course.found) for course in made._courses.values()] == [
        len(course.found) for course in other._courses.values()
    ]


def invented(model, streams, count=3, size=8):
    """Names for pieces of what is heard in some streams, each with one phoneme exchanged: {text: symbols}."""
    draw, found = random.Random(0), {}
    for number, samples in enumerate(streams):
        phonemes = heard_by(engine(model=model).session(), samples)
        for at in draw.sample(range(len(phonemes) - size), count):
            said = phonemes[at : at + size]
            said[draw.randrange(1, size - 1)] = like(said[draw.randrange(size)])
            found[f"{chr(0x4E00 + 50 * number + at)}{chr(0x5E00 + 50 * number + at)}"] = INVENTORY.decode(said)
    return found


LOOSE = [HYBRID, "retrieval.margin=-40"]  # this model is never sure of anything


def test_sessions_of_one_engine_find_what_each_finds_alone(model, tmp_path):
    streams = [noise(3, seed=seed) for seed in range(3)]
    folder = database(tmp_path, invented(model, streams), dense=True)
    alone = [pushed(engine(*LOOSE, model=model, hotwords=folder).session(), one, seed=1) for one in streams]
    machine = engine(*LOOSE, model=model, hotwords=folder, sessions=3)
    sessions = [machine.session() for _ in streams]
    for session, samples in zip(sessions, streams, strict=True):
        session.feed(samples)
        session.end()
    while machine.step():
        pass
    for session, events in zip(sessions, alone, strict=True):
        wanted = [event.text for event in events if isinstance(event, Hotword)]
        assert wanted
        together = session.take()
        assert [event.text for event in together if isinstance(event, Hotword)] == wanted
        assert finals(together)[0].text == finals(events)[0].text


def test_rows_of_a_batch_find_what_a_stream_of_one_chunk_finds(model, tmp_path):
    streams = [noise(3, seed=seed) for seed in range(2)]
    folder = database(tmp_path, invented(model, streams), dense=True)
    features = [LogMel()(samples) for samples in streams]
    lengths = torch.tensor([len(one) for one in features])
    whole = [*PLAIN, *LOOSE, "decoding.chunk=0", "decoding.left=-1", f"hotwords={folder}"]
    rows = recognize(model, torch.stack(features), lengths, small_config(*whole).decoding)
    for samples, row in zip(streams, rows, strict=True):
        machine = engine(*LOOSE, "decoding.chunk=0", "decoding.left=-1", model=model, hotwords=folder)
        events = pushed(machine.session(), samples, seed=1)
        assert row.hints and set(row.hints) == {one.text for one in events if isinstance(one, Hotword)}
        assert row.text == finals(events)[0].text


# A database that changes


def test_a_new_database_counts_from_the_next_utterance_on(tmp_path):
    folder = database(tmp_path, ["静安寺公园"], dense=True)
    made = callback(folder)
    utterance, _ = say(made, utter("去静安寺"))
    database(tmp_path, ["虹桥机场"], dense=True)
    _, told = say(made, utter("公园和虹桥机场"), utterance=utterance)
    assert told == ["静安寺公园"]
    wait_for(lambda: say(made, utter("去虹桥机场", 3))[1] == ["虹桥机场"])
    assert say(made, utter("去静安寺公园"))[1] == []


def test_a_new_database_without_an_index_is_told_and_not_used(tmp_path, capsys):
    folder = database(tmp_path, ["静安寺公园"], dense=True)
    made = callback(folder)
    database(tmp_path, ["虹桥机场"])
    capsys.readouterr()
    told = []

    def answered():
        assert say(made, utter("去静安寺公园", 6))[1] == ["静安寺公园"]
        told.append(capsys.readouterr().err)
        return "".join(told)

    wait_for(answered)
    assert answered().count("\n") == 1
    assert "no index for names that sound alike" in answered() and "the version before stays in use" in answered()
    assert say(callback(folder), utter("去静安寺公园", 6))[1] == ["静安寺公园"]
    assert not capsys.readouterr().err


def test_a_database_without_an_index_is_refused_at_the_start(model, tmp_path):
    folder = database(tmp_path, ["静安寺公园"])
    config = small_config(f"hotwords={folder}", HYBRID)
    with pytest.raises(KitError, match="no index for names that sound alike; build it again"):
        build_callbacks(config.decoding, INVENTORY)
    save_export(model, tmp_path / "export", {})
    with pytest.raises(KitError, match="no index for names that sound alike"):
        list(transcribe_files(["a.wav", "b.wav"], tmp_path / "export", config))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_told_at_the_start(names):
    for device in ("cuda", "cuda:7"):
        with pytest.raises(KitError, match=f"torch has no device {device} here.*take retrieval.device=cpu"):
            callback(names, device=device)


def test_the_configuration_reaches_the_callback(names):
    config = small_config(f"hotwords={names}", HYBRID, "retrieval.margin=1", "retrieval.verify=false")
    (*_, made) = build_callbacks(config.decoding, INVENTORY)
    assert isinstance(made, HybridHotwords)
    assert (made.margin, made.verify, made.device, made.most) == (1.0, False, "cpu", 10)
