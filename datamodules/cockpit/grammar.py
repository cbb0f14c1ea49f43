"""The sentences of the embedded corpus: templates filled from entity lists, in three languages and four domains.

Lists and templates are plain YAML beside this file. Every sentence is already in the canonical written form of
`kit.text.normalize`: no digits, no punctuation, Latin in lower case, no space between Han and Latin.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import yaml

from kit.errors import KitError
from kit.text.normalize import mandarin_number, normalize

T = TypeVar("T")

LANGUAGES = ("zh", "en", "mixed")
DOMAINS = ("poi", "media", "vehicle", "chat")
LANGUAGE_SHARES = {"zh": 0.45, "en": 0.38, "mixed": 0.17}
DOMAIN_SHARES = {"poi": 0.34, "media": 0.24, "vehicle": 0.2, "chat": 0.22}
PATIENCE = 20  # fillings in a row that were there already, before a template counts as used up

_FOLDER = Path(__file__).parent
_SLOT = re.compile(r"\{(?:(zh|en):)?(\w+)\}")


@dataclass(frozen=True)
class Names:
    """A list of names; the unseen ones are kept out of everything a model is trained on."""

    known: tuple[str, ...]
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """A sentence with slots written {list} or {language:list}."""

    language: str
    domain: str
    text: str

    @cached_property
    def slots(self) -> list[tuple[str, str]]:
        """(language of the list, name of the list) of each slot, in order."""
        return [(match[1] or self.language, match[2]) for match in _SLOT.finditer(self.text)]

    def fill(self, values: Sequence[str]) -> str:
        """The sentence with `values` in the slots, in order."""
        remaining = iter(values)
        return _SLOT.sub(lambda _: next(remaining), self.text)


@dataclass(frozen=True)
class Sentence:
    """A filled template.

    Attributes:
        text: in canonical written form.
        language: zh, en or mixed.
        domain: poi, media, vehicle or chat.
        names: (language, list, name) of each slot.
    """

    text: str
    language: str
    domain: str
    names: tuple[tuple[str, str, str], ...]


def _numbers() -> dict[str, dict[str, Names]]:
    zh = {
        "degrees": range(16, 31),
        "level": range(1, 10),
        "minutes": range(3, 60),  # two minutes would be 两分钟
        "percent": range(5, 100),
        "hour": range(5, 12),
    }
    en = {
        "degrees": range(60, 81),
        "level": range(1, 10),
        "minutes": range(2, 60),
        "percent": range(5, 100),
        "hour": range(5, 12),
        "count": range(2, 7),
    }
    mandarin = {name: Names(tuple(map(mandarin_number, values))) for name, values in zh.items()}
    english = {name: Names(tuple(normalize(str(value)) for value in values)) for name, values in en.items()}
    mandarin["fm"] = Names(
        tuple(f"{whole}点{tenth}" for whole in map(mandarin_number, range(88, 100)) for tenth in "一三五七九")
    )
    return {"zh": mandarin, "en": english}


def _read(path: Path) -> dict[str, object]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict), path
    return loaded


def _names(entry: object) -> Names:
    if isinstance(entry, dict):
        return Names(tuple(entry["known"]), tuple(entry["unseen"]))
    assert isinstance(entry, list)
    return Names(tuple(entry))


@cache
def lists() -> Mapping[str, Mapping[str, Names]]:
    """Language -> list -> names, numbers included."""
    result = _numbers()
    for language, numbers in result.items():
        for name, entry in _read(_FOLDER / "entities" / f"{language}.yaml").items():
            numbers[name] = _names(entry)
    return result


@cache
def templates() -> tuple[Template, ...]:
    """All templates of all languages and domains."""
    result = []
    for language in LANGUAGES:
        for domain, texts in _read(_FOLDER / "templates" / f"{language}.yaml").items():
            assert isinstance(texts, list)
            result += [Template(language, domain, text) for text in texts]
    return tuple(result)


def unseen_names() -> list[tuple[str, str, str]]:
    """(language, list, name) of every name that stays out of training."""
    return [
        (language, kind, name)
        for language, kinds in lists().items()
        for kind, names in kinds.items()
        for name in names.unseen
    ]


@cache
def unseen_pattern() -> re.Pattern[str]:
    """Finds a name that training never sees: anywhere in Han, as whole words in Latin."""
    names = [name for _, _, name in unseen_names()]
    han = "|".join(re.escape(name) for name in names if not name.isascii())
    latin = "|".join(re.escape(name) for name in names if name.isascii())
    return re.compile(rf"{han}|(?<![a-z'])(?:{latin})(?![a-z'])")


class Draw:
    """Random choices built on `random.Random.random` alone, the one method whose stream Python promises to keep."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both possible."""
        return low + int(self._random() * (high - low + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self._random() * len(options))]

    def weighted(self, shares: Mapping[str, float]) -> str:
        """A key, as often as its share of the whole."""
        left = self._random() * sum(shares.values())
        for key, share in shares.items():
            left -= share
            if left < 0:
                return key
        return list(shares)[-1]  # rounding left a crumb

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        keyed = sorted((self._random(), index) for index in range(len(options)))
        return [options[index] for _, index in keyed]


