"""Hypotheses as they are drawn: log-probabilities, distribution, independence of neighbors; and the scoring pass."""

import pytest
import torch
from scipy.stats import chisquare
from small import LLAMA, TEXTS, small_recognizer

from kit.decoding.decoder import GraphedStep, TextCache
from kit.model.recognizer import PARTS
from kit.rl.policy import Prompts, Samples, score
from kit.rl.rollout import Draw, Local, uniform

HINTS = [["外滩"], [], ["hello", "外滩"], []]


def make(*overrides):
    made = small_recognizer(PARTS, 0, *overrides)
    head = torch.nn.Linear(made.llm_width, made.llm.config.vocab_size)
    with torch.no_grad():
        made.llm.model.norm.weight *= 8
        head.weight = made.llm.lm_head.weight
        head.bias.zero_()
        head.bias[made.tokenizer.eos_token_id] = 4.5
    made.llm.lm_head = head
    return made


@pytest.fixture(scope="module")
def recognizer():
    """With an LLM that is sure of a few tokens and ends after some: random weights find all about as likely."""
    return make()


@pytest.fixture(scope="module", params=[(), (LLAMA,)], ids=["qwen3", "llama"])
def any_kind(request):
    """The same with LLMs of several kinds."""
    return make(*request.param)


def prompts_of(recognizer, rows=4, seed=0, hints=HINTS):
    draw = torch.Generator().manual_seed(seed)
    speech = torch.randn(rows, 7, recognizer.llm_width, generator=draw)
    sizes = torch.tensor([7, 3, 0, 5])[:rows]
    return Prompts.of(recognizer, speech, sizes, hints and hints[:rows])


def draw(recognizer, prompts, group=5, temperature=1.0, seeds=(11, 12, 13, 14), max_tokens=12):
    return Local(recognizer, max_tokens).sample(prompts, group, temperature, seeds[: len(prompts)])


def plainly(recognizer, prompts, row, ids, temperature):
    """Log-probabilities of one hypothesis by one plain forward pass over everything."""
    table = recognizer.llm.get_input_embeddings()
    tail = torch.tensor(prompts.tails[row])
    prefix, speech = torch.tensor(list(prompts.prefix)), prompts.speech[row, : prompts.sizes[row]]
    whole = torch.cat([table(prefix), speech, table(tail), table(ids)])
    logits = recognizer.llm(inputs_embeds=whole[None]).logits[0, -len(ids) - 1 : -1]
    scores = (logits.float() / temperature).log_softmax(-1)
    return scores.gather(1, ids[:, None])[:, 0], -(scores.exp() * scores).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("hints", [HINTS, None])
def test_rollout_and_training_pass_agree_with_a_plain_pass(any_kind, temperature, hints):
    recognizer = any_kind
    prompts = prompts_of(recognizer, hints=hints)
    samples = draw(recognizer, prompts, temperature=temperature)
    assert len(set(samples.lengths.flatten().tolist())) > 2, "of many lengths, so that rows were dropped"
    now, entropy = score(recognizer.llm, prompts, samples, temperature)
    torch.testing.assert_close(now, samples.log_probs, atol=1e-4, rtol=0)
    for row in range(len(prompts)):
        for place in range(samples.ids.shape[1]):
            ids = samples.ids[row, place, : samples.lengths[row, place]]
            wanted, spread = plainly(recognizer, prompts, row, ids, temperature)
            torch.testing.assert_close(now[row, place, : len(ids)], wanted, atol=1e-4, rtol=0)
            torch.testing.assert_close(entropy[row, place, : len(ids)], spread, atol=1e-4, rtol=1e-4)
            assert not now[row, place, len(ids) :].any()


