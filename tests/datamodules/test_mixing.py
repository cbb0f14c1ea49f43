"""Several corpora as one: their shares of what is drawn, exact resumption, parts under the members' names."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from small import OneBatch, small_config
from trees import TREES, sound, write

from datamodules import base, rows, sampling
from datamodules.corpora import prepare as preparing
from datamodules.corpora.data import corpus_folder
from datamodules.corpora.registry import CORPORA
from datamodules.mixing import MixedData
from kit.errors import UsageError

BOTH = "data.members={aishell: 1, librispeech: {weight: 3, train: [train_clean_100]}}"


def grow(root):
    """Sixty utterances of AISHELL and twenty, longer ones, of LibriSpeech."""
    for name in ("aishell", "librispeech"):
        TREES[name](root / name)
    wav = root / "aishell/aishell/data_aishell"
    names = [f"BAC009S0002W{number:04d}" for number in range(60)]
    held_out = [f"BAC009S0{speaker}W{number:04d}" for speaker in (724, 764) for number in (122, 123)]
    write(wav / "transcript/aishell_transcript_v0.8.txt", *(f"{name} 打开天窗" for name in [*names, *held_out]))
    for number, name in enumerate(names):
        sound(wav / "wav/train/S0002" / f"{name}.wav", 0.3 + 0.005 * number, 200 + number)
    folder = root / "librispeech/LibriSpeech/train-clean-100/20/1"
    names = [f"20-1-{number:04d}" for number in range(17)]
    write(folder / "20-1.trans.txt", *(f"{name} TURN ON THE RADIO" for name in names))
    for number, name in enumerate(names):
        sound(folder / f"{name}.flac", 0.8 + 0.05 * number, 300 + number)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    grow(folder)
    for name in ("aishell", "librispeech"):
        preparing.prepare(CORPORA[name], folder / name, [], corpus_folder(folder, name))
    return folder


def mix(cache, *overrides):
    return MixedData(small_config("stage=pretrain", "data=mix", "stage.batch_seconds=5", *overrides, cache=cache))


def take(data, count):
    return list(islice(data.train_dataloader(), count))


def ids(batches):
    return [cut.id for batch in batches for cut in batch.cuts]


def owner(name):
    return name.split("/")[0]


def test_members_keep_apart(cache):
    data = mix(cache, BOTH)
    counts = Counter(owner(cut.id) for cut in data.cuts("train"))
    assert counts == {"aishell": 60, "librispeech": 20}
    assert len(data.cuts("dev")) == 2 + 3


@pytest.mark.parametrize(("one", "other", "limit"), [(1, 3, 50_000), (5, 1, 3)])
def test_shares_are_of_seconds(cache, monkeypatch, limit, one, other):
    for module in (base, rows, sampling):
        monkeypatch.setattr(module, "EAGER", limit)
    members = f"data.members={{aishell: {one}, librispeech: {{weight: {other}, train: [train_clean_100]}}}}"
    data = mix(cache, members, "data.stored=false")
    sampler = data.train_dataloader().sampler
    seconds = Counter()
    for (epoch, _), cuts in sampler:
        if epoch == 20:
            break
        for cut in cuts:
            seconds[owner(cut.id)] += cut.duration
    share = seconds["aishell"] / seconds.total()
    assert share == pytest.approx(one / (one + other), abs=0.02)
    weights = data.weights()
    totals = [float((weights[:60] * rows.durations(data.cuts("train"))[:60]).sum()), float(one)]
    assert totals[0] == pytest.approx(totals[1])


def test_an_epoch_has_as_many_as_there_are_and_every_one_comes_up(cache):
    data = mix(cache, BOTH)
    seen = []
    for (epoch, _), cuts in data.train_dataloader().sampler:
        if epoch == 20:
            break
        seen += [cut.id for cut in cuts]
    assert len(seen) == 20 * 80 and set(seen) == {cut.id for cut in data.cuts("train")}


def test_without_shares_everything_comes_once(cache):
    data = mix(cache, "data.members={aishell: null, librispeech: {train: [train_clean_100]}}")
    assert data.weights() is None
    stream = iter(data.train_dataloader())
    seen = []
    while (batch := next(stream)).position[0] == 0:
        seen += [cut.id for cut in batch.cuts]
    assert sorted(seen) == sorted(cut.id for cut in data.cuts("train"))


@pytest.mark.parametrize(("taken", "limit"), [(1, 3), (14, 50_000), (25, 3)])
def test_a_restored_position_goes_on_with_the_next_batch(cache, monkeypatch, limit, taken):
    for module in (base, rows, sampling):
        monkeypatch.setattr(module, "EAGER", limit)
    whole = take(mix(cache, BOTH), taken + 3)
    data = mix(cache, BOTH)
    data.load_state_dict(json.loads(json.dumps({"position": list(whole[taken - 1].position)})))
    for one, other in zip(take(data, 3), whole[taken:], strict=True):
        assert ids([one]) == ids([other]) and torch.equal(one.features, other.features)
        assert one.position == other.position


def test_a_member_with_the_share_0_is_reported_but_not_trained_on(cache):
    data = mix(cache, "data.members={aishell: 1, librispeech: {weight: 0, train: [train_clean_100]}}")
    stream = iter(data.train_dataloader())
    seen = set()
    while (batch := next(stream)).position[0] < 3:
        seen |= {cut.id for cut in batch.cuts}
    assert {owner(name) for name in seen} == {"aishell"}
    assert len(seen) == len(data.members["aishell"].cuts("train"))
    assert "librispeech/test_clean" in data.test_parts() and "turn on the radio" in data.texts()


def test_what_comes_up_often_is_not_side_by_side(cache):
    data = mix(cache, "data.members={aishell: 1, librispeech: {weight: 50, train: [train_clean_100]}}")
    drawn = []
    sampler = data.train_dataloader().sampler.sampler
    sampler.sampler = lambda cuts: drawn.append([cut.id for cut in cuts]) or OneBatch(cuts)
    next(iter(sampler))
    repeats = sum(one == other for one, other in zip(drawn[0], drawn[0][1:], strict=False))
    assert repeats < 15, "of 80, where sorted ones would repeat 60 times"


def test_parts_of_the_members_are_reported(cache):
    data = mix(cache, BOTH)
    assert data.test_parts() == ["aishell/test", "librispeech/test_clean"]
    assert [len(data.cuts(part)) for part in data.test_parts()] == [2, 3]
    batches = list(data.part_dataloader("librispeech/test_clean"))
    assert sorted(text for batch in batches for text in batch.texts) == [
        "hello world",
        "it's late",
        "turn on the radio",
    ]


def test_texts_of_all_members(cache):
    texts = mix(cache, BOTH).texts()
    assert len(texts) == 80 and {"打开天窗", "turn on the radio"} <= set(texts)


def test_a_member_by_another_name(cache, tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"audio": str(sound(tmp_path / "a.wav")), "text": "hello"}))
    mine = f"mine: {{data: manifest, weight: 1, train: {tmp_path}/mine.jsonl, test: {tmp_path}/mine.jsonl}}"
    data = mix(cache, f"data.members={{aishell: 1, {mine}}}")
    assert "mine/a" in {cut.id for cut in data.cuts("train")} and data.test_parts() == ["aishell/test", "mine/test"]


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        ("{}", "data=mix needs members, such as"),
        ("[aishell]", "data=mix needs members, such as"),
        ("{aishel: 1}", "unknown data aishel; did you mean aishell?"),
        ("{aishell: -1}", "the share of aishell in data.members is -1; give a number, 0 or more, or null"),
        ("{aishell: 0, librispeech: 0}", "all of data.members have the share 0; give one of them more"),
        ("{aishell: true}", "the share of aishell in data.members is True"),
        ("{aishell: 1, librispeech: null}", "some of data.members have a share and some have none"),
        ("{aishell: {weight: 1, trian: x}}", "data.members.aishell has no value trian; see configs/data/aishell.yaml"),
        ("{mix: 1}", "a mix cannot be a member of a mix"),
    ],
)
def test_wrong_members_are_one_sentence(cache, members, answer):
    with pytest.raises(UsageError, match=answer.replace("?", r"\?").replace(".", r"\.")):
        mix(cache, f"data.members={members}")


def test_a_part_that_is_not_there(cache):
    with pytest.raises(UsageError, match="data=mix has no part 'aishell/tset'; did you mean aishell/test|data=aishell"):
        mix(cache, BOTH).cuts("aishell/tset")
    with pytest.raises(UsageError, match="data=mix has no part 'nothing'; "):
        mix(cache, BOTH).cuts("nothing")


def test_a_member_in_some_languages(cache):
    data = mix(cache, "data.members={aishell: null, librispeech: {languages: [zh], train: [train_clean_100]}}")
    with pytest.raises(UsageError, match="leaves nothing of the part train, which is in en"):
        data.cuts("train")
    data = mix(
        cache, "data.members={aishell: {languages: [zh]}, librispeech: {languages: [en], train: [train_clean_100]}}"
    )
    assert {cut.supervisions[0].language for cut in data.cuts("aishell/test")} == {"zh"}