class Sampler:
    """Draws sentences, no sentence twice; templates and names are dealt like cards, so that all come up equally often.

    Args:
        draw: the source of chance.
        taken: texts that must not come up.
        unseen: whether every sentence takes one name from those that training never sees; else none is ever mentioned.
        open_only: whether to leave out templates without a slot, which give one sentence only.
        invent: makes up a name like another one, in place of every name of which training never sees some.
    """

    def __init__(
        self,
        draw: Draw,
        taken: Iterable[str] = (),
        unseen: bool = False,
        open_only: bool = False,
        invent: Callable[[str], str] | None = None,
    ) -> None:
        self._draw = draw
        self._unseen = unseen
        self._invent = invent
        self._given = set(taken)
        self._misses: Counter[Template] = Counter()
        self._name_decks: dict[tuple[str, str, bool], list[str]] = {}
        self._template_decks: dict[tuple[str, str], list[Template]] = {}
        self._templates: dict[str, dict[str, list[Template]]] = {language: {} for language in LANGUAGES}
        for template in templates():
            if (template.slots or not open_only) and (self._special(template) or not (unseen or invent)):
                self._templates[template.language].setdefault(template.domain, []).append(template)

    def sentence(self) -> Sentence:
        """The next sentence.

        Raises:
            KitError: the grammar has no more.
        """
        while language := self._language():
            template = self._template(language)
            sentence = self._fill(template)
            if sentence.text not in self._given and (self._unseen or not unseen_pattern().search(sentence.text)):
                self._misses[template] = 0
                self._given.add(sentence.text)
                return sentence
            self._misses[template] += 1
            if self._misses[template] >= PATIENCE and template in self._templates[language].get(template.domain, ()):
                self._retire(template)
        raise KitError(
            f"the grammar of the cockpit corpus ends after {len(self._given)} sentences; ask for fewer hours"
        )

    def _language(self) -> str | None:
        shares = {language: share for language, share in LANGUAGE_SHARES.items() if self._templates[language]}
        return self._draw.weighted(shares) if shares else None

    def _template(self, language: str) -> Template:
        pools = self._templates[language]
        domain = self._draw.weighted({domain: DOMAIN_SHARES[domain] for domain in pools})
        deck = self._template_decks.setdefault((language, domain), [])
        if not deck:
            deck += self._draw.shuffled(pools[domain])
        return deck.pop()

    def _retire(self, template: Template) -> None:
        """A template that repeats itself only is used up."""
        pools = self._templates[template.language]
        pools[template.domain].remove(template)
        if not pools[template.domain]:
            del pools[template.domain]

    def _fill(self, template: Template) -> Sentence:
        special = self._draw.choice(self._special(template)) if self._unseen else None
        names: list[tuple[str, str, str]] = []
        for index, (language, kind) in enumerate(template.slots):
            taken = [name for _, other, name in names if other == kind]
            names.append((language, kind, self._name(language, kind, index == special, taken)))
        text = template.fill([name for _, _, name in names])
        return Sentence(text, template.language, template.domain, tuple(names))

    @staticmethod
    def _special(template: Template) -> list[int]:
        return [index for index, (language, kind) in enumerate(template.slots) if lists()[language][kind].unseen]

    def _name(self, language: str, kind: str, unseen: bool, taken: Sequence[str]) -> str:
        names = lists()[language][kind]
        deck = self._name_decks.setdefault((language, kind, unseen), [])
        while True:
            if not deck:
                deck += self._draw.shuffled(names.unseen if unseen else names.known)
            name = deck.pop()
            if self._invent is not None and names.unseen:
                name = self._invent(name)
                taken = [*taken, *names.known]
            if name not in taken:
                return name
