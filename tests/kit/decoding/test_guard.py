"""The LLM sees what was said; a text that hints may have spoiled has to stand beside one without."""

import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from small import small_config
from streams import PLAIN, engine, finals, noise, pushed, recognizer

from kit.audio.features import LogMel
from kit.decoding.alignment import spell
from kit.decoding.beam import Continuation
from kit.decoding.callbacks import DecodingCallback, Utterance, hints_of
from kit.decoding.finals import decide
from kit.decoding.guard import HintGuard
from kit.decoding.offline import recognize
from kit.retrieval.spotting import Spotter
from kit.text.phonemes import CharacterInventory, PhonemeInventory

INVENTORY = PhonemeInventory.default()


def said(text, size=16, inventory=INVENTORY):
    """An utterance in which a text was clearly said, two frames a symbol and a blank after each, and its chunks."""
    _, ids, _ = spell(text, inventory)
    log_probs = torch.full((3 * len(ids), len(inventory)), -12.0)
    for index, symbol in enumerate(ids):
        log_probs[3 * index : 3 * index + 2, symbol] = 0.0
        log_probs[3 * index + 2, 0] = 0.0
    return Utterance(0, 0.0, inventory), list(log_probs.split(size))


def heard(guard, utterance, chunks, hints):
    """Which hints are admitted after each chunk."""
    guard.start(utterance)
    found = []
    for chunk in chunks:
        utterance.log_probs.append(chunk)
        found.append(list(guard.admits(utterance, hints)))
    return found


# Spotting


