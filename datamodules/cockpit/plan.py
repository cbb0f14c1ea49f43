"""Who says what in which part of the corpus: decided before a sample is made, from the seed alone."""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.cockpit.grammar import Draw, Sampler, Sentence, lists, templates
from kit.text.invented import Inventor
from kit.text.phonemes import pronounce

SPLITS = ("train", "dev", "test", "unseen")
MADE = "made"  # a part for training that stands apart: its names are made up
SIDES = {"unseen": "test", MADE: "train"}  # whose voices a split has, if not its own
HELD_OUT = {"dev": 100, "test": 300, "unseen": 100}
TEXTS = 30_000
FULL_HOURS = 0.25  # a smaller corpus has smaller held-out parts and fewer texts, in proportion
LEAST_HELD_OUT = 12
MEAN_SECONDS = 2.13  # of an utterance with its padding

# Variants of eSpeak NG that are easy to understand: no Klatt synthesizers, whispers, robots or caricatures. Variants
# that are nearly the same voice (Diogo, Hugo, michel ...; Mario, Michael) stand on the same side.
FEMALE = {
    "train": ("f1", "f2", "f3", "f5", "Andrea", "anika", "belinda", "linda", "grandma"),
    "dev": ("Annie", "shelby"),
    "test": ("f4", "Alicia", "steph"),
}
MALE = {
    "train": (
        *("m1", "m2", "m3", "m4", "m7", "Alex", "Denis", "Diogo", "Gene", "Gene2", "grandpa", "gustave", "Henrique"),
        *(
            "Hugo",
            "Lee",
            "max",
            "michel",
            "miguel",
            "Mike",
            "Nguyen",
            "paul",
            "pedro",
            "quincy",
            "rob",
            "robert",
            "victor",
        ),
    ),
    "dev": ("m6", "antonio"),
    "test": ("m5", "m8", "Mario", "Michael"),
}
FEMALE_SHARE = 0.42
ACCENTS = {
    "train": ("en-us", "en-us", "en-us", "en", "en-gb-x-rp", "en-us-nyc"),
    "dev": ("en-us", "en"),
    "test": ("en-us", "en"),
}
RATES = {"zh": (190, 290), "mixed": (170, 240), "en": (140, 200)}  # words a minute in eSpeak's counting
PITCHES = (30, 75)
RANGES = (40, 60)


@dataclass(frozen=True)
class Utterance:
    """One sentence and how it is spoken.

    Attributes:
        id: unique in the corpus, for example test-0012.
        split: train, dev, test, unseen or made.
        sentence: what is said.
        parts: (unit, phonemes) of the sentence, see `kit.text.phonemes.pronounce`.
        variant: the voice, which belongs to one side only (unseen shares test's, made train's).
        voice: eSpeak's full name, accent and variant.
        rate, pitch, range: as for `kit.text.espeak.Espeak.say`.
        seed: of everything random in its sound.
    """

    id: str
    split: str
    sentence: Sentence
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    variant: str
    voice: str
    rate: int
    pitch: int
    range: int
    seed: str


@dataclass(frozen=True)
class Plan:
    """All utterances by split, in order, and the sentences for training on text alone."""

    utterances: dict[str, list[Utterance]]
    texts: list[str]


def voices(split: str) -> tuple[str, ...]:
    """The voice variants of a split."""
    side = SIDES.get(split, split)
    return FEMALE[side] + MALE[side]


def plan(hours: float, seed: int) -> Plan:
    """Decide all sentences and voices.

    Args:
        hours: of training audio, approximately.
        seed: another seed, another corpus.

    Raises:
        KitError: the grammar has not that many sentences.
    """
    share = min(1.0, hours / FULL_HOURS)
    counts = {split: max(LEAST_HELD_OUT, round(count * share)) for split, count in HELD_OUT.items()}
    sentences: dict[str, list[Sentence]] = {}
    held_out: set[str] = set()
    for split, count in counts.items():
        sampler = Sampler(Draw(f"{seed}/{split}"), held_out, unseen=split == "unseen", open_only=True)
        sentences[split] = [sampler.sentence() for _ in range(count)]
        held_out.update(sentence.text for sentence in sentences[split])
    spoken = max(LEAST_HELD_OUT, round(hours * 3600 / MEAN_SECONDS))
    sampler = Sampler(Draw(f"{seed}/train"), held_out)
    texts = [sampler.sentence() for _ in range(max(spoken, round(TEXTS * share)))]
    sentences["train"] = texts[:spoken]
    utterances = {
        split: [_utterance(split, index, sentence, seed) for index, sentence in enumerate(sentences[split])]
        for split in SPLITS
    }
    return Plan(utterances, [sentence.text for sentence in texts])


def plan_made(hours: float, seed: int) -> Plan:
    """Decide sentences for training whose names nobody has heard, each with one at least, and their voices.

    Args:
        hours: of audio, approximately.
        seed: another seed, another part.
    """
    draw = Draw(f"{seed}/{MADE}")
    known = [name for kinds in lists().values() for names in kinds.values() for name in names.known]
    invent = Inventor([*known, *(template.fill([""] * len(template.slots)) for template in templates())], draw.choice)
    sampler = Sampler(draw, open_only=True, invent=invent)  # held-out sentences have real names
    count = max(LEAST_HELD_OUT, round(hours * 3600 / MEAN_SECONDS))
    return Plan({MADE: [_utterance(MADE, index, sampler.sentence(), seed) for index in range(count)]}, [])


def _utterance(split: str, index: int, sentence: Sentence, seed: int) -> Utterance:
    name = f"{split}-{index:05d}"
    draw = Draw(f"{seed}/{name}/voice")
    side = SIDES.get(split, split)
    group = FEMALE[side] if draw.uniform(0, 1) < FEMALE_SHARE else MALE[side]
    variant = draw.choice(group)
    accent = draw.choice(ACCENTS[side]) if sentence.language == "en" else "cmn"
    return Utterance(
        id=name,
        split=split,
        sentence=sentence,
        parts=tuple((unit, tuple(phonemes)) for unit, phonemes in pronounce(sentence.text)),
        variant=variant,
        voice=f"{accent}+{variant}",
        rate=draw.integer(*RATES[sentence.language]),
        pitch=draw.integer(*PITCHES),
        range=draw.integer(*RANGES),
        seed=f"{seed}/{name}/sound",
    )