def test_gradients_are_those_of_separate_passes(recognizer):
    """The shared prompt gathers what its hypotheses would give it one by one, the speech included."""
    speech = torch.randn(2, 6, recognizer.llm_width, requires_grad=True)
    prompts = Prompts.of(recognizer, speech, torch.tensor([6, 4]), [["外滩"], []])
    samples = draw(recognizer, prompts.detached(), group=3)
    moved = [speech, *recognizer.llm.model.layers[0].parameters(), recognizer.llm.get_input_embeddings().weight]
    together = torch.autograd.grad(score(recognizer.llm, prompts, samples, 0.9)[0].sum(), moved)
    total = sum(
        plainly(recognizer, prompts, row, samples.ids[row, place, : samples.lengths[row, place]], 0.9)[0].sum()
        for row in range(2)
        for place in range(3)
    )
    for found, wanted in zip(together, torch.autograd.grad(total, moved), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_the_same_seed_draws_the_same_whoever_stands_beside(recognizer):
    prompts = prompts_of(recognizer)
    together = draw(recognizer, prompts)
    again = draw(recognizer, prompts)
    assert torch.equal(together.ids, again.ids) and torch.equal(together.log_probs, again.log_probs)
    for row in range(4):
        alone = Prompts(
            prompts.prefix, prompts.speech[row : row + 1], prompts.sizes[row : row + 1], [prompts.tails[row]]
        )
        samples = draw(recognizer, alone, seeds=[11 + row])
        for place in range(5):
            size = int(together.lengths[row, place])
            assert samples.lengths[0, place] == size
            assert torch.equal(samples.ids[0, place, :size], together.ids[row, place, :size])
    other = draw(recognizer, prompts, seeds=(21, 12, 13, 14))
    assert not torch.equal(other.ids[0], together.ids[0])
    size = min(other.ids.shape[2], together.ids.shape[2])
    assert torch.equal(other.ids[1, :, :size], together.ids[1, :, :size])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_tokens_are_drawn_as_often_as_they_are_likely(recognizer, temperature):
    """The first token of many hypotheses, by a chi-square test."""
    prompts, count = prompts_of(recognizer, rows=1), 4000
    samples = draw(recognizer, prompts, group=count, temperature=temperature, max_tokens=1)
    found = torch.bincount(samples.ids[0, :, 0], minlength=recognizer.llm.config.vocab_size).double()
    first = Samples(torch.arange(len(found))[None, :, None], torch.ones(1, len(found)), *[torch.zeros(1)] * 2)
    likely = score(recognizer.llm, prompts, first, temperature)[0].flatten().double().exp() * count
    common = likely > 5
    assert common.sum() > 3
    observed = torch.cat([found[common], found[~common].sum()[None]]).numpy()
    expected = torch.cat([likely[common], likely[~common].sum()[None]]).detach().numpy()
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_a_draw_is_the_inverse_of_the_sum():
    choose = Draw(4, torch.device("cpu"))
    choose.chance[:] = torch.tensor([0.0, 0.0999, 0.1001, 0.9999])
    logits = torch.tensor([0.0, 0.1, 0.9, 0.0]).log().expand(4, 4)
    scores, tokens = choose(logits)
    assert tokens.tolist() == [1, 1, 2, 2], "what has no probability is never drawn"
    assert scores.exp().tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])


def test_a_low_temperature_is_greedy_and_scores_are_those_of_the_temperature(recognizer):
    prompts = prompts_of(recognizer)
    cold = draw(recognizer, prompts, temperature=1e-3)
    assert all((cold.ids[:, place] == cold.ids[:, 0]).all() for place in range(5))
    assert cold.log_probs.min() > -0.1


def test_hypotheses_end_with_the_end_or_are_cut_off(recognizer):
    samples = draw(recognizer, prompts_of(recognizer), max_tokens=6)
    end = recognizer.tokenizer.eos_token_id
    for ids, size, ended in zip(
        samples.ids.flatten(0, 1).tolist(), samples.lengths.flatten(), samples.ended.flatten(), strict=True
    ):
        assert (ids[size - 1] == end) == bool(ended)
        assert end not in ids[: size - 1]
        assert ended or size == 6
    assert samples.mask.sum() == samples.lengths.sum()


def test_one_hypothesis_of_one_utterance(recognizer):
    samples = draw(recognizer, prompts_of(recognizer, rows=1), group=1)
    assert samples.ids.shape[:2] == (1, 1)


def test_texts_are_what_the_tokens_say(recognizer):
    ids = [list(recognizer.text_ids(text)) for text in TEXTS[:2]]
    longest = max(map(len, ids))
    rows = torch.tensor([row + [0] * (longest - len(row)) for row in ids])[None]
    samples = Samples(rows, torch.tensor([[len(row) for row in ids]]), torch.zeros(rows.shape), torch.ones(1, 2))
    assert samples.texts(recognizer) == [TEXTS[:2]]


def test_chances_depend_on_the_seed_alone():
    assert torch.equal(uniform(3, 2, 5), uniform(3, 2, 5))
    assert not torch.equal(uniform(3, 2, 5), uniform(4, 2, 5))


def test_static_shapes_draw_the_same(recognizer):
    """As on a GPU: one cache for every rollout, rows that ended are stepped on, nothing moves."""
    prompts = prompts_of(recognizer)
    wanted = draw(recognizer, prompts)
    static = Local(recognizer, 12)
    cache, choose = TextCache(recognizer.llm, 0), Draw(24, torch.device("cpu"))
    cache.enlarge(24, 256)
    step = GraphedStep(recognizer.llm, cache, capture=True, choose=choose)
    step._captured = lambda seen: lambda: step._step(seen)  # a graph that computes instead of replaying
    for _ in range(2):
        static._kept = (cache, choose, step)
        address = cache.keys[0].data_ptr()
        found = static.sample(prompts, 5, 1.0, (11, 12, 13, 14))
        assert torch.equal(found.ids, wanted.ids) and torch.equal(found.lengths, wanted.lengths)
        torch.testing.assert_close(found.log_probs, wanted.log_probs, atol=1e-5, rtol=0)
        assert cache.keys[0].data_ptr() == address
