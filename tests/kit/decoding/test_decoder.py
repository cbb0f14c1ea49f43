"""The decoder against the slow way: whole sequences anew for every token."""

from dataclasses import replace

import pytest
import torch
from small import LLAMA
from streams import recognizer

from kit.decoding.decoder import Decoder, GraphedStep, TextCache, Work


@pytest.fixture(scope="module", params=[(), (LLAMA,)], ids=["qwen3", "llama"])
def model(request):
    return recognizer(4, *request.param)


def speech(size, seed):
    return 3 * torch.randn(size, 32, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def log_probs_by_hand(model, heard, ids):
    """Of the token behind the prompt, the speech and `ids`."""
    table, prompt, tokenizer = model.llm.get_input_embeddings(), model.prompt, model.tokenizer
    after = torch.tensor(prompt.suffix_ids(tokenizer) + list(ids))
    inputs = torch.cat([table(torch.tensor(prompt.prefix_ids(tokenizer))), heard, table(after)])
    return model.llm(inputs_embeds=inputs[None]).logits[0, -1].float().log_softmax(-1)


def beam_by_hand(model, heard, width, limit):
    end = model.tokenizer.eos_token_id
    going, ended = [(0.0, ())], []
    for length in range(1, limit + 1):
        options = []
        for score, ids in going:
            scores = log_probs_by_hand(model, heard, ids) + score
            options += [(float(scores[t]), ids, t) for t in scores.topk(2 * width).indices.tolist()]
        options = sorted(options, reverse=True)[: 2 * width]
        ended += [(score / length, ids) for score, ids, t in options if t == end]
        ended = sorted(ended, reverse=True)[:width]
        going = [(score, (*ids, t)) for score, ids, t in options if t != end][:width]
        if len(ended) == width and ended[-1][0] >= going[0][0] / length:
            return ended
    return sorted(ended + [(score / limit, ids) for score, ids in going], reverse=True)[:width]


@pytest.mark.parametrize("width", [2, 4])
def test_beam_search_is_that_of_the_slow_way(model, width):
    decoder = Decoder(model, 2, 6)
    decoder.run([Work(0, speech(3, seed=8))])  # another text beside it
    heard = speech(5, seed=width)
    found = decoder.run([Work(1, heard, model.tail_ids(), beam=width)])[0]
    expected = beam_by_hand(model, heard, width, 6)
    assert [tuple(one.ids) for one in found] == [ids for _, ids in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_beams_searched_together_are_those_searched_alone(model, monkeypatch):
    """Of several widths, ending at different steps; also where there is not room for all at once."""
    works = [Work(row, speech(3 + 4 * row, seed=row), model.tail_ids(), beam=(1, 4, 2, 3)[row]) for row in range(4)]
    alone = [Decoder(model, 1, 9).run([replace(work, row=0)])[0] for work in works]
    for most in (64, 6, 1):
        monkeypatch.setattr("kit.decoding.decoder._MOST_ROWS", most)
        decoder = Decoder(model, 4, 9)
        found = decoder.run(works)
        for one, other in zip(found, alone, strict=True):
            assert [each.ids for each in one] == [each.ids for each in other]
            assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-4)
        assert decoder.cache.lengths == [len(decoder.prefix) + len(work.speech) for work in works]


def test_greedy_scores_are_mean_log_probabilities(model):
    heard = speech(4, seed=1)
    (found,) = Decoder(model, 1, 7).run([Work(0, heard, model.tail_ids())])[0]
    ids = [*found.ids, model.tokenizer.eos_token_id][:7]
    scores = [float(log_probs_by_hand(model, heard, ids[:place])[token]) for place, token in enumerate(ids)]
    assert found.score == pytest.approx(sum(scores) / len(scores), abs=1e-4)


@pytest.mark.parametrize("change", [None, 0, 2, 5])
def test_any_draft_gives_the_same(model, change):
    heard = speech(4, seed=2)
    (plain,) = Decoder(model, 1, 7).run([Work(0, heard, model.tail_ids())])[0]
    draft = [*plain.ids, 5, 6]
    if change is not None:
        draft[change] = (draft[change] + 1) % 500
    decoder = Decoder(model, 1, 7)
    (found,) = decoder.run([Work(0, heard, model.tail_ids(), draft=draft)])[0]
    assert found.ids == plain.ids
    assert found.score == pytest.approx(plain.score, abs=1e-4)
    assert decoder.cache.lengths[0] == len(decoder.prefix) + 4


def test_speech_in_pieces_is_speech_at_once(model):
    """Rows at different places, read and decoded in turns: each as if alone, and over the first capacity."""
    decoder = Decoder(model, 3, 5)
    long = [speech(size, seed=size) for size in (150, 20, 61)]
    for first in range(0, 150, 30):
        works = [
            Work(row, heard[first : first + 30], model.tail_ids(), draft=[3, 4, 5])
            for row, heard in enumerate(long)
            if first < len(heard)
        ]
        decoder.run(works)
    found = decoder.run([Work(row, speech(0, 0), model.tail_ids()) for row in range(3)])
    for row, heard in enumerate(long):
        (alone,) = Decoder(model, 1, 5).run([Work(0, heard, model.tail_ids())])[0]
        assert found[row][0].ids == alone.ids
        assert found[row][0].score == pytest.approx(alone.score, abs=1e-4)
    assert decoder.cache.capacity >= 150
    assert decoder.speech_read == 231


def test_static_buffers_change_nothing(model):
    """What a GPU replays as a graph, run without one: the same tokens, scores and lengths, through growth as well."""
    found = []
    for graphed in (False, True):
        decoder = Decoder(model, 3, 40)
        decoder.end = -1
        if graphed:
            decoder.graphed = GraphedStep(model.llm, decoder.cache, capture=False)
        works = [Work(row, speech(size, seed=row), model.tail_ids()) for row, size in enumerate((3, 90, 41))]
        found.append(decoder.run(works) + decoder.run([replace(work, speech=speech(2, seed=9)) for work in works[1:]]))
        assert decoder.cache.lengths == [len(decoder.prefix) + size for size in (3, 92, 43)]
    for plain, static in zip(*found, strict=True):
        assert static[0].ids == plain[0].ids
        assert static[0].score == pytest.approx(plain[0].score, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_change_nothing():
    model = recognizer().cuda()
    found = []
    for graphed in (True, False):
        decoder = Decoder(model, 2, 30)
        if not graphed:
            decoder.graphed = None
        works = [Work(row, speech(size, seed=row).cuda(), model.tail_ids()) for row, size in enumerate((3, 90))]
        found.append([one.ids for (one,) in decoder.run(works)])
    assert found[0] == found[1]


def test_a_cache_keeps_what_it_has_when_it_grows(model):
    cache = TextCache(model.llm, 2, 64)
    inputs = speech(6, seed=1)[None]
    with torch.inference_mode():
        cache.append(model.llm, [1], inputs, [6])
        before = [x[1, :, :6].clone() for x in cache.keys]
        cache.enlarge(5, 300)
    assert cache.capacity >= 300
    assert cache.lengths == [0, 6, 0, 0, 0]
    assert all(torch.equal(x[1, :, :6], y) for x, y in zip(cache.keys, before, strict=True))


def test_nothing_asked_nothing_read(model):
    decoder = Decoder(model, 1, 5)
    assert decoder.run([]) == []
    assert decoder.run([Work(0, speech(0, 0))]) == [[]]
    assert decoder.speech_read == decoder.tokens_read == 0