@pytest.mark.parametrize("seed", range(5))
def test_spotting_is_bounded_by_the_best_stretch_of_all(seed):
    """A sum over all stretches lies between the largest of them and as many times it."""
    draw, frames, symbols = random.Random(seed), 12, 6
    log_probs = (2 * torch.randn(frames, symbols, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    strings = [draw.choices(range(1, symbols), k=size) for size in (1, 2, 4)]
    spotter = Spotter(strings)
    spotter.hear(log_probs)
    relative = log_probs - log_probs.amax(-1, keepdim=True)
    stretches = [(start, end) for start in range(frames) for end in range(start + 1, frames + 1)]
    for string, worse in zip(strings, spotter.worse, strict=True):
        sizes = torch.tensor([len(string)])
        losses = [
            float(F.ctc_loss(relative[a:b], torch.tensor(string), torch.tensor([b - a]), sizes, reduction="sum"))
            for a, b in stretches
        ]
        best = min(losses)
        assert best - torch.tensor(2.0 * len(stretches)).log() <= worse * len(string) <= best + 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_spotting_goes_on_where_it_was(seed):
    generator, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    log_probs = torch.randn(40, 9, generator=generator).log_softmax(-1)
    strings = [draw.choices(range(1, 9), k=size) for size in (3, 5, 5)]
    whole, pieces = Spotter(strings), Spotter(strings)
    whole.hear(log_probs)
    at = 0
    while at < 40:
        size = draw.choice([0, 1, 3, 16])
        pieces.hear(log_probs[at : at + size])
        at += size
    assert pieces.worse == pytest.approx(whole.worse, abs=1e-4)


def test_nothing_to_spot_costs_nothing():
    spotter = Spotter([])
    spotter.hear(torch.zeros(3, 5))
    assert spotter.worse == []


# The guard


def test_hints_are_admitted_once_they_were_said():
    utterance, chunks = said("导航到虹桥机场然后播放rihanna的歌")
    hints = ["虹桥机场", "人民广场", "rihanna", "taylor swift"]
    found = heard(HintGuard(), utterance, chunks, hints)
    assert found[0] == []
    assert found[-1] == ["虹桥机场", "rihanna"]
    for one, other in pairwise(found):
        assert set(one) <= set(other)
    assert any(one == ["虹桥机场"] for one in found)


def test_in_silence_and_noise_nothing_is_admitted():
    draw = torch.Generator().manual_seed(0)
    hints = ["虹桥机场", "rihanna"]
    blank = torch.full((100, len(INVENTORY)), -9.0)
    blank[:, 0] = -0.1
    babble = (4 * torch.randn(100, len(INVENTORY), generator=draw)).log_softmax(-1)
    for log_probs in (blank, babble):
        assert heard(HintGuard(), Utterance(0, 0.0, INVENTORY), log_probs.split(16), hints)[-1] == []


def test_a_hint_that_comes_late_is_looked_for_in_all_that_was_heard():
    utterance, chunks = said("导航到虹桥机场")
    guard = HintGuard()
    heard(guard, utterance, chunks, ["人民广场"])
    assert guard.admits(utterance, ["人民广场", "虹桥机场"]) == ["虹桥机场"]
    other, _ = said("导航")
    guard.start(other)  # nothing of an utterance reaches the next
    assert guard.admits(other, ["虹桥机场"]) == []


def test_the_guard_asks_a_model_of_characters_for_characters():
    inventory = CharacterInventory.of(["导航到外滩广场"])
    utterance, chunks = said("导航到外滩", inventory=inventory)
    assert heard(HintGuard(), utterance, chunks, ["外滩", "广场"])[-1] == ["外滩"]


class Told(DecodingCallback):
    def __init__(self, hints, vouches=False):
        self.words, self.vouches = hints, vouches

    def hints(self, utterance):
        return self.words


def test_what_retrieval_has_heard_needs_no_guard():
    utterance, chunks = said("打开天窗")
    guard = HintGuard()
    heard(guard, utterance, chunks, ["天窗"])
    callbacks = [guard, Told(["虹桥机场"]), Told(["Rihanna", "天窗"], vouches=True)]
    assert hints_of(callbacks, utterance, ["人民广场", "打开天窗"]) == ["打开天窗", "rihanna", "天窗"]
    assert utterance.hints == ["打开天窗", "rihanna", "天窗"]


# Texts with and without hints


class OneText:
    """Judges texts; writes down what is offered."""

    def __init__(self, hinted, trust, dropped=()):
        self.hinted, self.trust, self.dropped, self.offered = hinted, trust, dropped, []

    def trusts(self, greedy):
        return self.trust

    def accepts(self, found, plain):
        self.offered = ([one.ids for one in found], [one.ids for one in plain])
        return any(one.ids not in self.dropped for one in (*found, *plain))

    def plain_tail(self):
        return [0]


class Decoding:
    """A decoder that writes its tail, and a letter more for each hypothesis."""

    def __init__(self):
        self.runs = 0

    def run(self, works):
        self.runs += len(works)
        return [[Continuation(-float(n), [*work.tail, n]) for n in range(work.beam)] for work in works]


@pytest.mark.parametrize(
    ("hinted", "trust", "dropped", "beam", "wanted"),
    [
        (True, True, [], 2, ([[7, 0]], [])),  # nothing more is asked for
        (True, None, [], 2, ([[7, 0], [7, 1]], [])),  # nobody can tell: a beam
        (True, False, [], 2, ([[7, 0], [7, 1]], [[0, 0], [0, 1]])),  # doubted: also without hints
        (False, False, [], 2, ([[7, 0], [7, 1]], [])),
        (True, True, [[7, 0]], 2, ([[7, 0]], [[0, 0], [0, 1]])),  # nothing left: without hints
        (False, True, [[7, 0]], 2, ([[7, 0]], [])),
        (True, False, [], 1, ([[7, 0]], [[0, 0]])),
        (False, False, [], 1, ([[7, 0]], [])),
    ],
)
def test_when_a_text_without_hints_is_asked_for(hinted, trust, dropped, beam, wanted):
    from kit.decoding.decoder import Work

    judge, other, decoder = OneText(hinted, trust, dropped), OneText(True, True), Decoding()
    works = [Work(0, torch.zeros(1, 2), [7]), Work(1, torch.zeros(1, 2), [8]), Work(2, torch.zeros(1, 2), None)]
    found = [[Continuation(0.0, [7, 0])], [Continuation(0.0, [8, 0])], []]
    decide(decoder, works, found, {0: judge, 1: other}, beam)
    assert judge.offered == wanted
    assert other.offered == ([[8, 0]], [])
    judge, runs = OneText(hinted, trust, dropped), decoder.runs
    decide(decoder, works, found, {0: judge}, beam, unhinted=False)
    assert judge.offered == (wanted[0], []) and decoder.runs - runs == (beam > 1 and trust is not True)


class Plain(DecodingCallback):
    """Lets no text pass that was written with hints."""

    def hypotheses(self, utterance, offered):
        return [one for one in offered if not one.hinted]


class Doubting(Plain):
    def trusts(self, utterance, candidate):
        return False


@pytest.mark.parametrize("judge", [Plain, Doubting])
@pytest.mark.parametrize("beam", [1, 3])
def test_without_its_hints_an_utterance_is_as_if_it_never_had_any(judge, beam):
    model, samples = recognizer(), noise(2, seed=3)
    features = LogMel()(samples)

    def one_pass(*overrides):
        decoding = small_config(*PLAIN, f"decoding.beam={beam}", *overrides).decoding
        return recognize(model, features[None], torch.tensor([len(features)]), decoding)[0].text

    hints = "decoding.hints=['虹桥机场','rihanna','天窗']"
    session = engine(f"decoding.beam={beam}", hints, model=model).session()
    session.callbacks.append(judge())
    (final,) = finals(pushed(session, samples, seed=1))
    assert final.text == one_pass() != one_pass(hints)
    callback = f"decoding.callbacks.guard={{_target_: test_guard.{judge.__name__}}}"
    assert one_pass(hints, callback) == one_pass()


def test_hints_that_were_not_said_change_nothing():
    """In a stream and in one pass, with the guard as it is configured."""
    model, samples = recognizer(), noise(2, seed=3)
    features = LogMel()(samples)
    guard = "decoding.callbacks.guard={_target_: kit.decoding.guard.HintGuard, limit: 4.0}"
    hints = "decoding.hints=['虹桥机场','rihanna','taylor swift']"
    texts, events = [], []
    for overrides in ([], [guard, hints]):
        decoding = small_config(*PLAIN, *overrides).decoding
        texts.append(recognize(model, features[None], torch.tensor([len(features)]), decoding)[0].text)
        events.append(pushed(engine(*overrides, model=model).session(), samples, seed=1))
    assert texts[0] == texts[1]
    assert events[0] == events[1]
